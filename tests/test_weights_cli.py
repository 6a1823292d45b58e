"""`mmsc weights` as a person runs it, with small weights made on the spot."""

import hashlib
import json
import time
from functools import partial
from pathlib import Path

import open_clip
import pytest
import torch
from commands import assert_refused, run_mmsc
from hub_fakes import running_hub
from huggingface_hub import constants
from maft_plus_small import SMALL_VARIANTS, small_model
from safetensors.torch import load_file

from transmitter.relevance.catalogue import KNOWN, known_weights
from transmitter.relevance.maft_plus import checkpoint
from transmitter.relevance.open_clip_dense.weights import hub_place


@pytest.fixture
def mmsc(tmp_path, monkeypatch, capfd):
    """Runs a command line in an empty folder, MAFT+ being small; gives exit code, output and lines of errors."""
    monkeypatch.setattr(checkpoint, "VARIANTS", SMALL_VARIANTS)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)

    return partial(run_mmsc, capfd, "weights")


@pytest.fixture
def official(tmp_path):
    """A small file as the authors publish them, its teacher and its loss included."""
    state = small_model().state_dict()
    extra = {f"backbone_t.{key.removeprefix('backbone.')}": value for key, value in state.items() if "visual" in key}
    torch.save({**state, **extra, "criterion.empty_weight": torch.ones(172)}, tmp_path / "maftp_l.pth")
    return tmp_path / "maftp_l.pth", len(state), len(extra) + 1


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- list -----------------------------------------------------------------------------------------


def test_the_list_has_what_ships_and_says_where_the_rest_comes_from(mmsc, tmp_path):
    code, out, errors = mmsc("list", "--json")
    entries = {entry["name"]: entry for entry in json.loads(out)["weights"]}
    assert (code, errors) == (0, [])
    assert set(entries) >= {"relevance.safetensors", "ladder.safetensors", *(known.name for known in KNOWN)}
    shipped = Path(entries["relevance.safetensors"]["path"])
    assert entries["relevance.safetensors"]["sha256"] == _sha256(shipped)
    assert entries["relevance.safetensors"]["bytes"] == shipped.stat().st_size
    for known in KNOWN:
        assert entries[known.name]["path"] is None
    assert entries["ViT-B-16/openai"]["from"] == "mmsc weights fetch ViT-B-16/openai"
    assert "github.com/jiaosiyu1999/MAFT-Plus" in entries["maft-plus-large"]["from"]


def test_files_got_by_hand_are_found_in_a_folder(mmsc, official, tmp_path):
    path, *_ = official
    for arguments in ([], ["--folder", str(tmp_path)]):
        _, out, _ = mmsc("list", "--json", *arguments)
        (found,) = (entry for entry in json.loads(out)["weights"] if entry["name"] == "maft-plus-large")
        assert (found["bytes"], found["sha256"]) == (path.stat().st_size, _sha256(path))


def test_the_table_is_for_people(mmsc):
    code, out, _ = mmsc("list")
    assert code == 0
    assert "absent" in out
    assert "relevance.safetensors" in out
    assert "None" not in out


def test_the_catalogue_agrees_with_open_clip():
    checked = [known for known in KNOWN if "open-clip" in known.serves]
    assert len(checked) >= 5
    for known in checked:
        place = open_clip.get_pretrained_cfg(*known.name.split("/"))["hf_hub"]
        assert hub_place(place) == (known.repository, known.files)
    assert known_weights("nothing") is None


# ---- fetch ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vit_small_patch8_224.dino", "ViT-B-16/openai", "ViT-B-32/laion2b_e16"])
def test_what_is_fetched_is_in_the_cache_and_then_listed(mmsc, monkeypatch, tmp_path, name):
    with running_hub(monkeypatch, tmp_path) as hub:
        hub.content = b"weights"
        code, out, _ = mmsc("fetch", name, "--json")
    entry = json.loads(out)
    assert code == 0
    assert (entry["name"], entry["bytes"], entry["sha256"]) == (name, 7, hashlib.sha256(b"weights").hexdigest())
    assert Path(entry["path"]).read_bytes() == b"weights"
    if known_weights(name):
        listed = json.loads(mmsc("list", "--json")[1])["weights"]
        assert [each["path"] for each in listed if each["name"] == name] == [entry["path"]]


def test_a_hub_that_does_not_answer_is_given_up_soon_in_one_line(mmsc, monkeypatch, tmp_path):
    with running_hub(monkeypatch, tmp_path):
        start_s = time.monotonic()
        code, out, errors = mmsc("fetch", "ViT-B-16/openai")
        assert time.monotonic() - start_s < 10
    assert (code, out, len(errors)) == (1, "", 1)
    assert "the hub did not give open_clip_model.safetensors of timm/vit_base_patch16_clip_224.openai" in errors[0]
    assert errors[0].endswith("put a copy of the file anywhere and give its path as --weights")


def test_offline_is_one_line(mmsc, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, out, errors = mmsc("fetch", "vit_small_patch8_224.dino")
    assert (code, out, len(errors)) == (1, "", 1)
    assert "without network" in errors[0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("maft-plus-large", "maft-plus-large is not on the model hub; get maftp_l.pth by hand from Google Drive"),
        ("maft-plus-panoptic-large", "get maftp_l_pano.pth by hand"),
        ("nothing", "NAME: unknown 'nothing'; there are: convnext_large_d_320/laion2b"),
        ("ViT-B-16/nothing", "NAME: ViT-B-16 has no tag 'nothing'"),
        ("nothing/openai", "NAME: 'nothing/openai' is not ARCH or ARCH/TAG"),
        ("../../etc/passwd", "NAME: "),
    ],
)
def test_what_the_hub_does_not_have_is_said_without_asking_it(mmsc, name, said):
    assert_refused(mmsc("fetch", name), said)


# ---- convert and verify ---------------------------------------------------------------------------


def test_a_converted_file_has_what_inference_needs_and_says_where_it_is_from(mmsc, official, tmp_path):
    path, kept, left_out = official
    code, out, errors = mmsc("convert", str(path), "m.safetensors", "--json")
    entry = json.loads(out)
    assert (code, errors) == (0, [])
    assert (entry["variant"], entry["tensors"]) == ("large", kept)
    assert entry["source"]["sha256"] == _sha256(path)
    assert entry["sha256"] == _sha256(tmp_path / "m.safetensors")
    notes = checkpoint.notes_of(tmp_path / "m.safetensors")
    assert (notes["variant"], notes["source"]) == ("large", "maftp_l.pth")
    assert notes["source_sha256"] == _sha256(path)
    converted, original = load_file(tmp_path / "m.safetensors"), small_model().state_dict()
    assert converted.keys() == original.keys()
    assert all(torch.equal(converted[key], original[key]) for key in original)
    assert left_out > 0


def test_converting_twice_gives_the_same_bytes_and_a_converted_file_can_be_converted(mmsc, official, tmp_path):
    path, *_ = official
    mmsc("convert", str(path), "a.safetensors")
    mmsc("convert", str(path), "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert mmsc("convert", "a.safetensors", "a.safetensors")[0] == 0
    assert mmsc("verify", "a.safetensors")[0] == 0


def test_verify_says_what_a_file_is(mmsc, official):
    path, kept, left_out = official
    code, out, _ = mmsc("verify", str(path), "--json")
    entry = json.loads(out)
    assert code == 0
    assert (entry["variant"], entry["tensors"], entry["left_out"]) == ("large", kept, left_out)
    assert entry["values"] == sum(value.numel() for value in small_model().state_dict().values())
    assert entry["sha256"] == _sha256(path)
    code, out, _ = mmsc("verify", str(path), "--variant", "large")
    assert code == 0
    assert out.startswith(f"{path}: MAFT+ large, {kept} tensors of ")
    assert out.endswith(f"SHA-256 {_sha256(path)}\n")


def _broken(path, key, change):
    state = {name: value.clone() for name, value in small_model().state_dict().items()}
    state[key] = change(state[key])
    torch.save(state, path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["verify", "absent.pth"], "FILE: absent.pth: cannot be read (No such file or directory)"),
        (["verify", "cut.pth"], "FILE: cut.pth: is cut off, damaged or no weights file"),
        (["verify", "nan.pth"], "FILE: nan.pth: cdt.cross_atten.MLP.bias has values that are not finite"),
        (["verify", "shape.pth"], "1 tensor (cdt.cross_atten.MLP.bias (5,) instead of (32,)) of another shape"),
        (["verify", "maftp_l.pth", "--variant", "base"], "FILE: maftp_l.pth: holds the large variant, not base"),
        (["verify", "maftp_l.pth", "--variant", "tiny"], "--variant: unknown 'tiny'; there are: large, base, panoptic"),
        (["convert", "maftp_l.pth", "m.pth"], "OUT: m.pth does not end in .safetensors"),
        (["convert", "absent.pth", "m.safetensors"], "FILE: absent.pth: cannot be read"),
        (["convert", "nan.pth", "m.safetensors"], "not finite"),
        (["convert", "maftp_l.pth", "absent/m.safetensors"], "OUT: absent/m.safetensors: cannot be written"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_nothing_is_written(mmsc, official, tmp_path, arguments, said):
    path, *_ = official
    (tmp_path / "cut.pth").write_bytes(path.read_bytes()[:9999])
    _broken(tmp_path / "nan.pth", "cdt.cross_atten.MLP.bias", lambda value: value * torch.nan)
    _broken(tmp_path / "shape.pth", "cdt.cross_atten.MLP.bias", lambda value: value[:5])
    assert_refused(mmsc(*arguments), said)
    assert not (tmp_path / "m.safetensors").exists()


def test_the_help_names_the_four_commands(mmsc):
    code, out, _ = mmsc("--help")
    assert code == 0
    for name in ("list", "fetch", "convert", "verify"):
        assert name in out
