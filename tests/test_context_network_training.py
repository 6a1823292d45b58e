"""Training of the context networks: what they learn from, that they learn, and how a training goes on."""

import numpy as np
import pytest
import torch
from skimage.data import chelsea, coffee

from shared.codec.entropy.lossy_model import DEFAULT_PRICE, needed_groups
from shared.codec.entropy.schedule import GROUP_ENDS, GROUPS
from shared.codec.entropy.weights import load_lossy
from training.entropy.lossy import Training, begun, resumed
from training.entropy.networks import FloatPredictor
from training.entropy.rollouts import random_crop_coded, roll_out, roll_out_coded
from training.entropy.tables import exact_network, float_network
from training.ladder.data import Photos

MODEL, _ = load_lossy()
PICTURES = [np.ascontiguousarray(chelsea()[40:136, 100:220]), np.ascontiguousarray(coffee()[100:196, 200:320])]
PHOTOS = Photos(
    np.concatenate([picture.ravel() for picture in PICTURES]),
    np.array([picture.shape[:2] for picture in PICTURES]),
    np.zeros(len(PICTURES), np.int64),
)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("group", range(GROUPS))
def test_integer_networks_come_from_the_floats_that_they_give_back(group):
    network = MODEL.networks[group]
    again = exact_network(float_network(network.first, network.heads, group)).to_tensors("n")
    tensors = network.to_tensors("n")
    assert tensors.keys() == again.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(again[name], array)


def test_examples_are_what_the_encoder_sees():
    found = roll_out_coded(PICTURES[0], MODEL, np.random.default_rng(5))
    crop = random_crop_coded(PICTURES[0], MODEL.transform, np.random.default_rng(5))
    needed = needed_groups(crop.coefficients, crop.context)
    chooser = MODEL.choose(crop.coefficients, crop.context, DEFAULT_PRICE)
    first = {}
    for prediction, _ in chooser.coded:
        first.setdefault((prediction.step.group, prediction.step.number), prediction)
    for group in range(GROUPS):
        if not (needed > group).any():
            assert not found.features[group]
            continue
        features, own, targets = found.arrays(group)
        size = GROUP_ENDS[group] - (0, *GROUP_ENDS)[group]
        assert len(features) == len(own) == len(targets) == np.count_nonzero(needed > group)
        assert own.shape[1] == targets.shape[1] == size
        # The first part of a step: nothing of the group itself is known, and its means are those of the coder.
        one = next(prediction for (its_group, _), prediction in first.items() if its_group == group)
        network = MODEL.networks[group]
        rows = features[: len(one.targets)].astype(np.float64)
        said = network.part(0, network.shared(rows), np.zeros((len(rows), 0)))
        np.testing.assert_array_equal(np.clip(said[:, one.scales.shape[1] :], 0, 47), one.scales)


def test_coded_examples_and_those_of_the_floats_are_about_the_same():
    """The encoder quantises dependently, but what the networks have to foretell is the same picture."""
    predictor = FloatPredictor(
        [float_network(network.first, network.heads, group) for group, network in enumerate(MODEL.networks)]
    )
    coded = roll_out_coded(PICTURES[1], MODEL, np.random.default_rng(2))
    alone = roll_out(PICTURES[1], MODEL.transform, predictor, np.random.default_rng(2))
    one, other = (examples.arrays(1)[0] for examples in (coded, alone))
    assert one.shape == other.shape
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9
    assert not np.array_equal(one, other)


def test_a_training_learns_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("training.entropy.lossy._PHOTOS_PER_CYCLE", 3)

    def bits(training: Training) -> float:
        examples = roll_out_coded(PICTURES[0], MODEL, np.random.default_rng(9))
        still = [torch.optim.SGD(network.parameters(), lr=0.0) for network in training.networks]
        torch.manual_seed(0)
        return training._learn_all(still, examples, np.random.default_rng(0))

    training = begun(PHOTOS, 3, 1e-3, MODEL)
    before = bits(training)
    training.run(tmp_path / "run.pt")
    assert training.done == 3
    assert bits(training) < before  # of the pictures that it learnt by heart
    again = resumed(PHOTOS, 4, 1e-3, tmp_path / "run.pt", MODEL)
    assert again.done == 3
    for mine, theirs in zip(again.networks.parameters(), training.networks.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    for name, value in training.average.items():
        assert torch.equal(again.average[name], value)
    again.run(tmp_path / "run.pt")
    assert again.done == 4
