"""Weights of plain CLIPs: read from files and the hub, and refused."""

import pickle
from functools import partial

import numpy as np
import open_clip
import pytest
import torch
from hub_fakes import hub_fixture, refusal  # noqa: F401 - a fixture
from huggingface_hub import constants
from open_clip_small import extractor_of, named_clip_fixture, picture, tiny, tiny_architectures, vit_clip_fixture  # noqa: F401 - fixtures
from safetensors.torch import save, save_file
from weights_fakes import Malice, assert_file_refused, rewritten

from shared.errors import InvalidInputError, WeightsError
from transmitter.relevance import load_extractor
from transmitter.relevance.open_clip_dense import weights
from transmitter.relevance.open_clip_dense.extractor import load
from transmitter.relevance.open_clip_dense.weights import DEFAULT_MODEL, ModelChoice, hub_place, load_clip

# ---- the weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["new.safetensors", "new.pt", "new.bin", "training.pt"])
def test_files_of_every_kind_are_read(named_clip, tmp_path, name):
    architecture, clip = named_clip
    state = {key: value.contiguous() for key, value in clip.state_dict().items()}
    if name == "training.pt":
        inner = {f"module.{key}": value for key, value in state.items()}
        torch.save({"epoch": 3, "name": "run", "state_dict": inner, "optimizer": {}}, tmp_path / name)
    else:
        (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
    options = {"model": architecture, "short-side": "64"}
    read = load_extractor("open-clip", weights=tmp_path / name, options=options)
    assert read.name == "open-clip"
    np.testing.assert_array_equal(read(picture(), "cat").map, extractor_of(clip, architecture)(picture(), "cat").map)


def test_a_tags_activation_is_that_of_its_file(vit_clip, tmp_path):
    save_file(vit_clip.state_dict(), tmp_path / "a.safetensors")
    activations = [
        type(load_clip(ModelChoice.parse(text), tmp_path / "a.safetensors").visual.transformer.resblocks[0].mlp.gelu)
        for text in ("tiny-vit", "tiny-vit/good")
    ]
    assert [each.__name__ for each in activations] == ["GELU", "QuickGELU"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("no.pt", lambda _: b"", "damaged or no weights file"),
        ("no.safetensors", lambda _: b"\xff" * 999, "damaged or no weights file"),
        ("no.pt", lambda _: pickle.dumps(Malice()), "no weights file|code"),
        ("no.pt", lambda _: [1, 2], "holds a list"),
        ("no.pt", lambda _: {"model": {}}, "has no .*; it holds no tiny-vit"),
        ("no.pt", lambda _: tiny("tiny-convnext").state_dict(), "it holds no tiny-vit"),
        ("no.pt", lambda clip: rewritten(clip, visual__proj=torch.zeros(24, 13)), r"visual.proj is \(24, 13\), not"),
        (
            "no.pt",
            lambda clip: rewritten(clip, visual__transformer__resblocks__3__ln_1__bias=torch.zeros(24)),
            "has visual.transformer.resblocks.3.ln_1.bias too; it holds no tiny-vit",
        ),
        ("no.pt", lambda clip: rewritten(clip, visual__proj=torch.full((24, 12), torch.nan)), "not finite"),
    ],
)
def test_other_files_are_refused_by_path(vit_clip, tmp_path, name, content, said):
    assert_file_refused(partial(load, options={"model": "tiny-vit"}), tmp_path / name, content(vit_clip), said)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="cannot be read"):
        load(tmp_path / "absent.safetensors", options={"model": "tiny-vit"})


# ---- the hub -------------------------------------------------------------------------------------


def test_the_hubs_safetensors_are_fetched_once_and_then_taken_from_the_cache(vit_clip, hub):
    hub.content = save(vit_clip.state_dict())
    expected = load_clip(ModelChoice("tiny-vit", "good")).state_dict()
    torch.testing.assert_close(expected, vit_clip.state_dict())
    asked = len(hub.asked)
    assert {line.split("/")[-1] for line in hub.asked} == {"open_clip_model.safetensors"}
    load_clip(ModelChoice("tiny-vit", "good"))
    assert len(hub.asked) == asked


def test_where_the_hub_has_no_safetensors_the_other_file_is_fetched(vit_clip, hub, tmp_path):
    torch.save(vit_clip.state_dict(), tmp_path / "file")
    hub.content, hub.missing = (tmp_path / "file").read_bytes(), (".safetensors",)
    torch.testing.assert_close(load_clip(ModelChoice("tiny-vit", "good")).state_dict(), vit_clip.state_dict())


@pytest.mark.parametrize("offline", [False, True])
def test_without_file_cache_and_hub_the_error_says_what_helps(monkeypatch, hub, offline):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    said = refusal(load)
    assert len(hub.asked) == (0 if offline else 1)
    for words in ("timm/vit_base_patch16_clip_224.openai", "--weights", "MMSC_TRANSMITTER_OPEN_CLIP_WEIGHTS"):
        assert words in said


def test_models_that_the_hub_cannot_have_are_told():
    with pytest.raises(InvalidInputError, match=r"tiny-vit needs a weights file, or .* tags: good, nowhere"):
        load(options={"model": "tiny-vit"})
    with pytest.raises(WeightsError, match="the hub has no tiny-vit/nowhere"):
        load(options={"model": "tiny-vit/nowhere"})


def test_hub_places_are_read_as_open_clip_writes_them():
    assert hub_place("owner/name/") == ("owner/name", ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"))
    assert hub_place("owner/name/file.bin") == ("owner/name", ("file.safetensors", "file.bin"))
    assert hub_place("owner/name/f.safetensors") == ("owner/name", ("f.safetensors",))


def test_the_default_is_known_to_open_clip():
    choice = ModelChoice.parse(DEFAULT_MODEL)
    assert choice.pretrained["quick_gelu"]
    assert hub_place(choice.pretrained["hf_hub"])[0] == "timm/vit_base_patch16_clip_224.openai"
    assert weights.is_plain(open_clip.get_model_config(choice.architecture))
