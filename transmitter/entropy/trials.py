"""What one setting of the entropy codec takes: levels, runs, bodies, and every byte on the wire."""

import math
from collections.abc import Callable, Iterator, Sequence
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
    patches_in,
)
from shared.codec.entropy.levels import EXACT, sending_order
from shared.codec.entropy.lossy_model import DEFAULT_PRICE
from shared.entropy_level_map import encode as encode_level_map
from shared.packets import PACKET_HEADER_BYTES, SECTION_HEADER_BYTES, StreamHeader
from transmitter.entropy.exact_bodies import ExactBodies, Measure, halves
from transmitter.entropy.revisions import Served
from transmitter.entropy.samples import LEAST, in_company, stretches
from transmitter.entropy.settings import Setting, Source, at_price, guessed_bits, levels_at, outside_is_exact
from transmitter.planning import Body, PlanRequest, wire_bytes

_NEVER: Final = 1 << 40  # bytes
_FACTORS: Final = (0.1, 10.0)
_BODY_SHARE: Final = 0.94  # how full a body is aimed to be: what its patches take varies with their company
_TAKEN: Final = 0.985  # of what is measured, on whole photos: they gain more by dependent residuals than crops
_BODY_OVERHEAD_BITS: Final = 8 * (COUNT_BYTES + 6)
_AROUND_BODY_BYTES: Final = 18  # packet header and what a string takes beyond its symbols
_HEADER_BYTES: Final = 60  # of a stream header without the background layer


@dataclass(frozen=True)
class Trial:
    """A setting and what came of it."""

    setting: Setting
    header: StreamHeader
    levels: UInt8Array
    bodies: tuple[Body, ...] | None
    """In the order of sending; None of a trial that was only measured."""
    wire_bytes: int
    """All that it puts on the channel; of a trial that was only measured, nearly."""
    lossy_bytes: int
    """What the bodies of lossy patches take of that."""


class _Piece(NamedTuple):
    """What becomes a body."""

    position: int
    size: int
    """In bytes."""
    content: bytes | None
    """None where it was only measured."""


_Taken = tuple[list[_Piece], Float64Array]
"""One piece per run, and the bits of every patch of all runs."""

Coding = Callable[[Scene, list[Run], float], _Taken]
"""Codes runs, or measures them."""


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

    def run(self, setting: Setting) -> Trial:
        """Codes the picture under a setting."""
        return self._tried(setting, self._coded)

    def measure(self, setting: Setting) -> Trial:
        """What `run` would give without the bodies, nearly, in less than half the time."""
        return self._tried(setting, self._measured)

    def sample(self, fineness: int, turn: int) -> bool:
        """Learns what patches take under a fineness from a few of them; False where a trial takes no longer.

        Args:
            fineness: at the default price.
            turn: how many samples were taken before.
        """
        guess = self.guessed(fineness)
        levels, base, spacing = levels_at(self.source, Setting(fineness, DEFAULT_PRICE), self._closed(fineness, guess))
        scene = self._scene(levels, base, spacing)
        learnt = self._sample_exact(scene, fineness)
        lossy = scene.order[levels[scene.order] != EXACT]
        if len(lossy) >= LEAST:
            self.factors = self._sampled_factors(scene, list(stretches(lossy, turn)), guess)
            learnt = True
        return learnt

    def _sampled_factors(self, scene: Scene, runs: list[Run], guess: Float64Array) -> Float64Array:
        """(grid.count,) by what some patches take by themselves."""
        numbers = np.concatenate([run.numbers for run in runs])
        measured = self.codec.measure_lossy(scene, runs, self.source.coefficients, DEFAULT_PRICE * self.source.prices)
        bits = in_company(measured.bits)
        factors = np.full(len(guess), bits.sum() / max(guess[numbers].sum(), 1))
        factors[numbers] = bits / np.maximum(guess[numbers], 1)
        return np.asarray(np.clip(factors, *_FACTORS))

    def _tried(self, setting: Setting, code: Coding) -> Trial:
        guess = self.guessed(setting.fineness)
        expected = at_price(self._expected(guess), setting.price / DEFAULT_PRICE)
        levels, base, spacing = levels_at(self.source, setting, self._closed(setting.fineness, guess))
        scene = self._scene(levels, base, spacing)
        bits = expected.copy()
        exact, lossy = self._exact(scene, setting.fineness), self._lossy(scene, bits, setting.price, code)
        pieces = [*exact, *lossy]
        self._learn(levels, at_price(bits, DEFAULT_PRICE / setting.price) / np.maximum(guess, 1))
        header, bodies = self._header(scene), _bodies(pieces)
        whole = bodies if len(bodies) == len(pieces) else None
        taken = self._wire_bytes(header, [piece.size for piece in pieces])
        return Trial(setting, header, levels, whole, taken, sum(piece.size for piece in lossy))

    def _wire_bytes(self, header: StreamHeader, sizes: list[int]) -> int:
        # A patch that fits no packet, as of noise under a fine quantiser, rules the setting out.
        if max(sizes, default=0) > self._capacity:
            return _NEVER
        parts = [parts_needed(size, self._packet_capacity) for size in sizes]
        further = sum(parts) - len(parts)
        around = further * (PACKET_HEADER_BYTES + self.request.frame_bytes + COUNT_BYTES)
        scan_headers = (max(parts, default=1) - 1) * wire_bytes(SECTION_HEADER_BYTES, (), self.request)
        return wire_bytes(len(header.to_bytes()), sizes, self.request) + around + scan_headers

    def _scene(self, levels: UInt8Array, base: int, spacing: int) -> Scene:
        order = sending_order(levels, self.source.grid)
        return Scene(self.source.grid, levels, base, spacing, order, self.source.means)

    def repriced(self, trial: Trial, numbers: Sequence[int], price: float) -> Trial:
        """A coded trial some of whose bodies are coded anew; those that grow too long stay as they are.

        Args:
            trial: of `run`.
            numbers: which bodies, one or more, of lossy patches; together at most MAX_BODY_PATCHES patches.
            price: of a bit.
        """
        assert trial.bodies is not None
        bodies = list(trial.bodies)
        scene = self._scene(trial.levels, *trial.header.level_map[:2])
        changed = [bodies[number] for number in numbers]
        runs = [Run(body.position, scene.order[body.position : body.position + body.patches]) for body in changed]
        pieces, _ = self._coded(scene, runs, price)
        for number, new in zip(numbers, _bodies(pieces), strict=True):
            if len(new.content) <= self._capacity:
                bodies[number] = new
        sizes = [len(body.content) for body in bodies]
        grown = sum(sizes) - sum(len(body.content) for body in trial.bodies)
        taken = self._wire_bytes(trial.header, sizes)
        return replace(trial, bodies=tuple(bodies), wire_bytes=taken, lossy_bytes=trial.lossy_bytes + grown)

    def expected_bytes(self, fineness: int) -> float:
        """About what `run` would take at the default price, without coding or measuring anything."""
        guess = self.guessed(fineness)
        levels, _, _ = levels_at(self.source, Setting(fineness, DEFAULT_PRICE), self._closed(fineness, guess))
        expected = np.where(levels == EXACT, self.exact[self._whole(fineness)].expected(guess), self._expected(guess))
        bodies = float(expected[levels > 0].sum() / 8)
        return bodies * (1 + _AROUND_BODY_BYTES / self._packet_capacity) + len(self.source.layer) + _HEADER_BYTES

    def guessed(self, fineness: int) -> Float64Array:
        """(grid.count,) of `guessed_bits`, once."""
        if fineness not in self._guesses:
            self._guesses[fineness] = guessed_bits(self.source, fineness)
        return self._guesses[fineness]

    def _expected(self, guess: Float64Array) -> Float64Array:
        return guess if self.factors is None else self.factors * guess

    def _closed(self, fineness: int, guess: Float64Array) -> BoolArray | None:
        return None if self.served is None else self.served.closed(self.source, fineness, guess)

    def _exact(self, scene: Scene, fineness: int) -> list[_Piece]:
        self._sample_exact(scene, fineness)
        whole = self._whole(fineness)
        order = scene.order[scene.levels[scene.order] == EXACT]
        patches, free = self.source.for_exact(whole=whole)
        encode = partial(self.codec.encode_exact, scene, patches=patches, free=free)
        limit = self._packet_capacity  # exact patches are not cut for several scans
        bodies = self.exact[whole].bodies(order, limit, self._bits_if_exact(whole), encode)
        return [_Piece(first, len(body) if len(body) <= limit else _NEVER, body) for first, body in bodies]

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
        return self.source.edges is None or outside_is_exact(fineness)

    def _lossy(self, scene: Scene, bits: Float64Array, price: float, code: Coding) -> list[_Piece]:
        lossy = np.flatnonzero(scene.levels[scene.order] != EXACT)
        waiting = list(self._runs(scene, lossy, bits))
        done: list[_Piece] = []
        while waiting:
            batch, waiting = _batch(waiting)
            pieces, taken = code(scene, batch, price)
            bits[np.concatenate([run.numbers for run in batch])] = taken
            for run, piece in zip(batch, pieces, strict=True):
                if piece.size <= self._capacity or len(run.numbers) == 1:
                    done.append(piece)
                elif piece.content is None:
                    done += self._as_if_cut(run, piece)
                else:
                    waiting += halves(run)
        return sorted(done, key=lambda piece: piece.position)

    def _as_if_cut(self, run: Run, piece: _Piece) -> list[_Piece]:
        """What a run that was measured as too long would take in parts that fit, without measuring again."""
        parts = min(math.ceil(piece.size / (_BODY_SHARE * self._capacity)), len(run.numbers))
        size = piece.size // parts + _BODY_OVERHEAD_BITS // 8
        return [_Piece(run.first, size, None)] * parts

    def _learn(self, levels: UInt8Array, factors: Float64Array) -> None:
        """Notes what lossy patches took, for others by what those took on average."""
        lossy = (levels > 0) & (levels != EXACT)
        if lossy.any():
            before = np.full(len(levels), float(np.median(factors[lossy]))) if self.factors is None else self.factors
            self.factors = np.where(lossy, np.clip(factors, *_FACTORS), before)

    def _coded(self, scene: Scene, runs: list[Run], price: float) -> _Taken:
        encoded = self.codec.encode_lossy(scene, runs, self.source.coefficients, price * self.source.prices)
        pairs = zip(runs, encoded.bodies, strict=True)
        return [_Piece(run.first, len(body), body) for run, body in pairs], encoded.bits

    def _measured(self, scene: Scene, runs: list[Run], price: float) -> _Taken:
        measured = self.codec.measure_lossy(scene, runs, self.source.coefficients, price * self.source.prices)
        pairs = zip(runs, measured.body_bytes, strict=True)
        return [_Piece(run.first, round(_TAKEN * size), None) for run, size in pairs], _TAKEN * measured.bits

    def _runs(self, scene: Scene, ordinals: Int64Array, bits: Float64Array) -> Iterator[Run]:
        """Cuts adjacent ordinals into runs that should fill their bodies."""
        room = (8 * self._capacity - _BODY_OVERHEAD_BITS) * _BODY_SHARE
        first = 0
        while first < len(ordinals):
            ahead = scene.order[ordinals[first : first + MAX_BODY_PATCHES]]
            count = max(int(np.searchsorted(np.cumsum(bits[ahead]), room, side="right")), 1)
            yield Run(int(ordinals[first]), ahead[:count])
            first += count

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


def _bodies(pieces: Sequence[_Piece]) -> tuple[Body, ...]:
    """Of those that were coded."""
    found = ((piece.position, piece.content) for piece in pieces if piece.content is not None)
    return tuple(Body(position, patches_in(content), content) for position, content in found)


def _batch(runs: list[Run]) -> tuple[list[Run], list[Run]]:
    """As many of the first runs as are coded at once, and the rest."""
    total = np.cumsum([len(run.numbers) for run in runs])
    count = max(int(np.searchsorted(total, MAX_BODY_PATCHES, side="right")), 1)
    return runs[:count], runs[count:]
