"""The encoder's choice of residuals: what they mend for what they cost."""

from typing import Final

import numpy as np

from shared.arrays import Float32Array, Float64Array, Int64Array
from shared.codec.entropy.lossy import MEAN_PARTS, Prediction
from shared.codec.entropy.pacing import RAISED, Course, Pacer, place_groups, place_of
from shared.codec.entropy.schedule import GROUPS
from shared.codec.entropy.symbols import SymbolCosts, SymbolTables, SymbolWriter, excess_sizes, write_together
from shared.codec.entropy.trellis import POINT_PARTS, Lanes, points
from shared.codec.entropy.trellis_search import WAYS, cheapest_ways

_LEAST_CODED: Final = 0.5
_HALVES: Final = np.array([[0.0], [0.5]], np.float32)  # residuals on the second quantiser lie half a pair nearer


class _PointCosts:
    """Squared error and price of residuals that lie on given points.

    Args:
        costs: bits of residuals, by the number of their table.
        shrink: (quantisers, tables, 3), see `lossy.Prediction.values`.
        parts: (quantisers, reach + 2) points of residuals of 0, 1, 2 ..., in MEAN_PARTS of a quantiser step.
    """

    def __init__(self, costs: SymbolCosts, shrink: Float64Array, parts: Int64Array) -> None:
        residuals = np.arange(costs.reach + 2)
        inward = shrink[:, :, np.minimum(residuals, 2)] * (residuals > 0)
        self._points: Float32Array = ((parts[:, None] - inward) / MEAN_PARTS).astype(np.float32).ravel()
        # The column of the escape follows that of the greatest value.
        self._bits: Float32Array = costs.bits[:, costs.reach :].astype(np.float32).ravel()
        self._reach = costs.reach
        self._first: Int64Array = (np.arange(len(parts)) * len(self._bits))[:, None]
        self._apart = float(parts[0, -1] - parts[0, -2]) / MEAN_PARTS

    def costs(
        self, magnitudes: Float32Array, candidates: Int64Array, tables: Int64Array, prices: Float32Array
    ) -> Float32Array:
        """(..., quantisers, n) costs of candidates; `prices`: (n,) of a bit, otherwise as `errors_and_bits`."""
        errors, bits = self.errors_and_bits(magnitudes, candidates, tables)
        return np.asarray(errors + bits * prices)

    def errors_and_bits(
        self, magnitudes: Float32Array, candidates: Int64Array, tables: Int64Array
    ) -> tuple[Float32Array, Float32Array]:
        """(..., quantisers, n) squared errors and bits of candidates, 0 or more.

        Args:
            magnitudes: (n,) wanted.
            candidates: (..., quantisers, n).
            tables: (n,).
        """
        places = tables * (self._reach + 2) + np.minimum(candidates, self._reach + 1)
        off = magnitudes - self._points.take(places + self._first)
        bits = self._bits.take(places)
        escaped = candidates > self._reach
        if escaped.any():
            excess = candidates[escaped] - self._reach
            off[escaped] -= (excess - 1) * np.float32(self._apart)
            bits[escaped] += np.float32(2) * excess_sizes(excess)
        return np.asarray(off * off), np.asarray(bits)


class Chooser:
    """Chooses residuals by what they cost and what they mend, and keeps them.

    Args:
        costs: bits of residuals, by the number of their table.
        shrink: see `lossy.Prediction.values`.
        coefficients: (n, 192) of the patches.
        packets: (n,) number of the packet that each patch travels in.
        price: squared quantiser steps that a bit is worth; (n,) of each patch, or one for all.
        factors: (n,) what each patch takes over what its residuals cost; None: 1.
        pacer: by how much the price is multiplied from part to part; None: by 1.
    """

    def __init__(
        self,
        costs: SymbolCosts,
        shrink: Float64Array,
        coefficients: Float32Array,
        packets: Int64Array,
        price: float | Float64Array,
        *,
        factors: Float64Array | None = None,
        pacer: Pacer | None = None,
    ) -> None:
        self._costs, self._coefficients, self._packet_of = costs, coefficients, packets
        self._own = _PointCosts(costs, shrink[:1], MEAN_PARTS * np.arange(costs.reach + 2)[None])
        on_second = np.array([[False], [True]])
        self._pair = _PointCosts(costs, shrink, POINT_PARTS * points(np.arange(costs.reach + 2), on_second))
        self._prices = np.broadcast_to(np.asarray(price, np.float32), len(coefficients))
        self._pacer, self._pace = pacer, np.float32(1)
        self._factors = np.ones(len(coefficients)) if factors is None else factors
        self.packets = int(packets.max(initial=-1)) + 1
        self.coded: list[tuple[Prediction, Int64Array]] = []
        self.bits = np.zeros(len(coefficients))
        """(n,) about what each patch takes."""
        self.group_bits = np.zeros((self.packets, GROUPS))
        """About what each group of each packet takes."""
        self.groups = np.ones(self.packets, np.int64)
        """How many groups of each packet are sent: no empty ones at the end, but the means always, since patches of
        which nothing was sent are not what was foretold."""
        places = len(place_groups())
        self._taken, self._saved = np.zeros((places, self.packets)), np.zeros((places, self.packets))

    def __call__(self, prediction: Prediction) -> Int64Array:
        """The residuals of a part of a step."""
        if self._pacer is not None:
            self._pace = np.float32(self._pacer(place_of(prediction.step, prediction.part), self._sent_bits))
        residuals = self._choose(self.wanted(prediction), prediction)
        self.coded.append((prediction, residuals))
        self._count(prediction, residuals)
        return residuals

    @property
    def _sent_bits(self) -> float:
        """About what all packets take so far, without groups that are empty at the end."""
        return float(self.group_bits[np.arange(GROUPS) < self.groups[:, None]].sum())

    @property
    def course(self) -> Course:
        """How the bits came; those at a higher price only of residuals that were quantised on their own."""
        sent = place_groups()[:, None] < self.groups
        taken = (self._taken * sent).sum(axis=1)
        return Course(taken, np.maximum(taken - (self._saved * sent).sum(axis=1), 0))

    def wanted(self, prediction: Prediction) -> Float64Array:
        """(t, part) how far the coefficients are from what is foretold, in quantiser steps."""
        true = self._coefficients[prediction.targets, prediction.part]
        return np.asarray((true - prediction.means) / prediction.widths)

    def _count(self, prediction: Prediction, residuals: Int64Array) -> None:
        group, packets = prediction.step.group, self._packet_of[prediction.targets]
        bits = self._costs.sparse_bits(residuals, prediction.tables).sum(axis=1)
        bits *= self._factors[prediction.targets]
        self.bits[prediction.targets] += bits
        taken = self._taken[place_of(prediction.step, prediction.part)] = np.bincount(packets, bits, self.packets)
        self.group_bits[:, group] += taken
        self.groups[packets[residuals.any(axis=1)]] = group + 1

    def _choose(self, wanted: Float64Array, prediction: Prediction) -> Int64Array:
        residuals, where = np.zeros(wanted.size, np.int64), prediction.lanes.where
        magnitudes, tables = np.abs(wanted).astype(np.float32).ravel(), prediction.tables.ravel()
        prices = (self._pace * self._prices[prediction.targets]).repeat(wanted.shape[1])
        if len(where):
            residuals[where] = self._in_lanes(magnitudes[where], tables[where], prices[where], prediction.lanes)
            magnitudes[where] = 0
        some = np.flatnonzero(magnitudes > _LEAST_CODED)
        residuals[some], saved = self._alone(magnitudes[some], tables[some], prices[some])
        if self._pacer is None:
            self._save(prediction, some, saved)
        return np.where(wanted < 0, -1, 1) * residuals.reshape(wanted.shape)

    def _save(self, prediction: Prediction, some: Int64Array, saved: Float32Array) -> None:
        """Notes what a higher price would save of some residuals of a part."""
        patches = prediction.targets[some // prediction.scales.shape[1]]
        by_packet = np.bincount(self._packet_of[patches], saved * self._factors[patches], self.packets)
        self._saved[place_of(prediction.step, prediction.part)] = by_packet

    def _alone(
        self, magnitudes: Float32Array, tables: Int64Array, prices: Float32Array
    ) -> tuple[Int64Array, Float32Array]:
        """What each would best be, whatever the others, and by how many bits less it would be at a higher price."""
        nearest = np.rint(magnitudes).astype(np.int64)
        candidates = np.stack([np.zeros_like(nearest), nearest - 1, nearest])
        errors, bits = (found[:, 0] for found in self._own.errors_and_bits(magnitudes, candidates[:, None], tables))
        each, costs = np.arange(len(nearest)), bits * prices
        best, following = (errors + costs).argmin(axis=0), (errors + np.float32(RAISED) * costs).argmin(axis=0)
        return candidates[best, each], bits[best, each] - bits[following, each]

    def _in_lanes(self, magnitudes: Float32Array, tables: Int64Array, prices: Float32Array, lanes: Lanes) -> Int64Array:
        """What the residuals of each lane would best be, together."""
        nearest = (magnitudes * np.float32(MEAN_PARTS / POINT_PARTS / 2) + _HALVES).astype(np.int64)
        candidates = np.stack([np.abs(nearest - 1), nearest, nearest + 1])
        below, cost, above = self._pair.costs(magnitudes, candidates, tables, prices)
        # On each quantiser the nearest is the best of its parity, one of those beside it the best of the other.
        other, other_cost = np.where(below < above, candidates[0], candidates[2]), np.minimum(below, above)
        odd = (nearest & 1).astype(np.bool_)
        costs = np.stack([np.where(odd, other_cost, cost), np.where(odd, cost, other_cost)], axis=1)
        residuals = np.stack([np.where(odd, other, nearest), np.where(odd, nearest, other)], axis=1)
        ways = cheapest_ways(costs.reshape(WAYS, -1), lanes)
        return np.asarray(residuals.reshape(WAYS, -1)[ways, np.arange(len(ways))])

    def bodies(self, tables: SymbolTables) -> tuple[bytes, ...]:
        """The string of each packet."""
        writers = [SymbolWriter() for _ in range(self.packets)]
        for prediction, residuals in self.coded:
            packets = self._packet_of[prediction.targets]
            rows = np.flatnonzero(self.groups[packets] > prediction.step.group)
            owners = packets[rows].repeat(residuals.shape[1])
            numbers = prediction.first_table + prediction.scales[rows]
            write_together(writers, tables, residuals[rows].ravel(), numbers.ravel(), owners)
        return tuple(
            bytes([groups]) + writer.to_bytes() for groups, writer in zip(self.groups.tolist(), writers, strict=True)
        )
