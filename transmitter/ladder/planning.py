"""The ladder's planning: solves for the levels whose every byte on the wire fits the budget, and spends the rest.

The wire carries packet headers, the stream header with its sketch and level map, and the patches. The size of the
coded level map follows from the levels, so the planner searches for the content bytes that leave just enough room,
and the sketch takes the last odd bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from shared.arrays import Float32Array, Int64Array, UInt8Array
from shared.codec.ladder_order import stream_bytes
from shared.errors import BudgetTooSmallError
from shared.level_map import encode_level_map
from shared.levels import LEVEL_BYTES, RAW
from shared.packets import LADDER_CODEC, PACKET_HEADER_BYTES, StreamHeader
from shared.patches import PatchGrid, split
from shared.sketch import MAX_SKETCH_BYTES, decode_sketch, encode_sketch
from transmitter.ladder.allocation import Allocator, greedy, rate_distortion
from transmitter.ladder.vit_sc import vit_sc
from transmitter.planning import RATE_DISTORTION, PlanRequest

STRATEGIES: Final[dict[str, Callable[[Float32Array, Float32Array], Allocator]]] = {
    RATE_DISTORTION: rate_distortion,
    "greedy": greedy,
    "vit-sc": vit_sc,
}
"""Allocation strategies by name: (importance, errors) -> allocator."""

# Measured on 24 training photos at 1, 2 and 5 percent of raw: half of this share shows 0.2 dB less where it is
# relevant and 0.4 dB less on the whole; more bytes than this no longer show.
_SKETCH_SHARE: Final = 32
_USUAL_SKETCH_BYTES: Final = 255
_ROUNDS: Final = 16


@dataclass(frozen=True)
class LadderPlan:
    """What will cross the channel, but for the patches' own bytes."""

    header: StreamHeader
    levels: UInt8Array
    """(patches,) in raster order."""
    packet_bytes: int
    """Largest packet."""
    frame_bytes: int = 0
    """What a container puts before each packet."""

    @property
    def level_counts(self) -> Int64Array:
        """(levels,) patches at each level."""
        return np.bincount(self.levels, minlength=len(LEVEL_BYTES))

    @property
    def content_bytes(self) -> int:
        """Bytes of the patches alone."""
        return int(self.level_counts @ np.asarray(LEVEL_BYTES))

    @property
    def wire_bytes(self) -> int:
        """Every byte that the plan puts on the channel."""
        return stream_bytes(len(self.header.to_bytes()), self.level_counts, self.packet_bytes, self.frame_bytes)


def make_plan(
    image: UInt8Array, importance: Float32Array, errors: Float32Array, request: PlanRequest, weights_hash: bytes
) -> LadderPlan:
    """Finds the levels that make the most of a budget.

    Args:
        image: (height, width, 3) RGB.
        importance: (patches,), 0 to 1.
        errors: (patches, levels) sum of squared errors after decoding; column 0 is replaced by what skipping costs.
        request: budget and strategy.
        weights_hash: 4 bytes for the stream header.

    Returns:
        A plan with `wire_bytes <= request.budget_bytes`.

    Raises:
        BudgetTooSmallError: not even the stream header fits.
    """
    empty = _empty_plan(image, request, weights_hash)
    costs = errors.copy()
    costs[:, 0] = skip_errors(image, empty.header.sketch, empty.header.grid)
    allocator = STRATEGIES[request.strategy](importance, costs)
    return _with_last_bytes(image, fullest(empty, allocator, request.budget_bytes), request.budget_bytes)


def exact_plan(image: UInt8Array, weights_hash: bytes, packet_bytes: int, frame_bytes: int) -> LadderPlan:
    """Every patch of a picture, (height, width, 3) RGB, at the exact level; see `make_plan` and `LadderPlan`."""
    header = StreamHeader(LADDER_CODEC, weights_hash, PatchGrid.of(image), b"", b"", 0)
    levels = np.full(header.grid.count, RAW, np.uint8)
    return with_levels(LadderPlan(header, levels, packet_bytes, frame_bytes), levels)


def skip_errors(image: UInt8Array, sketch: bytes, grid: PatchGrid) -> Float32Array:
    """(patches,) sum of squared errors of each patch where only the sketch is shown."""
    difference = split(image).astype(np.int32) - decode_sketch(sketch, grid)
    return np.asarray(np.einsum("pijc,pijc->p", difference, difference), np.float32)


def _empty_plan(image: UInt8Array, request: PlanRequest, weights_hash: bytes) -> LadderPlan:
    """Everything skipped: only the headers and the sketch."""
    grid = PatchGrid.of(image)
    header = StreamHeader(LADDER_CODEC, weights_hash, grid, b"", b"", 0)
    skipped = np.zeros(grid.count, np.uint8)
    bare = with_levels(LadderPlan(header, skipped, request.packet_bytes, request.frame_bytes), skipped)
    if bare.wire_bytes > request.budget_bytes:
        least = f"{request.budget_bytes} bytes, where the headers alone take {bare.wire_bytes}"
        raise BudgetTooSmallError("budget", least)
    usual = min(_USUAL_SKETCH_BYTES, request.budget_bytes // _SKETCH_SHARE, request.budget_bytes - bare.wire_bytes)
    return _with_sketch(bare, image, usual)


def with_levels(plan: LadderPlan, levels: UInt8Array) -> LadderPlan:
    """The plan with other levels, (patches,)."""
    table, level_map = encode_level_map(levels, plan.header.grid)
    header = replace(plan.header, level_map=level_map, level_map_table=table)
    return replace(plan, header=header, levels=levels)


def _with_sketch(plan: LadderPlan, image: UInt8Array, size_bytes: int) -> LadderPlan:
    return replace(plan, header=replace(plan.header, sketch=encode_sketch(image, size_bytes)))


def fullest(empty: LadderPlan, allocator: Allocator, budget_bytes: int) -> LadderPlan:
    """The fullest plan within a budget that a few rounds of search find, from one that sends no patch and fits."""
    best = empty
    low, high = 0, budget_bytes
    content = budget_bytes - empty.wire_bytes
    for _ in range(_ROUNDS):
        plan = with_levels(empty, allocator.levels_within(content))
        slack = budget_bytes - plan.wire_bytes
        if slack < 0:
            high = content - 1
        else:
            low = content
            best = plan if plan.wire_bytes > best.wire_bytes else best
        # What headers and level map took this time is the best guess of what they will take next time.
        following = min(max(plan.content_bytes + slack, low), high)
        if following == content or low >= high:
            break
        content = following
    return best


def _with_last_bytes(image: UInt8Array, plan: LadderPlan, budget_bytes: int) -> LadderPlan:
    """Spends the bytes that no upgrade fits into on a finer sketch."""
    if plan.level_counts[RAW] == len(plan.levels):
        return _with_sketch(plan, image, 0)
    left = budget_bytes - plan.wire_bytes
    for size in (left, left - PACKET_HEADER_BYTES - plan.frame_bytes):
        longer = _with_sketch(plan, image, min(len(plan.header.sketch) + max(size, 0), MAX_SKETCH_BYTES))
        # One more byte may open one more packet.
        if longer.wire_bytes <= budget_bytes:
            return longer
    return plan
