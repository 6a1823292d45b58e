"""What one setting of the entropy codec takes: levels, runs, bodies, and every byte on the wire."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np

from shared.arrays import Float64Array
from shared.codec.entropy.codec import (
    COUNT_BYTES,
    ENTROPY_CODEC,
    MAX_BODY_PATCHES,
    EntropyCodec,
    Run,
    Scene,
    parts_needed,
)
from shared.codec.entropy.levels import EXACT
from shared.codec.entropy.lossy_model import DEFAULT_PRICE
from shared.codec.entropy.pacing import NO_COURSE, Course, Pacer
from shared.entropy_level_map import encode as encode_level_map
from shared.packets import PACKET_HEADER_BYTES, SECTION_HEADER_BYTES, StreamHeader
from transmitter.entropy.costs import Costs, exact_of
from transmitter.entropy.exact_bodies import halves
from transmitter.entropy.purse import Purse, Way, bits_of
from transmitter.entropy.settings import Setting, Source, at_price
from transmitter.entropy.trial import STRING_BITS, Aim, Coding, Piece, Taken, Trial, bodies_of
from transmitter.planning import PlanRequest, wire_bytes

_NEVER: Final = 1 << 40  # bytes
_BODY_SHARE: Final = 0.94  # how full a body is aimed to be: what its patches take varies with their company
_BODY_OVERHEAD_BITS: Final = 8 * (COUNT_BYTES + 6)
_AROUND_BODY_BYTES: Final = 18  # packet header and what a string takes beyond its symbols
_HEADER_BYTES: Final = 60  # of a stream header without the background layer


@dataclass
class Trials:
    """Tries settings on one picture, and learns from each what its patches take."""

    costs: Costs
    request: PlanRequest

    @property
    def source(self) -> Source:
        """The picture."""
        return self.costs.source

    @property
    def codec(self) -> EntropyCodec:
        """Codes it."""
        return self.costs.codec

    def run(self, setting: Setting) -> Trial:
        """Codes the picture under a setting."""
        return self._tried(setting, self._coded)

    def aimed(self, trial: Trial, aim_bytes: float) -> Trial:
        """Codes a trial that was measured so that all takes `aim_bytes`, nearly: the price of a bit gives way."""
        return replace(self._tried(trial.setting, self._coded, Aim(trial, aim_bytes)), course=trial.course)

    def measure(self, setting: Setting) -> Trial:
        """What `run` would give without the bodies, nearly, in two thirds of the time."""
        trial = self._tried(setting, self._measured)
        self.costs.see(setting.fineness, trial.levels, trial.course)
        return trial

    def foretell(self, setting: Setting) -> Trial | None:
        """What `measure` would give, by what was seen at a fineness nearby, in no time; None where nothing was."""
        course = self.costs.course_at(setting.fineness, self.costs.scene_of(setting).levels)
        if course is None:
            return None
        return self._tried(setting, partial(_foretold, self.costs.expected(setting.fineness), course))

    def look_at_exact(self, fineness: int) -> bool:
        """Learns more of what the patches take that are exact under a fineness; False where no more is to be learnt.

        A sample tells whether they may fit at all. Where they become exact all at once, they are coded then, for how
        fine the others may be depends on every percent of them.
        """
        if self.costs.sample_exact(fineness):
            return True
        scene = self.costs.scene_of(Setting(fineness))
        if not self.costs.exact_at_once or self.costs.exact[self.costs.whole(fineness)].knows(exact_of(scene)):
            return False
        self._exact(scene, fineness)
        return True

    def _tried(self, setting: Setting, code: Coding, aim: Aim | None = None) -> Trial:
        guess, bits = self.costs.guessed(setting.fineness), self.costs.expected(setting.fineness)
        scene = self.costs.scene_of(setting)
        if aim:
            bits = aim.expected(bits, scene)
        exact, header, runs = self._exact(scene, setting.fineness), self._header(scene), self._runs(scene, bits)
        way = Way(code, DEFAULT_PRICE)
        if aim and runs:
            way.purse = Purse(aim.trial.course, DEFAULT_PRICE, self._room(header, exact, runs, bits, aim.wire_bytes))
        lossy, course = self._lossy(scene, runs, bits, way)
        way.go_on()
        self.costs.learn(scene.levels, at_price(bits, DEFAULT_PRICE / way.price) / np.maximum(guess, 1))
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

    def repriced(self, trial: Trial, numbers: Sequence[int], grown_bytes: float) -> Trial:
        """A coded trial some of whose bodies are coded anew; those that grow too long stay as they are.

        Args:
            trial: of `run`.
            numbers: which bodies, one or more, of lossy patches; together at most MAX_BODY_PATCHES patches.
            grown_bytes: by how much they should grow, together.
        """
        assert trial.bodies is not None
        bodies = list(trial.bodies)
        scene = self.costs.scene(trial.levels, *trial.header.level_map[:2])
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

    def expected_bytes(self, setting: Setting) -> float:
        """About what `run` would take at the default price, without coding or measuring anything."""
        bodies = self.costs.expected_bits(setting)[0] / 8
        return bodies * (1 + _AROUND_BODY_BYTES / self._packet_capacity) + len(self.source.layer) + _HEADER_BYTES

    def _exact(self, scene: Scene, fineness: int) -> list[Piece]:
        self.costs.sample_exact(fineness)
        whole = self.costs.whole(fineness)
        patches, free = self.source.for_exact(whole=whole)
        encode = partial(self.codec.encode_exact, scene, patches=patches, free=free)
        measure = partial(self.costs.bits_if_exact, whole=whole)
        limit = self._packet_capacity  # exact patches are not cut for several scans
        bodies = self.costs.exact[whole].bodies(exact_of(scene), limit, measure, encode)
        return [Piece(first, len(body) if len(body) <= limit else _NEVER, body) for first, body in bodies]

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


def _foretold(expected: Float64Array, course: Course, _: Scene, runs: list[Run], __: float, ___: Pacer | None) -> Taken:
    """What runs take if patches take (grid.count,) expected bits, which come as those of a course."""
    pieces = [Piece(run.first, math.ceil((bits_of([run], expected) + STRING_BITS) / 8), None) for run in runs]
    bits = np.concatenate([expected[run.numbers] for run in runs])
    return Taken(pieces, bits, course.scaled(float(bits.sum()) / max(course.total, 1)))


def _batch(runs: list[Run]) -> tuple[list[Run], list[Run]]:
    """As many of the first runs as are coded at once, and the rest."""
    total = np.cumsum([len(run.numbers) for run in runs])
    count = max(int(np.searchsorted(total, MAX_BODY_PATCHES, side="right")), 1)
    return runs[:count], runs[count:]
