"""Coding of the entropy codec's level map: eight levels, in 20 to 100 bytes for a 320x480 photo.

```
levels ─► mask of those that occur ─► ranks among them ─┬─► density of changes
                                                        ▼
                 13 earlier neighbours of a patch ─► ExactNetwork ─► integer frequencies ─► range coder
```
The bytes are the mask, one bit per level, and, where more than one level occurs, the range coder's: the density, then
every patch's rank. What the range coder reads are integers on any machine: an exact network's outputs, looked up in a
table of integer powers and shared out as multiples of 2^-14. Patches are coded along a wavefront, column plus twice
the row, so that all patches of a front are coded together, after all of their neighbours.
"""

import itertools
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import constriction
import numpy as np

from shared.arrays import Float32Array, Int64Array, UInt8Array
from shared.codec.entropy.exact import ExactNetwork
from shared.errors import InvalidInputError, StreamError, WeightsError
from shared.patches import PatchGrid
from shared.weights import default_path, read_weights

LEVELS: Final = 8
"""Levels that there are."""

LEVEL_MAP_FORMAT: Final = "mmsc-entropy-level-map-1"
"""Format and version tag of the weights file."""

FREQUENCY_TOTAL: Final = 1 << 14
"""What the frequencies of one patch's ranks add up to."""

DENSITIES: Final = 8
"""Classes of how often neighbouring patches differ."""

NEIGHBOURS: Final = (
    *((0, -1), (0, -2), (0, -3)),
    *((-1, 1), (-1, 0), (-1, -1), (-1, -2), (-1, -3)),
    *((-2, 2), (-2, 1), (-2, 0), (-2, -1), (-3, 0)),
)
"""Rows and columns from a patch to those that its context is made of; all of them in earlier fronts."""

OUTSIDE: Final = LEVELS
"""Rank that stands for a neighbour beyond the picture's edge."""

INPUTS: Final = len(NEIGHBOURS) * (LEVELS + 1) + LEVELS + DENSITIES
"""Inputs of the network, each 0 or 1: the rank of every neighbour, how many levels occur, the density."""

LOGIT_SCALE: Final = 64
"""Integer steps of the network's outputs for a factor of two in frequency."""

_FILE: Final = "entropy_level_map.safetensors"
_SLOPE: Final = 2
_MARGIN: Final = 3
_FLOOR: Final = 16 * LOGIT_SCALE
_WORD_BYTES: Final = 4
_PATCH_LIMIT_BYTES: Final = 2
_PATCHES_AT_ONCE: Final = 4_096
_POWER_BITS: Final = 24
_OVERHEAD_BYTES: Final = 1.9  # mask, density, and what the last byte has to spare
_POINTS: Final = 1 << 64

# The library's inner modules are attributes, not importable modules.
_Categorical: Final[Any] = constriction.stream.model.Categorical
_Uniform: Final[Any] = constriction.stream.model.Uniform
_RangeEncoder: Final[Any] = constriction.stream.queue.RangeEncoder
_RangeDecoder: Final[Any] = constriction.stream.queue.RangeDecoder


def load_network(path: Path | None = None) -> ExactNetwork:
    """Reads the trained network.

    Args:
        path: a safetensors file; the shipped one if None.

    Raises:
        WeightsError: the file is absent, of another format, or damaged.
    """
    path = path or default_path(_FILE)
    network = ExactNetwork.from_tensors(read_weights(path, LEVEL_MAP_FORMAT).tensors, "network")
    if (network.inputs, network.outputs) != (INPUTS, LEVELS):
        raise WeightsError(f"{path}: a network of other inputs or outputs")
    return network


@cache
def weights_hash() -> bytes:
    """4 bytes that name the shipped network; another network reads other maps from the same bytes."""
    return read_weights(default_path(_FILE), LEVEL_MAP_FORMAT).hash


@cache
def _shipped() -> ExactNetwork:
    return load_network()


@cache
def _powers() -> Int64Array:
    """2^24 times 2 to the minus k / LOGIT_SCALE, by integers alone: 2^(-1 / LOGIT_SCALE) from repeated roots."""
    one = 1 << 48
    root = one >> 1
    for _ in range(LOGIT_SCALE.bit_length() - 1):
        root = math.isqrt(root * one)
    values = itertools.accumulate(range(_FLOOR), lambda value, _: value * root >> 48, initial=one)
    return np.array([value >> (48 - _POWER_BITS) for value in values], np.int64)


def encode(levels: UInt8Array, grid: PatchGrid) -> bytes:
    """Codes a level map.

    Args:
        levels: (grid.count,) 0 to LEVELS - 1, raster order.
        grid: the picture's grid.

    Returns:
        Bytes that `decode` reads; a single one if all levels are the same.

    Raises:
        InvalidInputError: a level is too high, or there are not as many as patches.
    """
    used, ranks = _ranks(levels, grid)
    mask = bytes([int(np.sum(1 << used))])
    if len(used) == 1:
        return mask
    density = density_of(ranks)
    encoder = _RangeEncoder()
    encoder.encode(np.array([density], np.int32), _Uniform(DENSITIES))
    order = np.concatenate([row * grid.columns + column for row, column in _fronts(grid)])
    probabilities = _probabilities(_frequencies_of_map(_shipped(), ranks))
    encoder.encode(ranks.ravel()[order].astype(np.int32), _Categorical(perfect=False), probabilities[order])
    return mask + _shortest(encoder)


def _shortest(encoder: Any) -> bytes:
    """The fewest bytes that the decoder, which reads zeros past the end, takes for what was encoded.

    The coder's own words end at multiples of four bytes. Any number of its last interval will do, though, and the one
    with the most zeros at the end is at most a byte longer than the interval asks for.
    """
    words = encoder.get_compressed().astype(">u4").tobytes()
    settled, (lower, width) = encoder.pos()
    for size in range(2 * _WORD_BYTES if lower + width < _POINTS else 0):
        unit = _POINTS >> (8 * size)
        point = -(-lower // unit) * unit
        if point < lower + width:
            words = words[: settled * _WORD_BYTES] + point.to_bytes(2 * _WORD_BYTES, "big")[:size]
            break
    return bytes(words.rstrip(b"\0"))


def decode(data: bytes, grid: PatchGrid) -> UInt8Array:
    """Decodes a level map.

    Args:
        data: what `encode` gave, or any other bytes.
        grid: the picture's grid.

    Returns:
        (grid.count,) levels in raster order.

    Raises:
        StreamError: the bytes are no level map.
    """
    used = np.flatnonzero(np.unpackbits(np.frombuffer(data[:1], np.uint8), bitorder="little"))
    if not len(used) or len(data) > 1 + _WORD_BYTES * 2 + _PATCH_LIMIT_BYTES * grid.count:
        raise StreamError("level map is damaged")
    if len(used) == 1:
        if len(data) > 1:
            raise StreamError("level map is damaged")
        return np.full(grid.count, used[0], np.uint8)
    padded = data[1:] + b"\0" * (-(len(data) - 1) % _WORD_BYTES)
    decoder = _RangeDecoder(np.frombuffer(padded, ">u4").astype(np.uint32))
    try:
        ranks = _decode_fronts(decoder, len(used), grid)
    except AssertionError as error:  # how the entropy coder says that no encoder wrote this
        raise StreamError("level map is damaged") from error
    if len(np.unique(ranks)) != len(used):
        raise StreamError("level map lacks a level that it names")
    return np.asarray(used[ranks], np.uint8).ravel()


def estimate_bytes(levels: UInt8Array, grid: PatchGrid) -> float:
    """About what `encode` would take, without coding; off by a byte or so.

    Args:
        levels: as `encode` takes them.
        grid: the picture's grid.

    Raises:
        InvalidInputError: as `encode`.
    """
    used, ranks = _ranks(levels, grid)
    if len(used) == 1:
        return 1.0
    return bytes_of_ranks(_shipped(), ranks)


def bytes_of_ranks(network: ExactNetwork, ranks: Int64Array) -> float:
    """About what (rows, columns) ranks of a map of several levels take under a network."""
    frequencies = _frequencies_of_map(network, ranks)
    chosen = np.take_along_axis(frequencies, ranks.reshape(-1, 1), axis=1)
    return float(_OVERHEAD_BYTES - np.log2(chosen / FREQUENCY_TOTAL).sum() / 8)


def density_of(ranks: Int64Array) -> int:
    """Class of a map of ranks: how many neighbours differ, in octaves, from every other to fewer than one in 64."""
    changes = int((ranks[1:] != ranks[:-1]).sum() + (ranks[:, 1:] != ranks[:, :-1]).sum())
    return min((2 * ranks.size // max(changes, 1)).bit_length() - 1, DENSITIES - 1)


def _ranks(levels: UInt8Array, grid: PatchGrid) -> tuple[Int64Array, Int64Array]:
    """The levels that occur, ascending, and (rows, columns) which of them each patch has."""
    if levels.shape != (grid.count,) or levels.max() >= LEVELS:
        raise InvalidInputError("levels", f"no {grid.count} levels below {LEVELS}")
    occurs = np.bincount(levels, minlength=LEVELS) > 0
    ranks = (np.cumsum(occurs) - 1)[levels]
    return np.flatnonzero(occurs), ranks.reshape(grid.rows, grid.columns)


def bordered(rows: int, columns: int) -> Int64Array:
    """Ranks of a map of which nothing is known yet, with room for the neighbours beyond its edges."""
    return np.full((rows + _MARGIN, columns + 2 * _MARGIN), OUTSIDE, np.int64)


def neighbour_inputs(ranks: Int64Array) -> Int64Array:
    """(rows, columns) ranks of a whole map to (patches, neighbours): which input each neighbour's rank sets."""
    rows, columns = ranks.shape
    padded = bordered(rows, columns)
    padded[_MARGIN:, _MARGIN:-_MARGIN] = ranks
    shifted = [padded[_MARGIN + y :, _MARGIN + x :][:rows, :columns].ravel() for y, x in NEIGHBOURS]
    return np.stack(shifted, axis=1) + _OFFSETS


_OFFSETS: Final = np.arange(len(NEIGHBOURS)) * (LEVELS + 1)


def one_hot(neighbours: Int64Array, used: int | Int64Array, density: int | Int64Array) -> Float32Array:
    """(n, INPUTS) what the network sees.

    Args:
        neighbours: (n, neighbours) as of `neighbour_inputs`.
        used: how many levels occur; one number or (n,).
        density: as of `density_of`; likewise.
    """
    inputs = np.zeros((len(neighbours), INPUTS), np.float32)
    rows = np.arange(len(neighbours))
    inputs[rows[:, None], neighbours] = 1
    inputs[rows, INPUTS - DENSITIES - used] = 1
    inputs[rows, INPUTS - DENSITIES + density] = 1
    return inputs


def frequencies_of(network: ExactNetwork, inputs: Float32Array, used: int) -> Int64Array:
    """(n, used) integers of at least 1, each row adding up to FREQUENCY_TOTAL."""
    logits = network(inputs)[:, :used].astype(np.int64)
    top = logits.argmax(axis=1)
    rows = np.arange(len(logits))
    powers = _powers()[np.minimum(logits[rows, top][:, None] - logits, _FLOOR)]
    frequencies = powers * (FREQUENCY_TOTAL - used) // powers.sum(axis=1, keepdims=True) + 1
    frequencies[rows, top] += FREQUENCY_TOTAL - frequencies.sum(axis=1)
    return np.asarray(frequencies, np.int64)


def _frequencies_of_map(network: ExactNetwork, ranks: Int64Array) -> Int64Array:
    """(patches, levels that occur) frequencies for all patches of a map."""
    used, density, neighbours = int(ranks.max()) + 1, density_of(ranks), neighbour_inputs(ranks)
    starts = range(0, len(neighbours), _PATCHES_AT_ONCE)
    parts = (one_hot(neighbours[start : start + _PATCHES_AT_ONCE], used, density) for start in starts)
    return np.concatenate([frequencies_of(network, part, used) for part in parts])


def _probabilities(frequencies: Int64Array) -> Float32Array:
    return np.asarray(frequencies / np.float32(FREQUENCY_TOTAL), np.float32)


def _fronts(grid: PatchGrid) -> Iterator[tuple[Int64Array, Int64Array]]:
    """Rows and columns of the patches of each front, from the upper left to the lower right."""
    for front in range(grid.columns + _SLOPE * (grid.rows - 1)):
        first = max(0, -(-(front - grid.columns + 1) // _SLOPE))
        rows = np.arange(first, min(grid.rows - 1, front // _SLOPE) + 1)
        yield rows, front - _SLOPE * rows


def _decode_fronts(decoder: Any, used: int, grid: PatchGrid) -> Int64Array:
    """(rows, columns) ranks."""
    density = int(decoder.decode(_Uniform(DENSITIES)))
    padded = bordered(grid.rows, grid.columns)
    width, flat = padded.shape[1], padded.ravel()
    reach = np.array([y * width + x for y, x in NEIGHBOURS])
    model = _Categorical(perfect=False)
    for rows, columns in _fronts(grid):
        cells = (rows + _MARGIN) * width + columns + _MARGIN
        inputs = one_hot(flat[cells[:, None] + reach] + _OFFSETS, used, density)
        flat[cells] = decoder.decode(model, _probabilities(frequencies_of(_shipped(), inputs, used)))
    return padded[_MARGIN:, _MARGIN:-_MARGIN]
