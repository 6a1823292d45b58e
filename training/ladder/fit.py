"""Closed-form pieces of the ladder's training: Lloyd-Max codebooks, bit allocation, one class's tables."""

from dataclasses import dataclass, field

import numpy as np

from shared.arrays import AnyArray, Float64Array
from shared.codec.klt import BASIS_SCALE, MEAN_SCALE, VALUE_SCALE

_MAX_BITS = 8
_LLOYD_ROUNDS = 12


@dataclass
class Scalar:
    """The distribution of one coefficient within a class, and its codebooks as they are asked for."""

    samples: Float64Array
    """(n,) ascending."""

    weights: Float64Array
    """(n,) in the order of `samples`."""

    books: dict[int, tuple[Float64Array, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        zero = np.zeros(1)
        self._mass = np.concatenate([zero, np.cumsum(self.weights)])
        self._moment = np.concatenate([zero, np.cumsum(self.weights * self.samples)])
        self._power = float((self.weights * self.samples**2).sum())

    def book(self, bits: int) -> tuple[Float64Array, float]:
        """Codebook of 2^bits ascending values, and its total weighted squared error."""
        if bits not in self.books:
            self.books[bits] = self._lloyd(1 << bits)
        return self.books[bits]

    def _lloyd(self, size: int) -> tuple[Float64Array, float]:
        if size == 1:
            return np.zeros(1), self._power  # a coefficient without bits decodes to the class's mean
        values = self._companded(size)
        for _ in range(_LLOYD_ROUNDS):
            values = self._centroids(values)[0]
        return values, self._centroids(values)[1]

    def _companded(self, size: int) -> Float64Array:
        """Starting values at equal steps of the integral of density^(1/3), the high-rate optimum."""
        low, high = self.samples[0], self.samples[-1]
        edges = np.linspace(low, high + 1e-6, 129)
        density = np.diff(np.interp(edges, self.samples, self._mass[1:])) + 1e-9 * self._mass[-1]
        walk = np.concatenate([[0.0], np.cumsum(np.cbrt(density))])
        values: Float64Array = np.interp((np.arange(size) + 0.5) / size * walk[-1], walk, edges)
        return values

    def _centroids(self, values: Float64Array) -> tuple[Float64Array, float]:
        cuts = np.searchsorted(self.samples, (values[1:] + values[:-1]) / 2)
        cuts = np.concatenate([[0], cuts, [len(self.samples)]])
        mass, moment = np.diff(self._mass[cuts]), np.diff(self._moment[cuts])
        centres = np.where(mass > 0, moment / np.maximum(mass, 1e-12), values)
        error = self._power - float((moment * 2 * values - mass * values**2).sum())
        return np.sort(centres), error


def allocate(scalars: list[Scalar], total_bits: int) -> list[int]:
    """Gives out bits one (or two, where one alone helps little) at a time to where the error falls most per bit."""
    bits = [0] * len(scalars)
    gains = [_gain(scalar, 0, total_bits) for scalar in scalars]
    left = total_bits
    while left:
        gains = [
            _gain(scalars[i], bits[i], left) if step > left else (rate, step) for i, (rate, step) in enumerate(gains)
        ]
        best = max(range(len(gains)), key=lambda i: gains[i][0])
        rate, step = gains[best]
        if rate <= 0:
            break
        bits[best] += step
        left -= step
        gains[best] = _gain(scalars[best], bits[best], left)
    return bits


def _gain(scalar: Scalar, bits: int, left: int) -> tuple[float, int]:
    """Best fall of the error per bit, and the step that reaches it."""
    now = scalar.book(bits)[1]
    steps = [step for step in (1, 2) if bits + step <= _MAX_BITS and step <= max(left, 1)]
    return max(((now - scalar.book(bits + step)[1]) / step, step) for step in steps) if steps else (0.0, 1)


@dataclass(frozen=True)
class ClassTables:
    """One class, in the integers of `shared.codec.klt`."""

    mean: AnyArray
    basis: AnyArray
    bits: AnyArray
    values: AnyArray


def fit_class(
    patches: AnyArray, weights: AnyArray, prior: Float64Array, *, total_bits: int, coefficients: int, samples: int
) -> ClassTables:
    """Fits mean, basis, bits and codebooks to the patches of one class.

    Args:
        patches: (n, 192) members.
        weights: (n,) their weights.
        prior: (192, 192) covariance to lean on where members are few.
        total_bits: bits of the level less the class index.
        coefficients: most coefficients a class may code.
        samples: most patches the codebooks are fitted to.
    """
    x, w = patches.astype(np.float64), weights.astype(np.float64) / weights.sum()
    mean = np.round(w @ x * MEAN_SCALE) / MEAN_SCALE
    x -= mean
    covariance = (x.T * w) @ x
    trust = len(x) / (len(x) + 150.0)
    covariance = trust * covariance + (1 - trust) * prior * (np.trace(covariance) / np.trace(prior))
    vectors = np.linalg.eigh(covariance)[1][:, ::-1][:, :coefficients]
    basis = np.round(vectors.T * BASIS_SCALE).astype(np.int16)
    projected = x[:samples] @ (basis.T / BASIS_SCALE)
    order = np.argsort(projected, axis=0)
    scalars = [Scalar(projected[order[:, i], i], w[:samples][order[:, i]]) for i in range(basis.shape[0])]
    bits = np.array(allocate(scalars, total_bits))
    rank = np.argsort(-bits, kind="stable")
    basis[bits == 0] = 0
    books = [np.round(scalars[i].book(bits[i])[0] * VALUE_SCALE) for i in rank]
    values = np.concatenate(books).clip(-32768, 32767).astype(np.int16)
    return ClassTables((mean * MEAN_SCALE).astype(np.int16), basis[rank], bits[rank].astype(np.uint8), values)
