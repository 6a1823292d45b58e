"""Allocation: which level each patch gets, so that the bytes go where they matter.

```
importance ─┐
            ├─► upgrades of every patch, each with its gain per byte ─► best first ─► cut where the budget ends
errors ─────┘
```
An upgrade takes a patch from one level to a higher one. Only those on the lower convex hull of a patch's error over
its bytes are kept, so that a patch's gains per byte fall from one upgrade to the next, and taking upgrades best
first solves the Lagrangian problem `max sum_i w_i (D_i(0) - D_i(l_i)) subject to sum_i r(l_i) <= B` exactly, but for
the last few bytes, which smaller upgrades fill.
"""

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from shared.arrays import BoolArray, Float32Array, Float64Array, Int64Array, UInt8Array
from shared.levels import LEVEL_BYTES, RAW

_SIZES: Final = np.asarray(LEVEL_BYTES, np.float64)

IMPORTANCE_FLOOR: Final = 0.01
"""Weight of a patch without any relevance, so that what is left over goes to content instead of nowhere."""

_LEAST_GAIN: Final = 1e-9
"""Gain per byte, before the weight, of an upgrade that removes no error: worth taking last, since only raw is
promised to be exact."""


class Allocator(Protocol):
    """A strategy, prepared for one picture; asked for one budget after another by the planning."""

    def levels_within(self, content_bytes: int) -> UInt8Array:
        """(patches,) levels whose bytes add up to at most `content_bytes`."""
        ...


@dataclass(frozen=True)
class UpgradeAllocator:
    """All worthwhile upgrades of all patches, best first."""

    patches: Int64Array
    """(upgrades,) which patch is upgraded."""
    sources: Int64Array
    """(upgrades,) from which level."""
    targets: UInt8Array
    """(upgrades,) to which level."""
    costs_bytes: Int64Array
    """(upgrades,) by how many bytes."""
    totals_bytes: Int64Array
    """(upgrades,) bytes of this and all better upgrades."""
    weighted_errors: Float64Array
    """(levels, patches) what the sum is made of that the upgrades reduce."""

    def levels_within(self, content_bytes: int) -> UInt8Array:
        """Takes upgrades best first, then fills what is left with the best that still fit."""
        taken = int(np.searchsorted(self.totals_bytes, content_bytes, side="right"))
        levels = np.zeros(self.weighted_errors.shape[1], np.uint8)
        # Targets of one patch rise along the order; assignment in order leaves the last.
        levels[self.patches[:taken]] = self.targets[:taken]
        left = content_bytes - (int(self.totals_bytes[taken - 1]) if taken else 0)
        left = self._fill_from_hull(levels, taken, left)
        self._fill_from_any(levels, left)
        return levels

    def _fill_from_hull(self, levels: UInt8Array, start: int, left_bytes: int) -> int:
        while True:
            fits = self.costs_bytes[start:] <= left_bytes
            fits &= self.sources[start:] == levels[self.patches[start:]]
            offset = int(np.argmax(fits)) if len(fits) else 0
            if not len(fits) or not fits[offset]:
                return left_bytes
            start += offset
            levels[self.patches[start]] = self.targets[start]
            left_bytes -= int(self.costs_bytes[start])

    def _fill_from_any(self, levels: UInt8Array, left_bytes: int) -> None:
        """Upgrades that no hull has, for the last bytes: they never overtake a patch of equal content."""
        while left_bytes >= LEVEL_BYTES[1]:
            costs = _SIZES[:, None] - _SIZES[levels]
            now = self.weighted_errors[levels, np.arange(len(levels))]
            gains = np.where(costs > 0, (now - self.weighted_errors) / np.maximum(costs, 1), -np.inf)
            gains[costs > left_bytes] = -np.inf
            target, patch = np.unravel_index(int(np.argmax(gains)), gains.shape)
            if gains[target, patch] <= 0:
                return
            left_bytes -= int(costs[target, patch])
            levels[patch] = target


def rate_distortion(importance: Float32Array, errors: Float32Array) -> UpgradeAllocator:
    """Maximises the relevance-weighted reduction of each patch's real error.

    Args:
        importance: (patches,), 0 to 1.
        errors: (patches, levels) sum of squared errors of each patch at each level; column 0 is what the receiver
            shows where nothing was sent.
    """
    weights = importance.astype(np.float64) + IMPORTANCE_FLOOR
    weighted = errors.T.astype(np.float64, order="C") * weights
    gains, targets = _hull(weighted, _LEAST_GAIN * weights)
    exists = np.flatnonzero(targets)
    # Stable, so that equal gains go in raster order on every machine.
    order = exists[np.argsort(-gains.ravel()[exists], kind="stable")]
    source, patch = np.divmod(order, len(importance))
    target = targets.ravel()[order]
    sizes = np.asarray(LEVEL_BYTES, np.int64)
    costs = sizes[target] - sizes[source]
    return UpgradeAllocator(patch, source, target, costs, np.cumsum(costs), weighted)


def greedy(importance: Float32Array, errors: Float32Array) -> UpgradeAllocator:
    """As `rate_distortion`, but every patch is taken to err as the average patch does.

    The order of upgrades then depends on relevance alone: what a system without real errors at hand can do.
    """
    average = np.broadcast_to(errors.mean(axis=0, dtype=np.float64), errors.shape).astype(np.float32)
    return rate_distortion(importance, average)


def _hull(errors: Float64Array, least: Float64Array) -> tuple[Float64Array, UInt8Array]:
    """Upgrades along each patch's lower convex hull.

    Args:
        errors: (levels, patches), weighted; levels first, so that each step runs along contiguous memory.
        least: (patches,) gain of an upgrade that removes no error.

    Returns:
        (levels - 1, patches) gain per byte of the upgrade that starts at each level, and its target level;
        a target of 0 where the level is not on the hull.
    """
    gains = np.empty((RAW, errors.shape[1]))
    targets = np.empty((RAW, errors.shape[1]), np.uint8)
    on_hull: BoolArray = np.zeros((RAW + 1, errors.shape[1]), np.bool_)
    on_hull[0] = True
    for source in range(RAW):
        best, target = _steepest(errors, source)
        gains[source] = np.maximum(best, least)
        targets[source] = target * on_hull[source]
        for level in range(source + 1, RAW + 1):
            on_hull[level] |= targets[source] == level
    return gains, targets


def _steepest(errors: Float64Array, source: int) -> tuple[Float64Array, UInt8Array]:
    """The greatest gain per byte from one level to any higher one, and the level that gives it."""
    best = (errors[source] - errors[RAW]) / (_SIZES[RAW] - _SIZES[source])
    target = np.full(errors.shape[1], RAW, np.uint8)
    # Among equal gains the farthest level stands: fewer upgrades. Where none errs less, raw promises more.
    for level in range(RAW - 1, source, -1):
        slope = (errors[source] - errors[level]) / (_SIZES[level] - _SIZES[source])
        better = slope > np.maximum(best, 0)
        np.copyto(best, slope, where=better)
        np.copyto(target, np.uint8(level), where=better)
    return best, target
