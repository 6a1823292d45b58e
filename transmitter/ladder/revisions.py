"""Revisions of the ladder: what a patch gains from a higher level starts from the level that is there already.

```
served level of each patch ─► error of level 0 := error of the served level ─► allocator, as in a first plan
```
A patch cannot be upgraded on the wire, only sent once more at a higher level, which takes all of that level's bytes:
levels up to the served one gain nothing, and the lower convex hull leaves them out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shared.arrays import Float32Array, Int64Array, UInt8Array
from shared.codec.ladder_order import sending_order
from shared.codec.registry import LADDER
from shared.levels import LEVEL_BYTES, RAW, SKIPPED
from shared.packets import LADDER_CODEC, StreamHeader
from shared.patches import PatchGrid
from transmitter.ladder.allocation import Allocator
from transmitter.ladder.planning import STRATEGIES, LadderPlan, fullest, skip_errors, with_levels
from transmitter.planning import RATE_DISTORTION, Earlier, PlanRequest, check_earlier


def make_revision(
    image: UInt8Array, importance: Float32Array, errors: Float32Array, request: PlanRequest, earlier: Sequence[Earlier]
) -> LadderPlan | None:
    """Finds the levels that make the most of a budget when some patches are there already.

    Args:
        image: (height, width, 3) RGB.
        importance: (patches,), 0 to 1.
        errors: (patches, levels) sum of squared errors after decoding; column 0 is replaced.
        request: budget and strategy; strategies that look at relevance alone send only what is not there.
        earlier: every revision of the transmission so far, at least one.

    Returns:
        A plan with `wire_bytes <= request.budget_bytes`; None where nothing is worth sending in that.

    Raises:
        InvalidInputError: `earlier` is not of this picture.
    """
    grid = PatchGrid.of(image)
    served = served_levels(earlier, grid)
    first = earlier[0].plan.header
    empty = _nothing(StreamHeader(LADDER_CODEC, first.weights_hash, grid, b"", b"", 0), request)
    open_ = np.flatnonzero(served < RAW if request.strategy == RATE_DISTORTION else served == SKIPPED)
    if empty.wire_bytes > request.budget_bytes or not len(open_):
        return None
    costs = _costs(errors, served, skip_errors(image, first.sketch, grid))
    allocator = _Among(STRATEGIES[request.strategy](importance[open_], costs[open_]), open_, grid.count)
    plan = fullest(empty, allocator, request.budget_bytes)
    return plan if plan.levels.any() else None


def served_levels(earlier: Sequence[Earlier], grid: PatchGrid) -> UInt8Array:
    """(grid.count,) the highest level that is there of each patch; SKIPPED where none is.

    Raises:
        InvalidInputError: a plan is not of this picture, or `served` does not fit it.
    """
    check_earlier(earlier, LADDER, grid)
    highest = np.zeros(grid.count, np.uint8)
    for revision in earlier:
        levels = revision.plan.levels
        numbers = revision.numbers(sending_order(levels))
        highest[numbers] = np.maximum(highest[numbers], levels[numbers])
    return highest


def _nothing(header: StreamHeader, request: PlanRequest) -> LadderPlan:
    skipped = np.zeros(header.grid.count, np.uint8)
    return with_levels(LadderPlan(header, skipped, request.packet_bytes, request.frame_bytes), skipped)


def _costs(errors: Float32Array, served: UInt8Array, skipped: Float32Array) -> Float32Array:
    """(patches, levels) errors where no level errs less than what is there already, but higher ones may."""
    costs = errors.copy()
    costs[:, SKIPPED] = skipped
    there = np.take_along_axis(costs, served[:, None].astype(np.int64), axis=1)
    return np.where(np.arange(len(LEVEL_BYTES)) <= served[:, None], there, costs)


@dataclass(frozen=True)
class _Among:
    """An allocator that knows but some of the patches; the others are skipped."""

    allocator: Allocator
    numbers: Int64Array
    """Of the patches that it knows."""
    count: int
    """All patches."""

    def levels_within(self, content_bytes: int) -> UInt8Array:
        """See `Allocator`."""
        levels = np.zeros(self.count, np.uint8)
        levels[self.numbers] = self.allocator.levels_within(content_bytes)
        return levels
