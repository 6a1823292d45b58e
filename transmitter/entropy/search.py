"""The search for the setting that uses a budget up."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from shared.codec.entropy.context import QUALITIES
from shared.codec.entropy.levels import EXACT
from transmitter.entropy.closing import Closing, Goal
from transmitter.entropy.settings import ALL_EXACT, EXACT_BELOW, Setting
from transmitter.entropy.trial import Trial
from transmitter.entropy.trials import Trials

_JUST: Final = 0.985
_FOR_CLOSING: Final = 4  # trials kept for the last percents
_TRIALS: Final = 12
_STEP_BACK: Final = 3  # quantisers
_LOOKS: Final = 4  # at exact patches: some of them, all of them, and both where their edges are to be exact too
_LITTLE: Final = 0.2  # of a budget: what a sample is off by is lost in it
_RELUCTANCE: Final = 8.0  # the greatest that is looked at
_HALVINGS: Final = 6
_HOPE: Final = 1.1  # over the budget: a sample is not that sure
_NEARLY_EXACT: Final = 44  # under quantisers from here on, all inside a mask may take fewer bytes if it is exact


@dataclass
class _Bracket:
    """What is known of where the budget lies."""

    fits: Trial | None = None
    """The finest trial that fits."""
    over: Trial | None = None
    """The coarsest that does not."""
    low: int = ALL_EXACT
    """The finest quantiser that may still fit."""
    high: int = QUALITIES
    """The coarsest that may still not."""
    stride: int = 1


@dataclass
class Search:
    """Brackets the budget by whole steps of fineness, then closes the rest by the price of a bit.

    Trials are only measured, or foretold from a measure nearby, until one comes so near to the budget that it may be
    what is sent: it is coded, and while that goes on the price makes good what the measure was off by.
    """

    trials: Trials
    goal: Goal
    best: Trial | None = None
    left: int = _TRIALS
    guesses: dict[int, float] = field(default_factory=dict)
    tried: dict[Setting, Trial] = field(default_factory=dict)
    closed: set[Setting] = field(default_factory=set)

    def run(self) -> Trial | None:
        """The fullest trial found; None if nothing fits."""
        # Mostly a trial anywhere near is closed by the price of bits; among exact patches it has little to say.
        for near in (self._in_reach, self._just_fits):
            self._round(near)
            if self._enough():
                break
        self._code_the_fullest()
        self._step_back()
        return self.best

    def _in_reach(self, trial: Trial) -> bool:
        return self.goal.in_reach(trial)

    def _just_fits(self, trial: Trial) -> bool:
        return _JUST * self.goal.budget_bytes < trial.wire_bytes <= self.goal.budget_bytes

    def _round(self, near: Callable[[Trial], bool]) -> None:
        bracket = self._bracket(near)
        fits, over = bracket.fits, bracket.over
        if over is not None and near(over):
            self._close(over)
        if fits is not None and over is not None and not self._enough():
            fits = self._leap(self._held_back(fits, over), over)
        if fits is not None and not self._enough():
            self._close(fits)

    def _try(self, setting: Setting) -> Trial:
        if setting in self.tried:
            return self.tried[setting]
        self.left -= 1
        trial = self.tried[setting] = self.trials.foretell(setting) or self.trials.measure(setting)
        self.guesses.clear()
        if trial.bodies is not None:
            self._keep(trial)
        return trial

    def _code(self, setting: Setting) -> Trial:
        known = self.tried.get(setting)
        trial = self.trials.aimed(known, self.goal.aim_bytes) if known else self.trials.run(setting)
        self.tried[setting] = trial
        self._keep(trial)
        return trial

    def _keep(self, trial: Trial) -> None:
        if self._fits(trial) and (self.best is None or trial.wire_bytes > self.best.wire_bytes):
            self.best = trial

    def _code_the_fullest(self) -> None:
        """Codes what was measured to be fuller than the best, if it turns out to fit."""
        measured = [trial for trial in self.tried.values() if trial.bodies is None and self._fits(trial)]
        for trial in sorted(measured, key=lambda trial: -trial.wire_bytes):
            if self.best is not None and self.best.wire_bytes >= trial.wire_bytes:
                return
            self._code(trial.setting)

    def _step_back(self) -> None:
        """Ever coarser, where what was measured to fit did not."""
        fineness = max(setting.fineness for setting in self.tried)
        while self.best is None and fineness < QUALITIES:
            fineness = min(fineness + _STEP_BACK, QUALITIES)
            self._code(Setting(fineness))

    def _fits(self, trial: Trial) -> bool:
        return trial.wire_bytes <= self.goal.budget_bytes

    def _enough(self) -> bool:
        return self.best is not None and self.best.wire_bytes >= self.goal.enough_bytes

    def _bracket(self, near: Callable[[Trial], bool]) -> _Bracket:
        """As near to the budget as is of use; ends early near it."""
        bracket = _Bracket()
        fineness = self._begin(bracket)
        while bracket.low <= bracket.high and self.left > _FOR_CLOSING and not self._enough():
            trial = self._noted(bracket, fineness)
            if near(trial):
                break
            fineness = min(max(self._next(bracket, trial), bracket.low), bracket.high)
        return bracket

    def _begin(self, bracket: _Bracket) -> int:
        """The fineness to begin with; near exactness under a mask, whether all inside may be exact is looked at."""
        fineness = self._first_guess()
        if EXACT_BELOW <= fineness < _NEARLY_EXACT and self._hopes_for_exact():
            self._noted(bracket, EXACT_BELOW - 1)
        return min(max(fineness, bracket.low), bracket.high)

    def _hopes_for_exact(self) -> bool:
        if not self.trials.costs.exact_at_once or self.trials.source.edges is None:
            return False
        self.trials.costs.sample_exact(EXACT_BELOW - 1)
        return self.trials.expected_bytes(Setting(EXACT_BELOW - 1)) <= _HOPE * self.goal.budget_bytes

    def _noted(self, bracket: _Bracket, fineness: int) -> Trial:
        trial = self._try(Setting(fineness))
        if self._fits(trial):
            bracket.fits, bracket.high = trial, fineness - 1
        else:
            bracket.over, bracket.low = trial, fineness + 1
        return trial

    def _next(self, bracket: _Bracket, trial: Trial) -> int:
        """Where to look after a trial."""
        fineness, over, fits = trial.setting.fineness, bracket.over, bracket.fits
        if over is not None and fits is not None and not self._beyond_exact(over):
            return self._between(over, fits)
        guess = self._guess(trial.wire_bytes / max(self._guessed_bytes(fineness), 1))
        if over is not None and fits is not None:
            return guess
        stride, bracket.stride = bracket.stride, 2 * bracket.stride
        # Exact patches take what they take: guesses alone might never leave them.
        return max(guess, fineness + stride) if over else min(guess, fineness - stride)

    def _first_guess(self) -> int:
        """The fineness to begin with."""
        fineness = self._guess(1.0)
        if self.trials.costs.factors is not None:
            return fineness
        for _ in range(_LOOKS):
            if not self.trials.look_at_exact(fineness):
                break
            fineness = self._guess_anew()
        if self.trials.costs.expected_bits(Setting(fineness))[1] < 8 * _LITTLE * self.goal.budget_bytes:
            self.trials.costs.sample(fineness)
            fineness = self._guess_anew()
        return fineness

    def _guess_anew(self) -> int:
        self.guesses.clear()
        return self._guess(1.0)

    def _between(self, over: Trial, fits: Trial) -> int:
        """Where the budget lies between two trials, if the logarithm of the bytes falls evenly."""
        share = math.log(over.wire_bytes / self.goal.budget_bytes) / math.log(over.wire_bytes / fits.wire_bytes)
        return math.ceil(over.setting.fineness + share * (fits.setting.fineness - over.setting.fineness))

    def _beyond_exact(self, over: Trial) -> bool:
        """Whether all that matters became exact at once and there is more: bytes fall anything but evenly there."""
        return self.trials.costs.exact_at_once and over.setting.fineness < EXACT_BELOW - 1

    def _held_back(self, fits: Trial, over: Trial) -> Trial:
        """Where one step of fineness makes so many patches worth sending again that the budget bursts: some of them."""
        again = np.count_nonzero(over.levels) > np.count_nonzero(fits.levels)
        if self.trials.costs.served is None or over.setting.fineness != fits.setting.fineness - 1 or not again:
            return fits
        scale = fits.wire_bytes / max(self.trials.expected_bytes(fits.setting), 1)
        low, high = 1.0, _RELUCTANCE
        for _ in range(_HALVINGS):
            middle = math.sqrt(low * high)
            bytes_ = scale * self.trials.expected_bytes(replace(over.setting, reluctance=middle))
            low, high = (middle, high) if bytes_ > self.goal.aim_bytes else (low, middle)
        trial = self._try(replace(over.setting, reluctance=high))
        return trial if self._fits(trial) and trial.wire_bytes > fits.wire_bytes else fits

    def _leap(self, fits: Trial, over: Trial) -> Trial:
        """Where one step of fineness makes so many patches exact that the budget bursts: some of them."""
        low, high = 0, _exact_patches(over) - _exact_patches(fits)
        if over.setting.fineness != fits.setting.fineness - 1 or high <= 0:
            return fits
        while high - low > 1 and self.left > _FOR_CLOSING // 2 and fits.wire_bytes < self.goal.enough_bytes:
            share = (self.goal.budget_bytes - fits.wire_bytes) / (over.wire_bytes - fits.wire_bytes)
            more = min(max(low + round(share * (high - low)), low + 1), high - 1)
            trial = self._try(replace(fits.setting, more_exact=more))
            if self._in_reach(trial):
                return trial
            if self._fits(trial):
                fits, low = trial, more
            else:
                over, high = trial, more
        return fits

    def _close(self, trial: Trial) -> None:
        """Codes a trial near the budget, at prices of bits that bring it there; then again as few bodies as do."""
        if trial.setting in self.closed or not self.goal.in_hand(trial):
            return
        self.closed.add(trial.setting)
        if trial.bodies is None:
            self.left -= 1
            trial = self._code(trial.setting)
        for repriced in Closing(self.trials, self.goal).towards(trial):
            self._keep(repriced)

    def _guess(self, scale: float) -> int:
        """The fineness at which a guess of the bytes, times `scale`, meets the budget."""
        if not self.trials.costs.exact_at_once:
            return self._guess_within(ALL_EXACT, QUALITIES, scale)
        # Exact patches may take fewer bytes than nearly exact ones: bytes fall evenly on either side only.
        if scale * self._guessed_bytes(EXACT_BELOW - 1) <= self.goal.budget_bytes:
            return self._guess_within(ALL_EXACT, EXACT_BELOW - 1, scale)
        return self._guess_within(EXACT_BELOW, QUALITIES, scale)

    def _guess_within(self, low: int, high: int, scale: float) -> int:
        while low < high:
            middle = (low + high) // 2
            over = scale * self._guessed_bytes(middle) > self.goal.budget_bytes
            low, high = (middle + 1, high) if over else (low, middle)
        return low

    def _guessed_bytes(self, fineness: int) -> float:
        if fineness not in self.guesses:
            self.guesses[fineness] = self.trials.expected_bytes(Setting(fineness))
        return self.guesses[fineness]


def _exact_patches(trial: Trial) -> int:
    return int(np.count_nonzero(trial.levels == EXACT))
