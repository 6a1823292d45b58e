"""The budget is never exceeded, and hardly ever left unused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.codec.contract import EncodedPatches
from shared.errors import BudgetTooSmallError
from shared.level_map import decode_level_map
from shared.levels import LEVEL_BYTES, RAW
from shared.packets import Packet, PacketKind
from shared.patches import PatchGrid, split
from transmitter.ladder import planning as ladder_planning
from transmitter.ladder.planning import LadderPlan
from transmitter.ladder.sender import filled
from transmitter.packing import pack, pack_revision
from transmitter.planning import PlanRequest


def _request(budget_bytes: int, packet_bytes: int = 1200, strategy: str = "rate-distortion") -> PlanRequest:
    return PlanRequest(budget_bytes, packet_bytes, strategy)


def make_plan(image: np.ndarray, importance: np.ndarray, errors: np.ndarray, request: PlanRequest) -> LadderPlan:
    return ladder_planning.make_plan(image, importance, errors, request, b"abcd")


def _errors(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Falling errors as a codec would give: a share of the patch's variance, some exact."""
    variance = split(image).reshape(PatchGrid.of(image).count, -1).var(axis=1) * 192
    shares = np.array([1, 0.1, 0.04, 0.01, 0]) * random.uniform(0.5, 1.5, (len(variance), 5))
    return (variance[:, None] * shares).astype(np.float32)


def _image(kind: str, width: int, height: int, random: np.random.Generator) -> np.ndarray:
    if kind == "noise":
        return random.integers(0, 256, (height, width, 3), np.uint8)
    if kind == "flat":
        return np.full((height, width, 3), random.integers(0, 256, 3), np.uint8)
    ramp = np.linspace(0, 255, width)[None, :, None] * np.linspace(0.2, 1, height)[:, None, None]
    return np.clip(ramp + random.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)


@settings(max_examples=1000, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["noise", "flat", "ramp"]),
    width=st.integers(1, 200),
    height=st.integers(1, 160),
    share=st.floats(0.0001, 1.3),
    packet_bytes=st.integers(256, 4000),
    strategy=st.sampled_from(["rate-distortion", "rate-distortion", "greedy", "vit-sc"]),
)
def test_wire_bytes_never_exceed_the_budget(seed, kind, width, height, share, packet_bytes, strategy):
    random = np.random.default_rng(seed)
    image = _image(kind, width, height, random)
    grid = PatchGrid.of(image)
    importance = random.random(grid.count).astype(np.float32) * random.integers(0, 2, grid.count)
    budget = int(grid.raw_bytes * share)
    try:
        plan = make_plan(
            image, importance.astype(np.float32), _errors(image, random), _request(budget, packet_bytes, strategy)
        )
    except BudgetTooSmallError:
        assert budget < 300
        return
    payloads = tuple(np.zeros((grid.count, size), np.uint8) for size in LEVEL_BYTES)
    whole = filled(plan, EncodedPatches(payloads, np.zeros((grid.count, 5), np.float32)))
    packets = pack(whole, 7)
    sent = sum(map(len, packets))
    assert sent == plan.wire_bytes == whole.wire_bytes <= budget
    assert whole.content_bytes == plan.content_bytes
    assert max(map(len, packets)) <= packet_bytes
    everything_raw = (plan.levels == RAW).all()
    # A packet's header is the one thing that cannot be split: where it does not fit, its bytes stay unused.
    assert everything_raw or strategy == "vit-sc" or sent >= min(0.99 * budget, budget - 24)


def test_the_level_map_in_the_header_is_the_plans_own():
    random = np.random.default_rng(5)
    image = _image("ramp", 120, 80, random)
    plan = make_plan(image, random.random(150).astype(np.float32), _errors(image, random), _request(3000))
    header = plan.header
    np.testing.assert_array_equal(decode_level_map(header.level_map, header.level_map_table, header.grid), plan.levels)


def test_a_budget_larger_than_needed_sends_everything_raw():
    random = np.random.default_rng(1)
    image = _image("ramp", 100, 52, random)
    plan = make_plan(image, np.zeros(91, np.float32), _errors(image, random), _request(1_000_000))
    assert (plan.levels == RAW).all()
    assert plan.wire_bytes < 91 * 192 * 1.03
    assert plan.header.sketch == b""


@pytest.mark.parametrize("budget", [0, 1, 20])
def test_a_budget_below_the_headers_is_refused(budget):
    image = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(BudgetTooSmallError, match="budget"):
        make_plan(image, np.ones(64, np.float32), np.zeros((64, 5), np.float32), _request(budget))


def test_packets_carry_patches_in_order_of_level():
    random = np.random.default_rng(2)
    image = _image("noise", 160, 160, random)
    errors = _errors(image, random)
    plan = make_plan(image, random.random(400).astype(np.float32), errors, _request(12_000, 500))
    payloads = tuple(np.full((400, size), level, np.uint8) for level, size in enumerate(LEVEL_BYTES))
    packets = [Packet.from_bytes(data) for data in pack(filled(plan, EncodedPatches(payloads, errors)), 9)]
    bodies = b"".join(packet.body for packet in packets if packet.kind is PacketKind.PATCHES)
    assert bytes(sorted(bodies, reverse=True)) == bodies
    assert {packet.transmission_id for packet in packets} == {9}


def test_packed_revision_says_how_many_patches_each_packet_holds():
    random = np.random.default_rng(3)
    image = _image("noise", 160, 160, random)
    errors = _errors(image, random)
    plan = make_plan(image, random.random(400).astype(np.float32), errors, _request(9_000, 300))
    payloads = tuple(np.full((400, size), level, np.uint8) for level, size in enumerate(LEVEL_BYTES))
    packed = pack_revision(filled(plan, EncodedPatches(payloads, errors)), 9, 3)
    assert packed.wire_bytes == plan.wire_bytes
    assert packed.expected == np.count_nonzero(plan.levels)
    ends = [packet.position + packet.patches for packet in packed.patches]
    assert [0, *ends[:-1]] == [packet.position for packet in packed.patches]
    levels = np.sort(plan.levels)[::-1]
    for packet in packed.patches:
        held = Packet.from_bytes(packet.data)
        assert (held.revision, held.position) == (3, packet.position)
        sizes = np.asarray(LEVEL_BYTES)[levels[packet.position : packet.position + packet.patches]]
        assert sizes.sum() == len(held.body)
    section = b"".join(Packet.from_bytes(data).body for data in packed.header)
    assert section == plan.header.to_bytes()
