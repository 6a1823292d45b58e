"""Weights files of MAFT+: what is read, what is refused, and what is said."""

import os
import pickle
from collections import OrderedDict

import pytest
import torch
from maft_plus_small import SMALL_BASE, SMALL_LARGE, SMALL_VARIANTS, small_model
from safetensors.torch import load_file, save_file

from shared.errors import WeightsError
from transmitter.relevance.maft_plus import checkpoint
from transmitter.relevance.maft_plus.config import BASE, LARGE
from transmitter.relevance.maft_plus.model import normalise_and_pad

_TOKENS = torch.tensor([[62, 3, 20, 63, *[0] * 73]])


@pytest.fixture(autouse=True)
def _small_variants(monkeypatch):
    monkeypatch.setattr(checkpoint, "VARIANTS", SMALL_VARIANTS)


@pytest.fixture(scope="module")
def large():
    return small_model()


def _as_published(model, classes=172):
    """A state_dict as the original writes it: with its teacher and its loss."""
    state = OrderedDict(model.state_dict())
    for key in [key for key in state if key.startswith("backbone.")]:
        state[f"backbone_t.{key.removeprefix('backbone.')}"] = state[key].clone()
    state["criterion.empty_weight"] = torch.ones(classes)
    return state


def _answers(model):
    image = torch.randint(0, 256, (3, 32, 64), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        text = model.backbone.encode_text(_TOKENS)
        output = model(normalise_and_pad([image]), model.vocabulary(text, (1,)))
    return torch.cat([text.flatten(), output.logits.flatten()])


# ---- what is read ---------------------------------------------------------------------------------


def test_the_variants_are_the_official_models():
    official = {"large": LARGE, "base": BASE}
    assert {name: checkpoint.variant_of(config) for name, config in official.items()} == {
        "large": "custom",
        "base": "custom",
    }
    assert list(checkpoint.OFFICIAL_FILES) == list(SMALL_VARIANTS)


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"model": state, "iteration": 9, "trainer": {}}])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("old", [True, False])
def test_official_files_give_the_same_answers_flat_or_wrapped_with_or_without_teacher(
    tmp_path, large, wrap, training, old
):
    path = tmp_path / "maftp_l.pth"
    state = _as_published(large) if training else large.state_dict()
    torch.save(wrap(state), path, _use_new_zipfile_serialization=not old)
    found = checkpoint.read(path)
    assert (found.variant, found.config) == ("large", SMALL_LARGE)
    assert found.left_out == len(state) - len(large.state_dict())
    model = checkpoint.model_of(found)
    assert torch.equal(_answers(model), _answers(large))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_nothing_is_left_without_memory(tmp_path, large):
    torch.save(large.state_dict(), tmp_path / "l.pth")
    model = checkpoint.load(tmp_path / "l.pth")
    assert {value.device.type for value in (*model.parameters(), *model.buffers())} == {"cpu"}
    assert torch.equal(model.backbone.clip_model.attn_mask, large.backbone.clip_model.attn_mask)


def test_tensors_are_mapped_from_the_file_and_not_copied(tmp_path, large):
    torch.save(large.state_dict(), tmp_path / "l.pth")
    read = checkpoint.read(tmp_path / "l.pth")
    places = {key: value.data_ptr() for key, value in read.state.items()}
    model = checkpoint.model_of(read)
    assert {key: value.data_ptr() for key, value in model.state_dict().items()} == places


def test_half_precision_is_computed_in_single(tmp_path, large):
    torch.save({key: value.half() for key, value in large.state_dict().items()}, tmp_path / "l.pth")
    model = checkpoint.load(tmp_path / "l.pth")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.allclose(_answers(model), _answers(large), atol=1)


# ---- variants -------------------------------------------------------------------------------------


def test_base_is_told_by_its_shapes(tmp_path):
    torch.save(small_model(SMALL_BASE).state_dict(), tmp_path / "any.pth")
    assert checkpoint.read(tmp_path / "any.pth").variant == "base"


@pytest.mark.parametrize(
    ("name", "classes", "wanted", "expected"),
    [
        ("any.pth", 134, "", "panoptic-large"),
        ("maftp_l_pano.pth", 172, "", "large"),
        ("maftp_l_pano.pth", None, "", "panoptic-large"),
        ("any.pth", None, "panoptic-large", "panoptic-large"),
        ("maftp_l_pano.pth", None, "large", "large"),
        ("any.pth", 5, "", "large"),
        ("any.pth", None, "", "large"),
    ],
)
def test_panoptic_is_told_by_the_losss_buffer_else_the_caller_else_the_name(
    tmp_path, large, name, classes, wanted, expected
):
    state = large.state_dict() if classes is None else _as_published(large, classes)
    torch.save(state, tmp_path / name)
    found = checkpoint.read(tmp_path / name, wanted)
    assert (found.variant, found.config.panoptic) == (expected, expected == "panoptic-large")


@pytest.mark.parametrize(
    ("config", "classes", "wanted", "said"),
    [
        (SMALL_BASE, None, "large", "holds the base variant, not large"),
        (SMALL_LARGE, 134, "large", "holds the panoptic-large variant, not large"),
        (SMALL_LARGE, None, "base", "holds the large variant, not base"),
    ],
)
def test_another_variant_than_asked_for_is_refused(tmp_path, config, classes, wanted, said):
    model = small_model(config)
    torch.save(model.state_dict() if classes is None else _as_published(model, classes), tmp_path / "f.pth")
    with pytest.raises(WeightsError, match=rf"f\.pth: {said}$"):
        checkpoint.read(tmp_path / "f.pth", wanted)


# ---- what does not fit ----------------------------------------------------------------------------


def test_everything_that_does_not_fit_is_named_and_counted(tmp_path, large):
    state = large.state_dict()
    gone = [key for key in state if key.startswith("cdt.")]
    for key in gone:
        del state[key]
    state["cdt.extra"] = torch.zeros(1)
    state["void_embedding.weight"] = torch.zeros(2, 32)
    torch.save(state, tmp_path / "f.pth")
    with pytest.raises(WeightsError) as caught:
        checkpoint.read(tmp_path / "f.pth")
    text = str(caught.value)
    assert f"{len(gone)} tensors ({', '.join(gone[:3])}...) missing" in text
    assert "1 tensor (cdt.extra) not known" in text
    assert "1 tensor (void_embedding.weight (2, 32) instead of (1, 32)) of another shape" in text
    assert "MAFT+ large" in text


def test_a_model_of_other_sizes_is_no_official_one(tmp_path, large):
    state = {"void_embedding.weight": torch.zeros(1, 99)}
    torch.save(state, tmp_path / "f.pth")
    with pytest.raises(WeightsError, match=r"texts have 99 dimensions, those of an official MAFT\+ 32 \(large\) or 16"):
        checkpoint.read(tmp_path / "f.pth")


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_numbers_that_are_not_floating_point_are_refused(tmp_path, large, dtype):
    state = large.state_dict()
    state["void_embedding.weight"] = state["void_embedding.weight"].to(dtype)
    torch.save(state, tmp_path / "f.pth")
    with pytest.raises(WeightsError, match=r"void_embedding.weight is \w+, not floating point"):
        checkpoint.read(tmp_path / "f.pth")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, large, value):
    state = {key: tensor.clone() for key, tensor in large.state_dict().items()}
    state["cdt.cross_atten.norm.bias"][3] = value
    torch.save(state, tmp_path / "f.pth")
    with pytest.raises(WeightsError, match=r"cdt.cross_atten.norm.bias has values that are not finite"):
        checkpoint.load(tmp_path / "f.pth")


# ---- bad files ------------------------------------------------------------------------------------


class _Code:
    def __reduce__(self):
        return os.system, ("touch ran",)


def _write_truncated(path, model):
    torch.save(model.state_dict(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _write_truncated_safetensors(path, model):
    save_file(model.state_dict(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        ("f.pth", lambda path, _: None, "cannot be read (No such file or directory)"),
        ("f.pth", lambda path, _: path.mkdir(), "cannot be read (Is a directory)"),
        ("f.pth", _write_truncated, "is cut off, damaged"),
        ("f.safetensors", _write_truncated_safetensors, "is cut off, damaged"),
        ("f.pth", lambda path, _: path.write_bytes(b""), "is cut off, damaged"),
        ("f.pth", lambda path, _: path.write_bytes(b"\x89PNG and so on" * 99), "is damaged or no weights file"),
        ("f.safetensors", lambda path, _: path.write_bytes(b"\x89PNG and so on" * 99), "is cut off, damaged"),
        ("f.pth", lambda path, _: torch.save([1, 2], path), "holds a list, not tensors by name"),
        ("f.pth", lambda path, _: torch.save({}, path), "holds no MAFT+; of its 0 tensors none has a name of it"),
        ("f.pth", lambda path, _: torch.save({"fc.weight": torch.ones(2)}, path), "holds no MAFT+; of its 1 tensor"),
        ("f.pth", lambda path, _: torch.save({"model": {"a": 1}}, path), "holds no MAFT+"),
        ("f.pth", lambda path, _: torch.save({"a": _Code()}, path), "is refused: it holds posix.system"),
        ("f.pth", lambda path, _: path.write_bytes(pickle.dumps({"a": _Code()}, 2)), "is refused: it holds"),
        ("f.pth", lambda path, _: path.write_bytes(pickle.dumps({"a": _Code()}, 4)), "is damaged or no weights file"),
    ],
)
def test_a_bad_file_is_one_line_and_nothing_in_it_runs(tmp_path, monkeypatch, large, name, write, said):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    write(path, large)
    with pytest.raises(WeightsError) as caught:
        checkpoint.load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: {said}")
    assert "\n" not in text
    assert "weights_only" not in text
    assert not (tmp_path / "ran").exists()


# ---- files of our own -----------------------------------------------------------------------------


@pytest.mark.parametrize("variant", list(SMALL_VARIANTS))
def test_what_is_written_is_read_and_says_what_it_is(tmp_path, variant):
    model = small_model(SMALL_VARIANTS[variant])
    checkpoint.write(tmp_path / "m.safetensors", _as_published(model), SMALL_VARIANTS[variant], {"source": "here"})
    found = checkpoint.read(tmp_path / "m.safetensors")
    assert (found.variant, found.config, found.left_out) == (variant, SMALL_VARIANTS[variant], 0)
    assert torch.equal(_answers(checkpoint.model_of(found)), _answers(model))
    notes = checkpoint.notes_of(tmp_path / "m.safetensors")
    assert (notes["mmsc_format"], notes["variant"], notes["source"]) == (checkpoint.FORMAT, variant, "here")
    assert list(tmp_path.iterdir()) == [tmp_path / "m.safetensors"]


def test_models_of_other_sizes_live_in_files_of_our_own(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "VARIANTS", {"large": LARGE, "base": BASE})
    model = small_model()
    checkpoint.write(tmp_path / "m.safetensors", model.state_dict(), SMALL_LARGE, {})
    found = checkpoint.read(tmp_path / "m.safetensors")
    assert (found.variant, found.config) == ("custom", SMALL_LARGE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mmsc_format": "mmsc-relevance-2"}, "holds format 'mmsc-relevance-2', not 'mmsc-maft-plus-1'"),
        ({"config": "{}"}, "its metadata tells no configuration ('heads')"),
        ({"config": "[1"}, "its metadata tells no configuration"),
        ({"config": '{"heads": 8, "text_heads": 5, "cdt_heads": 8, "panoptic": false}'}, "there is no MAFT+ of its"),
        ({"config": '{"heads": 7, "text_heads": 1, "cdt_heads": 8, "panoptic": false}'}, "does not fit MAFT+ custom"),
    ],
)
def test_metadata_that_make_no_sense_are_refused(tmp_path, large, change, said):
    path = tmp_path / "m.safetensors"
    checkpoint.write(path, large.state_dict(), SMALL_LARGE, {})
    save_file(load_file(path), tmp_path / "f.safetensors", metadata={**checkpoint.notes_of(path), **change})
    with pytest.raises(WeightsError) as caught:
        checkpoint.read(tmp_path / "f.safetensors")
    assert said in str(caught.value)


def test_writing_where_nothing_can_be_written_is_one_line(tmp_path, large):
    with pytest.raises(WeightsError, match=r"absent/m\.safetensors: cannot be written"):
        checkpoint.write(tmp_path / "absent" / "m.safetensors", large.state_dict(), SMALL_LARGE, {})
    with pytest.raises(WeightsError, match="does not fit MAFT"):
        checkpoint.write(tmp_path / "m.safetensors", large.state_dict(), SMALL_BASE, {})
    assert list(tmp_path.iterdir()) == []
