"""Small networks in exact integer arithmetic, so that an entropy coder may depend on what they say.

```
integers |x| <= limit ── W x + b ── floor(/ 2^shift) ── clip to 0..limit ── ... ── W x + b ── floor(/ 2^shift)
```

Weights, biases and activations are integers carried by floating point. When a network is made, the largest sum
that it could ever form is computed from its weights; below 2^24 float32 holds every partial sum exactly, below
2^53 float64 does. Then the order of summation, and with it the machine, the number of threads and the matrix
library, has no influence on the result.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.arrays import AnyArray, Float64Array, Int64Array
from shared.errors import WeightsError

INPUT_LIMIT: Final = 2_047
"""Largest magnitude of an input, unless a network says otherwise."""

ACTIVATION_LIMIT: Final = 4_095
"""Largest activation of a hidden unit, unless a network says otherwise; the smallest is 0."""

ACTIVATION_RANGE: Final = 16
"""The trained activation that one more than the largest integer activation stands for."""

FLOAT32_LIMIT: Final = 1 << 24
"""Sums below this are exact in float32."""

FLOAT64_LIMIT: Final = 1 << 53
"""Sums below this are exact in float64."""

_WEIGHT_LIMIT: Final = (1 << 15) - 1
_SHIFT_LIMIT: Final = 24
_ROWS: Final = 2_048  # rows whose activations stay in the cache
_LONE_PRODUCTS: Final = 1 << 18  # up to so many products OpenBLAS computes with one thread
_LEAST_BLOCK: Final = 8
_MOST_BLOCK: Final = 128


@dataclass(frozen=True)
class ExactLayer:
    """One layer: floor((W x + b) / 2^shift)."""

    weights: NDArray[np.int16]
    """(out, in)."""

    bias: Int64Array
    """(out,)."""

    shift: int
    """0 to 24."""

    def largest_sum(self, limit: int) -> int:
        """The largest magnitude that any partial sum can have for inputs up to `limit`."""
        sums = np.abs(self.weights.astype(np.int64)).sum(axis=1)
        return max((int(s) * limit + abs(int(b)) for s, b in zip(sums, self.bias, strict=True)), default=0)


@dataclass(frozen=True)
class ExactNetwork:
    """A multilayer perceptron whose result is the same integers everywhere.

    Raises:
        WeightsError: the layers do not fit each other, or a sum could exceed 2^53.
    """

    layers: tuple[ExactLayer, ...]
    """Hidden layers clip to 0..activation_limit, the last one does not clip."""

    input_limit: int = INPUT_LIMIT
    """Largest magnitude of an input; the caller keeps to it."""

    activation_limit: int = ACTIVATION_LIMIT
    """Largest activation of a hidden unit."""

    def __post_init__(self) -> None:
        if not self.layers or not 0 < self.input_limit < FLOAT32_LIMIT:
            raise WeightsError("an exact network needs layers and a sensible input limit")
        for layer, following in zip(self.layers, [*self.layers[1:], None], strict=True):
            check_layer(layer)
            if following is not None and following.weights.shape[1:] != layer.weights.shape[:1]:
                raise WeightsError("an exact network's layers do not fit each other")
        if self.largest_sum >= FLOAT64_LIMIT:
            raise WeightsError(f"an exact network's sums could reach {self.largest_sum}, too large to be exact")

    @cached_property
    def largest_sum(self) -> int:
        """The largest magnitude that any sum within the network can have."""
        limits = [self.input_limit] + [self.activation_limit] * (len(self.layers) - 1)
        return max(layer.largest_sum(limit) for layer, limit in zip(self.layers, limits, strict=True))

    @property
    def inputs(self) -> int:
        """Inputs of one row."""
        return int(self.layers[0].weights.shape[1])

    @property
    def outputs(self) -> int:
        """Outputs of one row."""
        return int(self.layers[-1].weights.shape[0])

    @cached_property
    def dtype(self) -> type[np.float32] | type[np.float64]:
        """The narrowest type that is proven exact; inputs of this type are not copied."""
        return np.float32 if self.largest_sum < FLOAT32_LIMIT else np.float64

    @cached_property
    def _scaled(self) -> list[tuple[AnyArray, AnyArray]]:
        """Per layer (in, out) weights and (out,) biases over 2^shift: a power of two leaves sums exact."""
        return [
            (
                np.ascontiguousarray(_over(layer.weights, layer).T.astype(self.dtype)),
                _over(layer.bias, layer).astype(self.dtype),
            )
            for layer in self.layers
        ]

    def __call__(self, x: AnyArray) -> Float64Array:
        """Runs the network.

        Args:
            x: (n, inputs) whole numbers of magnitude up to `input_limit`, any type that holds them.

        Returns:
            (n, outputs) whole numbers.
        """
        out = np.empty((len(x), self.outputs))
        for start in range(0, len(x), _ROWS):
            out[start : start + _ROWS] = self._run(x[start : start + _ROWS].astype(self.dtype, copy=False))
        return out

    def _run(self, x: AnyArray) -> AnyArray:
        for i, (weights, bias) in enumerate(self._scaled):
            x = product(x, weights)
            x += bias
            np.floor(x, out=x)
            if i < len(self.layers) - 1:
                np.clip(x, 0, self.activation_limit, out=x)
        return x

    def to_tensors(self, prefix: str) -> dict[str, AnyArray]:
        """The network as named arrays for a weights file; `from_tensors` reads them."""
        tensors: dict[str, AnyArray] = {
            f"{prefix}.shifts": np.array([layer.shift for layer in self.layers], np.int64),
            f"{prefix}.input_limit": np.array([self.input_limit], np.int64),
        }
        for i, layer in enumerate(self.layers):
            tensors |= {f"{prefix}.{i}.weights": layer.weights, f"{prefix}.{i}.bias": layer.bias}
        return tensors

    @classmethod
    def from_tensors(
        cls, tensors: dict[str, AnyArray], prefix: str, activation_limit: int = ACTIVATION_LIMIT
    ) -> "ExactNetwork":
        """Reads what `to_tensors` made, of a network with such a limit.

        Raises:
            WeightsError: an array is missing or of another type, or the network is not provably exact.
        """
        shifts = named_tensor(tensors, f"{prefix}.shifts", np.int64, 1)
        limit = named_tensor(tensors, f"{prefix}.input_limit", np.int64, 1)
        if len(limit) != 1:
            raise WeightsError(f"{prefix}.input_limit is not one number")
        layers = tuple(
            ExactLayer(
                named_tensor(tensors, f"{prefix}.{i}.weights", np.int16, 2),
                named_tensor(tensors, f"{prefix}.{i}.bias", np.int64, 1),
                int(shift),
            )
            for i, shift in enumerate(shifts)
        )
        return cls(layers, int(limit[0]), activation_limit)

    @classmethod
    def from_floats(
        cls,
        layers: Sequence[tuple[AnyArray, AnyArray]],
        input_scale: float,
        output_scale: float,
        *,
        input_limit: int = INPUT_LIMIT,
        activation_limit: int = ACTIVATION_LIMIT,
        sum_limit: int = FLOAT64_LIMIT,
    ) -> "ExactNetwork":
        """Rounds a trained network of ReLU units clipped at ACTIVATION_RANGE (a clip that training need not know).

        Args:
            layers: (out, in) weights and (out,) biases of each layer, first to last.
            input_scale: what one integer step of an input was in training.
            output_scale: the integer steps that 1.0 of an output becomes.
            input_limit: largest magnitude of an integer input.
            activation_limit: largest integer activation; the smaller, the finer weights can be below a limit on sums.
            sum_limit: FLOAT32_LIMIT makes weights coarse enough for float32, which is twice as fast.

        Raises:
            WeightsError: the weights are too large.
        """
        scales = [1 / input_scale] + [activation_scale(activation_limit)] * (len(layers) - 1) + [float(output_scale)]
        limits = [input_limit] + [activation_limit] * (len(layers) - 1)
        return cls(
            tuple(
                rounded_layer(
                    np.asarray(weights, np.float64) * (scales[i + 1] / scales[i]),
                    bias * scales[i + 1],
                    limits[i],
                    sum_limit,
                )
                for i, (weights, bias) in enumerate(layers)
            ),
            input_limit,
            activation_limit,
        )


def activation_scale(limit: int) -> float:
    """The integer activation of a hidden unit whose trained activation is 1.0."""
    return (limit + 1) / ACTIVATION_RANGE


def product(x: AnyArray, weights: AnyArray) -> AnyArray:
    """(n, out) product of (n, in) and (in, out), in blocks that the matrix library takes for too small to share out.

    Its own threads wait for each other busily: of no use with matrices like these, and ruinous on a busy machine.
    """
    inputs, outputs = weights.shape
    block = min(_LONE_PRODUCTS // max(inputs * outputs, 1), _MOST_BLOCK)
    if block < _LEAST_BLOCK:
        return x @ weights
    whole = len(x) // block * block
    product = np.empty((len(x), outputs), x.dtype)
    np.matmul(x[:whole].reshape(-1, block, inputs), weights, out=product[:whole].reshape(-1, block, outputs))
    np.matmul(x[whole:], weights, out=product[whole:])
    return product


def check_layer(layer: ExactLayer) -> None:
    """Raises WeightsError where a layer contradicts itself."""
    sound = (
        layer.weights.dtype == np.int16
        and layer.bias.dtype == np.int64
        and layer.weights.ndim == 2
        and layer.bias.shape == layer.weights.shape[:1]
        and 0 <= layer.shift <= _SHIFT_LIMIT
    )
    if not sound:
        raise WeightsError("an exact network's layer contradicts itself")


def _over(values: AnyArray, layer: ExactLayer) -> Float64Array:
    return values.astype(np.float64) / (1 << layer.shift)


def named_tensor(tensors: dict[str, AnyArray], name: str, dtype: Any, dimensions: int) -> AnyArray:
    """The tensor of that name; WeightsError where there is none of that type and number of dimensions."""
    found = tensors.get(name)
    if found is None or found.dtype != dtype or found.ndim != dimensions:
        raise WeightsError(f"{name} is missing or of another type")
    return found


def rounded_layer(weights: Float64Array, bias: AnyArray, limit: int, sum_limit: int) -> ExactLayer:
    """The finest rounding of a layer that fits 16-bit weights and a limit on sums.

    Args:
        weights: (out, in) integer steps of an output for one of an input.
        bias: (out,) in integer steps of an output.
        limit: largest magnitude of an input.
        sum_limit: what no sum may reach.

    Raises:
        WeightsError: the weights are too large.
    """
    for shift in range(_SHIFT_LIMIT, -1, -1):
        scaled = np.rint(weights * (1 << shift))
        # Half a step more turns the floor into rounding.
        offset = np.rint(np.asarray(bias, np.float64) * (1 << shift) + (1 << shift) / 2)
        if np.abs(scaled).max(initial=0) > _WEIGHT_LIMIT or np.abs(offset).max(initial=0) >= sum_limit:
            continue
        layer = ExactLayer(scaled.astype(np.int16), offset.astype(np.int64), shift)
        if layer.largest_sum(limit) < sum_limit:
            return layer
    raise WeightsError("weights too large for an exact network")
