"""The lossy levels at work: patches and their quantisers to one string of bytes per packet, and back.

```
coefficients ─► run ─► residuals, step by step ─► as many groups as are not empty ─► one string per packet
string ───────► run ─► coefficients
```
A string opens with the number of groups that it holds (one byte), at least 1. Further ones that are all zero at the
end cost nothing, in bytes or in time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from shared.arrays import AnyArray, BoolArray, Float32Array, Float64Array, Int64Array
from shared.codec.entropy.choosing import Chooser
from shared.codec.entropy.context import QUALITIES, PatchContext, inputs_of
from shared.codec.entropy.lossy import SCALES, Prediction, run
from shared.codec.entropy.pacing import Course, Pacer
from shared.codec.entropy.part_network import PartNetwork
from shared.codec.entropy.schedule import GROUP_ENDS, GROUPS, parts_of
from shared.codec.entropy.symbols import SymbolCosts, SymbolReader, SymbolTables, read_together
from shared.codec.entropy.transform import PatchTransform
from shared.errors import WeightsError

QUALITY_BAND: Final = 16
"""Quantisers that share a factor of `Estimates`."""

DEFAULT_PRICE: Final = 0.12
"""Squared quantiser steps that a bit is worth to the encoder; by measurement on training photos."""

_NEVER_COUNTS: Final = 0.6  # coefficients below this part of a step are coded as 0 whatever is expected of them
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
    course: Course
    """How all bits come."""


@dataclass(frozen=True)
class LossyDecoding:
    """Decoded patches."""

    coefficients: Float64Array
    """(n, 192)."""
    damaged: BoolArray
    """(packets,) whose bytes made no sense; their patches are worth nothing."""


@dataclass(frozen=True)
class Estimates:
    """What coding would take, nearly, without the search for the way through the states.

    Each residual is quantised on its own, and then counted as what its like take where they depend on each other.

    Raises:
        WeightsError: the parts do not fit each other.
    """

    costs: SymbolCosts
    """GROUPS * SCALES of them."""
    shrink: Float64Array
    """(1, GROUPS * SCALES, 3), see `lossy.Prediction.values`; whole numbers."""
    factors: Float64Array
    """(QUALITIES / QUALITY_BAND,) what residuals take over what they cost, by the quantiser of their patch."""

    def __post_init__(self) -> None:
        if len(self.costs.bits) != GROUPS * SCALES or self.shrink.shape != (1, GROUPS * SCALES, 3):
            raise WeightsError("there are not as many estimates as groups and scales")
        if self.factors.shape != (QUALITIES // QUALITY_BAND,) or not (self.factors > 0).all():
            raise WeightsError("estimates have no factor for every quantiser")

    def factors_of(self, qualities: Int64Array) -> Float64Array:
        """(n,) factors of patches under (n,) quantisers."""
        return np.asarray(self.factors[qualities // QUALITY_BAND])


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
    """(2, GROUPS * SCALES, 3), see `lossy.Prediction.values`; whole numbers."""
    estimates: Estimates

    def __post_init__(self) -> None:
        shapes = [(inputs_of(group), [part.stop - part.start for part in parts_of(group)]) for group in range(GROUPS)]
        if [(network.inputs, [size // 2 for size in network.outputs]) for network in self.networks] != shapes:
            raise WeightsError("the context networks are not of the right shapes")
        if len(self.tables.frequencies) != GROUPS * SCALES or self.shrink.shape != (2, GROUPS * SCALES, 3):
            raise WeightsError("there are not as many tables as groups and scales")

    def shared(self, group: int, features: AnyArray) -> AnyArray:
        """See `lossy.Predictor`."""
        return self.networks[group].shared(features)

    def part(self, group: int, number: int, shared: AnyArray, own: Float64Array) -> tuple[Float64Array, Int64Array]:
        """See `lossy.Predictor`."""
        out = self.networks[group].part(number, shared, own)
        size = out.shape[1] // 2
        return out[:, :size], np.clip(out[:, size:], 0, SCALES - 1).astype(np.int64)

    def encode(
        self,
        coefficients: Float32Array,
        context: PatchContext,
        price: float | Float64Array,
        pacer: Pacer | None = None,
    ) -> LossyEncoding:
        """Codes patches.

        Args:
            coefficients: (n, 192) of `PatchTransform.analyse`.
            context: the same patches, fresh, with packet numbers from 0 up.
            price: squared quantiser steps that a bit is worth, of each patch (n,) or one for all; 0 for the least
                error.
            pacer: by how much the price is multiplied from part to part; None: by 1.
        """
        chooser = self.choose(coefficients, context, price, pacer)
        bodies = chooser.bodies(self.tables)
        _drop_beyond(context.values[:-1], chooser.groups[context.packets])
        return LossyEncoding(bodies, context.values[:-1], chooser.bits)

    def choose(
        self,
        coefficients: Float32Array,
        context: PatchContext,
        price: float | Float64Array,
        pacer: Pacer | None = None,
    ) -> Chooser:
        """All residuals of all groups that may hold any; arguments as of `encode`."""
        chooser = Chooser(self.tables.costs, self.shrink, coefficients, context.packets, price, pacer=pacer)
        run(context, self, self.shrink, chooser, needed_groups(coefficients, context))
        return chooser

    def measure(self, coefficients: Float32Array, context: PatchContext, price: float | Float64Array) -> LossyMeasure:
        """About what `encode` would give, in two thirds of the time; arguments as there."""
        chooser = self.choose_roughly(coefficients, context, price)
        bits = [chooser.group_bits[packet, :groups].sum() for packet, groups in enumerate(chooser.groups)]
        sizes = tuple(1 + math.ceil(count / 8 + _ENDING_BYTES) for count in bits)
        return LossyMeasure(sizes, chooser.bits, chooser.course)

    def choose_roughly(self, coefficients: Float32Array, context: PatchContext, price: float | Float64Array) -> Chooser:
        """Residuals as of `estimates`; arguments as of `encode`."""
        costs, shrink = self.estimates.costs, self.estimates.shrink
        factors = self.estimates.factors_of(context.qualities)
        chooser = Chooser(costs, shrink, coefficients, context.packets, price, factors=factors)
        run(context, self, shrink, chooser, needed_groups(coefficients, context), dependent=False)
        return chooser

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


def needed_groups(coefficients: Float32Array, context: PatchContext) -> Int64Array:
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
