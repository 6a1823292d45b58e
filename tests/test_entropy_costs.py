"""What is known of patches' bits: guesses, trials foretold from a measure nearby, samples, reluctance."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from skimage.data import astronaut, chelsea

from shared.codec.entropy.codec import load_entropy_codec
from shared.codec.entropy.levels import EXACT
from shared.codec.entropy.schedule import GROUPS
from shared.packets import MAX_PACKET_BYTES
from shared.patches import PatchGrid
from transmitter.codecs import load_sender
from transmitter.entropy.costs import Costs, are_lossy
from transmitter.entropy.planning import replan_entropy
from transmitter.entropy.revisions import Served
from transmitter.entropy.settings import EXACT_BELOW, Setting, guessed_shares
from transmitter.entropy.source import prepare
from transmitter.entropy.trials import Trials
from transmitter.planning import Earlier, PlanRequest

CODEC = load_entropy_codec()
IMAGE = np.ascontiguousarray(astronaut()[:160, 120:320])
GRID = PatchGrid.of(IMAGE)
EVERYWHERE = np.zeros(IMAGE.shape[:2], np.float32)
MASK = np.zeros(IMAGE.shape[:2], np.float32)
MASK[21:121, 30:130] = 1
REQUEST = PlanRequest(6_000, MAX_PACKET_BYTES)


def _trials(relevance=EVERYWHERE, image=IMAGE):
    return Trials(Costs(CODEC, prepare(CODEC, image, relevance, 150)), REQUEST)


@pytest.mark.parametrize("image", [IMAGE, np.ascontiguousarray(chelsea()[60:220, 100:300])])
@pytest.mark.parametrize("fineness", [40, 70, 100, 125])
def test_guesses_are_near_what_is_measured(image, fineness):
    trials = _trials(image=image)
    guessed = trials.expected_bytes(Setting(fineness))
    assert guessed == pytest.approx(trials.measure(Setting(fineness)).wire_bytes, rel=0.35)


@pytest.mark.parametrize("relevance", [EVERYWHERE, MASK])
@pytest.mark.parametrize("away", [-6, -3, 3, 6])
def test_what_is_foretold_is_what_is_measured(relevance, away):
    trials = _trials(relevance)
    trials.measure(Setting(80))
    foretold = trials.foretell(Setting(80 + away))
    measured = trials.measure(Setting(80 + away))
    assert foretold is not None
    assert foretold.bodies is None
    assert foretold.wire_bytes == pytest.approx(measured.wire_bytes, rel=0.04)
    np.testing.assert_array_equal(foretold.levels, measured.levels)
    # The shape counts as much as the sum: the price of a bit is paced by it.
    one, other = (np.cumsum(trial.course.bits) / trial.course.total for trial in (foretold, measured))
    np.testing.assert_allclose(one, other, atol=0.02)


def test_nothing_is_foretold_from_afar():
    trials = _trials()
    assert trials.foretell(Setting(80)) is None
    trials.measure(Setting(80))
    assert trials.foretell(Setting(60)) is None
    assert trials.foretell(Setting(100)) is None


def test_nothing_is_foretold_of_patches_that_were_exact():
    trials = _trials(MASK)
    trials.measure(Setting(EXACT_BELOW - 1))
    assert trials.foretell(Setting(EXACT_BELOW - 2)) is not None
    assert trials.foretell(Setting(EXACT_BELOW + 1)) is None


def test_exact_patches_are_sampled_then_coded_then_known():
    trials = _trials(MASK)
    fineness = EXACT_BELOW - 1
    assert trials.look_at_exact(fineness)
    sampled = trials.expected_bytes(Setting(fineness))
    assert trials.look_at_exact(fineness)
    assert not trials.look_at_exact(fineness)
    true = trials.run(Setting(fineness)).wire_bytes
    assert trials.expected_bytes(Setting(fineness)) == pytest.approx(true, rel=0.02)
    assert sampled == pytest.approx(true, rel=0.15)
    assert not trials.look_at_exact(EXACT_BELOW + 1)


def test_a_sample_tells_of_the_background():
    trials = _trials(MASK)
    setting = Setting(EXACT_BELOW - 40)
    lossy = np.count_nonzero(are_lossy(trials.costs.scene_of(setting).levels))
    assert lossy > 256
    trials.costs.sample(setting.fineness)
    foretold = trials.foretell(setting)
    assert foretold is not None
    assert foretold.lossy_bytes == pytest.approx(trials.measure(setting).lossy_bytes, rel=0.2)


def test_shares_of_groups_move_to_the_fine_ones_with_fineness():
    source, every = prepare(CODEC, IMAGE, EVERYWHERE, 150), np.arange(GRID.count)
    coarse, fine = (guessed_shares(source, fineness, every) for fineness in (100, 60))
    assert coarse.shape == fine.shape == (GROUPS,)
    np.testing.assert_allclose([coarse.sum(), fine.sum()], 1)
    assert (np.cumsum(fine)[:-1] < np.cumsum(coarse)[:-1]).all()


def _served(quality_bytes):
    """A picture of which a coarse plan is there, all of it."""
    prepared = load_sender("entropy").prepare(IMAGE)
    plan = prepared.plan(EVERYWHERE, replace(REQUEST, budget_bytes=quality_bytes))
    return plan, [Earlier(plan, np.ones(np.count_nonzero(plan.levels), np.bool_))]


def test_reluctance_sends_fewer_patches_again():
    plan, earlier = _served(1_500)
    source = prepare(CODEC, IMAGE, EVERYWHERE, 150)
    costs = Costs(CODEC, source, served=Served.of(earlier, source, None))
    sent = [costs.scene_of(Setting(70, reluctance=reluctance)).levels > 0 for reluctance in (1.0, 1.5, 2.5, 1e9)]
    counts = [int(np.count_nonzero(each)) for each in sent]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[2] > counts[3] == 0
    for more, fewer in pairwise(sent):
        assert not (fewer & ~more).any()
    assert (plan.levels != EXACT).all()


@pytest.mark.parametrize("budget_bytes", range(1_000, 8_001, 1_000))
def test_a_new_plan_uses_what_there_is_though_many_patches_become_worth_it_at_once(budget_bytes):
    plan, earlier = _served(2_000)
    source = prepare(CODEC, IMAGE, EVERYWHERE, 0)
    trials = Trials(Costs(CODEC, source), REQUEST)
    found = replan_entropy(trials, replace(REQUEST, budget_bytes=budget_bytes), earlier)
    assert found is not None
    assert 0.98 * budget_bytes <= found.wire_bytes <= budget_bytes
    assert plan.wire_bytes <= 2_000
