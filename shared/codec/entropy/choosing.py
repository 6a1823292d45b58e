"""The encoder's choice of residuals: what they mend for what they cost."""

from typing import Final

import numpy as np

from shared.arrays import AnyArray, BoolArray, Float32Array, Float64Array, Int64Array
from shared.codec.entropy.lossy import MEAN_PARTS, Prediction
from shared.codec.entropy.schedule import GROUPS
from shared.codec.entropy.symbols import SymbolCosts, SymbolTables, SymbolWriter
from shared.codec.entropy.trellis import POINT_PARTS, Lanes
from shared.codec.entropy.trellis_search import WAYS, cheapest_ways

_LEAST_CODED: Final = 0.5


class Chooser:
    """Chooses residuals by what they cost and what they mend, and keeps them.

    Args:
        costs: bits of residuals, by the number of their table.
        shrink: see `lossy.Prediction.values`.
        coefficients: (n, 192) of the patches.
        packets: (n,) number of the packet that each patch travels in.
        price: squared quantiser steps that a bit is worth.
        factors: (n,) what each patch takes over what its residuals cost; None: 1.
    """

    def __init__(
        self,
        costs: SymbolCosts,
        shrink: Float64Array,
        coefficients: Float32Array,
        packets: Int64Array,
        price: float,
        *,
        factors: Float64Array | None = None,
    ) -> None:
        self._costs, self._shrink = costs, shrink
        self._single_shrink: Float32Array = shrink.astype(np.float32).reshape(len(shrink), -1)
        self._coefficients, self._price = coefficients, price
        self._packet_of = packets
        self._factors = np.ones(len(coefficients)) if factors is None else factors
        self.packets = int(packets.max(initial=-1)) + 1
        self.coded: list[tuple[Prediction, Int64Array]] = []
        self._rows: list[dict[int, Int64Array]] = []
        self.bits = np.zeros(len(coefficients))
        """(n,) about what each patch takes."""
        self.group_bits = np.zeros((self.packets, GROUPS))
        """About what each group of each packet takes."""
        self.groups = np.zeros(self.packets, np.int64)
        """How many groups of each packet are not empty."""

    def __call__(self, prediction: Prediction) -> Int64Array:
        """The residuals of a part of a step."""
        residuals = self._choose(self.wanted(prediction), prediction)
        first = prediction.part == prediction.step.parts[0]
        rows = rows_by_packet(self._packet_of[prediction.targets]) if first else self._rows[-1]
        self.coded.append((prediction, residuals))
        self._rows.append(rows)
        self._count(prediction, residuals)
        return residuals

    def wanted(self, prediction: Prediction) -> Float64Array:
        """(t, part) how far the coefficients are from what is foretold, in quantiser steps."""
        true = self._coefficients[prediction.targets, prediction.part]
        return np.asarray((true - prediction.means) / prediction.widths)

    def _count(self, prediction: Prediction, residuals: Int64Array) -> None:
        group, packets = prediction.step.group, self._packet_of[prediction.targets]
        bits = self._costs.code_bits(residuals, prediction.tables).sum(axis=1)
        bits *= self._factors[prediction.targets]
        self.bits[prediction.targets] += bits
        self.group_bits[:, group] += np.bincount(packets, bits, self.packets)
        self.groups[packets[residuals.any(axis=1)]] = group + 1

    def _choose(self, wanted: Float64Array, prediction: Prediction) -> Int64Array:
        residuals, where = np.zeros(wanted.size, np.int64), prediction.lanes.where
        magnitudes, tables = np.abs(wanted).ravel(), prediction.tables.ravel()
        if len(where):
            residuals[where] = self._in_lanes(magnitudes[where].astype(np.float32), tables[where], prediction.lanes)
            magnitudes[where] = 0
        some = np.flatnonzero(magnitudes > _LEAST_CODED)
        residuals[some] = self._alone(magnitudes[some], tables[some])
        return np.where(wanted < 0, -1, 1) * residuals.reshape(wanted.shape)

    def _alone(self, magnitudes: Float64Array, tables: Int64Array) -> Int64Array:
        """What each would best be, whatever the others."""
        nearest = np.rint(magnitudes).astype(np.int64)
        best = np.zeros_like(nearest)
        cost = self._cost(magnitudes, best, tables)
        for candidate in (nearest - 1, nearest):
            other = self._cost(magnitudes, candidate, tables)
            better = other < cost
            best, cost = np.where(better, candidate, best), np.where(better, other, cost)
        return best

    def _cost(self, magnitudes: Float64Array, candidates: Int64Array, tables: Int64Array) -> Float64Array:
        inward = self._shrink[0, tables, np.minimum(candidates, 2)] / MEAN_PARTS * (candidates > 0)
        bits = self._costs.code_bits(candidates, tables)
        return np.asarray((magnitudes - candidates + inward) ** 2 + self._price * bits)

    def _in_lanes(self, magnitudes: Float32Array, tables: Int64Array, lanes: Lanes) -> Int64Array:
        """What the residuals of each lane would best be, together."""
        costs = np.empty((WAYS, len(magnitudes)), np.float32)
        residuals = np.empty((WAYS, len(magnitudes)), np.int64)
        for second in (0, 1):
            ways = slice(2 * second, 2 * second + 2)
            costs[ways], residuals[ways] = self._by_parity(magnitudes, tables, second)
        return np.asarray(residuals[cheapest_ways(costs, lanes), np.arange(len(magnitudes))])

    def _by_parity(self, magnitudes: Float32Array, tables: Int64Array, second: int) -> tuple[AnyArray, AnyArray]:
        """(2, n) costs of the best even and the best odd residuals on a quantiser, and (2, n) these."""
        nearest = (magnitudes * np.float32(MEAN_PARTS / POINT_PARTS / 2) + np.float32(second / 2)).astype(np.int64)
        below, above = np.abs(nearest - 1), nearest + 1
        cost, lower, upper = (self._point_cost(magnitudes, k, tables, second) for k in (nearest, below, above))
        other, other_cost = np.where(lower < upper, below, above), np.minimum(lower, upper)
        odd: BoolArray = (nearest & 1).astype(np.bool_)
        costs = np.stack([np.where(odd, other_cost, cost), np.where(odd, cost, other_cost)])
        return costs, np.stack([np.where(odd, other, nearest), np.where(odd, nearest, other)])

    def _point_cost(
        self, magnitudes: Float32Array, candidates: Int64Array, tables: Int64Array, second: int
    ) -> Float32Array:
        some = candidates > 0
        parts = (2 * candidates - second * some) * POINT_PARTS
        inward = self._single_shrink[second].take(3 * tables + np.minimum(candidates, 2))
        off = magnitudes - (parts - inward) * np.float32(1 / MEAN_PARTS)
        return np.asarray(off * off + np.float32(self._price) * self._costs.magnitude_bits(candidates, tables))

    def body(self, packet: int, tables: SymbolTables) -> bytes:
        """The string of one packet."""
        groups, writer = int(self.groups[packet]), SymbolWriter()
        for (prediction, residuals), places in zip(self.coded, self._rows, strict=True):
            if packet in places and prediction.step.group < groups:
                rows = places[packet]
                numbers = prediction.first_table + prediction.scales[rows]
                writer.write(tables, residuals[rows].ravel(), numbers.ravel())
        return bytes([groups]) + writer.to_bytes()


def rows_by_packet(packets: Int64Array) -> dict[int, Int64Array]:
    """Of (t,) packet numbers those that occur, each with the places where it does."""
    order = np.argsort(packets, kind="stable")
    found, starts = np.unique(packets[order], return_index=True)
    return dict(zip(found.tolist(), np.split(order, starts[1:]), strict=True))
