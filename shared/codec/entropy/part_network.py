"""The context network of one group in exact integer arithmetic: one layer that all parts share, then one head a part.

```
features (n, inputs) ── W ──┐
own coefficients so far ─ U ┼─ + ── floor(/ 2^shift) ── clip to 0..511 ── head of the part ── means, scales
1 ──────────────────── b ───┘   U, b and the head differ from part to part; W x is computed once
```
It is an autoregressive network in the manner of MADE (arXiv 1502.03509): each coefficient's distribution depends on
those before it in its own patch, at the cost of a small product each.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from shared.arrays import AnyArray, Float64Array
from shared.codec.entropy.context import FEATURE_BOUND
from shared.codec.entropy.exact import (
    FLOAT32_LIMIT,
    ExactLayer,
    ExactNetwork,
    check_layer,
    named_tensor,
    product,
)
from shared.errors import WeightsError

ALWAYS: Final = 64
"""The input that is the same for all patches."""

PART_ACTIVATION_LIMIT: Final = 511
"""Largest activation of a hidden unit: so few, that weights can be fine and float32 exact all the same."""


@dataclass(frozen=True)
class PartNetwork:
    """Predicts the coefficients of one group, part by part.

    Raises:
        WeightsError: the parts do not fit each other, or a sum could exceed 2^24.
    """

    first: ExactLayer
    """(units, inputs + columns of every part): a part's are one for `ALWAYS`, then one for each own coefficient."""

    heads: tuple[ExactNetwork, ...]
    """Of each part: (n, units) activations to (n, 2 * part)."""

    def __post_init__(self) -> None:
        check_layer(self.first)
        units = len(self.first.bias)
        fits = self.heads and self.inputs > 0 and all(head.inputs == units for head in self.heads)
        if not fits or any(head.input_limit < PART_ACTIVATION_LIMIT for head in self.heads):
            raise WeightsError("a context network's parts do not fit each other")
        if max(self.first.largest_sum(FEATURE_BOUND), *(head.largest_sum for head in self.heads)) >= FLOAT32_LIMIT:
            raise WeightsError("a context network's sums could be too large to be exact")

    @property
    def outputs(self) -> list[int]:
        """Of each part: a mean and a scale for each coefficient."""
        return [head.outputs for head in self.heads]

    @property
    def inputs(self) -> int:
        """Features of one patch."""
        return int(self.first.weights.shape[1]) - sum(1 + own for own in self._own)

    @property
    def _own(self) -> list[int]:
        """Of each part: how many of its patch's coefficients are known before it."""
        sizes = [head.outputs // 2 for head in self.heads]
        return [sum(sizes[:number]) for number in range(len(sizes))]

    @cached_property
    def _shared(self) -> tuple[AnyArray, AnyArray]:
        """(inputs, units) and (units,) over 2^shift: a power of two leaves sums exact."""
        scale = 1 << self.first.shift
        weights = np.ascontiguousarray(self.first.weights[:, : self.inputs].T / scale, np.float32)
        return weights, (self.first.bias / scale).astype(np.float32)

    @cached_property
    def _parts(self) -> list[tuple[AnyArray, AnyArray]]:
        """Of each part (units,) and (own, units), over 2^shift likewise."""
        widths = [1 + own for own in self._own]
        all_columns = (self.first.weights[:, self.inputs :].T / (1 << self.first.shift)).astype(np.float32)
        columns = np.split(all_columns, np.cumsum(widths)[:-1])
        return [(ALWAYS * part[0], np.ascontiguousarray(part[1:])) for part in columns]

    def shared(self, features: AnyArray) -> AnyArray:
        """(n, units) sums of (n, inputs) features, whole numbers up to FEATURE_BOUND."""
        weights, bias = self._shared
        sums: AnyArray = product(features.astype(np.float32, copy=False), weights)
        sums += bias
        return sums

    def part(self, number: int, shared: AnyArray, own: Float64Array) -> Float64Array:
        """What is known of the coefficients of a part.

        Args:
            number: of the part.
            shared: (n, units) of `shared`.
            own: (n, coefficients before the part) whole numbers up to FEATURE_BOUND.

        Returns:
            (n, 2 * part) whole numbers: means, then scales before clipping.
        """
        always, weights = self._parts[number]
        sums = shared + always
        if own.shape[1]:
            sums += product(own.astype(np.float32, copy=False), weights)
        np.floor(sums, out=sums)
        np.clip(sums, 0, PART_ACTIVATION_LIMIT, out=sums)
        return self.heads[number](sums)

    def to_tensors(self, prefix: str) -> dict[str, AnyArray]:
        """The network as named arrays for a weights file; `from_tensors` reads them."""
        tensors: dict[str, AnyArray] = {
            f"{prefix}.first.weights": self.first.weights,
            f"{prefix}.first.bias": self.first.bias,
            f"{prefix}.first.shift": np.array([self.first.shift], np.int64),
            f"{prefix}.parts": np.array([len(self.heads)], np.int64),
        }
        for number, head in enumerate(self.heads):
            tensors |= head.to_tensors(f"{prefix}.head{number}")
        return tensors

    @classmethod
    def from_tensors(cls, tensors: dict[str, AnyArray], prefix: str) -> "PartNetwork":
        """Reads what `to_tensors` made.

        Raises:
            WeightsError: an array is missing or of another type, or the network is not provably exact.
        """
        shift = named_tensor(tensors, f"{prefix}.first.shift", np.int64, 1)
        parts = named_tensor(tensors, f"{prefix}.parts", np.int64, 1)
        if len(shift) != 1 or len(parts) != 1:
            raise WeightsError(f"{prefix} does not say how many parts there are")
        first = ExactLayer(
            named_tensor(tensors, f"{prefix}.first.weights", np.int16, 2),
            named_tensor(tensors, f"{prefix}.first.bias", np.int64, 1),
            int(shift[0]),
        )
        names = [f"{prefix}.head{number}" for number in range(int(parts[0]))]
        return cls(first, tuple(ExactNetwork.from_tensors(tensors, name, PART_ACTIVATION_LIMIT) for name in names))
