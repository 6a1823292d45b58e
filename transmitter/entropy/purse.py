"""The bits that all lossy patches of a trial may take together, handed out as they are coded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from shared.arrays import Float64Array
from shared.codec.entropy.codec import Run, Scene
from shared.codec.entropy.pacing import Course, Pacer
from transmitter.entropy.trial import Coding, Taken

PRICES: Final = (0.02, 0.35)
"""Prices of a bit that make sense."""


@dataclass
class Purse:
    """What is left to be spent.

    Patches are mostly coded at once, of large pictures not.
    """

    course: Course
    """How the bits of those that are still to be coded come at the price, as measured."""
    price: float
    """Of a bit."""
    left_bits: float
    """May be less than nothing."""
    mean: float = 1.0
    """By how much the price was multiplied where most was coded."""

    def pacer(self, bits: float, bits_after: float) -> Pacer:
        """Paces some patches; `bits`: what they are expected to take, more than 0, `bits_after`: those after them."""
        low, high = PRICES
        share = bits / (bits + bits_after)
        course, self.course = self.course.scaled(share), self.course.scaled(1 - share)
        return Pacer(course, self.left_bits * share, (low / self.price, high / self.price))

    def spend(self, pacer: Pacer, bits: float) -> None:
        """Notes what patches have taken."""
        self.mean = pacer.mean
        self.left_bits -= bits


@dataclass
class Way:
    """How the lossy patches of a trial are coded."""

    code: Coding
    price: float
    purse: Purse | None = None
    """None: they take what they take."""

    def taken(self, scene: Scene, batch: list[Run], waiting: list[Run], bits: Float64Array) -> Taken:
        """Codes some runs before others; `bits`: (grid.count,) expected, then those that they took."""
        purse = self.purse
        pacer = purse.pacer(bits_of(batch, bits), bits_of(waiting, bits)) if purse else None
        taken = self.code(scene, batch, self.price, pacer)
        bits[np.concatenate([run.numbers for run in batch])] = taken.bits
        if purse and pacer:
            purse.spend(pacer, float(taken.bits.sum()))
        return taken

    def go_on(self) -> None:
        """From here on all is coded at the price by which most was coded so far."""
        self.price, self.purse = self.price * (self.purse.mean if self.purse else 1), None


def bits_of(runs: Sequence[Run], bits: Float64Array) -> float:
    """What the patches of some runs take, of (grid.count,) bits of all."""
    return float(sum(bits[run.numbers].sum() for run in runs))
