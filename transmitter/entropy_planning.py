"""Planning for the entropy codec: solves for the budget by coding for real, again and again, ever nearer to it.

```
importance ─► offsets (entropy_levels) ─┐
fineness ───────────────────────────────┴─► levels ─► runs ─► bodies ─► bytes on the wire   (entropy_trials)
   ▲                                                                        │
   └───────────────────────── compared with the budget ◄────────────────────┘
```
One number, the fineness, moves all patches' quantisers together: at the optimum of a relevance-weighted squared
error the steps of two patches keep the ratio that their weights ask for, whatever the budget. What is then left of
the budget goes into the price of a bit, which is the encoder's own affair and has no steps.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from PIL import Image

from shared.arrays import Float32Array, Float64Array, Int64Array, UInt8Array
from shared.codec.entropy.background import thumbnail
from shared.codec.entropy.codec import EntropyCodec
from shared.codec.entropy.context import QUALITIES
from shared.codec.entropy.levels import EXACT, HALF_OCTAVE
from shared.codec.entropy.lossy_model import DEFAULT_PRICE
from shared.errors import BudgetTooSmallError
from shared.packets import max_sketch_bytes
from shared.patches import PATCH_SIZE, PatchGrid, split
from transmitter.entropy_edges import Edges
from transmitter.entropy_levels import relative_offsets
from transmitter.entropy_trials import COARSEST, EXACT_BELOW, Setting, Source, Trial, Trials, guessed_bits
from transmitter.importance import patch_importance
from transmitter.planning import Plan, PlanRequest

_REACH: Final = 6  # offsets told apart; what lies beyond is of no importance
_OUTSIDE: Final = 16  # the offset of what lies outside a mask: its turn comes when all inside is exact
_EDGE_COST: Final = 2.75  # half octaves: patches at a mask's edge are sent in full or not at all
_OUTSIDE_MERIT: Final = (COARSEST - EXACT_BELOW + 1) / HALF_OCTAVE
_NOTHING: Final = 1e-6
COLOURS: Final = 3
_FINEST: Final = EXACT_BELOW - HALF_OCTAVE * _OUTSIDE - 1
_SMOOTHNESS: Final = 2.0
_ENOUGH: Final = 0.991
_AIM: Final = 0.996
_NEAR: Final = ((0.9, 1.06), (0.985, 1.0))
_FOR_CLOSING: Final = 4  # trials kept for the last percents
_TRIALS: Final = 12
_WORTH_CODING: Final = (_ENOUGH, 0.9995)  # measured bytes over the budget; measures are true to a few per mille
_PRICES: Final = (0.02, 0.35)
_PRICE_EXPONENT: Final = 0.17  # bytes fall as the price to this power, by measurement
_PRICE_EXPONENTS: Final = (0.03, 0.6)
_LAYER_SHARE: Final = 0.03
_PLAIN_LAYER_SHARE: Final = 0.008  # where every patch is sent, the layer shows only while they are on their way
_LAYERS: Final = ((124, True), (116, True), (124, False), (116, False), (108, False))


def plan_entropy(codec: EntropyCodec, image: UInt8Array, relevance: Float32Array, request: PlanRequest) -> Plan:
    """Finds what makes the most of a budget.

    Args:
        codec: the codec.
        image: (height, width, 3) RGB.
        relevance: (height, width), 0 to 1; 0 everywhere lets content alone decide.
        request: budget, packet length and what a container adds.

    Returns:
        A plan with `wire_bytes <= request.budget_bytes`.

    Raises:
        BudgetTooSmallError: not even the stream header fits.
    """
    share = _LAYER_SHARE if relevance.any() else _PLAIN_LAYER_SHARE
    source = prepare(codec, image, relevance, int(request.budget_bytes * share))
    found = _Search(Trials(codec, source, request), request.budget_bytes).run()
    if found is None or not found.bodies:
        found = _layer_alone(codec, image, relevance, request)
    return _plan(found, request)


def plan_exactly(codec: EntropyCodec, image: UInt8Array, request: PlanRequest) -> Plan:
    """Every patch exact, whatever it takes; `request.budget_bytes` is not looked at."""
    source = prepare(codec, image, np.zeros(image.shape[:2], np.float32), 0)
    return _plan(Trials(codec, source, request).run(Setting(_FINEST, DEFAULT_PRICE)), request)


def _plan(trial: Trial, request: PlanRequest) -> Plan:
    return Plan(trial.header, trial.levels, trial.bodies or (), request.packet_bytes, request.frame_bytes)


def _layer_alone(codec: EntropyCodec, image: UInt8Array, relevance: Float32Array, request: PlanRequest) -> Trial:
    """For budgets in which no patch fits: all of it for the background."""
    nothing = Setting(QUALITIES, DEFAULT_PRICE)
    bare = Trials(codec, prepare(codec, image, relevance, 0), request).run(nothing)
    left = request.budget_bytes - bare.wire_bytes
    if left < 0:
        least = f"{request.budget_bytes} bytes, where the headers alone take {bare.wire_bytes}"
        raise BudgetTooSmallError("budget", least)
    trial = Trials(codec, prepare(codec, image, relevance, left), request).run(nothing)
    return trial if trial.wire_bytes <= request.budget_bytes else bare


def prepare(codec: EntropyCodec, image: UInt8Array, relevance: Float32Array, layer_bytes: int) -> Source:
    """Everything about a picture that does not depend on the setting."""
    grid, patches = PatchGrid.of(image), split(image)
    layer = background_within(codec, image, layer_bytes)
    colours = codec.background(layer, grid)
    offsets, merits = offsets_of(relevance, grid)
    coefficients = codec.lossy.transform.analyse(patches)
    edges = _edges(patches, relevance, colours, grid) if _is_mask(relevance) else None
    return Source(patches, coefficients, offsets, merits, edges, grid, layer, codec.expected_means(colours))


def offsets_of(relevance: Float32Array, grid: PatchGrid) -> tuple[Int64Array, Float64Array]:
    """By how many half octaves the quantiser of each patch is coarser than the finest, and ideally would be.

    A mask has but an inside and an outside, which waits until the inside is exact; a patch at its edge is as fine as
    those within, or left out where too little of it lies inside. Of a soft map, every patch has what it deserves, in
    a map that is worth its bytes.
    """
    importance = patch_importance(relevance)
    if not importance.any():
        return np.zeros(grid.count, np.int64), np.zeros(grid.count)
    if _is_mask(relevance):
        ideal = np.log2(importance.max() / np.maximum(importance, _NOTHING))
        inside = importance > 0
        merits = np.where(ideal > 0, ideal + _EDGE_COST, 0)
        return np.where(inside, 0, _OUTSIDE), np.where(inside, merits, _OUTSIDE_MERIT)
    offsets = relative_offsets(importance, grid, reach=_REACH, smoothness=_SMOOTHNESS)
    return offsets, offsets.astype(np.float64)


def _is_mask(relevance: Float32Array) -> bool:
    return bool(((relevance == 0) | (relevance == relevance.max())).all() and relevance.any())


def _edges(patches: UInt8Array, relevance: Float32Array, colours: UInt8Array, grid: PatchGrid) -> Edges:
    inside = split(relevance[:, :, None] > 0).reshape(grid.count, -1)
    numbers = np.flatnonzero(inside.any(axis=1) & ~inside.all(axis=1))
    size = COLOURS * PATCH_SIZE**2  # spelt out: there may be no such patch
    shown = split(enlarged(colours, grid))[numbers].reshape(len(numbers), size)
    samples = patches[numbers].reshape(len(numbers), size)
    return Edges(numbers, samples.astype(np.float32), shown.astype(np.float32), inside[numbers].repeat(COLOURS, axis=1))


def enlarged(colours: UInt8Array, grid: PatchGrid) -> UInt8Array:
    """(height, width, 3) picture of (grid.count, 3) colours, one per patch, smoothly."""
    small = Image.fromarray(colours.reshape(grid.rows, grid.columns, COLOURS))
    size = (grid.columns * PATCH_SIZE, grid.rows * PATCH_SIZE)
    return np.asarray(small.resize(size, Image.Resampling.BICUBIC))[: grid.height, : grid.width]


def background_within(codec: EntropyCodec, image: UInt8Array, limit_bytes: int) -> bytes:
    """The finest background layer within a number of bytes; empty where even the coarsest takes more."""
    small = thumbnail(image)
    limit_bytes = min(limit_bytes, max_sketch_bytes(PatchGrid.of(image).count))
    best = b""
    for quality, halved in _LAYERS:
        layer = codec.encode_background(small, quality, halved=halved)
        if len(layer) > limit_bytes:
            break
        best = layer
    return best


@dataclass
class _Search:
    """Brackets the budget by whole steps of fineness, then closes the rest by the price of a bit.

    Trials are only measured, unless they come so near to the budget that they may be what is sent.
    """

    trials: Trials
    budget_bytes: int
    best: Trial | None = None
    left: int = _TRIALS
    guesses: dict[int, float] = field(default_factory=dict)
    tried: dict[Setting, Trial] = field(default_factory=dict)

    def run(self) -> Trial | None:
        """The fullest trial found; None if nothing fits."""
        # Mostly a trial anywhere near is closed by the price of bits; among exact patches it has little to say.
        for near_below, near_above in _NEAR:
            self._round(near_below, near_above)
            if self._enough():
                break
        self._code_the_fullest()
        return self.best

    def _round(self, near_below: float, near_above: float) -> None:
        fits, over = self._bracket(near_below, near_above)
        if over is not None and over.wire_bytes <= near_above * self.budget_bytes:
            self._close(over, _FOR_CLOSING)
        if fits is not None and over is not None and not self._enough():
            fits = self._leap(fits, over)
        if fits is not None and not self._enough():
            self._close(fits, _FOR_CLOSING)

    def _try(self, setting: Setting) -> Trial:
        if setting in self.tried:
            return self.tried[setting]
        self.left -= 1
        trial = self.tried[setting] = self.trials.measure(setting)
        low, high = (part * self.budget_bytes for part in _WORTH_CODING)
        return self._code(setting) if low <= trial.wire_bytes <= high or trial.bodies is not None else trial

    def _code(self, setting: Setting) -> Trial:
        trial = self.tried[setting] = self.trials.run(setting)
        if self._fits(trial) and (self.best is None or trial.wire_bytes > self.best.wire_bytes):
            self.best = trial
        return trial

    def _code_the_fullest(self) -> None:
        """Codes what was measured to be fuller than the best, if it turns out to fit."""
        measured = [trial for trial in self.tried.values() if trial.bodies is None and self._fits(trial)]
        for trial in sorted(measured, key=lambda trial: -trial.wire_bytes):
            if self.best is not None and self.best.wire_bytes >= trial.wire_bytes:
                return
            self._code(trial.setting)

    def _fits(self, trial: Trial) -> bool:
        return trial.wire_bytes <= self.budget_bytes

    def _enough(self) -> bool:
        return self.best is not None and self.best.wire_bytes >= _ENOUGH * self.budget_bytes

    def _bracket(self, near_below: float, near_above: float) -> tuple[Trial | None, Trial | None]:
        """The finest trial that fits and the coarsest that does not, as near to each other as is of use.

        Ends early near the budget, between these parts of it.
        """
        fits: Trial | None = None
        over: Trial | None = None
        low, high, stride = _FINEST, QUALITIES, 1
        fineness = self._guess(1.0)
        while low <= high and self.left > _FOR_CLOSING and not self._enough():
            trial = self._try(Setting(fineness, DEFAULT_PRICE))
            ratio = trial.wire_bytes / self.budget_bytes
            if self._fits(trial):
                fits, high = trial, fineness - 1
            else:
                over, low = trial, fineness + 1
            if near_below < ratio <= near_above:
                break
            if fits is not None and over is not None:
                guess = self._between(over, fits)
            else:
                guess = self._guess(trial.wire_bytes / max(self._guessed_bytes(fineness), 1))
                # Exact patches take what they take: guesses alone might never leave them.
                guess = max(guess, fineness + stride) if over else min(guess, fineness - stride)
                stride *= 2
            fineness = min(max(guess, low), high)
        return fits, over

    def _between(self, over: Trial, fits: Trial) -> int:
        """Where the budget lies between two trials, if the logarithm of the bytes falls evenly."""
        share = math.log(over.wire_bytes / self.budget_bytes) / math.log(over.wire_bytes / fits.wire_bytes)
        return math.ceil(over.setting.fineness + share * (fits.setting.fineness - over.setting.fineness))

    def _leap(self, fits: Trial, over: Trial) -> Trial:
        """Where one step of fineness makes so many patches exact that the budget bursts: some of them."""
        low, high = 0, _exact_patches(over) - _exact_patches(fits)
        if over.setting.fineness != fits.setting.fineness - 1 or high <= 0:
            return fits
        share = (self.budget_bytes - fits.wire_bytes) / (over.wire_bytes - fits.wire_bytes)
        while high - low > 1 and self.left > _FOR_CLOSING // 2 and not self._enough():
            more = min(max(low + round(share * (high - low)), low + 1), high - 1)
            trial = self._try(replace(fits.setting, more_exact=more))
            if self._fits(trial):
                fits, low = trial, more
            else:
                high = more
            share = 0.5
        return fits

    def _close(self, trial: Trial, tries: int) -> None:
        """From a trial near the budget: another price of bits, until it fits and enough of the budget is used."""
        exponent = _PRICE_EXPONENT
        for _ in range(tries):
            if self._enough():
                return
            ratio = _AIM * self.budget_bytes / trial.wire_bytes
            price = min(max(trial.setting.price * ratio ** (-1 / exponent), _PRICES[0]), _PRICES[1])
            if price == trial.setting.price or not _lossy_patches(trial):
                return
            # The last step to the budget is a small one, worth coding at once.
            self.left -= 1
            following = self._code(replace(trial.setting, price=price))
            grown = math.log(following.wire_bytes / trial.wire_bytes) / math.log(price / trial.setting.price)
            exponent = min(max(-grown, _PRICE_EXPONENTS[0]), _PRICE_EXPONENTS[1])
            trial = following

    def _guess(self, scale: float) -> int:
        """The fineness at which a guess of the bytes, times `scale`, meets the budget."""
        low, high = _FINEST, QUALITIES
        while low < high:
            middle = (low + high) // 2
            over = scale * self._guessed_bytes(middle) > self.budget_bytes
            low, high = (middle + 1, high) if over else (low, middle)
        return low

    def _guessed_bytes(self, fineness: int) -> float:
        if fineness not in self.guesses:
            self.guesses[fineness] = float(guessed_bits(self.trials.source, fineness).sum() / 8)
        return self.guesses[fineness]


def _lossy_patches(trial: Trial) -> int:
    return int(np.count_nonzero(trial.levels % EXACT))


def _exact_patches(trial: Trial) -> int:
    return int(np.count_nonzero(trial.levels == EXACT))
