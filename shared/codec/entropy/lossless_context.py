"""What the networks of the lossless coder see of the known samples: differences, in units of their mean magnitude.

All of it is integer arithmetic carried by float32, in which whole numbers below 2^24 and the floors of their
quotients are exact.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from shared.arrays import AnyArray, Float32Array, Int64Array
from shared.codec.entropy.lossless_canvas import CHANNELS, SIDES, stages
from shared.patches import PATCH_SIZE

FEATURE_LIMIT: Final = 2_047
"""Largest magnitude of a feature."""

FEATURE_UNIT: Final = 64
"""Feature of a difference as large as the mean of those that make the activity."""

ACTIVITY_SHIFT: Final = 4
"""Activity is the sum of 2^4 magnitudes."""

LOG_UNIT: Final = 256
"""`log2_of` counts in this part of an octave."""

LEAST_ACTIVITY: Final = 4
"""Activity where all that is known is alike."""

MOST_ACTIVITY: Final = (1 << 14) - 1
"""Largest activity."""

_OWN: Final = (24, 16, 16)  # context samples of the channel itself, by channel
_BEFORE: Final = (0, 12, 12)  # of the first channel
_BETWEEN: Final = 8  # of the second channel, for the third
_AFTER: Final = 4  # of each channel that is coded later
_NEAREST: Final = 4
_ACTIVE: Final = 8
_SHARE_OF_EARLIER: Final = (1 / 64, 1 / 16)  # what structure in an earlier channel says of activity in a later one
_GAIN: Final = FEATURE_UNIT << (ACTIVITY_SHIFT + 4)
_LOG_MIDDLE: Final = 1_400


@dataclass(frozen=True)
class Context:
    """What is known around some samples."""

    reference: Float32Array
    """(rows,) whole numbers, about the sample's value."""

    activity: Float32Array
    """(rows,) whole numbers, 4 to 2^14 - 1."""

    features: Float32Array
    """(inputs, rows) whole numbers up to FEATURE_LIMIT in magnitude."""


@cache
def log2_of() -> Int64Array:
    """(2^14,) floor of 256 log2 of the index, by integers alone."""
    return np.array([0] + [(n**LOG_UNIT).bit_length() - 1 for n in range(1, MOST_ACTIVITY + 1)], np.int64)


def lattice_inputs(stage: int, channel: int) -> int:
    """Features of a lattice stage's samples of a channel."""
    return sum(len(offsets) for _, _, offsets in _layout(stage, channel)) + 1 + channel + len(SIDES)


def mean_of_known(values: Float32Array, seen: Float32Array, otherwise: float) -> Float32Array:
    """Floor of the mean over what is known.

    Args:
        values: (neighbours, rows), the nearest four first.
        seen: likewise, 1 where known: the others of them count only where none of those four is.
        otherwise: where nothing is known.

    Returns:
        (rows,).
    """
    near = seen.copy()
    near[_NEAREST:] *= ~near[:_NEAREST].any(axis=0)
    count = near.sum(axis=0)
    mean = np.floor((values * near).sum(axis=0) / np.maximum(count, 1))
    return np.where(count > 0, mean, np.float32(otherwise))


def lattice_context(samples: Float32Array, channel: int, stage: int, missing: Float32Array) -> Context:
    """The context of a lattice stage's samples.

    Args:
        samples: (reads, rows) what `lattice_reads` points to; overwritten.
        channel: of the samples to code.
        stage: 1 to 12.
        missing: (4, rows) `lattice_nearness` of the sides beyond which there is no patch, else 0.
    """
    start, differences, logs = 0, [], []
    for role, plane, offsets in _layout(stage, channel):
        end = start + len(offsets) + (role == _EARLIER)
        block, start = samples[start:end], end
        if role == _ITSELF:
            reference = np.floor(block[:_NEAREST].sum(axis=0) / _NEAREST)
            block -= reference
            activity = LEAST_ACTIVITY + 2 * np.abs(block[:_ACTIVE]).sum(axis=0)
        elif role == _EARLIER:
            # The first of an earlier channel's samples is the one at the very pixel.
            here, block = block[0], block[1:]
            block -= here
            magnitudes = np.abs(block[:_ACTIVE]).sum(axis=0)
            activity += np.floor(magnitudes * _SHARE_OF_EARLIER[plane])
            logs.append(_log_feature(LEAST_ACTIVITY + magnitudes))
        else:
            block -= np.floor(block.sum(axis=0) / len(offsets))
        differences.append(block)
    return normalised(reference, activity, differences, [*logs, missing])


def normalised(
    reference: Float32Array, activity: AnyArray, differences: list[Float32Array], others: list[Float32Array]
) -> Context:
    """A context with features of the right size.

    Args:
        reference: (rows,) about the sample's value.
        activity: (rows,) at least LEAST_ACTIVITY; from 2^14 on it counts as a little less.
        differences: (any, rows) each; divided by the activity.
        others: (any, rows) each; features as they are.
    """
    activity = np.minimum(activity, MOST_ACTIVITY).astype(np.float32)
    gain = np.floor(_GAIN / activity)
    features = np.concatenate([*differences, np.empty((1, len(activity)), np.float32), *others])
    size = sum(len(block) for block in differences)
    scaled = features[:size]
    scaled *= gain
    scaled *= 1 / 16
    np.floor(scaled, out=scaled)
    np.clip(scaled, -FEATURE_LIMIT, FEATURE_LIMIT, out=scaled)
    features[size] = _log_feature(activity)
    return Context(reference, activity, features)


def _log_feature(activity: Float32Array) -> Float32Array:
    """(1, rows) of (rows,) whole numbers below 2^14."""
    return ((log2_of()[activity.astype(np.int64)] - _LOG_MIDDLE) >> 2).astype(np.float32)[None]


_ITSELF, _EARLIER, _LATER = range(3)


@cache
def _layout(stage: int, channel: int) -> tuple[tuple[int, int, tuple[tuple[int, int], ...]], ...]:
    """Blocks of a context: role, channel, and offsets in pixels, nearest first (without the very pixel)."""
    blocks = [(_ITSELF, channel, _offsets(stage, stage, _OWN[channel]))]
    counts = (_BEFORE[channel], _BETWEEN)
    blocks += [(_EARLIER, before, _offsets(stage, stage + 1, counts[before])) for before in reversed(range(channel))]
    blocks += [(_LATER, after, _offsets(stage, stage, _AFTER)) for after in range(channel + 1, CHANNELS)]
    return tuple(blocks)


@cache
def _offsets(stage: int, until: int, count: int) -> tuple[tuple[int, int], ...]:
    """The nearest pixels known before stage `until`, seen from every position of a stage alike."""
    known = {position for done in stages()[:until] for position in done.positions}
    reach = range(-PATCH_SIZE * 3 // 2, PATCH_SIZE * 3 // 2 + 1)
    found = [(dy, dx) for dy in reach for dx in reach if (dy, dx) != (0, 0) and _always_in(known, stage, dy, dx)]
    return tuple(sorted(found, key=lambda offset: (offset[0] ** 2 + offset[1] ** 2, offset))[:count])


def _always_in(known: set[int], stage: int, dy: int, dx: int) -> bool:
    """Whether that offset leads to a known position, in the patch or its neighbours."""
    for position in stages()[stage].positions:
        y, x = position // PATCH_SIZE + dy, position % PATCH_SIZE + dx
        if min(y, x) < -PATCH_SIZE or max(y, x) >= 2 * PATCH_SIZE:
            return False
        if y % PATCH_SIZE * PATCH_SIZE + x % PATCH_SIZE not in known:
            return False
    return True


@cache
def lattice_reads(stage: int, channel: int) -> Int64Array:
    """(samples, positions, 4) where a context's samples are: channel, position, cell row and column offset."""
    table = []
    for role, plane, offsets in _layout(stage, channel):
        for dy, dx in [(0, 0), *offsets] if role == _EARLIER else offsets:
            places = [(p // PATCH_SIZE + dy, p % PATCH_SIZE + dx) for p in stages()[stage].positions]
            table.append(
                [
                    (plane, y % PATCH_SIZE * PATCH_SIZE + x % PATCH_SIZE, y // PATCH_SIZE, x // PATCH_SIZE)
                    for y, x in places
                ]
            )
    return np.array(table, np.int64)


@cache
def lattice_nearness(stage: int) -> Float32Array:
    """(4, positions) a feature that says how near each side of the patch is, in steps of the lattice."""
    y, x = np.divmod(np.array(stages()[stage].positions), PATCH_SIZE)
    distance = np.stack([x + 1, PATCH_SIZE - x, y + 1, PATCH_SIZE - y])
    steps_away = np.minimum(-(-distance // stages()[stage].half), 4)
    grades = np.array([0, FEATURE_UNIT, FEATURE_UNIT // 2, FEATURE_UNIT // 4, 0], np.float32)
    return np.asarray(grades[steps_away])
