"""The last percents of a budget, where a coded trial missed it: the price of a bit, for as few bodies as do."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from shared.codec.entropy.codec import MAX_BODY_PATCHES
from shared.codec.entropy.levels import EXACT
from shared.codec.entropy.pacing import RAISED
from transmitter.entropy.trial import Trial
from transmitter.entropy.trials import Trials

ENOUGH: Final = 0.991
"""Part of the budget that a plan should use."""

_AIM: Final = 0.997
_LEAST_SPARED: Final = 4  # bytes: strings end with whole words
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
        chosen, owed = [body.number for body in self._chosen(trial)], 0.0
        for _ in range(_TRIES if chosen else 0):
            if self._done(trial):
                return
            wanted = self._missing(trial) + owed
            following = self.trials.repriced(trial, chosen, wanted)
            # Strings end with whole words: what little was asked for in vain is asked for again, and more.
            owed = wanted - (following.wire_bytes - trial.wire_bytes)
            trial = following
            yield trial

    def _missing(self, trial: Trial) -> float:
        return aim_bytes(self.budget_bytes) - trial.wire_bytes

    def _done(self, trial: Trial) -> bool:
        return ENOUGH * self.budget_bytes <= trial.wire_bytes <= self.budget_bytes

    def _chosen(self, trial: Trial) -> tuple["_Elastic", ...]:
        """Bodies that are coded anew in the least time and may give what is missing, or all; none of too many."""
        missing, patches = self._missing(trial), 0
        limit = min(_GROWING if missing > 0 else _SHRINKING, _PRICE_REACH * _exponent(trial))
        left = _SPARE * abs(missing)
        chosen: list[_Elastic] = []
        for body in sorted(_lossy_bodies(trial), key=lambda body: body.patches / body.size):
            chosen.append(body)
            left, patches = left - limit * body.size, patches + body.patches
            if patches > MAX_BODY_PATCHES:
                return ()
            if left <= 0:
                return tuple(sorted(chosen))
        return tuple(sorted(chosen))


class _Elastic(NamedTuple):
    """A body whose bytes follow the price of a bit."""

    number: int
    """Of the trial's bodies."""
    size: int
    """In bytes."""
    patches: int


def _lossy_bodies(trial: Trial) -> list[_Elastic]:
    first_lossy = int(np.count_nonzero(trial.levels == EXACT))
    return [
        _Elastic(number, len(body.content), body.patches)
        for number, body in enumerate(trial.bodies or ())
        if body.position >= first_lossy
    ]


def aim_bytes(budget_bytes: int) -> float:
    """What is aimed at, so that little over it still fits."""
    return min(_AIM * budget_bytes, budget_bytes - _LEAST_SPARED)


def in_reach(trial: Trial, budget_bytes: int) -> bool:
    """Whether a trial at the default price of a bit comes to the budget by a price that is not far from that."""
    reach = min(_PRICE_REACH * _exponent(trial), _NEAR)
    return abs(aim_bytes(budget_bytes) - trial.wire_bytes) <= trial.lossy_bytes * math.expm1(reach)


def in_hand(trial: Trial, budget_bytes: int) -> bool:
    """Whether the lossy patches, whose bytes alone follow a price, take more than a trial is off."""
    return abs(aim_bytes(budget_bytes) - trial.wire_bytes) < trial.lossy_bytes


def _exponent(trial: Trial) -> float:
    """By which power of a bit's price a trial's lossy patches get smaller."""
    course = trial.course
    return math.log(course.total / max(course.at(RAISED), 1)) / math.log(RAISED) if course.total else 0.0
