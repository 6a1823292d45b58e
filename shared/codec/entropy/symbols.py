"""Integers through the range coder, each under one of many fixed tables.

A table holds integer frequencies of the values -reach..reach and of an escape. A frequency is a multiple of 2^-20
of the whole, which a float holds exactly, so that nothing the range coder reads was rounded. What goes in by one
call is coded table by table: both sides know the table numbers, and one call of the range coder then codes all the
symbols of a table. After them come the values that escaped, in Elias' gamma code.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import constriction
import numpy as np
from numpy.typing import NDArray

from shared.arrays import AnyArray, Float32Array, Float64Array, Int64Array
from shared.errors import InvalidInputError, StreamError, WeightsError

FREQUENCY_TOTAL: Final = 1 << 20
"""What the frequencies of one table add up to."""

MAX_EXCESS: Final = (1 << 16) - 1
"""A value may exceed its table's reach by this much."""

# The library's inner modules are attributes, not importable modules.
_Categorical: Final[Any] = constriction.stream.model.Categorical
_Uniform: Final[Any] = constriction.stream.model.Uniform
_RangeEncoder: Final[Any] = constriction.stream.queue.RangeEncoder
_RangeDecoder: Final[Any] = constriction.stream.queue.RangeDecoder

_WORD_BYTES: Final = 4
_MAX_TABLES: Final = 1 << 16
_GAMMA_SIZES: Final = 16  # lengths of an escaped excess in bits, 1 to 16

# Each length half as likely as the one before, as in Elias' gamma code.
_SIZE_MODEL: Final = _Categorical(np.array([2.0**-k for k in range(1, 16)] + [2.0**-15], np.float32), perfect=False)
_SIGN_MODEL: Final = _Uniform(2)


@dataclass(frozen=True)
class SymbolCosts:
    """What symbols take, about; for choosing and estimating only, never for coding.

    Raises:
        WeightsError: an entry is no number of bits.
    """

    bits: Float64Array
    """(tables, 2 * reach + 2): of -reach..reach, then of the escape."""

    def __post_init__(self) -> None:
        if self.bits.ndim != 2 or self.bits.shape[1] % 2 or not (self.bits >= 0).all():
            raise WeightsError("bits have no such shape, or are below 0")

    @property
    def reach(self) -> int:
        """Values of larger magnitude escape."""
        return int(self.bits.shape[1]) // 2 - 1

    def code_bits(self, symbols: AnyArray, numbers: AnyArray) -> Float64Array:
        """Bits that each value takes under its table, escapes included.

        Args:
            symbols: integers of any shape.
            numbers: table numbers, shape as `symbols`.
        """
        columns = _columns(symbols, self.reach)
        bits: Float64Array = self.bits.ravel()[np.asarray(numbers, np.int64) * self.bits.shape[1] + columns]
        escaped = columns == 2 * self.reach + 1
        if escaped.any():
            bits[escaped] += 2 * _sizes(_excess(np.asarray(symbols)[escaped], self.reach))
        return bits

    def magnitude_bits(self, magnitudes: Int64Array, numbers: Int64Array) -> Float32Array:
        """As `code_bits` of values of 0 and more, in single precision and less time."""
        # The column of the escape follows that of the greatest value.
        columns = np.minimum(magnitudes, self.reach + 1)
        bits: Float32Array = self._single.take(numbers * self.bits.shape[1] + (columns + self.reach))
        escaped = columns > self.reach
        if escaped.any():
            bits[escaped] += (2 * _sizes(magnitudes[escaped] - self.reach)).astype(np.float32)
        return bits

    @cached_property
    def _single(self) -> Float32Array:
        return self.bits.astype(np.float32).ravel()


@dataclass(frozen=True)
class SymbolTables:
    """Tables of frequencies.

    Raises:
        WeightsError: an entry is 0, or a row does not add up to FREQUENCY_TOTAL.
    """

    frequencies: NDArray[np.uint32]
    """(tables, 2 * reach + 2): of -reach..reach, then of the escape."""

    def __post_init__(self) -> None:
        shaped = self.frequencies.ndim == 2 and self.frequencies.dtype == np.uint32
        if not shaped or self.frequencies.shape[1] % 2 or self.frequencies.shape[1] < 4:
            raise WeightsError("frequencies have no such shape or type")
        if len(self.frequencies) > _MAX_TABLES or self.frequencies.min(initial=1) < 1:
            raise WeightsError("frequencies hold a zero, or too many tables")
        if (self.frequencies.sum(axis=1, dtype=np.int64) != FREQUENCY_TOTAL).any():
            raise WeightsError("frequencies do not add up")

    @property
    def reach(self) -> int:
        """Values of larger magnitude escape."""
        return int(self.frequencies.shape[1]) // 2 - 1

    @cached_property
    def costs(self) -> SymbolCosts:
        """What symbols take."""
        return SymbolCosts(np.asarray(-np.log2(self.frequencies / FREQUENCY_TOTAL), np.float64))

    def code_bits(self, symbols: AnyArray, numbers: AnyArray) -> Float64Array:
        """See `SymbolCosts.code_bits`."""
        return self.costs.code_bits(symbols, numbers)

    @cached_property
    def _models(self) -> dict[int, Any]:
        return {}

    def model(self, number: int) -> Any:
        """The range coder's model of a table, made when first asked for."""
        if number not in self._models:
            row = np.asarray(self.frequencies[number] / np.float32(FREQUENCY_TOTAL), np.float32)
            self._models[number] = _Categorical(row, perfect=False)
        return self._models[number]


class SymbolWriter:
    """Codes symbols of any tables into one string of bytes."""

    def __init__(self) -> None:
        self._encoder = _RangeEncoder()

    def write(self, tables: SymbolTables, symbols: AnyArray, numbers: AnyArray) -> None:
        """Codes values.

        Args:
            tables: where the table numbers point.
            symbols: (n,) integers; what a table does not reach escapes.
            numbers: (n,) integers, 0 to tables - 1.

        Raises:
            InvalidInputError: a value exceeds its table's reach by more than MAX_EXCESS.
        """
        order, runs = _by_table(numbers)
        symbols = np.asarray(symbols, np.int64)[order]
        columns = _columns(symbols, tables.reach).astype(np.int32)
        escaped = columns == 2 * tables.reach + 1
        excess = _excess(symbols[escaped], tables.reach) if escaped.any() else None
        if excess is not None and np.abs(excess).max() > MAX_EXCESS:
            raise InvalidInputError("symbols", "a value is far out of its table's reach")
        for number, start, end in runs:
            self._encoder.encode(columns[start:end], tables.model(number))
        if excess is not None:
            self._write_excess(excess)

    def _write_excess(self, excess: Int64Array) -> None:
        magnitudes, sizes = np.abs(excess), _sizes(excess)
        self._encoder.encode((sizes - 1).astype(np.int32), _SIZE_MODEL)
        self._encoder.encode((excess < 0).astype(np.int32), _SIGN_MODEL)
        long = sizes > 1
        if long.any():
            spans = 1 << (sizes[long] - 1)
            self._encoder.encode((magnitudes[long] - spans).astype(np.int32), _Uniform(), spans.astype(np.int32))

    def to_bytes(self) -> bytes:
        """Everything written so far, as bytes that a `SymbolReader` reads."""
        # The reader supplies zeros past the end, so that those at the end need not be sent.
        return bytes(self._encoder.get_compressed().astype(">u4").tobytes().rstrip(b"\0"))


class SymbolReader:
    """Reads what a `SymbolWriter` wrote, by the same calls.

    Any bytes are legal: damage gives other symbols or a StreamError, and work is bounded by what is asked for.

    Args:
        data: what `SymbolWriter.to_bytes` gave.
    """

    def __init__(self, data: bytes) -> None:
        padded = data + b"\0" * (-len(data) % _WORD_BYTES)
        self._decoder = _RangeDecoder(np.frombuffer(padded, ">u4").astype(np.uint32))

    @property
    def exhausted(self) -> bool:
        """Whether all bytes have been looked at: what is read from now on, and the last few values, may be made up."""
        return bool(self._decoder.maybe_exhausted())

    def read(self, tables: SymbolTables, numbers: AnyArray) -> Int64Array:
        """Reads values.

        Args:
            tables: the tables that the values were written with.
            numbers: (n,) integers, likewise.

        Returns:
            (n,) values.

        Raises:
            StreamError: no writer wrote these bytes.
        """
        order, runs = _by_table(numbers)
        columns = np.empty(len(order), np.int32)
        try:
            for number, start, end in runs:
                columns[start:end] = self._decoder.decode(tables.model(number), end - start)
            values = columns.astype(np.int64) - tables.reach
            escaped = np.flatnonzero(columns == 2 * tables.reach + 1)
            if len(escaped):
                values[escaped] = self._read_excess(len(escaped), tables.reach)
        except AssertionError as error:  # how the entropy coder says that no encoder wrote this
            raise StreamError("coded symbols are damaged") from error
        symbols = np.empty(len(order), np.int64)
        symbols[order] = values
        return symbols

    def _read_excess(self, count: int, reach: int) -> Int64Array:
        sizes = self._decoder.decode(_SIZE_MODEL, count).astype(np.int64) + 1
        signs = 1 - 2 * self._decoder.decode(_SIGN_MODEL, count).astype(np.int64)
        magnitudes = 1 << (sizes - 1)
        long = sizes > 1
        if long.any():
            magnitudes[long] += self._decoder.decode(_Uniform(), magnitudes[long].astype(np.int32))
        values: Int64Array = signs * (magnitudes + reach)
        return values


def fit_frequencies(counts: AnyArray, prior: float = 0.5) -> NDArray[np.uint32]:
    """Frequencies for `SymbolTables` from how often each symbol occurred.

    Args:
        counts: (tables, symbols) at least 0; the last symbol may be the escape.
        prior: how many occurrences are added, spread as the row's own counts blurred, half of them evenly.

    Returns:
        (tables, symbols), each at least 1, each row adding up to FREQUENCY_TOTAL.
    """
    smooth = np.asarray(counts, np.float64) + prior * _spread(np.asarray(counts, np.float64))
    symbols = smooth.shape[1]
    shares = smooth / smooth.sum(axis=1, keepdims=True) * FREQUENCY_TOTAL
    frequencies = np.maximum(np.rint(shares), 1).astype(np.int64)
    # What rounding and the least frequency of 1 took too much comes from the largest entries, one after another.
    for row in frequencies:
        while (surplus := int(row.sum()) - FREQUENCY_TOTAL) != 0:
            top = int(row.argmax())
            row[top] -= min(surplus, max(int(row[top]) // symbols, 1))
    return np.asarray(frequencies, np.uint32)


def _spread(counts: Float64Array) -> Float64Array:
    """(tables, symbols) shares of each row, blurred over a few symbols."""
    padded = np.pad(counts, ((0, 0), (2, 2)))
    blurred = sum(weight * padded[:, i : i + counts.shape[1]] for i, weight in enumerate((1, 2, 3, 2, 1)))
    total = np.sum(blurred, axis=1, keepdims=True)
    return np.asarray(0.5 * blurred / np.maximum(total, 1e-9) + 0.5 / counts.shape[1])


def _by_table(numbers: AnyArray) -> tuple[Int64Array, Iterator[tuple[int, int, int]]]:
    """The order in which symbols are coded, and each table's number, start and end therein."""
    short = np.asarray(numbers).astype(np.uint16)
    order = short.argsort(kind="stable")
    ordered = short[order]
    if not len(order):
        return order, iter(())
    edges = ((ordered[1:] != ordered[:-1]).nonzero()[0] + 1).tolist()
    starts, ends = [0, *edges], [*edges, len(ordered)]
    return order, zip(ordered[starts].tolist(), starts, ends, strict=True)


def _columns(symbols: AnyArray, reach: int) -> Int64Array:
    symbols = np.asarray(symbols, np.int64)
    return np.where(np.abs(symbols) <= reach, symbols + reach, 2 * reach + 1)


def _excess(escaped: AnyArray, reach: int) -> Int64Array:
    """How far values lie beyond the reach, 1 or more in magnitude, with their signs."""
    values = np.asarray(escaped, np.int64)
    return np.asarray(values - reach * np.sign(values), np.int64)


def _sizes(excess: Int64Array) -> Int64Array:
    """Bits of each magnitude, 1 to 16."""
    sizes: Int64Array = np.frexp(np.abs(excess).astype(np.float64))[1].astype(np.int64)
    return sizes
