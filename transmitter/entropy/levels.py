"""From importance to the levels of the entropy codec: fine where it matters, in a map that is worth its bytes.

```
importance ─► weight ─► ideal offset of each patch ─► cost of every offset, in bits ─┐
                                                                                     ├─► offsets ─► levels
                                          bits of the map, by pairs of neighbours ───┘
```
For a weighted squared error the optimal quantiser step is proportional to 1 / sqrt(weight), so that a patch of half
the weight gets a step half an octave coarser: one level less. An offset counts these half octaves below the most
important patch. A map that follows every patch's ideal offset is dear, though, and a patch that is one off loses
little; the sum of what the patches lose and what the map takes is lowered by iterated conditional modes (Besag
1986), from coarse blocks of patches to single ones.
"""

import math
from typing import Final

import numpy as np

from shared.arrays import BoolArray, Float32Array, Float64Array, Int64Array, UInt8Array
from shared.patches import PATCH_SIZE, PatchGrid
from transmitter.ladder.allocation import IMPORTANCE_FLOOR

FINEST_LOSSY: Final = 6
"""Level of the most important patches."""

MAX_REACH: Final = 6
"""There are as many lossy levels."""

PATCH_COEFFICIENTS: Final = 48
"""Coefficients of a patch that matter at a few percent of raw; each takes half a bit more per level."""

MASK_DEPTH: Final = 6
"""Half octaves between the finest quantiser and one as coarse as sending nothing: 18 dB. Decides how much of a patch
must belong to a mask for the patch to be sent, about a sixteenth."""

# By the bytes of real maps: what a pair of unequal neighbours adds, and each level between them.
_STEP_BITS: Final = 1.0
_LEVEL_BITS: Final = 0.5
_SWEEPS: Final = 4
_PIXELS: Final = PATCH_SIZE**2
_TOLERANCE: Final = 1e-3


def relative_levels(importance: Float32Array, grid: PatchGrid, *, reach: int, smoothness: float) -> UInt8Array:
    """Levels of all patches relative to the most important one's.

    Args:
        importance: (grid.count,), 0 to 1.
        grid: the picture's grid.
        reach: how many lossy levels are used, 1 to MAX_REACH; patches that deserve less are skipped.
        smoothness: how many bits of patches a bit of the map is worth; 1 makes the sum of both least at a few percent
            of raw, more where patches have fewer coefficients than PATCH_COEFFICIENTS, 0 gives each its ideal level.

    Returns:
        (grid.count,): FINEST_LOSSY down to FINEST_LOSSY - reach + 1, or 0 for skipped. The same level all over where
        no patch is more important than another. Of a mask (relevance of only two values), whose edge cuts through
        patches, either FINEST_LOSSY or 0.
    """
    offsets = relative_offsets(importance, grid, reach=reach, smoothness=smoothness)
    return np.where(offsets < reach, FINEST_LOSSY - offsets, 0).astype(np.uint8)


def relative_offsets(importance: Float32Array, grid: PatchGrid, *, reach: int, smoothness: float) -> Int64Array:
    """As `relative_levels`, but half octaves of quantiser step below the most important patch.

    Args:
        importance: (grid.count,), 0 to 1.
        grid: the picture's grid.
        reach: how many offsets there are below that of skipped patches, from 1; not bound to the levels.
        smoothness: as above.

    Returns:
        (grid.count,) 0 to `reach`; `reach` means skipped.
    """
    ideal = ideal_offsets(importance)
    if not ideal.any():
        return np.zeros(grid.count, np.int64)
    mask = is_mask(importance)
    choices = np.array([0, MASK_DEPTH]) if mask else np.arange(reach + 1)
    costs = _costs(ideal, choices).reshape(len(choices), grid.rows, grid.columns)
    chosen = _descend(costs, smoothness * _pair_bits(len(choices)))
    offsets = chosen.ravel() * (reach if mask else 1)
    # Smoothing may leave nobody the finest level.
    lowest = offsets.min()
    return np.asarray(np.where((offsets == reach) & (lowest < reach), reach, offsets - lowest), np.int64)


def ideal_offsets(importance: Float32Array) -> Float64Array:
    """(patches,) by how many half octaves, not rounded, each patch's optimal step exceeds the finest; from 0."""
    weights = importance.astype(np.float64) + IMPORTANCE_FLOOR
    return np.asarray(np.log2(weights.max() / weights), np.float64)


def is_mask(importance: Float32Array) -> bool:
    """Whether the relevance of the pixels had two values, 0 and another: patches then have whole pixels of it."""
    peak = importance.max()
    pixels = [importance * _PIXELS, importance * (_PIXELS / max(peak, _TOLERANCE))]
    return bool(peak > 0 and any(np.abs(each - np.rint(each)).max() < _TOLERANCE for each in pixels))


def _costs(ideal: Float64Array, choices: Int64Array) -> Float64Array:
    """(choices, patches) rate plus weighted distortion of each offset, in bits, up to a constant per patch.

    Of n coefficients one half octave saves n / 2 bits and doubles the squared error; both balance at the ideal.
    """
    ahead = choices[:, None] - ideal
    return np.asarray(PATCH_COEFFICIENTS / 2 * (np.exp2(ahead) / math.log(2) - choices[:, None]))


def _pair_bits(choices: int) -> Float64Array:
    """(choices, choices) what two neighbours of these levels add to the map."""
    apart = np.abs(np.subtract.outer(np.arange(choices), np.arange(choices)))
    return np.asarray(np.where(apart > 0, _STEP_BITS + _LEVEL_BITS * apart, 0), np.float64)


def _descend(costs: Float64Array, pair: Float64Array) -> Int64Array:
    """(rows, columns) choices by iterated conditional modes: all black cells at once, then all white ones."""
    chosen = costs.argmin(axis=0)
    black: BoolArray = np.indices(chosen.shape).sum(axis=0) % 2 == 0
    for _ in range(_SWEEPS):
        before = chosen.copy()
        for cells in (black, ~black):
            np.copyto(chosen, (costs + _with_neighbours(pair, chosen)).argmin(axis=0), where=cells)
        if (chosen == before).all():
            break
    return np.asarray(chosen, np.int64)


def _with_neighbours(pair: Float64Array, chosen: Int64Array) -> Float64Array:
    """(choices, rows, columns) sum of the pairs that each choice would form with its four neighbours."""
    each = pair[:, chosen]
    total = np.zeros_like(each)
    total[:, 1:] += each[:, :-1]
    total[:, :-1] += each[:, 1:]
    total[:, :, 1:] += each[:, :, :-1]
    total[:, :, :-1] += each[:, :, 1:]
    return np.asarray(total, np.float64)
