"""Planning a picture again for what has not arrived: within the budget, decodable alone, and never for nothing."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.data import astronaut

from shared.codec.entropy.codec import Scene, load_entropy_codec
from shared.codec.entropy.levels import EXACT, QUALITY_EXACT, QUALITY_SKIPPED, sending_order
from shared.codec.ladder_order import sending_order as ladder_order
from shared.entropy_level_map import decode as decode_level_map
from shared.errors import InvalidInputError
from shared.level_map import decode_level_map as decode_ladder_map
from shared.levels import RAW
from shared.packets import PACKET_HEADER_BYTES
from shared.patches import PatchGrid, join, split
from transmitter.codecs import load_sender
from transmitter.importance import patch_importance
from transmitter.ladder.planning import skip_errors
from transmitter.planning import Earlier, PlanRequest

CODEC = load_entropy_codec()
IMAGE = np.ascontiguousarray(astronaut()[:120, 120:280])
GRID = PatchGrid.of(IMAGE)
BUDGET = 2_400
EVERYWHERE = np.zeros(IMAGE.shape[:2], np.float32)
MASK = np.zeros(IMAGE.shape[:2], np.float32)
MASK[20:100, 30:110] = 1
SOFT = np.linspace(0.1, 1, MASK.size, dtype=np.float32).reshape(MASK.shape)
MAPS = {"everywhere": EVERYWHERE, "mask": MASK, "soft": SOFT}


def _request(budget_bytes, packet_bytes=400, strategy="rate-distortion"):
    return PlanRequest(budget_bytes, packet_bytes, strategy)


@cache
def _first(codec, kind, budget_bytes=BUDGET):
    """A picture and its first plan."""
    prepared = load_sender(codec).prepare(IMAGE)
    return prepared, prepared.plan(MAPS[kind], _request(budget_bytes))


def _served(plan, bodies):
    """The patches of some bodies, by their numbers."""
    served = np.zeros(np.count_nonzero(plan.levels), np.bool_)
    for number in bodies:
        body = plan.bodies[number]
        served[body.position : body.position + body.patches] = True
    return served


def _first_half(plan):
    return _served(plan, range(len(plan.bodies) // 2))


def _decoded(plan, layer, served=None):
    """Patches and qualities of the bodies of which anything is served, from a plan's own bytes and a background."""
    levels = decode_level_map(plan.header.level_map[2:], GRID)
    means = CODEC.expected_means(CODEC.background(layer, GRID))
    scene = Scene(GRID, levels, plan.header.level_map[0], plan.header.level_map[1], sending_order(levels, GRID), means)
    bodies = [body for body in plan.bodies if served is None or served[body.position]]
    return CODEC.decode(scene, [(body.position, body.content) for body in bodies])


def _finest(decodings):
    """What a receiver shows of several revisions: of each patch the finest."""
    patches, best = decodings[0]
    for others, qualities in decodings[1:]:
        finer = _rank(qualities) < _rank(best)
        patches = np.where(finer[:, None, None, None], others, patches)
        best = np.where(finer, qualities, best)
    return patches, best


def _rank(qualities):
    return np.where(qualities == QUALITY_SKIPPED, 1_000, qualities.astype(int))


def _error(decoding, layer, relevance):
    """Squared error, weighted by relevance; where nothing is, the background is shown."""
    patches, qualities = decoding
    flat = np.broadcast_to(CODEC.background(layer, GRID)[:, None, None, :], patches.shape)
    shown = join(np.where((qualities == QUALITY_SKIPPED)[:, None, None, None], flat, patches), GRID)
    weights = relevance if relevance.any() else np.ones_like(relevance)
    return float((np.square(IMAGE.astype(float) - shown).sum(axis=2) * weights).sum())


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("budget_bytes", [300, 1_200, 4_000])
def test_budget_is_kept_and_used(kind, budget_bytes):
    prepared, plan = _first("entropy", kind)
    revision = prepared.replan(MAPS[kind], _request(budget_bytes), [Earlier(plan, _first_half(plan))])
    assert revision.wire_bytes <= budget_bytes
    assert revision.wire_bytes >= 0.97 * budget_bytes
    assert max(len(body.content) for body in revision.bodies) <= 400 - PACKET_HEADER_BYTES
    assert revision.header.sketch == b""


@pytest.mark.parametrize("kind", MAPS)
def test_what_is_missing_is_sent_in_the_bytes_that_it_would_have_taken(kind):
    prepared, plan = _first("entropy", kind)
    served = _first_half(plan)
    rest = sum(len(body.content) + PACKET_HEADER_BYTES for body in plan.bodies if not served[body.position])
    revision = prepared.replan(MAPS[kind], _request(rest), [Earlier(plan, served)])
    missing = sending_order(plan.levels, GRID)[~served]
    assert (revision.levels[missing] > 0).mean() > 0.95
    layer = plan.header.sketch
    whole = _error(_decoded(plan, layer), layer, MAPS[kind])
    merged = _finest([_decoded(plan, layer, served), _decoded(revision, layer)])
    # The second header and level map are all that is lost.
    assert _error(merged, layer, MAPS[kind]) < 1.12 * whole


def test_each_packet_decodes_alone():
    prepared, plan = _first("entropy", "soft")
    revision = prepared.replan(SOFT, _request(1_000), [Earlier(plan, _first_half(plan))])
    together, _ = _decoded(revision, plan.header.sketch)
    order = sending_order(revision.levels, GRID)
    for number, body in enumerate(revision.bodies):
        alone, qualities = _decoded(revision, plan.header.sketch, _served(revision, [number]))
        held = order[body.position : body.position + body.patches]
        assert set(np.flatnonzero(qualities != QUALITY_SKIPPED)) == set(held)
        np.testing.assert_array_equal(alone[held], together[held])


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_any_loss_any_budget(data):
    kind = data.draw(st.sampled_from(list(MAPS)))
    prepared, plan = _first("entropy", kind, data.draw(st.sampled_from([900, BUDGET, 12_000])))
    served = _served(plan, [number for number in range(len(plan.bodies)) if data.draw(st.booleans())])
    budget_bytes = data.draw(st.integers(40, 8_000))
    relevance, layer = MAPS[kind], plan.header.sketch
    revision = prepared.replan(relevance, _request(budget_bytes), [Earlier(plan, served)])
    if revision is None:
        assert budget_bytes < 300 or served.all()
        return
    assert revision.wire_bytes <= budget_bytes
    assert revision.levels.any()
    before, after = _decoded(plan, layer, served), _decoded(revision, layer)
    again = (after[1] != QUALITY_SKIPPED) & (before[1] != QUALITY_SKIPPED)
    assert (_rank(after[1]) < _rank(before[1]))[again].all()
    assert not (again & (before[1] == QUALITY_EXACT)).any()
    assert _error(_finest([before, after]), layer, relevance) < _error(before, layer, relevance)


@pytest.mark.parametrize("kind", MAPS)
def test_bigger_budgets_show_more(kind):
    prepared, plan = _first("entropy", kind)
    served, layer = _first_half(plan), plan.header.sketch
    errors, finest = [], []
    for budget_bytes in (300, 1_000, 3_000, 9_000):
        revision = prepared.replan(MAPS[kind], _request(budget_bytes), [Earlier(plan, served)])
        finest.append(revision.header.level_map[0])
        merged = _finest([_decoded(plan, layer, served), _decoded(revision, layer)])
        errors.append(_error(merged, layer, MAPS[kind]))
    assert errors == sorted(errors, reverse=True)
    assert finest == sorted(finest, reverse=True)
    assert len(set(finest)) > 1


def test_little_is_left_to_do_where_everything_is_there():
    prepared, plan = _first("entropy", "everywhere")
    everything = [Earlier(plan, np.ones(np.count_nonzero(plan.levels), np.bool_))]
    assert prepared.replan(EVERYWHERE, _request(60), everything) is None
    # With as many bytes again, some patches become so fine that sending them once more pays.
    again = prepared.replan(EVERYWHERE, _request(3 * BUDGET), everything)
    layer = plan.header.sketch
    first = _decoded(plan, layer)
    merged = _finest([first, _decoded(again, layer)])
    assert _error(merged, layer, EVERYWHERE) < 0.8 * _error(first, layer, EVERYWHERE)


def test_exact_patches_are_never_sent_again():
    prepared, plan = _first("entropy", "mask", 12_000)
    exact = plan.levels == EXACT
    assert exact.any()
    everything = Earlier(plan, np.ones(np.count_nonzero(plan.levels), np.bool_))
    rest = prepared.replan(MASK, _request(GRID.raw_bytes), [everything])
    assert (rest.levels[~exact] == EXACT).all()
    assert not rest.levels[exact].any()
    layer = plan.header.sketch
    merged = join(_finest([_decoded(plan, layer), _decoded(rest, layer)])[0], GRID)
    # Only what the mask leaves free, in the patches at its edge that came first, may differ.
    asked = (MASK > 0) | ~np.kron(exact.reshape(GRID.rows, GRID.columns), np.ones((8, 8), bool))[
        : GRID.height, : GRID.width
    ]
    np.testing.assert_array_equal(merged[asked], IMAGE[asked])
    done = Earlier(rest, np.ones(np.count_nonzero(rest.levels), np.bool_))
    assert prepared.replan(MASK, _request(GRID.raw_bytes), [everything, done]) is None


def test_later_revisions_count_what_earlier_ones_brought():
    prepared, plan = _first("entropy", "soft")
    earlier, layer = [Earlier(plan, _first_half(plan))], plan.header.sketch
    decodings = [_decoded(plan, layer, earlier[0].served)]
    errors = [_error(decodings[0], layer, SOFT)]
    for budget_bytes in (700, 700, 3_000):
        revision = prepared.replan(SOFT, _request(budget_bytes), earlier)
        earlier.append(Earlier(revision, _first_half(revision)))
        decodings.append(_decoded(revision, layer, earlier[-1].served))
        errors.append(_error(_finest(decodings), layer, SOFT))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.5 * errors[0]


def test_a_picture_prepared_anew_is_planned_again_as_well():
    _, plan = _first("entropy", "mask")
    fresh = load_sender("entropy").prepare(IMAGE)
    revision = fresh.replan(MASK, _request(1_000), [Earlier(plan, _first_half(plan))])
    assert 970 <= revision.wire_bytes <= 1_000


@pytest.mark.parametrize("codec", ["entropy", "ladder"])
def test_what_does_not_fit_the_picture_is_refused(codec):
    prepared, plan = _first(codec, "soft")
    sent = np.count_nonzero(plan.levels)
    for earlier in (
        [],
        [Earlier(plan, np.ones(sent - 1, np.bool_))],
        [Earlier(_first("ladder" if codec == "entropy" else "entropy", "soft")[1], np.ones(sent, np.bool_))],
    ):
        with pytest.raises(InvalidInputError, match="earlier"):
            prepared.replan(SOFT, _request(1_000), earlier)
    small = load_sender(codec).prepare(IMAGE[:64])
    with pytest.raises(InvalidInputError, match="earlier"):
        small.replan(SOFT[:64], _request(1_000), [Earlier(plan, np.ones(sent, np.bool_))])


def _ladder_levels(revisions):
    """(patches,) the highest level served of each."""
    highest = np.zeros(GRID.count, np.uint8)
    for revision in revisions:
        header = revision.plan.header
        levels = decode_ladder_map(header.level_map, header.level_map_table, GRID)
        numbers = ladder_order(levels)[revision.served]
        highest[numbers] = np.maximum(highest[numbers], levels[numbers])
    return highest


def _ladder_error(prepared, plan, levels, kind):
    errors = prepared.encoded.errors.copy()
    errors[:, 0] = skip_errors(IMAGE, plan.header.sketch, GRID)
    weights = patch_importance(MAPS[kind]) + 0.01
    return float((errors[np.arange(GRID.count), levels] * weights).sum())


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_ladder_any_loss_any_budget(data):
    kind = data.draw(st.sampled_from(list(MAPS)))
    strategy = data.draw(st.sampled_from(["rate-distortion", "rate-distortion", "greedy", "vit-sc"]))
    prepared, plan = _first("ladder", kind, data.draw(st.sampled_from([300, BUDGET, 30_000])))
    served = _served(plan, [number for number in range(len(plan.bodies)) if data.draw(st.booleans())])
    budget_bytes = data.draw(st.integers(20, 70_000))
    earlier = [Earlier(plan, served)]
    revision = prepared.replan(MAPS[kind], _request(budget_bytes, strategy=strategy), earlier)
    before = _ladder_levels(earlier)
    if revision is None:
        assert budget_bytes < 120 or (before == RAW).all()
        return
    assert revision.wire_bytes <= budget_bytes
    assert revision.header.sketch == b""
    sent = Earlier(revision, np.ones(np.count_nonzero(revision.levels), np.bool_))
    after = _ladder_levels([*earlier, sent])
    again = revision.levels > 0
    assert (revision.levels > before)[again].all()
    if strategy == "rate-distortion":
        assert _ladder_error(prepared, plan, after, kind) <= _ladder_error(prepared, plan, before, kind)
        # Less than one more patch of 12 bytes, a packet for it, and by what the map grows.
        unused = budget_bytes - revision.wire_bytes
        assert unused < max(0.03 * budget_bytes, 12 + PACKET_HEADER_BYTES + 4) or (after == RAW).all()


def test_ladder_with_more_bytes_errs_less():
    prepared, plan = _first("ladder", "soft")
    earlier = [Earlier(plan, _first_half(plan))]
    errors = []
    for budget_bytes in (200, 800, 3_000, 12_000):
        revision = prepared.replan(SOFT, _request(budget_bytes), earlier)
        sent = Earlier(revision, np.ones(np.count_nonzero(revision.levels), np.bool_))
        errors.append(_ladder_error(prepared, plan, _ladder_levels([*earlier, sent]), "soft"))
    assert errors == sorted(errors, reverse=True)
    assert len(set(errors)) == 4


def test_ladder_bodies_are_the_patches_at_their_levels():
    prepared, plan = _first("ladder", "mask")
    revision = prepared.replan(MASK, _request(2_000), [Earlier(plan, _first_half(plan))])
    for body in revision.bodies:
        numbers = ladder_order(revision.levels)[body.position : body.position + body.patches]
        payloads = [prepared.encoded.payloads[revision.levels[number]][number].tobytes() for number in numbers]
        assert b"".join(payloads) == body.content
    assert split(IMAGE).shape[0] == GRID.count
