"""The last percents of a budget: the price of a bit, for all patches at first, then for as few of them as do."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from shared.codec.entropy.codec import MAX_BODY_PATCHES
from shared.codec.entropy.levels import EXACT
from transmitter.entropy.settings import price_exponent
from transmitter.entropy.trials import Trial, Trials

ENOUGH: Final = 0.991
"""Part of the budget that a plan should use."""

AIM: Final = 0.996
"""Part of the budget that is aimed at."""

_PRICES: Final = (0.02, 0.35)
_EXPONENTS: Final = (0.03, 0.6)
_SHRINKING: Final = 0.08  # of bodies' bytes
_GROWING: Final = 0.04  # likewise; where it is more, too many would no longer fit their packets
_NEAR: Final = 0.08  # natural logarithm of bytes, where few bits make the price powerful
_PRICE_REACH: Final = 0.4  # natural logarithm: farther from the default price, another fineness would show more
_SPARE: Final = 1.1  # over what is missing
_TRIES: Final = 3


@dataclass(frozen=True)
class Closing:
    """Brings a coded trial to the budget by the price of bits in some of its bodies.

    No packet knows of another, so that the others stay as they are: in a fraction of the time, and with no surprise.
    The time goes by patches and what there is to gain by bytes, so that bodies of few patches are chosen.
    """

    trials: Trials
    budget_bytes: int

    def towards(self, trial: Trial) -> Iterator[Trial]:
        """Ever nearer trials, until one uses enough of the budget, or the chosen bodies have no more to give."""
        chosen = self._chosen(trial)
        size, price = sum(body.size for body in chosen), trial.setting.price
        exponent = sum(body.size * body.exponent for body in chosen) / max(size, 1)
        for _ in range(_TRIES):
            missing = self._missing(trial)
            if not chosen or self._done(trial) or missing <= -size:
                return
            following_price = bounded_price(price * (1 + missing / size) ** (-1 / exponent))
            if following_price == price:
                return
            following = self.trials.repriced(trial, [body.number for body in chosen], following_price)
            yield following
            grown = following.wire_bytes - trial.wire_bytes
            exponent = seen_exponent(1 + grown / size, following_price / price)
            trial, size, price = following, size + grown, following_price

    def _missing(self, trial: Trial) -> float:
        return AIM * self.budget_bytes - trial.wire_bytes

    def _done(self, trial: Trial) -> bool:
        return ENOUGH * self.budget_bytes <= trial.wire_bytes <= self.budget_bytes

    def _chosen(self, trial: Trial) -> tuple["_Elastic", ...]:
        """The bodies that are coded anew in the least time and may give what is missing; none where all may not."""
        missing, patches = self._missing(trial), 0
        limit = _GROWING if missing > 0 else _SHRINKING
        left = _SPARE * abs(missing)
        chosen: list[_Elastic] = []
        for body in sorted(_lossy_bodies(trial), key=lambda body: body.patches / body.reach(limit)):
            chosen.append(body)
            left, patches = left - body.reach(limit), patches + body.patches
            if patches > MAX_BODY_PATCHES:
                return ()
            if left <= 0:
                return tuple(sorted(chosen))
        return ()


class _Elastic(NamedTuple):
    """A body whose bytes follow the price of a bit."""

    number: int
    """Of the trial's bodies."""
    size: int
    """In bytes."""
    patches: int

    @property
    def exponent(self) -> float:
        """By which power of the price it gets smaller."""
        return price_exponent(8 * self.size / self.patches)

    def reach(self, limit: float) -> float:
        """Bytes that it may give or take within a part of it, by a price that makes sense."""
        return self.size * min(limit, _PRICE_REACH * self.exponent)


def _lossy_bodies(trial: Trial) -> list[_Elastic]:
    first_lossy = int(np.count_nonzero(trial.levels == EXACT))
    return [
        _Elastic(number, len(body.content), body.patches)
        for number, body in enumerate(trial.bodies or ())
        if body.position >= first_lossy
    ]


def bounded_price(price: float) -> float:
    """The nearest price of a bit that makes sense."""
    return min(max(price, _PRICES[0]), _PRICES[1])


def in_reach(trial: Trial, budget_bytes: int) -> bool:
    """Whether a trial at the default price of a bit comes to the budget by a price that is not far from that."""
    reach = min(_PRICE_REACH * patches_exponent(trial), _NEAR)
    return abs(AIM * budget_bytes - trial.wire_bytes) <= trial.lossy_bytes * math.expm1(reach)


def in_hand(trial: Trial, budget_bytes: int) -> bool:
    """Whether the lossy patches, whose bytes alone follow a price, take more than a trial is off."""
    return abs(AIM * budget_bytes - trial.wire_bytes) < trial.lossy_bytes


def patches_exponent(trial: Trial) -> float:
    """By which power of a bit's price a trial's lossy patches should get smaller."""
    return price_exponent(8 * trial.lossy_bytes / max(int(np.count_nonzero(trial.levels % EXACT)), 1))


def seen_exponent(bytes_ratio: float, price_ratio: float) -> float:
    """By which power bytes got smaller, as far as that is to be believed."""
    return min(max(-math.log(bytes_ratio) / math.log(price_ratio), _EXPONENTS[0]), _EXPONENTS[1])
