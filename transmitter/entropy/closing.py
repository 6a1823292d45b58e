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

_SPARED: Final = 1 / 3  # of what need not be used: so much is aimed below the budget, lest little bursts it
_LEAST_SPARED: Final = 4  # bytes: strings end with whole words
_SHRINKING: Final = 0.08  # of bodies' bytes
_GROWING: Final = 0.04  # likewise; where it is more, too many would no longer fit their packets
_NEAR: Final = 0.03  # natural logarithm of bytes, where few bits make the price powerful
_PRICE_REACH: Final = 0.4  # natural logarithm: farther from the default price, another fineness would show more
_LITTLE: Final = 0.012  # of a budget, as beside many exact patches: that is worth no other fineness
_SPARE: Final = 1.1  # over what is missing
_TRIES: Final = 3


class Goal(NamedTuple):
    """What a search is for."""

    budget_bytes: int
    """More than 0."""
    enough: float
    """Part of the budget that a plan should use."""

    @property
    def enough_bytes(self) -> float:
        """With so many the search ends."""
        return self.enough * self.budget_bytes

    @property
    def aim_bytes(self) -> float:
        """What is aimed at, so that little over it still fits."""
        spared = _SPARED * (1 - self.enough) * self.budget_bytes
        return self.budget_bytes - max(spared, _LEAST_SPARED)

    def in_reach(self, trial: Trial) -> bool:
        """Whether a trial at the default price of a bit comes to the budget by a price that is not far from that."""
        reach, missing = _PRICE_REACH * _exponent(trial), abs(self.aim_bytes - trial.wire_bytes)
        little = missing <= _LITTLE * self.budget_bytes
        return missing <= trial.lossy_bytes * math.expm1(reach if little else min(reach, _NEAR))

    def in_hand(self, trial: Trial) -> bool:
        """Whether the lossy patches, whose bytes alone follow a price, take more than a trial is off."""
        return abs(self.aim_bytes - trial.wire_bytes) < trial.lossy_bytes


@dataclass(frozen=True)
class Closing:
    """Brings a coded trial to the budget by the price of bits in some of its bodies.

    No packet knows of another, so that the others stay as they are: in a fraction of the time, and with no surprise.
    The time goes by patches and what there is to gain by bytes, so that bodies of few patches are chosen.
    """

    trials: Trials
    goal: Goal

    def towards(self, trial: Trial) -> Iterator[Trial]:
        """Ever nearer trials, until one uses enough of the budget, or the chosen bodies have no more to give."""
        bodies, suffice = self._chosen(trial)
        chosen = [body.number for body in bodies]
        # What all bodies were off their aim, these are off it again.
        owed = self._missing(trial) * sum(body.size for body in bodies) / max(trial.lossy_bytes, 1)
        for _ in range(_TRIES if suffice else min(len(chosen), 1)):
            if self._done(trial):
                return
            wanted = self._missing(trial) + owed
            following = self.trials.repriced(trial, chosen, wanted)
            # Strings end with whole words: what little was asked for in vain is asked for again, and more.
            owed = wanted - (following.wire_bytes - trial.wire_bytes)
            trial = following
            yield trial

    def _missing(self, trial: Trial) -> float:
        return self.goal.aim_bytes - trial.wire_bytes

    def _done(self, trial: Trial) -> bool:
        return self.goal.enough_bytes <= trial.wire_bytes <= self.goal.budget_bytes

    def _chosen(self, trial: Trial) -> tuple[list["_Elastic"], bool]:
        """Bodies that are coded anew in the least time and may give what is missing, or all; none of too many.

        And whether they may give it.
        """
        missing, patches = self._missing(trial), 0
        limit = min(_GROWING if missing > 0 else _SHRINKING, _PRICE_REACH * _exponent(trial))
        left = _SPARE * abs(missing)
        chosen: list[_Elastic] = []
        for body in sorted(_lossy_bodies(trial), key=lambda body: body.patches / body.size):
            chosen.append(body)
            left, patches = left - limit * body.size, patches + body.patches
            if patches > MAX_BODY_PATCHES:
                return [], False
            if left <= 0:
                break
        return sorted(chosen), left <= 0


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


def _exponent(trial: Trial) -> float:
    """By which power of a bit's price a trial's lossy patches get smaller."""
    course = trial.course
    return math.log(course.total / max(course.at(RAISED), 1)) / math.log(RAISED) if course.total else 0.0
