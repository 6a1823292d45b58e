"""Algorithm 1 of arXiv 2412.01817 (ViT-SC), as printed, for comparison; never the default.

As printed it raises patches until the sum passes the budget. A budget that may never be exceeded is kept here by
running the algorithm at the largest nominal budget whose outcome still fits.
"""

import heapq
from dataclasses import dataclass
from typing import Final

import numpy as np

from shared.arrays import Float32Array, Float64Array, Int64Array, UInt8Array
from shared.levels import LEVEL_BYTES, RAW

_SIZES: Final = np.asarray(LEVEL_BYTES, np.int64)
_LOWEST: Final = LEVEL_BYTES[1]


@dataclass(frozen=True)
class VitScAllocator:
    """The published algorithm for one picture."""

    importance: Float64Array
    """(patches,) scores s_i."""

    def levels_within(self, content_bytes: int) -> UInt8Array:
        """Levels at the largest nominal budget whose outcome fits into `content_bytes`."""
        best = np.zeros(len(self.importance), np.uint8)
        low, high = 0, content_bytes
        while low <= high:
            nominal = (low + high + 1) // 2
            levels = _as_printed(self.importance, nominal)
            if int(_SIZES[levels].sum()) <= content_bytes:
                best, low = levels, nominal + 1
            else:
                high = nominal - 1
        return best


def vit_sc(importance: Float32Array, errors: Float32Array) -> VitScAllocator:  # noqa: ARG001 - it ignores content
    """The published algorithm; it looks at the scores alone."""
    return VitScAllocator(importance.astype(np.float64))


def _as_printed(scores: Float64Array, budget_bytes: int) -> UInt8Array:
    """Steps (1) to (5) of the algorithm for a nominal budget r."""
    if budget_bytes <= _LOWEST * len(scores):
        levels = np.zeros(len(scores), np.uint8)
        levels[np.argsort(-scores, kind="stable")[: budget_bytes // _LOWEST]] = 1
        return levels
    total = scores.sum()
    share = scores * budget_bytes / total if total > 0 else np.full(len(scores), budget_bytes / len(scores))
    levels = (np.searchsorted(_SIZES, share, side="right") - 1).astype(np.uint8)
    levels = np.maximum(levels, 1).astype(np.uint8)
    return _raised(levels, share, budget_bytes)


def _raised(levels: UInt8Array, share: Float64Array, budget_bytes: int) -> UInt8Array:
    """Step (5): raises the patch nearest below its next rung until the sum reaches the budget."""
    total = int(_SIZES[levels].sum())
    sizes: Int64Array = _SIZES
    nearest = [(sizes[level + 1] - share[i], i) for i, level in enumerate(levels) if level < RAW]
    heapq.heapify(nearest)
    while total < budget_bytes and nearest:
        _, i = heapq.heappop(nearest)
        total += int(sizes[levels[i] + 1] - sizes[levels[i]])
        levels[i] += 1
        if levels[i] < RAW:
            # The printed rule sets a_i = L_i + 0.01 after a raise.
            heapq.heappush(nearest, (sizes[levels[i] + 1] - sizes[levels[i]] - 0.01, i))
    return levels
