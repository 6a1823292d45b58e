"""The entropy codec: both ends of the patches' bytes, packet by packet.

```
body    cut:1 bit, patches:15 bits │ string                      (big endian)
        string of exact patches: raw:u8 │ by `lossless`, or the samples as they are where that is shorter
        string of all others by `lossy_model`; never both in one body
```
A body holds patches that follow each other in the order of sending and needs nothing but the stream header to be
decoded: not the packets before it, not those after. The first bit says that only the beginning of the body is there,
and that the patches come as coarse as that tells: a receiver sets it where the rest was cut off, a sender where the
rest follows in another scan. A part of a later scan looks the same, its string goes on where the last one ended.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from shared.arrays import BoolArray, Float32Array, Float64Array, Int16Array, Int64Array, UInt8Array
from shared.codec.entropy.background import Background, decode_background, encode_background, expected_means
from shared.codec.entropy.context import PatchContext
from shared.codec.entropy.levels import EXACT, QUALITY_SKIPPED, qualities_of
from shared.codec.entropy.lossless import LosslessCoder, load_lossless
from shared.codec.entropy.lossy_model import LossyModel
from shared.codec.entropy.pacing import Course, Pacer
from shared.codec.entropy.symbols import SymbolReader, SymbolWriter
from shared.codec.entropy.weights import load_lossy
from shared.entropy_level_map import weights_hash as level_map_hash
from shared.patches import PATCH_SIZE, PatchGrid

ENTROPY_CODEC: Final = 2
"""What the stream header calls this codec, version 1."""

COUNT_BYTES: Final = 2
"""Bytes of a body before its string."""

MAX_BODY_PATCHES: Final = 32_767
"""Patches that one body may hold; bounds the memory of coding."""

_CUT: Final = 0x8000
_CODED: Final = b"\0"
_RAW: Final = b"\1"
_PATCH_SHAPE: Final = (PATCH_SIZE, PATCH_SIZE, 3)


@dataclass(frozen=True)
class Run:
    """Patches that travel in one body."""

    first: int
    """Ordinal of the first in the order of sending."""
    numbers: Int64Array
    """Their numbers in the picture."""
    cut: bool = False
    """Whether only the beginning of the body is there."""


@dataclass(frozen=True)
class Scene:
    """What both ends know before the first body."""

    grid: PatchGrid
    levels: UInt8Array
    """(grid.count,)."""
    base: int
    """Quantiser of the finest lossy level."""
    spacing: int
    """Quantisers from one lossy level to the next."""
    order: Int64Array
    """Patch numbers in the order of sending."""
    means: Float64Array
    """(grid.count, 3) expected first coefficients, from the background layer."""

    def qualities(self, numbers: Int64Array) -> Int16Array:
        """The quantisers of patches by their numbers; see `qualities_of`."""
        return qualities_of(self.levels[numbers], self.base, self.spacing)

    def context(self, runs: Sequence[Run]) -> PatchContext:
        """The runs' patches, one after another, each run a packet."""
        numbers, packets = _numbers_and_packets(runs)
        rows, columns = np.divmod(numbers, self.grid.columns)
        qualities = self.qualities(numbers).astype(np.int64)
        return PatchContext(rows, columns, qualities, self.means[numbers], packets)


@dataclass(frozen=True)
class EncodedRuns:
    """Bodies, and what each patch took."""

    bodies: tuple[bytes, ...]
    """One per run."""
    bits: Float64Array
    """(patches of all runs,) about what each patch takes."""


@dataclass(frozen=True)
class MeasuredRuns:
    """What bodies would take, nearly."""

    body_bytes: tuple[int, ...]
    """One per run."""
    bits: Float64Array
    """(patches of all runs,) about what each patch takes."""
    course: Course
    """How all bits come."""


@dataclass(frozen=True)
class EntropyCodec:
    """Both ends of the entropy-coded levels."""

    lossy: LossyModel
    exact: LosslessCoder
    weights_hash: bytes
    """4 bytes that name these weights, and those of the level map."""

    def encode_lossy(
        self,
        scene: Scene,
        runs: Sequence[Run],
        coefficients: Float32Array,
        prices: Float64Array,
        pacer: Pacer | None = None,
    ) -> EncodedRuns:
        """Codes runs of lossy patches.

        Args:
            scene: the picture's.
            runs: at least one; together at most MAX_BODY_PATCHES patches, or memory grows beyond bounds.
            coefficients: (grid.count, 192) of the whole picture.
            prices: (grid.count,) of a bit in each patch, see `LossyModel.encode`.
            pacer: likewise.
        """
        numbers = np.concatenate([run.numbers for run in runs])
        encoding = self.lossy.encode(coefficients[numbers], scene.context(runs), prices[numbers], pacer)
        bodies = (_body(run, string) for run, string in zip(runs, encoding.bodies, strict=True))
        return EncodedRuns(tuple(bodies), encoding.bits)

    def measure_lossy(
        self, scene: Scene, runs: Sequence[Run], coefficients: Float32Array, prices: Float64Array
    ) -> MeasuredRuns:
        """About what `encode_lossy` would give, in less time; arguments as there."""
        numbers = np.concatenate([run.numbers for run in runs])
        measure = self.lossy.measure(coefficients[numbers], scene.context(runs), prices[numbers])
        return MeasuredRuns(tuple(COUNT_BYTES + size for size in measure.body_bytes), measure.bits, measure.course)

    def encode_exact(
        self, scene: Scene, runs: Sequence[Run], patches: UInt8Array, free: BoolArray | None = None
    ) -> list[bytes]:
        """Codes runs of exact patches.

        Args:
            scene: the picture's.
            runs: at least one.
            patches: (grid.count, 8, 8, 3) of the whole picture.
            free: (grid.count, 8, 8) pixels that need not be exact; None: none.
        """
        writers = [SymbolWriter() for _ in runs]
        numbers, packets = _numbers_and_packets(runs)
        rows, columns = np.divmod(numbers, scene.grid.columns)
        chosen = None if free is None else free[numbers]
        self.exact.encode_together(patches[numbers], rows, columns, packets, writers, free=chosen)
        pairs = zip(runs, writers, strict=True)
        return [_body(run, _shorter(writer.to_bytes(), patches[run.numbers].tobytes())) for run, writer in pairs]

    def decode(self, scene: Scene, bodies: Sequence[tuple[int, bytes]]) -> tuple[UInt8Array, Int16Array]:
        """Decodes what arrived; bodies that make no sense count as lost.

        Args:
            scene: of the stream header.
            bodies: the ordinal of each one's first patch, and its bytes.

        Returns:
            (grid.count, 8, 8, 3) RGB, 0 where nothing arrived, and (grid.count,) qualities as of `qualities_of`.
        """
        patches = np.zeros((scene.grid.count, PATCH_SIZE, PATCH_SIZE, 3), np.uint8)
        qualities = np.full(scene.grid.count, QUALITY_SKIPPED, np.int16)
        found = [(run, body[COUNT_BYTES:]) for first, body in bodies if (run := run_of(scene, first, body))]
        exact = [(run, string) for run, string in found if scene.levels[run.numbers[0]] == EXACT]
        for batch in _batches(exact):
            self._decode_exact(scene, batch, patches, qualities)
        lossy = [(run, string) for run, string in found if scene.levels[run.numbers[0]] != EXACT]
        for batch in _batches(lossy):
            self._decode_lossy(scene, batch, patches, qualities)
        return patches, qualities

    def _decode_exact(
        self, scene: Scene, batch: Sequence[tuple[Run, bytes]], patches: UInt8Array, qualities: Int16Array
    ) -> None:
        for run, string in batch:
            if string[:1] == _RAW and len(string) == 1 + math.prod(_PATCH_SHAPE) * len(run.numbers):
                patches[run.numbers] = np.frombuffer(string[1:], np.uint8).reshape(-1, *_PATCH_SHAPE)
                qualities[run.numbers] = scene.qualities(run.numbers)
        coded = [(run, string) for run, string in batch if string[:1] != _RAW]
        if coded:
            self._decode_coded_exact(scene, coded, patches, qualities)

    def _decode_coded_exact(
        self, scene: Scene, coded: Sequence[tuple[Run, bytes]], patches: UInt8Array, qualities: Int16Array
    ) -> None:
        numbers, packets = _numbers_and_packets([run for run, _ in coded])
        rows, columns = np.divmod(numbers, scene.grid.columns)
        readers = [SymbolReader(string[1:]) for _, string in coded]
        found, damaged = self.exact.decode_together(rows, columns, packets, readers)
        sound = ~np.isin(packets, list(damaged))
        patches[numbers[sound]] = found[sound]
        qualities[numbers[sound]] = scene.qualities(numbers[sound])

    def _decode_lossy(
        self, scene: Scene, batch: Sequence[tuple[Run, bytes]], patches: UInt8Array, qualities: Int16Array
    ) -> None:
        runs = [run for run, _ in batch]
        context = scene.context(runs)
        cut = np.array([run.cut for run in runs])
        decoding = self.lossy.decode([string for _, string in batch], context, cut)
        good = ~decoding.damaged[context.packets]
        numbers = np.concatenate([run.numbers for run in runs])[good]
        patches[numbers] = self.lossy.transform.synthesise(decoding.coefficients[good])
        qualities[numbers] = scene.qualities(numbers)

    def encode_background(self, small: UInt8Array, quality: int, *, halved: bool) -> Background:
        """See `background.encode_background`."""
        return encode_background(self.lossy, small, quality, halved=halved)

    def background(self, layer: bytes, grid: PatchGrid) -> UInt8Array:
        """See `background.decode_background`."""
        return decode_background(self.lossy, layer, grid)

    def expected_means(self, colours: UInt8Array) -> Float64Array:
        """See `background.expected_means`."""
        return expected_means(self.lossy, colours)


def patches_in(body: bytes) -> int:
    """How many patches a body says that it holds; 0 if it is too short to say."""
    return int.from_bytes(body[:COUNT_BYTES], "big") & ~_CUT if len(body) > COUNT_BYTES else 0


def beginning(body: bytes) -> bytes:
    """Marks the beginning of a body as such; nothing of what is too short to tell anything."""
    count = patches_in(body)
    return (count | _CUT).to_bytes(COUNT_BYTES, "big") + body[COUNT_BYTES:] if count else b""


def parts_of(body: bytes, limit_bytes: int) -> list[bytes]:
    """Cuts a body of lossy patches for several scans.

    Args:
        body: whole.
        limit_bytes: of each part.

    Returns:
        One part per scan, alike in length; the body alone if it fits.
    """
    count = parts_needed(len(body), limit_bytes)
    if count == 1:
        return [body]
    string, patches = body[COUNT_BYTES:], patches_in(body)
    step = math.ceil(len(string) / count)
    flags = [_CUT] * (count - 1) + [0]
    return [
        (patches | flag).to_bytes(COUNT_BYTES, "big") + string[number * step : (number + 1) * step]
        for number, flag in enumerate(flags)
    ]


def parts_needed(body_bytes: int, limit_bytes: int) -> int:
    """How many parts of at most `limit_bytes` a body makes."""
    return max(math.ceil((body_bytes - COUNT_BYTES) / (limit_bytes - COUNT_BYTES)), 1)


def joined(parts: Sequence[bytes]) -> bytes:
    """The body, or the beginning of it, that the parts of the first scans make; at least one."""
    return parts[-1][:COUNT_BYTES] + b"".join(part[COUNT_BYTES:] for part in parts)


def goes_on(body: bytes) -> bool:
    """Whether a body, or a part of one, says that it is but a beginning."""
    return body[:1] >= b"\x80"


def run_of(scene: Scene, first: int, body: bytes) -> Run | None:
    """The patches of a body; None where it claims what no sender would send, or is but a part of exact patches."""
    count, cut = patches_in(body), goes_on(body)
    if not count > 0 or first + count > len(scene.order):
        return None
    numbers = scene.order[first : first + count]
    exact = scene.levels[numbers] == EXACT
    if exact.any() and (cut or not exact.all()):
        return None
    return Run(first, numbers, cut)


@cache
def load_entropy_codec() -> EntropyCodec:
    """Loads the codec with the weights that ship with the project.

    Raises:
        WeightsError: they are absent, foreign or damaged.
    """
    (lossy, lossy_hash), exact = load_lossy(), load_lossless()
    hashes = lossy_hash + exact.weights_hash + level_map_hash()
    return EntropyCodec(lossy, exact, hashlib.sha256(hashes).digest()[:4])


def _numbers_and_packets(runs: Sequence[Run]) -> tuple[Int64Array, Int64Array]:
    """The runs' patches, one run after another, and which run each is of."""
    packets = np.repeat(np.arange(len(runs)), [len(run.numbers) for run in runs])
    return np.concatenate([run.numbers for run in runs]), packets


def _shorter(coded: bytes, raw: bytes) -> bytes:
    return _CODED + coded if len(coded) < len(raw) else _RAW + raw


def _body(run: Run, string: bytes) -> bytes:
    return len(run.numbers).to_bytes(COUNT_BYTES, "big") + string


def _batches(items: Sequence[tuple[Run, bytes]]) -> Iterator[list[tuple[Run, bytes]]]:
    """As many at a time as memory allows."""
    batch: list[tuple[Run, bytes]] = []
    for item in items:
        if batch and sum(len(run.numbers) for run, _ in [*batch, item]) > MAX_BODY_PATCHES:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
