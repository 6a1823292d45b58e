"""The price of a bit while patches are being coded, so that all of them together take as many bits as they may.

```
what each part was measured to take ─► price ─► residuals of the next part ─► bits
                                         ▲                                     │
                                         └───── what is left for the rest ◄────┘
```
A decoder knows nothing of prices, so that they may change from one part of a step to the next. Measures are true to a
percent or so, and how bits follow the price differs from photo to photo: what is off in one part is made good in those
that follow. The finest coefficients, which come last, give way most easily.
"""

import math
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final

import numpy as np

from shared.arrays import Float64Array, Int64Array
from shared.codec.entropy.schedule import Step, steps

RAISED: Final = 1.25
"""By how much higher a price is looked at, to see how bits follow it."""

_LARGEST_EXPONENT: Final = 2.0
_BELIEF: Final = 0.5  # how much the measure counts beside what was seen so far, as a part of all bits
_ROUNDS: Final = 4
_LEAST: Final = 1e-9
_LARGEST_LOG: Final = 4.0
_REACH: Final = 2.0  # how far the price strays: what little is left at the end is not worth more


@cache
def place_groups() -> Int64Array:
    """(places,) the group of each part of each step, in the order of coding."""
    return np.array([step.group for step in steps() for _ in step.parts], np.int64)


@cache
def _places() -> dict[tuple[int, int, int], int]:
    parts = [(step.group, step.number, part.start) for step in steps() for part in step.parts]
    return {part: number for number, part in enumerate(parts)}


def place_of(step: Step, part: slice) -> int:
    """The place of a part of a step in the order of coding."""
    return _places()[step.group, step.number, part.start]


@dataclass(frozen=True)
class Course:
    """How the bits of some patches come: of each part of each step, in the order of coding."""

    bits: Float64Array
    """(places,)."""
    raised: Float64Array
    """(places,) at a price RAISED times as high, about."""

    def __add__(self, other: "Course") -> "Course":
        return Course(self.bits + other.bits, self.raised + other.raised)

    @property
    def total(self) -> float:
        """All bits."""
        return float(self.bits.sum())

    @cached_property
    def exponents(self) -> Float64Array:
        """(places,) by which power of the price each part gets smaller."""
        shares = np.maximum(self.raised, _LEAST) / np.maximum(self.bits, _LEAST)
        return np.asarray(np.clip(-np.log(shares) / math.log(RAISED), 0, _LARGEST_EXPONENT))

    def at(self, ratio: float) -> float:
        """All bits at `ratio` times the price."""
        return float((self.bits * ratio**-self.exponents).sum())

    def ratio_for(self, bits: float, begun: float = 1.0, place: int = 0) -> float:
        """By what to multiply the price, so that all parts from a place on take so many bits; by Newton's method.

        Args:
            bits: more than 0, or the ratio is that of very few.
            begun: near the ratio.
            place: the first that counts.
        """
        taken, exponents, found = self.bits[place:], self.exponents[place:], math.log(begun)
        for _ in range(_ROUNDS):
            parts = taken * np.exp(-exponents * found)
            total, slope = float(parts.sum()), float((parts * exponents).sum())
            if slope <= _LEAST * total:
                break
            found += math.log(total / max(bits, _LEAST * total)) * total / slope
            found = min(max(found, -_LARGEST_LOG), _LARGEST_LOG)
        return math.exp(found)

    def scaled(self, factor: float | Float64Array) -> "Course":
        """Of patches that take `factor` times as much, in all places or (places,) in each."""
        return Course(factor * self.bits, factor * self.raised)


NO_COURSE: Final = Course(np.zeros(len(place_groups())), np.zeros(len(place_groups())))
"""Of no patches."""


class Pacer:
    """Says from part to part by how much the price is multiplied.

    Args:
        course: what all parts would take at the price itself, nearly.
        limit_bits: what they should take.
        bounds: the least and the greatest multiple of the price.
    """

    def __init__(self, course: Course, limit_bits: float, bounds: tuple[float, float]) -> None:
        self._course, self._limit_bits, self._belief = course, limit_bits, _BELIEF * course.total
        self._ratio = min(max(course.ratio_for(limit_bits), bounds[0]), bounds[1])
        self._low, self._high = max(bounds[0], self._ratio / _REACH), min(bounds[1], self._ratio * _REACH)
        self._expected = self._weighted = 0.0

    def __call__(self, place: int, spent_bits: float) -> float:
        """The multiple at a place, where the parts before took so many bits."""
        factor = (spent_bits + self._belief) / max(self._expected + self._belief, _LEAST)
        left_bits = (self._limit_bits - spent_bits) / max(factor, _LEAST)
        self._ratio = min(max(self._course.ratio_for(left_bits, self._ratio, place), self._low), self._high)
        now = float(self._course.bits[place] * self._ratio ** -self._course.exponents[place])
        self._expected += now
        self._weighted += now * math.log(self._ratio)
        return self._ratio

    @property
    def mean(self) -> float:
        """The multiple by which most was coded."""
        return math.exp(self._weighted / max(self._expected, _LEAST))
