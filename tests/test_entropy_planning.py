"""Planning for the entropy codec: within the budget always, near it where the picture has use for it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.data import astronaut, chelsea

from shared.codec.entropy.codec import Scene, load_entropy_codec, patches_in
from shared.codec.entropy.levels import EXACT, FINEST, sending_order
from shared.entropy_level_map import decode as decode_level_map
from shared.errors import BudgetTooSmallError
from shared.packets import MAX_PACKET_BYTES
from shared.patches import PatchGrid, join, split
from transmitter.entropy import planning as entropy_planning
from transmitter.entropy.costs import Costs
from transmitter.entropy.planning import plan_exactly
from transmitter.entropy.settings import EXACT_BELOW, Setting
from transmitter.entropy.source import allotted, prepare
from transmitter.entropy.trials import Trials
from transmitter.importance import patch_importance
from transmitter.planning import PlanRequest

CODEC = load_entropy_codec()
IMAGE = np.ascontiguousarray(astronaut()[:160, 100:340])
GRID = PatchGrid.of(IMAGE)
EVERYWHERE = np.zeros(IMAGE.shape[:2], np.float32)
MASK = np.zeros(IMAGE.shape[:2], np.float32)
MASK[20:100, 60:170] = 1


def _request(budget_bytes, packet_bytes=MAX_PACKET_BYTES):
    return PlanRequest(budget_bytes, packet_bytes)


def plan_entropy(codec, image, relevance, request):
    return entropy_planning.plan_entropy(codec, image, relevance, request).plan


def _decoded(plan):
    """Picture and qualities, from nothing but header and bodies."""
    header = plan.header
    levels = decode_level_map(header.level_map[2:], header.grid)
    means = CODEC.expected_means(CODEC.background(header.sketch, header.grid))
    order = sending_order(levels, header.grid)
    scene = Scene(header.grid, levels, header.level_map[0], header.level_map[1], order, means)
    patches, qualities = CODEC.decode(scene, [(body.position, body.content) for body in plan.bodies])
    return join(patches, header.grid), qualities


def _psnr_db(a, b, mask=None):
    error = np.square(a.astype(float) - b).mean(axis=2)
    return 10 * np.log10(255**2 / (error.mean() if mask is None else error[mask > 0].mean()))


@pytest.mark.parametrize("percent", [0.5, 1, 2, 5, 10, 30])
@pytest.mark.parametrize(
    "relevance", [EVERYWHERE, MASK, np.linspace(0, 1, MASK.size, dtype=np.float32).reshape(MASK.shape)]
)
def test_budget_is_kept_and_used(percent, relevance):
    budget_bytes = int(GRID.raw_bytes * percent / 100)
    plan = plan_entropy(CODEC, IMAGE, relevance, _request(budget_bytes))
    assert plan.wire_bytes <= budget_bytes
    assert plan.wire_bytes >= 0.985 * budget_bytes - 24


@pytest.mark.parametrize("packet_bytes", [256, 600, 1_200])
def test_packets_are_no_longer_than_allowed(packet_bytes):
    plan = plan_entropy(CODEC, IMAGE, MASK, _request(5_000, packet_bytes))
    assert plan.wire_bytes <= 5_000
    assert max(len(body.content) for body in plan.bodies) <= packet_bytes - 12
    ends = [body.position + patches_in(body.content) for body in plan.bodies]
    assert [0, *ends[:-1]] == [body.position for body in plan.bodies]
    assert ends[-1] == np.count_nonzero(plan.levels)


def test_inside_of_a_mask_is_better_than_without_the_mask():
    with_mask, _ = _decoded(plan_entropy(CODEC, IMAGE, MASK, _request(3_000)))
    without, _ = _decoded(plan_entropy(CODEC, IMAGE, EVERYWHERE, _request(3_000)))
    assert _psnr_db(IMAGE, with_mask, MASK) > _psnr_db(IMAGE, without, MASK) + 3


def test_more_bytes_show_more():
    shown = [
        _psnr_db(IMAGE, _decoded(plan_entropy(CODEC, IMAGE, EVERYWHERE, _request(b)))[0]) for b in (800, 2_000, 6_000)
    ]
    assert shown == sorted(shown)


def test_plenty_of_bytes_make_everything_exact():
    plan = plan_entropy(CODEC, IMAGE, MASK, _request(GRID.raw_bytes))
    assert (plan.levels == EXACT).all()
    np.testing.assert_array_equal(_decoded(plan)[0], IMAGE)


def test_exact_plan_is_exact():
    plan = plan_exactly(CODEC, IMAGE, _request(1))
    np.testing.assert_array_equal(_decoded(plan)[0], IMAGE)
    assert plan.wire_bytes < 0.7 * GRID.raw_bytes


def test_mask_becomes_exact_before_the_outside_is_sent_finely():
    plan = plan_entropy(CODEC, IMAGE, MASK, _request(22_000))
    inside = split(MASK[:, :, None]).reshape(GRID.count, -1).all(axis=1)
    assert (plan.levels[inside] == EXACT).all()
    np.testing.assert_array_equal(_decoded(plan)[0][MASK > 0], IMAGE[MASK > 0])


def test_offsets_follow_the_weight():
    halves = np.ones(IMAGE.shape[:2], np.float32)
    halves[:, 120:] = 0.2475  # 0.2475 + 0.01 is a quarter of 1 + 0.01, rounded up
    halves[0, 0] = 0.9999  # so that it is no mask
    offsets = allotted(halves, GRID).offsets
    assert set(offsets.reshape(GRID.rows, -1)[:, :14].ravel()) == {0}
    assert set(offsets.reshape(GRID.rows, -1)[:, 16:].ravel()) == {2}


def test_price_makes_up_for_a_coarser_quantiser_than_deserved():
    gentle = np.tile(np.linspace(0.3, 1, IMAGE.shape[1], dtype=np.float32), (IMAGE.shape[0], 1))
    offsets, _, prices = allotted(gentle, GRID)
    deserved = np.log2((gentle.max() + 0.01) / (patch_importance(gentle) + 0.01))
    np.testing.assert_allclose(np.log2(prices), deserved - offsets, atol=0.05)
    assert prices.min() < 0.9
    assert prices.max() > 1.1


def test_pixels_outside_continue_those_inside_and_fade_into_the_background():
    edge = np.zeros(IMAGE.shape[:2], np.float32)
    edge[:, :36] = 1  # through the middle of the fifth column of patches
    source = prepare(CODEC, IMAGE, edge, 0)
    patches = source.for_exact(whole=False)[0]
    np.testing.assert_array_equal(join(patches, GRID)[:, :36], IMAGE[:, :36])
    cut = patches.reshape(GRID.rows, -1, 8, 8, 3)[:, 4].astype(int)
    distances = np.abs(cut - source.edges.around).mean(axis=(0, 1, 3))
    assert (np.diff(distances[3:]) < 0).all()
    assert distances[4] > 0.7 * distances[3]


def test_exact_inside_of_a_mask_takes_fewer_bytes_than_its_patches():
    y, x = np.indices(IMAGE.shape[:2])
    aslant = (np.abs(x - y - 40) < 12).astype(np.float32)
    squares = np.kron(patch_importance(aslant).reshape(GRID.rows, -1) > 0, np.ones((8, 8)))
    squares = squares[: GRID.height, : GRID.width].astype(np.float32)
    exact = Setting(EXACT_BELOW, more_exact=GRID.count)
    taken = [Trials(Costs(CODEC, prepare(CODEC, IMAGE, mask, 0)), _request(1)).run(exact) for mask in (aslant, squares)]
    assert (taken[0].levels == taken[1].levels).all()
    assert taken[0].wire_bytes < 0.9 * taken[1].wire_bytes


def test_uniform_map_is_sent_at_one_level():
    plan = plan_entropy(CODEC, IMAGE, EVERYWHERE, _request(4_000))
    assert set(plan.levels) == {FINEST}
    assert len(plan.header.level_map) <= 4


@pytest.mark.parametrize("over", [1.2, 1.5, 2.0])
def test_budget_is_used_where_exact_patches_take_less_than_nearly_exact_ones(over):
    """As in drawings and screens: two colours with sharp edges."""
    cells = np.random.default_rng(0).integers(0, 2, (IMAGE.shape[0] // 4, IMAGE.shape[1] // 4), np.uint8)
    drawing = (60 + 130 * cells.repeat(4, axis=0).repeat(4, axis=1))[..., None].repeat(3, axis=2)
    drawing[:48] = IMAGE[:48]  # what is left is for a photo beside it
    mask = np.zeros(drawing.shape[:2], np.float32)
    mask[64:-16, 16:-16] = 1
    inside = Trials(Costs(CODEC, prepare(CODEC, drawing, mask, 150)), _request(1))
    exact, nearly = (inside.measure(Setting(fineness)).wire_bytes for fineness in (EXACT_BELOW - 1, EXACT_BELOW))
    assert exact < 0.8 * nearly
    budget_bytes = int(over * exact)
    plan = plan_entropy(CODEC, drawing, mask, _request(budget_bytes))
    assert 0.95 * budget_bytes <= plan.wire_bytes <= budget_bytes
    assert (plan.levels == EXACT).sum() >= (mask.reshape(-1, 8, mask.shape[1] // 8, 8).max(axis=(1, 3)) > 0).sum()


def test_budget_below_the_headers_is_refused():
    with pytest.raises(BudgetTooSmallError, match="budget"):
        plan_entropy(CODEC, IMAGE, MASK, _request(20))


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_any_picture_any_map_any_budget(data):
    height, width = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
    seed = data.draw(st.integers(0, 1_000))
    rng = np.random.default_rng(seed)
    kind = data.draw(st.sampled_from(["noise", "flat", "photo"]))
    image = {
        "noise": rng.integers(0, 256, (height, width, 3), np.uint8),
        "flat": np.full((height, width, 3), seed % 256, np.uint8),
        "photo": np.ascontiguousarray(chelsea()[50 : 50 + height, 90 : 90 + width]),
    }[kind]
    relevance = data.draw(
        st.sampled_from([np.zeros((height, width)), rng.random((height, width)), rng.random((height, width)) > 0.7])
    ).astype(np.float32)
    budget_bytes = data.draw(st.integers(60, 2 * image.size + 200))
    packet_bytes = data.draw(st.sampled_from([256, 1_200, MAX_PACKET_BYTES]))
    plan = plan_entropy(CODEC, image, relevance, _request(budget_bytes, packet_bytes))
    assert plan.wire_bytes <= budget_bytes
    picture, _ = _decoded(plan)
    exact = np.repeat(np.repeat((plan.levels == EXACT).reshape(plan.header.grid.rows, -1), 8, 0), 8, 1)
    # What a mask leaves free need not be exact, even in exact patches.
    free = (relevance == 0) & bool(set(np.unique(relevance)) == {0, 1})
    exact = exact[:height, :width] & ~free
    np.testing.assert_array_equal(picture[exact], image[exact])


def _coded_trial(packet_bytes, growth):
    trials = Trials(Costs(CODEC, prepare(CODEC, IMAGE, MASK, 150)), PlanRequest(6_000, packet_bytes))
    measured = trials.measure(Setting(70))
    return trials, trials.aimed(measured, growth * measured.wire_bytes)


@pytest.mark.parametrize("growth", [0.9, 1.0, 1.05])
@pytest.mark.parametrize("share", [-0.04, 0.03])
def test_bodies_that_are_coded_anew_go_where_they_should(growth, share):
    """Whatever the price of a bit was at which they were coded before, as long as they are not full."""
    trials, trial = _coded_trial(300, growth)
    wanted = share * trial.lossy_bytes
    repriced = trials.repriced(trial, range(len(trial.bodies)), wanted)
    assert 0.35 < (repriced.wire_bytes - trial.wire_bytes) / wanted < 1.6


@pytest.mark.parametrize("relevance", [EVERYWHERE, MASK])
def test_less_that_is_enough_takes_less_coding(relevance, monkeypatch):
    coded = []

    def spied(self, scene, runs, *others):
        coded.append(sum(len(run.numbers) for run in runs))
        return code(self, scene, runs, *others)

    code = Trials._coded
    monkeypatch.setattr(Trials, "_coded", spied)
    taken = {}
    for enough in (0.9995, 0.94):
        coded.clear()
        for size in (3_000, 4_000, 5_000):
            plan = plan_entropy(CODEC, IMAGE, relevance, PlanRequest(size, 300, enough=enough))
            assert 0.94 * size <= plan.wire_bytes <= size
        taken[enough] = sum(coded)
    assert taken[0.94] < 0.9 * taken[0.9995]
