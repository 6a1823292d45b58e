"""The bits that all lossy patches of a trial may take together, handed out as they are coded."""

from dataclasses import dataclass
from typing import Final

from shared.codec.entropy.pacing import Course, Pacer

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
