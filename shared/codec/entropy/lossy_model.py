"""The lossy levels at work: patches and their quantisers to one string of bytes per packet, and back.

```
coefficients ─► run ─► residuals, step by step ─► as many groups as are not empty ─► one string per packet
string ───────► run ─► coefficients
```
A string opens with the number of groups that it holds (one byte). Those that are all zero at the end cost nothing,
in bytes or in time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from shared.arrays import AnyArray, BoolArray, Float32Array, Float64Array, Int64Array
from shared.codec.entropy.context import FEATURE_BOUND, PatchContext, inputs_of
from shared.codec.entropy.exact import ExactNetwork
from shared.codec.entropy.lossy import MEAN_PARTS, SCALES, Prediction, run
from shared.codec.entropy.schedule import GROUP_ENDS, GROUPS
from shared.codec.entropy.symbols import SymbolReader, SymbolTables, SymbolWriter
from shared.codec.entropy.transform import PatchTransform
from shared.errors import StreamError, WeightsError

DEFAULT_PRICE: Final = 0.12
"""Squared quantiser steps that a bit is worth to the encoder; by measurement on training photos."""

_NEVER_COUNTS: Final = 0.6  # coefficients below this part of a step are coded as 0 whatever is expected of them
_LEAST_CODED: Final = 0.5


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
    networks: tuple[ExactNetwork, ...]
    """One per group: (n, inputs_of(group)) features to (n, 2 * group): means, then scales before clipping."""
    tables: SymbolTables
    """GROUPS * SCALES of them."""
    shrink: Float64Array
    """See `lossy.Prediction.values`; whole numbers."""

    def __post_init__(self) -> None:
        starts = (0, *GROUP_ENDS)
        shapes = [(inputs_of(group), 2 * (GROUP_ENDS[group] - starts[group])) for group in range(GROUPS)]
        if [(network.inputs, network.outputs) for network in self.networks] != shapes:
            raise WeightsError("the context networks are not of the right shapes")
        if any(network.input_limit < FEATURE_BOUND for network in self.networks):
            raise WeightsError("the context networks take smaller features than there are")
        if len(self.tables.frequencies) != GROUPS * SCALES or self.shrink.shape != (GROUPS * SCALES, 3):
            raise WeightsError("there are not as many tables as groups and scales")

    def predict(self, group: int, features: Float64Array) -> tuple[Float64Array, Int64Array]:
        """See `lossy.Predictor`."""
        out = self.networks[group](features)
        size = out.shape[1] // 2
        return out[:, :size], np.clip(out[:, size:], 0, SCALES - 1).astype(np.int64)

    def encode(self, coefficients: Float32Array, context: PatchContext, price: float) -> LossyEncoding:
        """Codes patches.

        Args:
            coefficients: (n, 192) of `PatchTransform.analyse`.
            context: the same patches, fresh, with packet numbers from 0 up.
            price: squared quantiser steps that a bit is worth; 0 for the least error.
        """
        chooser = self.chooser(coefficients, price)
        self.run_encoder(coefficients, context, chooser)
        packets = int(context.packets.max(initial=-1)) + 1
        bodies, groups = zip(*(chooser.body(context, number) for number in range(packets)), strict=True)
        _drop_beyond(context.values[:-1], np.array(groups)[context.packets])
        return LossyEncoding(bodies, context.values[:-1], chooser.bits)

    def decode(self, bodies: Sequence[bytes], context: PatchContext, cut: BoolArray | None = None) -> LossyDecoding:
        """Decodes patches, whatever the bytes.

        Args:
            bodies: of each packet number of the context.
            context: the patches, fresh.
            cut: (packets,) whether only the beginning of a body is there; its patches then come out as coarse as the
                groups of coefficients that could be read. None means that all are whole.
        """
        reader = _Reader(self, bodies, context, np.zeros(len(bodies), np.bool_) if cut is None else cut)
        run(context, self.predict, self.shrink, reader, reader.groups[context.packets])
        return LossyDecoding(context.values[:-1], reader.damaged)

    def chooser(self, coefficients: Float32Array, price: float) -> "Chooser":
        """An encoder's choice of residuals, with nothing chosen yet."""
        return Chooser(self, coefficients, price)

    def run_encoder(self, coefficients: Float32Array, context: PatchContext, chooser: "Chooser") -> None:
        """Lets it choose all residuals of all groups that may hold any."""
        run(context, self.predict, self.shrink, chooser, self._needed(coefficients, context))

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

    def __init__(self, model: LossyModel, coefficients: Float32Array, price: float) -> None:
        self._model, self._coefficients, self._price = model, coefficients, price
        self.coded: list[tuple[Prediction, Int64Array]] = []
        self.bits = np.zeros(len(coefficients))

    def __call__(self, prediction: Prediction) -> Int64Array:
        """The residuals of a step."""
        step = prediction.step
        true = self._coefficients[prediction.targets, step.start : step.end]
        wanted = (true - prediction.means) / prediction.widths
        residuals = self._choose(wanted, prediction.tables)
        self.coded.append((prediction, residuals))
        self.bits[prediction.targets] += self._model.tables.code_bits(residuals, prediction.tables).sum(axis=1)
        return residuals

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

    def body(self, context: PatchContext, packet: int) -> tuple[bytes, int]:
        """The string of one packet, and how many groups it holds."""
        chosen = [(p, r, np.flatnonzero(context.packets[p.targets] == packet)) for p, r in self.coded]
        groups = max((p.step.group + 1 for p, r, rows in chosen if r[rows].any()), default=0)
        writer = SymbolWriter()
        for prediction, residuals, rows in chosen:
            if prediction.step.group < groups:
                writer.write(self._model.tables, residuals[rows].ravel(), prediction.tables[rows].ravel())
        return bytes([groups]) + writer.to_bytes(), groups


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
        residuals = np.zeros(prediction.tables.shape, np.int64)
        packets = self._context.packets[prediction.targets]
        for packet in np.unique(packets):
            if not self._ended[packet]:
                rows = np.flatnonzero(packets == packet)
                residuals[rows] = self._read(int(packet), prediction.tables[rows])
        return residuals

    def _read(self, packet: int, tables: Int64Array) -> Int64Array:
        reader = self._readers[packet]
        try:
            residuals = reader.read(self._model.tables, tables.ravel()).reshape(tables.shape)
        except StreamError:
            self._ended[packet] = True
            self.damaged[packet] = not self._cut[packet]
            return np.zeros(tables.shape, np.int64)
        if self._cut[packet] and reader.exhausted:
            self._ended[packet] = True
            residuals[:] = 0
        return residuals
