"""Coding of the level map: which level every patch has, in about a hundred bytes for a 320x480 photo.

Each level is coded under the levels of its left, upper left, upper and upper right neighbours. The frequencies
are integers, trained on level maps of real plans (`training/level_map.py`) for several kinds of maps; the encoder
takes the table that costs least. Nothing that the entropy coder reads comes from floating point: a frequency is
a multiple of 2^-14, which a float holds exactly.
"""

from functools import cache
from pathlib import Path
from typing import Any, Final

import constriction
import numpy as np
from numpy.typing import NDArray

from shared.arrays import AnyArray, Float32Array, Float64Array, Int64Array, UInt8Array
from shared.errors import StreamError, WeightsError
from shared.levels import LEVEL_BYTES
from shared.patches import PatchGrid
from shared.weights import default_path, read_weights

FREQUENCY_TOTAL: Final = 1 << 14
"""What the frequencies of one context add up to."""

LEVEL_MAP_FORMAT: Final = "mmsc-level-map-1"
"""Format and version tag of the tables' file."""

CONTEXTS: Final = len(LEVEL_BYTES) ** 4
"""Combinations of the levels of four neighbours."""

# The library's inner modules are attributes, not importable modules.
_Categorical: Final[Any] = constriction.stream.model.Categorical
_RangeEncoder: Final[Any] = constriction.stream.queue.RangeEncoder
_RangeDecoder: Final[Any] = constriction.stream.queue.RangeDecoder

_LEVELS: Final = len(LEVEL_BYTES)
_WORD_BITS: Final = 32


def load_tables(path: Path | None = None) -> NDArray[np.uint16]:
    """Reads the trained frequencies.

    Args:
        path: a safetensors file; the shipped one if None.

    Returns:
        (tables, CONTEXTS, levels), each at least 1, each context adding up to FREQUENCY_TOTAL.

    Raises:
        WeightsError: the file is absent, of another format, or damaged.
    """
    path = path or default_path("level_map.safetensors")
    try:
        tables: NDArray[np.uint16] = read_weights(path, LEVEL_MAP_FORMAT).tensors["frequencies"]
    except KeyError as error:
        raise WeightsError(f"{path}: has no frequencies") from error
    shaped = tables.dtype == np.uint16 and tables.shape[1:] == (CONTEXTS, _LEVELS) and len(tables) > 0
    if not shaped or tables.min() < 1 or (tables.sum(axis=2) != FREQUENCY_TOTAL).any():
        raise WeightsError(f"{path}: its frequencies do not add up")
    return tables


@cache
def _shipped() -> NDArray[np.uint16]:
    return load_tables()


@cache
def _costs() -> Float64Array:
    """(tables, CONTEXTS * levels) bits of each level in each context; for choosing only, never for coding."""
    return -np.log2(_shipped().reshape(len(_shipped()), -1) / FREQUENCY_TOTAL)


@cache
def _models(table: int) -> list[Any]:
    """One entropy model per context."""
    return [_Categorical(row, perfect=False) for row in _probabilities(table)]


@cache
def _probabilities(table: int) -> Float32Array:
    return np.asarray(_shipped()[table] / np.float32(FREQUENCY_TOTAL), np.float32)


def contexts(levels: UInt8Array, grid: PatchGrid) -> Int64Array:
    """Number of each patch's context.

    Args:
        levels: (grid.count,) levels in raster order.
        grid: the picture's grid; outside of it every level counts as 0.

    Returns:
        (grid.count,), 0 to CONTEXTS - 1.
    """
    padded = np.zeros((grid.rows + 1, grid.columns + 2), np.int64)
    padded[1:, 1:-1] = levels.reshape(grid.rows, grid.columns)
    left, upper_left, upper, upper_right = padded[1:, :-2], padded[:-1, :-2], padded[:-1, 1:-1], padded[:-1, 2:]
    return (((left * _LEVELS + upper_left) * _LEVELS + upper) * _LEVELS + upper_right).ravel()


def cheapest_table(levels: UInt8Array, grid: PatchGrid) -> tuple[int, int]:
    """The table that codes a level map in the fewest bytes.

    Returns:
        The table's number, and an estimate of the coded size in bytes (off by a few at most).
    """
    pairs = np.bincount(contexts(levels, grid) * _LEVELS + levels, minlength=CONTEXTS * _LEVELS)
    bits = _costs() @ pairs
    table = int(np.argmin(bits))
    return table, int(bits[table] / 8) + 3


def encode_level_map(levels: UInt8Array, grid: PatchGrid) -> tuple[int, bytes]:
    """Codes a level map.

    Args:
        levels: (grid.count,) levels in raster order.
        grid: the picture's grid.

    Returns:
        The table's number (for the stream header), and the coded bytes.
    """
    table, _ = cheapest_table(levels, grid)
    encoder = _RangeEncoder()
    model = _Categorical(perfect=False)
    encoder.encode(levels.astype(np.int32), model, _probabilities(table)[contexts(levels, grid)])
    # The decoder reads zeros past the end, so that those at the end need not be sent.
    return table, bytes(encoder.get_compressed().astype(">u4").tobytes().rstrip(b"\0"))


def decode_level_map(data: bytes, table: int, grid: PatchGrid) -> UInt8Array:
    """Decodes a level map.

    Args:
        data: what `encode_level_map` gave.
        table: likewise.
        grid: the picture's grid.

    Returns:
        (grid.count,) levels in raster order.

    Raises:
        StreamError: the table does not exist, or the bytes are no level map.
    """
    if table >= len(_shipped()):
        raise StreamError(f"unknown level map table {table}")
    padded = data + b"\0" * (-len(data) % (_WORD_BITS // 8))
    decoder = _RangeDecoder(np.frombuffer(padded, ">u4").astype(np.uint32))
    try:
        return _decode_rows(decoder, _models(table), grid)
    except AssertionError as error:  # how the entropy coder says that no encoder wrote this
        raise StreamError("level map is damaged") from error


def _decode_rows(decoder: Any, models: list[Any], grid: PatchGrid) -> UInt8Array:
    above = [0] * (grid.columns + 2)
    rows: list[AnyArray] = []
    for _ in range(grid.rows):
        row = [0]
        for column in range(grid.columns):
            upper = (above[column] * _LEVELS + above[column + 1]) * _LEVELS + above[column + 2]
            row.append(decoder.decode(models[row[column] * _LEVELS**3 + upper]))
        above = [*row, 0]
        rows.append(np.array(row[1:], np.uint8))
    return np.concatenate(rows)
