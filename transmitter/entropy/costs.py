"""What is known of the bits that each patch of a picture takes: guessed, sampled, and seen in trials."""

from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

import numpy as np

from shared.arrays import BoolArray, Float64Array, Int64Array, UInt8Array
from shared.codec.entropy.codec import EntropyCodec, Scene
from shared.codec.entropy.levels import EXACT, sending_order
from shared.codec.entropy.lossy_model import DEFAULT_PRICE
from shared.codec.entropy.pacing import Course, place_groups
from transmitter.entropy.exact_bodies import ExactBodies
from transmitter.entropy.revisions import Served
from transmitter.entropy.samples import LEAST, in_company, stretches
from transmitter.entropy.settings import Setting, Source, edges_are_whole, guessed_bits, guessed_shares, levels_at

_FACTORS: Final = (0.1, 10.0)
_LEAST: Final = 1e-9
_NEARBY: Final = 6  # quantisers from which bits are known to a percent or two, where patches were measured
_STRANGERS: Final = 0.1  # of those of which a measure tells
_SHIFT: Final = 1.7  # by which power the shares of the groups change more than guesses say; measured on photos


class Seen(NamedTuple):
    """How the bits of lossy patches came."""

    fineness: int
    lossy: BoolArray
    """(grid.count,) which they are."""
    course: Course

    def tells_of(self, fineness: int, lossy: BoolArray) -> bool:
        """Whether it was nearby, and (grid.count,) other lossy patches are nearly all among them."""
        strangers = int(np.count_nonzero(lossy & ~self.lossy))
        return abs(self.fineness - fineness) <= _NEARBY and strangers <= _STRANGERS * int(np.count_nonzero(lossy))


@dataclass
class Costs:
    """What the patches of one picture take, as far as it is known."""

    codec: EntropyCodec
    source: Source
    served: Served | None = None
    """What is there already; None in a first plan."""
    exact: dict[bool, ExactBodies] = field(default_factory=lambda: {True: ExactBodies(), False: ExactBodies()})
    """By whether all pixels of exact patches are exact, or only those inside the mask."""
    factors: Float64Array | None = None
    """(grid.count,) of each patch's bits over what was guessed, as last seen, at the default price of a bit."""
    seen: Seen | None = None
    """What was looked at last."""
    _guesses: dict[int, Float64Array] = field(default_factory=dict)

    @property
    def exact_at_once(self) -> bool:
        """Whether all that matters becomes exact at one fineness; where some is there already, each when it pays."""
        return self.served is None and self.source.exact_at_once

    def scene_of(self, setting: Setting) -> Scene:
        """The levels that a setting gives, and what follows from them."""
        return self.scene(*levels_at(self.source, setting, self._closed(setting)))

    def scene(self, levels: UInt8Array, base: int, spacing: int) -> Scene:
        """What follows from (grid.count,) levels; `base`, `spacing`: see `levels_at`."""
        order = sending_order(levels, self.source.grid)
        return Scene(self.source.grid, levels, base, spacing, order, self.source.means)

    def guessed(self, fineness: int) -> Float64Array:
        """(grid.count,) of `guessed_bits`, once."""
        if fineness not in self._guesses:
            self._guesses[fineness] = guessed_bits(self.source, fineness)
        return self._guesses[fineness]

    def expected(self, fineness: int) -> Float64Array:
        """(grid.count,) bits that each patch should take if it is lossy."""
        guess = self.guessed(fineness)
        return guess.copy() if self.factors is None else self.factors * guess

    def expected_bits(self, setting: Setting) -> tuple[float, float]:
        """What all patches take, and what of that the lossy ones do, without coding or measuring anything."""
        levels, _, _ = levels_at(self.source, setting, self._closed(setting))
        exact = self.exact[self.whole(setting.fineness)].expected(self.guessed(setting.fineness))[levels == EXACT].sum()
        lossy = self.expected(setting.fineness)[are_lossy(levels)].sum()
        return float(exact + lossy), float(lossy)

    def learn(self, levels: UInt8Array, factors: Float64Array) -> None:
        """Notes what lossy patches took over guesses, for others by what those took on average."""
        lossy = are_lossy(levels)
        if lossy.any():
            before = np.full(len(levels), float(np.median(factors[lossy]))) if self.factors is None else self.factors
            self.factors = np.where(lossy, np.clip(factors, *_FACTORS), before)

    def see(self, fineness: int, levels: UInt8Array, course: Course) -> None:
        """Notes how the bits of lossy patches came."""
        if course.total:
            self.seen = Seen(fineness, are_lossy(levels), course)

    def course_at(self, fineness: int, levels: UInt8Array) -> Course | None:
        """How the bits of lossy patches should come, by how they came at a fineness nearby; None where nothing did."""
        lossy, seen = are_lossy(levels), self.seen
        if seen is None or not seen.tells_of(fineness, lossy):
            return None
        numbers = np.flatnonzero(lossy)
        now, before = (guessed_shares(self.source, each, numbers) for each in (fineness, seen.fineness))
        # The finer the quantisers, the more of all bits are those of fine groups.
        return seen.course.scaled(((now / np.maximum(before, _LEAST)) ** _SHIFT)[place_groups()])

    def sample(self, fineness: int) -> None:
        """Learns what lossy patches take under a fineness from a few of them, if there are many."""
        guess, scene = self.guessed(fineness), self.scene_of(Setting(fineness))
        lossy = scene.order[are_lossy(scene.levels[scene.order])]
        if len(lossy) < LEAST:
            return
        runs = list(stretches(lossy))
        numbers = np.concatenate([run.numbers for run in runs])
        measured = self.codec.measure_lossy(scene, runs, self.source.coefficients, DEFAULT_PRICE * self.source.prices)
        bits = in_company(measured.bits)
        factors = np.full(len(guess), bits.sum() / max(guess[numbers].sum(), 1))
        factors[numbers] = bits / np.maximum(guess[numbers], 1)
        self.factors = np.asarray(np.clip(factors, *_FACTORS))
        self.see(fineness, scene.levels, measured.course)

    def sample_exact(self, fineness: int) -> bool:
        """Learns what exact patches take from a few of them; False where nothing was to be learnt."""
        order, whole = exact_of(self.scene_of(Setting(fineness))), self.whole(fineness)
        return self.exact[whole].sample(order, self.guessed(fineness), partial(self.bits_if_exact, whole=whole))

    def bits_if_exact(self, numbers: Int64Array, *, whole: bool) -> Float64Array:
        """(n,) bits of exact patches, coded together; `whole`: with all of their pixels."""
        patches, free = self.source.for_exact(whole=whole)
        rows, columns = np.divmod(numbers, self.source.grid.columns)
        return self.codec.exact.code_bits(patches[numbers], rows, columns, None if free is None else free[numbers])

    def whole(self, fineness: int) -> bool:
        """Whether all pixels of exact patches are to be exact, not only those inside the mask."""
        return self.source.edges is None or edges_are_whole(fineness)

    def _closed(self, setting: Setting) -> BoolArray | None:
        return None if self.served is None else self.served.closed(self.source, setting, self.guessed(setting.fineness))


def are_lossy(levels: UInt8Array) -> BoolArray:
    """Which of (n,) levels are."""
    return np.asarray((levels > 0) & (levels != EXACT))


def exact_of(scene: Scene) -> Int64Array:
    """Numbers of the exact patches, in the order of sending."""
    return np.asarray(scene.order[scene.levels[scene.order] == EXACT])
