"""Extractors by name: in the registry, in the transmitter's options and in `mmsc relevance`."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from commands import assert_refused, run_mmsc
from maft_plus_small import SMALL_LARGE, small_model
from open_clip_small import make_known, tiny
from PIL import Image
from prometheus_client import CollectorRegistry
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

import transmitter.__main__ as command
from shared.errors import InvalidInputError
from shared.pictures import png_bytes
from transmitter.config import TransmitterConfig
from transmitter.metrics import TransmitterMetrics
from transmitter.relevance import EXTRACTORS, load_extractor, registry, vit_attention
from transmitter.relevance.maft_plus import checkpoint
from transmitter.relevance.maft_plus.extractor import Settings


def _tiny():
    torch.manual_seed(0)
    settings = {"embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 0, "dynamic_img_size": True}
    return VisionTransformer(img_size=32, patch_size=8, **settings).requires_grad_(False)


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """A weights file of a small network that stands in for DINO's."""
    monkeypatch.setattr(vit_attention, "_network", _tiny)
    save_file(_tiny().state_dict(), tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


@pytest.fixture(scope="module")
def maft_weights(tmp_path_factory):
    """A file of a small MAFT+."""
    path = tmp_path_factory.mktemp("maft") / "small.safetensors"
    config = replace(SMALL_LARGE, vocab_size=49_408)
    checkpoint.write(path, small_model(config).state_dict(), config, {})
    return path


# ---- the registry ---------------------------------------------------------------------------------


def test_every_listed_extractor_can_be_loaded_and_bears_its_name(monkeypatch, tmp_path, weights, maft_weights):
    assert registry.DEFAULT_EXTRACTOR in EXTRACTORS
    make_known(monkeypatch)
    torch.save(tiny("tiny-vit").state_dict(), tmp_path / "clip.pt")
    files = {"vit-attention": weights, "maft-plus": maft_weights, "open-clip": tmp_path / "clip.pt"}
    options = {"open-clip": {"model": "tiny-vit"}}
    loaded = [load_extractor(name, weights=files.get(name), options=options.get(name)) for name in EXTRACTORS]
    assert [extractor.name for extractor in loaded] == list(EXTRACTORS)


def test_an_unknown_name_is_refused_and_the_known_ones_are_told():
    with pytest.raises(InvalidInputError) as caught:
        load_extractor("oracle")
    assert caught.value.field == "extractor"
    for name in ("oracle", *EXTRACTORS):
        assert name in caught.value.description


def test_an_option_that_an_extractor_does_not_have_is_refused():
    with pytest.raises(InvalidInputError, match="embedded has no option 'size'; it has none"):
        load_extractor("embedded", options={"size": "3"})


def test_options_are_read_from_pairs():
    assert registry.parse_options(["a=1", "b = x=y ", "a=2"]) == {"a": "2", "b": "x=y"}
    named = registry.parse_named_options(["embedded.a=1", "vit-attention.b=2", "embedded.c=3"])
    assert named == {"embedded": {"a": "1", "c": "3"}, "vit-attention": {"b": "2"}}
    for pair in ("a", "=1", ""):
        with pytest.raises(InvalidInputError, match="is not KEY=VALUE"):
            registry.parse_options([pair])
    for pair in ("a=1", "oracle.a=1"):
        with pytest.raises(InvalidInputError, match=r"is not NAME.KEY with NAME one of embedded, vit-attention"):
            registry.parse_named_options([pair])


def test_every_extractor_has_a_weights_option_of_its_own():
    flags = [entry.weights_flag for entry in EXTRACTORS.values()]
    assert len(set(flags)) == len(flags)
    assert set(flags) <= {option for parameter in command.main.params for option in parameter.opts}


def test_a_device_that_is_not_there_is_refused(weights):
    with pytest.raises(InvalidInputError) as caught:
        load_extractor("vit-attention", device="cuda:99", weights=weights)
    assert caught.value.field == "device"


# ---- the transmitter's options --------------------------------------------------------------------


def test_the_transmitter_loads_what_it_is_told_and_the_first_is_the_default(weights):
    config = TransmitterConfig(extractors=("vit-attention", "embedded"))
    pipeline = command._pipeline(config, {"vit-attention": weights})
    assert list(pipeline.extractors) == ["vit-attention", "embedded"]
    assert pipeline.extractor("").name == "vit-attention"
    assert pipeline.extractor("embedded").name == "embedded"


def test_the_transmitter_loads_the_papers_extractor_with_its_options(maft_weights):
    config = TransmitterConfig(extractors=("maft-plus",))
    options = {"maft-plus": {"convention": "cosine", "short-side": "96"}}
    pipeline = command._pipeline(config, {"maft-plus": maft_weights}, options)
    assert pipeline.extractor("")._settings == Settings("cosine", 96)


def test_without_being_told_it_loads_the_embedded_one():
    assert command.main.make_context("transmitter", []).params["extractors"] == ("embedded",)
    assert TransmitterConfig().extractors == ("embedded",)


def test_names_come_between_commas_from_the_environment(monkeypatch):
    monkeypatch.setenv("MMSC_TRANSMITTER_EXTRACTORS", " vit-attention,embedded , vit-attention,")
    assert command.main.make_context("transmitter", []).params["extractors"] == ("vit-attention", "embedded")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--extractors", "oracle,embedded"], ["oracle", *EXTRACTORS]),
        (["--extractors", " , "], ["names none", *EXTRACTORS]),
        (["--extractors", "vit-attention", "--vit-weights", "absent.pth"], ["absent.pth", "cannot be read"]),
        (["--relevance-weights", "absent.safetensors"], ["absent.safetensors", "cannot be read"]),
        (["--option", "embedded.size=3"], ["embedded has no option 'size'"]),
        (["--extractors", "embedded,maft-plus"], ["maft-plus needs the path", "maftp_l.pth", "mmsc weights list"]),
        (["--extractors", "maft-plus", "--maft-weights", "absent.pth"], ["absent.pth", "cannot be read"]),
        (["--extractors", "maft-plus", "--option", "maft-plus.convention=best"], ["convention", "raw, unit-v, cosine"]),
        (["--option", "size=3"], ["'size' is not NAME.KEY"]),
    ],
)
def test_what_cannot_be_loaded_stops_the_start_with_one_line(arguments, said):
    result = CliRunner().invoke(command.main, arguments)
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 2
    assert line.startswith("transmitter: ")
    assert all(words in line for words in said)


def test_the_line_at_the_start_and_the_metrics_tell_which_extractors_run(weights, monkeypatch):
    told = {}

    async def serve(context, name, runs):
        told[name] = runs

    monkeypatch.setattr(command, "serve_until_signal", serve)
    arguments = ["--extractors", "vit-attention,embedded", "--vit-weights", str(weights)]
    assert CliRunner().invoke(command.main, arguments).exit_code == 0
    assert told == {"transmitter": {"extractors": ["vit-attention", "embedded"], "device": "cpu"}}
    page = CollectorRegistry()
    TransmitterMetrics(page).runs(["vit-attention", "embedded"], "cpu")
    labels = {"default": "vit-attention", "loaded": "vit-attention,embedded", "device": "cpu"}
    assert page.get_sample_value("mmsc_transmitter_relevance_info", labels) == 1


# ---- mmsc relevance -------------------------------------------------------------------------------


@pytest.fixture
def mmsc(tmp_path, monkeypatch, capfd):
    """Runs a command line; gives exit code, output and errors."""
    photo = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    (tmp_path / "photo.png").write_bytes(png_bytes(photo))
    monkeypatch.chdir(tmp_path)

    return partial(run_mmsc, capfd)


def test_relevance_by_the_baseline_in_this_process(mmsc, weights, tmp_path):
    which = ["--local", "--extractor", "vit-attention", "--weights", str(weights)]
    code, out, errors = mmsc("relevance", "photo.png", "cat", *which, "--out", "m.png", "--json")
    assert (code, errors) == (0, [])
    assert json.loads(out)["extractor"] == "vit-attention"
    assert json.loads(out)["present"] is True
    with Image.open(tmp_path / "m.png") as image:
        assert (image.size, image.getextrema()) == ((56, 40), (0, 255))


def test_relevance_by_the_papers_extractor_in_this_process(mmsc, maft_weights, tmp_path):
    which = ["--extractor", "maft-plus", "--weights", str(maft_weights), "--option", "convention=raw"]
    code, out, errors = mmsc("relevance", "photo.png", "cat, dog", *which, "--out", "m.png", "--json")
    assert (code, errors) == (0, [])
    assert json.loads(out)["extractor"] == "maft-plus"
    with Image.open(tmp_path / "m.png") as image:
        assert (image.size, image.getextrema()) == ((56, 40), (0, 255))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--extractor", "oracle"], "unknown extractor 'oracle'; there are: embedded, vit-attention"),
        (["--extractor", "vit-attention", "--weights", "absent.pth"], "--weights: absent.pth: cannot be read"),
        (["--extractor", "vit-attention", "--weights", "photo.png"], "--weights: photo.png: is damaged"),
        (["--extractor", "maft-plus"], "--weights: maft-plus needs the path of an official checkpoint"),
        (["--extractor", "maft-plus", "--weights", "photo.png"], "--weights: photo.png: is damaged"),
        (["--weights", "photo.png"], "--weights: photo.png"),
        (["--weights", "photo.png", "--transmitter", "localhost:1"], "--weights and --transmitter exclude"),
        (["--option", "a=b", "--transmitter", "localhost:1"], "--option and --transmitter exclude"),
        (["--option", "a=b"], "embedded has no option 'a'"),
    ],
)
def test_what_cannot_be_used_is_one_line(mmsc, arguments, said):
    assert_refused(mmsc("relevance", "photo.png", "cat", "--out", "m.png", *arguments), said)
