"""What one setting of the entropy codec takes: levels, runs, bodies, and every byte on the wire."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, NamedTuple

import numpy as np

from shared.arrays import BoolArray, Float64Array, Int64Array, UInt8Array
from shared.codec.entropy.codec import (
    COUNT_BYTES,
    ENTROPY_CODEC,
    MAX_BODY_PATCHES,
    EntropyCodec,
    Run,
    Scene,
    parts_needed,
)
from shared.codec.entropy.levels import EXACT, sending_order
from shared.codec.entropy.lossy_model import DEFAULT_PRICE
from shared.codec.entropy.pacing import NO_COURSE, Course, Pacer, place_groups
from shared.entropy_level_map import encode as encode_level_map
from shared.packets import PACKET_HEADER_BYTES, SECTION_HEADER_BYTES, StreamHeader
from transmitter.entropy.exact_bodies import ExactBodies, Measure, halves
from transmitter.entropy.purse import Purse, Way, bits_of
from transmitter.entropy.revisions import Served
from transmitter.entropy.samples import LEAST, in_company, stretches
from transmitter.entropy.settings import (
    Setting,
    Source,
    at_price,
    edges_are_whole,
    guessed_bits,
    guessed_shares,
    levels_at,
)
from transmitter.entropy.trial import STRING_BITS, Aim, Coding, Piece, Taken, Trial, bodies_of
from transmitter.planning import PlanRequest, wire_bytes

_NEVER: Final = 1 << 40  # bytes
_FACTORS: Final = (0.1, 10.0)
_LEAST: Final = 1e-9
_NEARBY: Final = 6  # quantisers from which bits are known to a percent or two, where patches were measured
_STRANGERS: Final = 0.1  # of those of which a measure tells
_SHIFT: Final = 1.7  # by which power the shares of the groups change more than guesses say; measured on photos
_BODY_SHARE: Final = 0.94  # how full a body is aimed to be: what its patches take varies with their company
_BODY_OVERHEAD_BITS: Final = 8 * (COUNT_BYTES + 6)
_AROUND_BODY_BYTES: Final = 18  # packet header and what a string takes beyond its symbols
_HEADER_BYTES: Final = 60  # of a stream header without the background layer


class _Seen(NamedTuple):
    """How the bits of lossy patches came."""

    fineness: int
    lossy: BoolArray
    """(grid.count,) which they are."""
    course: Course

    def tells_of(self, lossy: BoolArray) -> bool:
        """Whether nearly all of (grid.count,) other lossy patches are among them."""
        return np.count_nonzero(lossy & ~self.lossy) <= _STRANGERS * np.count_nonzero(lossy)


@dataclass
class Trials:
    """Tries settings on one picture, and keeps what it has learnt of each patch's cost."""

    codec: EntropyCodec
    source: Source
    request: PlanRequest
    served: Served | None = None
    """What is there already; None in a first plan."""
    exact: dict[bool, ExactBodies] = field(default_factory=lambda: {True: ExactBodies(), False: ExactBodies()})
    """By whether all pixels of exact patches are exact, or only those inside the mask."""
    _guesses: dict[int, Float64Array] = field(default_factory=dict)
    factors: Float64Array | None = None
    """(grid.count,) of each patch's bits over what was guessed, as last seen, at the default price of a bit."""
    _seen: "_Seen | None" = None
    """What was looked at last."""

    @property
    def exact_at_once(self) -> bool:
        """Whether all that matters becomes exact at one fineness; where some is there already, each when it pays."""
        return self.served is None and self.source.exact_at_once

    def run(self, setting: Setting) -> Trial:
        """Codes the picture under a setting."""
        return self._tried(setting, self._coded)

    def aimed(self, trial: Trial, aim_bytes: float) -> Trial:
        """Codes a trial that was measured so that all takes `aim_bytes`, nearly: the price of a bit gives way."""
        return replace(self._tried(trial.setting, self._coded, Aim(trial, aim_bytes)), course=trial.course)

    def measure(self, setting: Setting) -> Trial:
        """What `run` would give without the bodies, nearly, in less than half the time."""
        trial = self._tried(setting, self._measured)
        if trial.course.total:
            self._seen = _Seen(setting.fineness, _are_lossy(trial.levels), trial.course)
        return trial

    def foretell(self, setting: Setting) -> Trial | None:
        """What `measure` would give, by what was seen at a fineness nearby, in no time; None where nothing was."""
        seen, levels = self._seen, self._scene_of(setting).levels
        if seen is None or abs(seen.fineness - setting.fineness) > _NEARBY or not seen.tells_of(_are_lossy(levels)):
            return None
        numbers = np.flatnonzero(_are_lossy(levels))
        now, before = (guessed_shares(self.source, each, numbers) for each in (setting.fineness, seen.fineness))
        # The finer the quantisers, the more of all bits are those of fine groups.
        course = seen.course.scaled(((now / np.maximum(before, _LEAST)) ** _SHIFT)[place_groups()])
        return self._tried(setting, partial(_foretold, self._expected(self.guessed(setting.fineness)), course))

    def sample(self, fineness: int) -> None:
        """Learns what lossy patches take under a fineness from a few of them, if there are many.

        Args:
            fineness: at the default price.
        """
        guess, scene = self.guessed(fineness), self._scene_of(Setting(fineness))
        lossy = scene.order[_are_lossy(scene.levels[scene.order])]
        if len(lossy) < LEAST:
            return
        runs = list(stretches(lossy))
        numbers = np.concatenate([run.numbers for run in runs])
        measured = self.codec.measure_lossy(scene, runs, self.source.coefficients, DEFAULT_PRICE * self.source.prices)
        bits = in_company(measured.bits)
        factors = np.full(len(guess), bits.sum() / max(guess[numbers].sum(), 1))
        factors[numbers] = bits / np.maximum(guess[numbers], 1)
        self.factors = np.asarray(np.clip(factors, *_FACTORS))
        self._seen = _Seen(fineness, _are_lossy(scene.levels), measured.course)

    def look_at_exact(self, fineness: int) -> bool:
        """Learns more of what the patches take that are exact under a fineness; False where no more is to be learnt.

        A sample tells whether they may fit at all. Where they become exact all at once, they are coded then, for how
        fine the others may be depends on every percent of them.
        """
        scene, exact = self._scene_of(Setting(fineness)), self.exact[self._whole(fineness)]
        order = scene.order[scene.levels[scene.order] == EXACT]
        if self._sample_exact(scene, fineness):
            return True
        if not self.exact_at_once or exact.knows(order):
            return False
        self._exact(scene, fineness)
        return True

    def _tried(self, setting: Setting, code: Coding, aim: Aim | None = None) -> Trial:
        guess = self.guessed(setting.fineness)
        bits, scene = self._expected(guess).copy(), self._scene_of(setting)
        if aim:
            bits = aim.expected(bits, scene)
        exact, header, runs = self._exact(scene, setting.fineness), self._header(scene), self._runs(scene, bits)
        way = Way(code, DEFAULT_PRICE)
        if aim and runs:
            way.purse = Purse(aim.trial.course, DEFAULT_PRICE, self._room(header, exact, runs, bits, aim.wire_bytes))
        lossy, course = self._lossy(scene, runs, bits, way)
        way.go_on()
        self._learn(scene.levels, at_price(bits, DEFAULT_PRICE / way.price) / np.maximum(guess, 1))
        pieces = [*exact, *lossy]
        bodies = bodies_of(pieces)
        whole = bodies if len(bodies) == len(pieces) else None
        taken = self._wire_bytes(header, [piece.size for piece in pieces])
        return Trial(setting, header, scene.levels, whole, taken, sum(piece.size for piece in lossy), course)

    def _room(
        self, header: StreamHeader, exact: list[Piece], runs: list[Run], bits: Float64Array, aim_bytes: float
    ) -> float:
        """Bits of symbols of lossy patches with which all takes `aim_bytes`, in bodies of about so many bits."""
        lossy = [min(round((bits_of([run], bits) + STRING_BITS) / 8), self._capacity) for run in runs]
        around = self._wire_bytes(header, [*(piece.size for piece in exact), *lossy]) - sum(lossy)
        return 8 * (aim_bytes - around) - STRING_BITS * len(runs)

    def _wire_bytes(self, header: StreamHeader, sizes: list[int]) -> int:
        # A patch that fits no packet, as of noise under a fine quantiser, rules the setting out.
        if max(sizes, default=0) > self._capacity:
            return _NEVER
        parts = [parts_needed(size, self._packet_capacity) for size in sizes]
        further = sum(parts) - len(parts)
        around = further * (PACKET_HEADER_BYTES + self.request.frame_bytes + COUNT_BYTES)
        scan_headers = (max(parts, default=1) - 1) * wire_bytes(SECTION_HEADER_BYTES, (), self.request)
        return wire_bytes(len(header.to_bytes()), sizes, self.request) + around + scan_headers

    def _scene_of(self, setting: Setting) -> Scene:
        closed = self._closed(setting.fineness, self.guessed(setting.fineness))
        return self._scene(*levels_at(self.source, setting, closed))

    def _scene(self, levels: UInt8Array, base: int, spacing: int) -> Scene:
        order = sending_order(levels, self.source.grid)
        return Scene(self.source.grid, levels, base, spacing, order, self.source.means)

    def repriced(self, trial: Trial, numbers: Sequence[int], grown_bytes: float) -> Trial:
        """A coded trial some of whose bodies are coded anew; those that grow too long stay as they are.

        Args:
            trial: of `run`.
            numbers: which bodies, one or more, of lossy patches; together at most MAX_BODY_PATCHES patches.
            grown_bytes: by how much they should grow, together.
        """
        assert trial.bodies is not None
        bodies = list(trial.bodies)
        scene = self._scene(trial.levels, *trial.header.level_map[:2])
        changed = [bodies[number] for number in numbers]
        runs = [Run(body.position, scene.order[body.position : body.position + body.patches]) for body in changed]
        bits = max(sum(8 * len(body.content) - STRING_BITS for body in changed), 1.0)
        # The course is that of the default price, which is not the one at which the trial was coded.
        course = trial.course.scaled(bits / max(trial.lossy_bits, 1))
        purse = Purse(course, DEFAULT_PRICE, bits + 8 * grown_bytes)
        pieces = self._coded(scene, runs, DEFAULT_PRICE, purse.pacer(bits, 0)).pieces
        for number, new in zip(numbers, bodies_of(pieces), strict=True):
            if len(new.content) <= self._capacity:
                bodies[number] = new
        sizes = [len(body.content) for body in bodies]
        grown = sum(sizes) - sum(len(body.content) for body in trial.bodies)
        taken = self._wire_bytes(trial.header, sizes)
        return replace(trial, bodies=tuple(bodies), wire_bytes=taken, lossy_bytes=trial.lossy_bytes + grown)

    def expected_bytes(self, fineness: int) -> float:
        """About what `run` would take at the default price, without coding or measuring anything."""
        guess = self.guessed(fineness)
        levels, _, _ = levels_at(self.source, Setting(fineness), self._closed(fineness, guess))
        expected = np.where(levels == EXACT, self.exact[self._whole(fineness)].expected(guess), self._expected(guess))
        bodies = float(expected[levels > 0].sum() / 8)
        return bodies * (1 + _AROUND_BODY_BYTES / self._packet_capacity) + len(self.source.layer) + _HEADER_BYTES

    def expected_lossy_bytes(self, fineness: int) -> float:
        """What of that lossy patches take."""
        levels, _, _ = levels_at(self.source, Setting(fineness), self._closed(fineness, self.guessed(fineness)))
        return float(self._expected(self.guessed(fineness))[_are_lossy(levels)].sum() / 8)

    def expected_if_exact(self, fineness: int) -> float:
        """`expected_bytes` where what matters is exact, after a sample of that."""
        self._sample_exact(self._scene_of(Setting(fineness)), fineness)
        return self.expected_bytes(fineness)

    def guessed(self, fineness: int) -> Float64Array:
        """(grid.count,) of `guessed_bits`, once."""
        if fineness not in self._guesses:
            self._guesses[fineness] = guessed_bits(self.source, fineness)
        return self._guesses[fineness]

    def _expected(self, guess: Float64Array) -> Float64Array:
        return guess if self.factors is None else self.factors * guess

    def _closed(self, fineness: int, guess: Float64Array) -> BoolArray | None:
        return None if self.served is None else self.served.closed(self.source, fineness, guess)

    def _exact(self, scene: Scene, fineness: int) -> list[Piece]:
        self._sample_exact(scene, fineness)
        whole = self._whole(fineness)
        order = scene.order[scene.levels[scene.order] == EXACT]
        patches, free = self.source.for_exact(whole=whole)
        encode = partial(self.codec.encode_exact, scene, patches=patches, free=free)
        limit = self._packet_capacity  # exact patches are not cut for several scans
        bodies = self.exact[whole].bodies(order, limit, self._bits_if_exact(whole), encode)
        return [Piece(first, len(body) if len(body) <= limit else _NEVER, body) for first, body in bodies]

    def _sample_exact(self, scene: Scene, fineness: int) -> bool:
        order, whole = scene.order[scene.levels[scene.order] == EXACT], self._whole(fineness)
        return self.exact[whole].sample(order, self.guessed(fineness), self._bits_if_exact(whole))

    def _bits_if_exact(self, whole: bool) -> Measure:
        patches, free = self.source.for_exact(whole=whole)

        def bits(numbers: Int64Array) -> Float64Array:
            rows, columns = np.divmod(numbers, self.source.grid.columns)
            return self.codec.exact.code_bits(patches[numbers], rows, columns, None if free is None else free[numbers])

        return bits

    def _whole(self, fineness: int) -> bool:
        return self.source.edges is None or edges_are_whole(fineness)

    def _lossy(self, scene: Scene, waiting: list[Run], bits: Float64Array, way: Way) -> tuple[list[Piece], Course]:
        course, done, long = NO_COURSE, list[Piece](), list[Run]()
        while waiting or long:
            if not waiting:
                waiting, long = [half for run in long for half in halves(run)], []
                way.go_on()
            batch, waiting = _batch(waiting)
            taken = way.taken(scene, batch, waiting, bits)
            course += taken.course
            for run, piece in zip(batch, taken.pieces, strict=True):
                if piece.size <= self._capacity or len(run.numbers) == 1:
                    done.append(piece)
                elif piece.content is None:
                    done += self._as_if_cut(run, piece)
                else:
                    long.append(run)
        return sorted(done, key=lambda piece: piece.position), course

    def _as_if_cut(self, run: Run, piece: Piece) -> list[Piece]:
        """What a run that was measured as too long would take in parts that fit, without measuring again."""
        parts = min(math.ceil(piece.size / (_BODY_SHARE * self._capacity)), len(run.numbers))
        size = piece.size // parts + _BODY_OVERHEAD_BITS // 8
        return [Piece(run.first, size, None)] * parts

    def _learn(self, levels: UInt8Array, factors: Float64Array) -> None:
        """Notes what lossy patches took, for others by what those took on average."""
        lossy = _are_lossy(levels)
        if lossy.any():
            before = np.full(len(levels), float(np.median(factors[lossy]))) if self.factors is None else self.factors
            self.factors = np.where(lossy, np.clip(factors, *_FACTORS), before)

    def _coded(self, scene: Scene, runs: list[Run], price: float, pacer: Pacer | None) -> Taken:
        prices = price * self.source.prices
        encoded = self.codec.encode_lossy(scene, runs, self.source.coefficients, prices, pacer)
        pairs = zip(runs, encoded.bodies, strict=True)
        return Taken([Piece(run.first, len(body), body) for run, body in pairs], encoded.bits, NO_COURSE)

    def _measured(self, scene: Scene, runs: list[Run], price: float, _: Pacer | None) -> Taken:
        measured = self.codec.measure_lossy(scene, runs, self.source.coefficients, price * self.source.prices)
        pairs = zip(runs, measured.body_bytes, strict=True)
        return Taken([Piece(run.first, size, None) for run, size in pairs], measured.bits, measured.course)

    def _runs(self, scene: Scene, bits: Float64Array) -> list[Run]:
        """Cuts lossy patches that are sent one after another into runs that should fill their bodies."""
        ordinals = np.flatnonzero(scene.levels[scene.order] != EXACT)
        room = (8 * self._capacity - _BODY_OVERHEAD_BITS) * _BODY_SHARE
        first, runs = 0, []
        while first < len(ordinals):
            ahead = scene.order[ordinals[first : first + MAX_BODY_PATCHES]]
            count = max(int(np.searchsorted(np.cumsum(bits[ahead]), room, side="right")), 1)
            runs.append(Run(int(ordinals[first]), ahead[:count]))
            first += count
        return runs

    @property
    def _packet_capacity(self) -> int:
        return self.request.packet_bytes - PACKET_HEADER_BYTES

    @property
    def _capacity(self) -> int:
        """Bytes of a body of lossy patches, all its scans together."""
        return COUNT_BYTES + self.request.scans * (self._packet_capacity - COUNT_BYTES)

    def _header(self, scene: Scene) -> StreamHeader:
        level_map = bytes([scene.base, scene.spacing]) + encode_level_map(scene.levels, scene.grid)
        return StreamHeader(ENTROPY_CODEC, self.codec.weights_hash, scene.grid, self.source.layer, level_map, 0)


def _are_lossy(levels: UInt8Array) -> BoolArray:
    return np.asarray((levels > 0) & (levels != EXACT))


def _foretold(
    expected: Float64Array, course: Course, _: Scene, runs: list[Run], __: float, ___: Pacer | None
) -> Taken:
    """What runs take if patches take (grid.count,) expected bits, which come as those of a course."""
    pieces = [Piece(run.first, math.ceil((bits_of([run], expected) + STRING_BITS) / 8), None) for run in runs]
    bits = np.concatenate([expected[run.numbers] for run in runs])
    return Taken(pieces, bits, course.scaled(float(bits.sum()) / max(course.total, 1)))


def _batch(runs: list[Run]) -> tuple[list[Run], list[Run]]:
    """As many of the first runs as are coded at once, and the rest."""
    total = np.cumsum([len(run.numbers) for run in runs])
    count = max(int(np.searchsorted(total, MAX_BODY_PATCHES, side="right")), 1)
    return runs[:count], runs[count:]
