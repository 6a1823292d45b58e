"""Integers through the range coder, each under one of many fixed tables.

A table holds integer frequencies of the values -reach..reach and of an escape. A frequency is a multiple of 2^-20
of the whole, which a float holds exactly, so that nothing the range coder reads was rounded. What goes in by one
call is coded table by table: both sides know the table numbers, and one call of the range coder then codes all the
symbols of a table. After them come the values that escaped, in Elias' gamma code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import constriction
import numpy as np
from numpy.typing import NDArray

from shared.arrays import AnyArray, Float64Array, Int64Array
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
_SHORT: Final = 1 << 16
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
            bits[escaped] += 2 * excess_sizes(_excess(np.asarray(symbols)[escaped], self.reach))
        return bits

    def sparse_bits(self, symbols: Int64Array, numbers: Int64Array) -> Float64Array:
        """As `code_bits`, quickly where most of the symbols are 0."""
        bits: Float64Array = self._bits_of_zero[numbers]
        some = np.nonzero(symbols)
        bits[some] = self.code_bits(symbols[some], numbers[some])
        return bits

    @cached_property
    def _bits_of_zero(self) -> Float64Array:
        return np.ascontiguousarray(self.bits[:, self.reach])


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
    def models(self) -> dict[int, Any]:
        """The range coder's model of each table, made when first asked for."""
        return _Models(self.frequencies)


class _Models(dict[int, Any]):
    def __init__(self, frequencies: NDArray[np.uint32]) -> None:
        super().__init__()
        self._frequencies = frequencies

    def __missing__(self, number: int) -> Any:
        row = np.asarray(self._frequencies[number] / np.float32(FREQUENCY_TOTAL), np.float32)
        model = self[number] = _Categorical(row, perfect=False)
        return model


_TableRun = tuple[int, int, int]
"""Symbols that follow each other and share a table: its number, their start, their end."""


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
        write_together([self], tables, symbols, numbers, np.zeros(len(numbers), np.int64))

    def _write_excess(self, excess: Int64Array) -> None:
        magnitudes, sizes = np.abs(excess), excess_sizes(excess)
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
        symbols, damaged = read_together([self], tables, numbers, np.zeros(len(numbers), np.int64))
        if damaged:
            raise StreamError("coded symbols are damaged")
        return symbols

    def _read_columns(self, tables: SymbolTables, columns: AnyArray, runs: Sequence[_TableRun]) -> Int64Array:
        """Reads some columns, which go from the first run's start to the last one's end, to (n,) values."""
        decode, models = self._decoder.decode, tables.models
        for number, start, end in runs:
            columns[start:end] = decode(models[number], end - start)
        values = columns[runs[0][1] : runs[-1][2]].astype(np.int64) - tables.reach
        escaped = np.flatnonzero(values > tables.reach)
        if len(escaped):
            values[escaped] = self._read_excess(len(escaped), tables.reach)
        return values

    def _read_excess(self, count: int, reach: int) -> Int64Array:
        sizes = self._decoder.decode(_SIZE_MODEL, count).astype(np.int64) + 1
        signs = 1 - 2 * self._decoder.decode(_SIGN_MODEL, count).astype(np.int64)
        magnitudes = 1 << (sizes - 1)
        long = sizes > 1
        if long.any():
            magnitudes[long] += self._decoder.decode(_Uniform(), magnitudes[long].astype(np.int32))
        values: Int64Array = signs * (magnitudes + reach)
        return values


def write_together(
    writers: Sequence[SymbolWriter], tables: SymbolTables, symbols: AnyArray, numbers: AnyArray, owners: AnyArray
) -> None:
    """As `SymbolWriter.write` for several at once, which is quicker than one after another.

    Args:
        writers: each writes what is its own, in the order given.
        tables: where the table numbers point.
        symbols: (n,) integers; what a table does not reach escapes.
        numbers: (n,) integers, 0 to tables - 1.
        owners: (n,) integers, which writer writes each.

    Raises:
        InvalidInputError: a value exceeds its table's reach by more than MAX_EXCESS.
    """
    order, shares = _by_owner_and_table(numbers, owners)
    symbols = np.asarray(symbols, np.int64)[order]
    columns = _columns(symbols, tables.reach).astype(np.int32)
    escaped = columns == 2 * tables.reach + 1
    excess = _excess(symbols, tables.reach) if escaped.any() else None
    if excess is not None and np.abs(excess[escaped]).max() > MAX_EXCESS:
        raise InvalidInputError("symbols", "a value is far out of its table's reach")
    models = tables.models
    for owner, runs in shares:
        encode = writers[owner]._encoder.encode
        for number, start, end in runs:
            encode(columns[start:end], models[number])
        if excess is not None:
            own = slice(runs[0][1], runs[-1][2])
            if escaped[own].any():
                writers[owner]._write_excess(excess[own][escaped[own]])


def read_together(
    readers: Sequence[SymbolReader], tables: SymbolTables, numbers: AnyArray, owners: AnyArray
) -> tuple[Int64Array, list[int]]:
    """As `SymbolReader.read` for several at once, which is quicker than one after another.

    Args:
        readers: each reads what is its own.
        tables: the tables that the values were written with.
        numbers: (n,) integers, as they were written.
        owners: (n,) integers, which reader reads each.

    Returns:
        (n,) values, and the owners whose bytes no writer wrote: their values are 0.
    """
    order, shares = _by_owner_and_table(numbers, owners)
    columns = np.empty(len(order), np.int32)
    values = np.zeros(len(order), np.int64)
    damaged = []
    for owner, runs in shares:
        try:
            values[runs[0][1] : runs[-1][2]] = readers[owner]._read_columns(tables, columns, runs)
        except AssertionError:  # how the entropy coder says that no encoder wrote this
            damaged.append(owner)
    symbols = np.empty_like(values)
    symbols[order] = values
    return symbols, damaged


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


def _by_owner_and_table(numbers: AnyArray, owners: AnyArray) -> tuple[Int64Array, list[tuple[int, list[_TableRun]]]]:
    """The order in which symbols are coded, by owner and then by table, and each owner's runs of one table therein."""
    if not len(numbers):
        return np.zeros(0, np.int64), []
    numbers = np.asarray(numbers)
    lowest = int(numbers.min())
    span = int(numbers.max()) - lowest + 1
    keys = owners * span + (numbers - lowest)
    # Numbers of 16 bits are sorted in a time that grows with their count alone.
    short = keys.astype(np.uint16) if int(keys.max()) < _SHORT else keys
    order = short.argsort(kind="stable")
    ordered = short[order]
    edges = ((ordered[1:] != ordered[:-1]).nonzero()[0] + 1).tolist()
    starts = [0, *edges]
    shares: dict[int, list[_TableRun]] = {}
    for key, start, end in zip(ordered[starts].tolist(), starts, [*edges, len(ordered)], strict=True):
        owner, number = divmod(key, span)
        shares.setdefault(owner, []).append((lowest + number, start, end))
    return order, list(shares.items())


def _columns(symbols: AnyArray, reach: int) -> Int64Array:
    symbols = np.asarray(symbols, np.int64)
    return np.where(np.abs(symbols) <= reach, symbols + reach, 2 * reach + 1)


def _excess(escaped: AnyArray, reach: int) -> Int64Array:
    """How far values lie beyond the reach, 1 or more in magnitude, with their signs."""
    values = np.asarray(escaped, np.int64)
    return np.asarray(values - reach * np.sign(values), np.int64)


def excess_sizes(excess: Int64Array) -> Int64Array:
    """Bits of each magnitude beyond the reach, 1 to 16; it takes twice as many, less one, and one for its sign."""
    sizes: Int64Array = np.frexp(np.abs(excess).astype(np.float64))[1].astype(np.int64)
    return sizes
