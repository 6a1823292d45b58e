"""The lossy levels at work: patches and their quantisers to one string of bytes per packet, and back.

```
coefficients ─► run ─► residuals, step by step ─► as many groups as are not empty ─► one string per packet
string ───────► run ─► coefficients
```
A string opens with the number of groups that it holds (one byte). Those that are all zero at the end cost nothing,
in bytes or in time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np

from shared.arrays import AnyArray, BoolArray, Float32Array, Float64Array, Int64Array
from shared.codec.entropy.context import PatchContext, inputs_of
from shared.codec.entropy.lossy import MEAN_PARTS, SCALES, Prediction, run
from shared.codec.entropy.part_network import PartNetwork
from shared.codec.entropy.schedule import GROUP_ENDS, GROUPS, parts_of
from shared.codec.entropy.symbols import SymbolReader, SymbolTables, SymbolWriter, read_together, write_together
from shared.codec.entropy.transform import PatchTransform
from shared.errors import WeightsError

DEFAULT_PRICE: Final = 0.12
"""Squared quantiser steps that a bit is worth to the encoder; by measurement on training photos."""

_NEVER_COUNTS: Final = 0.6  # coefficients below this part of a step are coded as 0 whatever is expected of them
_LEAST_CODED: Final = 0.5
_ENDING_BYTES: Final = 1.5  # by which a string is longer than its symbols, on average


@dataclass(frozen=True)
class LossyEncoding:
    """Coded patches."""

    bodies: tuple[bytes, ...]
    """Of each packet, by its number in the context."""
    coefficients: Float64Array
    """(n, 192) as the decoder will have them."""
    bits: Float64Array
    """(n,) about what each patch takes."""


@dataclass(frozen=True)
class LossyMeasure:
    """What coded patches would take, nearly."""

    body_bytes: tuple[int, ...]
    """Of each packet."""
    bits: Float64Array
    """(n,) about what each patch takes."""


@dataclass(frozen=True)
class LossyDecoding:
    """Decoded patches."""

    coefficients: Float64Array
    """(n, 192)."""
    damaged: BoolArray
    """(packets,) whose bytes made no sense; their patches are worth nothing."""


@dataclass(frozen=True)
class LossyModel:
    """Everything that was learnt.

    Raises:
        WeightsError: the parts do not fit each other.
    """

    transform: PatchTransform
    networks: tuple[PartNetwork, ...]
    """One per group: (n, inputs_of(group)) features to (n, 2 * part): means, then scales before clipping."""
    tables: SymbolTables
    """GROUPS * SCALES of them."""
    shrink: Float64Array
    """See `lossy.Prediction.values`; whole numbers."""

    def __post_init__(self) -> None:
        shapes = [(inputs_of(group), [part.stop - part.start for part in parts_of(group)]) for group in range(GROUPS)]
        if [(network.inputs, [size // 2 for size in network.outputs]) for network in self.networks] != shapes:
            raise WeightsError("the context networks are not of the right shapes")
        if len(self.tables.frequencies) != GROUPS * SCALES or self.shrink.shape != (GROUPS * SCALES, 3):
            raise WeightsError("there are not as many tables as groups and scales")

    def shared(self, group: int, features: AnyArray) -> AnyArray:
        """See `lossy.Predictor`."""
        return self.networks[group].shared(features)

    def part(self, group: int, number: int, shared: AnyArray, own: Float64Array) -> tuple[Float64Array, Int64Array]:
        """See `lossy.Predictor`."""
        out = self.networks[group].part(number, shared, own)
        size = out.shape[1] // 2
        return out[:, :size], np.clip(out[:, size:], 0, SCALES - 1).astype(np.int64)

    def encode(self, coefficients: Float32Array, context: PatchContext, price: float) -> LossyEncoding:
        """Codes patches.

        Args:
            coefficients: (n, 192) of `PatchTransform.analyse`.
            context: the same patches, fresh, with packet numbers from 0 up.
            price: squared quantiser steps that a bit is worth; 0 for the least error.
        """
        chooser = self.chooser(coefficients, context.packets, price)
        self.run_encoder(coefficients, context, chooser)
        bodies = chooser.bodies()
        _drop_beyond(context.values[:-1], chooser.groups[context.packets])
        return LossyEncoding(bodies, context.values[:-1], chooser.bits)

    def measure(self, coefficients: Float32Array, context: PatchContext, price: float) -> LossyMeasure:
        """About what `encode` would give, in less than half the time; arguments as there."""
        chooser = self._rough.chooser(coefficients, context.packets, price)
        self._rough.run_encoder(coefficients, context, chooser)
        bits = [chooser.group_bits[packet, :groups].sum() for packet, groups in enumerate(chooser.groups)]
        return LossyMeasure(tuple(1 + math.ceil(count / 8 + _ENDING_BYTES) for count in bits), chooser.bits)

    @cached_property
    def _rough(self) -> "LossyModel":
        return replace(self, networks=tuple(network.roughly() for network in self.networks))

    def decode(self, bodies: Sequence[bytes], context: PatchContext, cut: BoolArray | None = None) -> LossyDecoding:
        """Decodes patches, whatever the bytes.

        Args:
            bodies: of each packet number of the context.
            context: the patches, fresh.
            cut: (packets,) whether only the beginning of a body is there; its patches then come out as coarse as the
                groups of coefficients that could be read. None means that all are whole.
        """
        reader = _Reader(self, bodies, context, np.zeros(len(bodies), np.bool_) if cut is None else cut)
        run(context, self, self.shrink, reader, reader.groups[context.packets])
        return LossyDecoding(context.values[:-1], reader.damaged)

    def chooser(self, coefficients: Float32Array, packets: Int64Array, price: float) -> "Chooser":
        """An encoder's choice of residuals, with nothing chosen yet."""
        return Chooser(self, coefficients, packets, price)

    def run_encoder(self, coefficients: Float32Array, context: PatchContext, chooser: "Chooser") -> None:
        """Lets it choose all residuals of all groups that may hold any."""
        run(context, self, self.shrink, chooser, self._needed(coefficients, context))

    def _needed(self, coefficients: Float32Array, context: PatchContext) -> Int64Array:
        """(n,) groups of each patch that may hold anything, the same for all patches of a packet."""
        packets = int(context.packets.max(initial=-1)) + 1
        needed = np.ones(packets, np.int64)
        limits = (_NEVER_COUNTS * context.step_widths).astype(np.float32)
        for group in range(1, GROUPS):
            block = np.abs(coefficients[:, GROUP_ENDS[group - 1] : GROUP_ENDS[group]]).max(axis=1)
            needed[context.packets[block > limits]] = group + 1
        return needed[context.packets]


def _drop_beyond(values: Float64Array, groups: Int64Array) -> None:
    """Sets what is not sent to what the decoder has."""
    for group in range(1, GROUPS):
        values[groups <= group, GROUP_ENDS[group - 1] : GROUP_ENDS[group]] = 0


class Chooser:
    """Chooses residuals by what they cost and what they mend, and keeps them."""

    def __init__(self, model: LossyModel, coefficients: Float32Array, packets: Int64Array, price: float) -> None:
        self._model, self._coefficients, self._price = model, coefficients, price
        self._packet_of = packets
        self.packets = int(packets.max(initial=-1)) + 1
        self.coded: list[tuple[Prediction, Int64Array]] = []
        self.bits = np.zeros(len(coefficients))
        """(n,) about what each patch takes."""
        self.group_bits = np.zeros((self.packets, GROUPS))
        """About what each group of each packet takes."""
        self.groups = np.zeros(self.packets, np.int64)
        """How many groups of each packet are not empty."""

    def __call__(self, prediction: Prediction) -> Int64Array:
        """The residuals of a step."""
        true = self._coefficients[prediction.targets, prediction.part]
        wanted = (true - prediction.means) / prediction.widths
        residuals = self._choose(wanted, prediction.tables)
        self.coded.append((prediction, residuals))
        self._count(prediction, residuals)
        return residuals

    def _count(self, prediction: Prediction, residuals: Int64Array) -> None:
        group, packets = prediction.step.group, self._packet_of[prediction.targets]
        bits = self._model.tables.sparse_bits(residuals, prediction.tables).sum(axis=1)
        self.bits[prediction.targets] += bits
        self.group_bits[:, group] += np.bincount(packets, bits, self.packets)
        self.groups[packets[residuals.any(axis=1)]] = group + 1

    def _choose(self, wanted: Float64Array, tables: Int64Array) -> Int64Array:
        residuals = np.zeros(wanted.shape, np.int64)
        some = np.nonzero(np.abs(wanted) > _LEAST_CODED)
        magnitude, sign, table = np.abs(wanted[some]), np.sign(wanted[some]).astype(np.int64), tables[some]
        nearest = np.rint(magnitude).astype(np.int64)
        best = np.zeros_like(nearest)
        cost = self._cost(magnitude, best, sign, table)
        for candidate in (nearest - 1, nearest):
            other = self._cost(magnitude, candidate, sign, table)
            better = other < cost
            best, cost = np.where(better, candidate, best), np.where(better, other, cost)
        residuals[some] = best * sign
        return residuals

    def _cost(self, magnitude: Float64Array, candidate: Int64Array, sign: Int64Array, table: Int64Array) -> AnyArray:
        inward = self._model.shrink[table, np.minimum(candidate, 2)] / MEAN_PARTS * (candidate > 0)
        bits = self._model.tables.code_bits(candidate * sign, table)
        return (magnitude - candidate + inward) ** 2 + self._price * bits

    def bodies(self) -> tuple[bytes, ...]:
        """The string of each packet."""
        writers = [SymbolWriter() for _ in range(self.packets)]
        for prediction, residuals in self.coded:
            packets = self._packet_of[prediction.targets]
            rows = np.flatnonzero(self.groups[packets] > prediction.step.group)
            owners = packets[rows].repeat(residuals.shape[1])
            tables = prediction.first_table + prediction.scales[rows]
            write_together(writers, self._model.tables, residuals[rows].ravel(), tables.ravel(), owners)
        return tuple(
            bytes([groups]) + writer.to_bytes() for groups, writer in zip(self.groups.tolist(), writers, strict=True)
        )


class _Reader:
    """Reads residuals; those of a packet that turns out damaged, or ends too early, are 0 from there on."""

    def __init__(self, model: LossyModel, bodies: Sequence[bytes], context: PatchContext, cut: BoolArray) -> None:
        self._model, self._context, self._cut = model, context, cut
        self.groups = np.array([body[0] if body else 0 for body in bodies], np.int64)
        self.damaged = np.array([not body or body[0] > GROUPS for body in bodies], np.bool_)
        self.groups[self.damaged] = 0
        self._ended = self.damaged.copy()
        self._readers = [SymbolReader(body[1:]) for body in bodies]

    def __call__(self, prediction: Prediction) -> Int64Array:
        packets = self._context.packets[prediction.targets]
        rows = np.flatnonzero(~self._ended[packets])
        residuals, shape = np.zeros(prediction.scales.shape, np.int64), (len(rows), prediction.scales.shape[1])
        owners, tables = packets[rows].repeat(shape[1]), prediction.tables[rows].ravel()
        values, damaged = read_together(self._readers, self._model.tables, tables, owners)
        residuals[rows] = values.reshape(shape)
        self._end(damaged)
        residuals[self._ended[packets]] = 0
        return residuals

    def _end(self, damaged: list[int]) -> None:
        """Notes which packets have no more to tell."""
        self._ended[damaged] = True
        self.damaged[damaged] = ~self._cut[damaged]
        for packet in np.flatnonzero(self._cut & ~self._ended):
            self._ended[packet] = self._readers[packet].exhausted
