"""The weights file: what is refused, and that saving and loading keep the map."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from shared.errors import InvalidInputError, WeightsError
from shared.weights import default_path
from transmitter.relevance import load_embedded
from transmitter.relevance.embedded import EmbeddedExtractor, RelevanceModel
from transmitter.relevance.network import TEXT_CHANNELS, RelevanceNetwork
from transmitter.relevance.text_tower import TextTower
from transmitter.relevance.weights import RELEVANCE_FORMAT, load, save


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    network, tower = RelevanceNetwork().eval(), TextTower(["cat", "dog"]).eval()
    return RelevanceModel(network, tower, torch.nn.functional.normalize(torch.randn(TEXT_CHANNELS), dim=0), 0.3)


@pytest.fixture
def written(model, tmp_path):
    save(model, tmp_path / "new.safetensors")
    return tmp_path / "new.safetensors"


def test_loading_gives_back_what_was_saved(model, written):
    read = load(written)
    assert read.tower.words == model.tower.words
    assert read.threshold == pytest.approx(model.threshold)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    before, after = EmbeddedExtractor(model)(image, ""), EmbeddedExtractor(read)(image, "")
    assert np.abs(before.map - after.map).max() < 0.02  # half precision


def rewrite(path, metadata=None, **changes):
    tensors = load_file(path)
    for name, value in changes.items():
        tensors[name.replace("__", ".")] = value
    save_file(tensors, path, metadata or {"mmsc_format": RELEVANCE_FORMAT, "words": "cat\ndog"})


def test_absent_file_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"nowhere\.safetensors: cannot be read"):
        load_embedded(tmp_path / "nowhere.safetensors")


def test_directory_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="cannot be read"):
        load_embedded(tmp_path)


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 100, b"\xff" * 4096])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"foreign\.safetensors"):
        load_embedded(path)


def test_truncated_file_is_refused(written):
    written.write_bytes(written.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=r"new\.safetensors"):
        load_embedded(written)


@pytest.mark.parametrize("metadata", [{}, {"mmsc_format": "mmsc-ladder-1"}, {"mmsc_format": "mmsc-relevance-0"}])
def test_other_formats_and_versions_are_refused(written, metadata):
    rewrite(written, {"words": "cat\ndog", **metadata})
    with pytest.raises(WeightsError, match=r"new\.safetensors: holds format"):
        load_embedded(written)


@pytest.mark.parametrize(
    "changes",
    [
        {"anything": torch.zeros(3)},
        {"network__scale": torch.tensor(float("nan"))},
        {"tower__weigh__weight": torch.zeros(2, 2)},
        {"network__surplus": torch.zeros(2)},
    ],
)
def test_damaged_tensors_are_refused(written, changes):
    rewrite(written, **changes)
    with pytest.raises(WeightsError, match=r"new\.safetensors: damaged"):
        load_embedded(written)


def test_missing_words_are_refused(written):
    rewrite(written, {"mmsc_format": RELEVANCE_FORMAT})
    with pytest.raises(WeightsError, match="damaged"):
        load_embedded(written)


def test_shipped_weights_are_small_and_stay_apart_from_any_other_file():
    assert default_path("relevance.safetensors").stat().st_size <= 30_000_000
    assert load_embedded().name == "embedded"


@pytest.mark.parametrize("device", ["abacus", "cuda:99", ""])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(InvalidInputError, match="device"):
        load_embedded(device=device)
