"""The top level: patches exactly as they were, by a learned context model in integer arithmetic.

```
known samples ── context ── network of the step's kind ─┬─ mean, in eighths  ─┬─ whole part ──┐
(lossless_steps)            (exact)                     │                     └─ fraction ─┐  │
                                                        └─ scale, quarter octaves ─ table ─┴──┴─ sample less mean
```

Samples of all patches advance together, from a coarse lattice to every pixel, green before red before blue. The
n patches of a call may be any part of a picture; those of them that are neighbours help each other.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

from shared.arrays import AnyArray, BoolArray, Float64Array, Int64Array, UInt8Array
from shared.codec.entropy.exact import ExactNetwork
from shared.codec.entropy.lossless_canvas import (
    CHANNELS,
    HIGHEST,
    LOWEST,
    POSITIONS,
    Canvas,
    to_patches,
    to_planes,
)
from shared.codec.entropy.lossless_context import ACTIVITY_SHIFT, LOG_UNIT, Context, log2_of
from shared.codec.entropy.lossless_layout import apart, batches
from shared.codec.entropy.lossless_steps import KINDS, CornerStep, LatticeStep, inputs_of, steps
from shared.codec.entropy.symbols import SymbolReader, SymbolTables, SymbolWriter, read_together, write_together
from shared.errors import InvalidInputError, StreamError, WeightsError
from shared.patches import PATCH_SIZE
from shared.weights import default_path, read_weights, write_weights

LOSSLESS_FORMAT: Final = "mmsc-lossless-1"
"""Format and version tag of the weights file."""

FRACTIONS: Final = 8
"""Parts of a grey level in which means are told."""

SCALES: Final = 44
"""Widths of the distribution of what is left, quarter octaves apart."""

OUTPUT_UNIT: Final = 1 << 10
"""Integer steps of the networks' outputs: of the mean in activities, of the scale in octaves."""

SCALE_OF_ACTIVITY: Final = 5
"""Octaves from a logistic's scale to the activity, where the network has nothing to add."""

LEAST_SCALE: Final = -5
"""Octaves of the narrowest logistic's scale."""

_SCALES_PER_OCTAVE: Final = 4
_EXPECTED_FROM: Final = 4  # stage: free pixels of the lattices of spacing 4 and 2


@dataclass(frozen=True)
class Prediction:
    """What is expected of some samples."""

    centres: AnyArray
    """(rows,) int32, the whole grey level nearest to the mean."""

    numbers: AnyArray
    """(rows,) uint16, the table that the sample less its centre is coded by."""


_Code = Callable[[CornerStep | LatticeStep, int, Prediction], AnyArray]


@dataclass(frozen=True)
class LosslessCoder:
    """Codes patches exactly.

    Raises:
        WeightsError: networks and tables do not fit together.
    """

    networks: tuple[ExactNetwork, ...]
    """KINDS * 3, by kind of step and channel."""

    tables: SymbolTables
    """3 * SCALES * FRACTIONS, by channel, scale and fraction."""

    weights_hash: bytes = b""
    """First 4 bytes of the SHA-256 of the weights file."""

    def __post_init__(self) -> None:
        shapes = [(inputs_of(kind, channel), 2) for kind in range(KINDS) for channel in range(CHANNELS)]
        if [(network.inputs, network.outputs) for network in self.networks] != shapes:
            raise WeightsError("the lossless networks do not fit their contexts")
        if len(self.tables.frequencies) != CHANNELS * SCALES * FRACTIONS:
            raise WeightsError("the lossless tables are not as many as they should be")

    def encode(self, patches: UInt8Array, rows: AnyArray, columns: AnyArray, writer: SymbolWriter) -> None:
        """Codes patches.

        Args:
            patches: (n, 8, 8, 3) RGB.
            rows: (n,) row of each patch in the picture's grid.
            columns: (n,) column, likewise; no patch twice.
            writer: takes the symbols.

        Raises:
            InvalidInputError: shapes or places are not such.
        """
        truth = _Truth(patches, rows)

        def code(step: CornerStep | LatticeStep, channel: int, prediction: Prediction) -> AnyArray:
            samples = truth.of(step, channel, prediction)
            writer.write(self.tables, samples - prediction.centres, prediction.numbers)
            return samples

        self._walk(Canvas(rows, columns), code)

    def encode_together(
        self,
        patches: UInt8Array,
        rows: AnyArray,
        columns: AnyArray,
        packets: Int64Array,
        writers: Sequence[SymbolWriter],
        *,
        free: BoolArray | None = None,
    ) -> None:
        """As `encode` of each packet's patches, which is quicker than one packet after another.

        Args:
            patches: (n, 8, 8, 3) RGB.
            rows: (n,) as for `encode`.
            columns: (n,) likewise.
            packets: (n,) number of each patch's packet, from 0, each after the other.
            writers: one for each packet.
            free: (n, 8, 8) pixels that nobody asked for; `patches` best has there what goes on smoothly from the
                others. Only the coarsest lattice takes that, to expect its neighbours by; the rest come out as what
                is expected of them, which takes the fewest bits. None: none.

        Raises:
            InvalidInputError: shapes or places are not such.
        """
        truth = _Truth(patches, rows, free)
        for share, canvas, owners in _canvases(rows, columns, packets):

            def code(
                step: CornerStep | LatticeStep,
                channel: int,
                prediction: Prediction,
                share: Int64Array | slice = share,
                owners: Int64Array = owners,
            ) -> AnyArray:
                samples = truth.of(step, channel, prediction, share)
                residuals = samples - prediction.centres
                write_together(writers, self.tables, residuals, prediction.numbers, _each(step, owners))
                return samples

            self._walk(canvas, code)

    def decode(self, rows: AnyArray, columns: AnyArray, reader: SymbolReader) -> UInt8Array:
        """Decodes what `encode` wrote for the same places.

        Returns:
            (n, 8, 8, 3) RGB.

        Raises:
            InvalidInputError: the places are not such.
            StreamError: no encoder wrote these symbols; other damage gives other patches.
        """
        patches, damaged = self.decode_together(rows, columns, np.zeros(len(rows), np.int64), [reader])
        if damaged:
            raise StreamError("coded symbols are damaged")
        return patches

    def decode_together(
        self, rows: AnyArray, columns: AnyArray, packets: Int64Array, readers: Sequence[SymbolReader]
    ) -> tuple[UInt8Array, set[int]]:
        """As `decode` of each packet's patches, which is quicker than one packet after another.

        Returns:
            (n, 8, 8, 3) RGB, and the packets whose symbols no encoder wrote; their patches are worth nothing.

        Raises:
            InvalidInputError: the places are not such.
        """
        patches = np.zeros((len(rows), PATCH_SIZE, PATCH_SIZE, CHANNELS), np.uint8)
        damaged: set[int] = set()
        for share, canvas, owners in _canvases(rows, columns, packets):

            def code(
                step: CornerStep | LatticeStep, channel: int, prediction: Prediction, owners: Int64Array = owners
            ) -> AnyArray:
                residuals = _read_sound(readers, self.tables, prediction.numbers, _each(step, owners), damaged)
                return (prediction.centres + residuals).clip(LOWEST[channel], HIGHEST[channel])

            self._walk(canvas, code)
            planes = canvas.planes.reshape(CHANNELS, POSITIONS, -1)
            patches[share] = to_patches(planes[..., canvas.cells].astype(np.int16))
        return patches, damaged

    def code_bits(
        self, patches: UInt8Array, rows: AnyArray, columns: AnyArray, free: BoolArray | None = None
    ) -> Float64Array:
        """What patches would take, coded together, without writing anything.

        Args:
            patches: (n, 8, 8, 3) RGB.
            rows: (n,) as for `encode`.
            columns: (n,) likewise.
            free: as for `encode_together`.

        Returns:
            (n,) bits; for choosing only.
        """
        truth = _Truth(patches, rows, free)
        bits = np.zeros(len(patches))

        def code(step: CornerStep | LatticeStep, channel: int, prediction: Prediction) -> AnyArray:
            samples = truth.of(step, channel, prediction)
            costs = self.tables.code_bits(samples - prediction.centres, prediction.numbers)
            bits[step.patches] += costs.reshape(len(step.positions), -1).sum(axis=0)
            return samples

        self._walk(Canvas(rows, columns), code)
        return bits

    def _walk(self, canvas: Canvas, code: _Code) -> None:
        for step in steps(canvas):
            for channel in range(CHANNELS):
                step.place(channel, code(step, channel, self.predict(step, channel)))

    def predict(self, step: CornerStep | LatticeStep, channel: int) -> Prediction:
        """What is expected of a step's samples of a channel, by what is on its canvas."""
        network = self.networks[step.kind * CHANNELS + channel]
        parts = [_predict(network, context, channel) for context in step.contexts(channel)]
        return Prediction(
            np.concatenate([part.centres for part in parts] or [np.zeros(0, np.int32)]),
            np.concatenate([part.numbers for part in parts] or [np.zeros(0, np.uint16)]),
        )


class _Truth:
    """The samples that the encoder knows, and those that it may choose."""

    def __init__(self, patches: UInt8Array, rows: AnyArray, free: BoolArray | None = None) -> None:
        if patches.shape != (len(rows), PATCH_SIZE, PATCH_SIZE, CHANNELS):
            raise InvalidInputError(
                "patches", f"have the shape {patches.shape}, not one for each of {len(rows)} places"
            )
        self._planes = to_planes(patches)
        self._free = None if free is None else free.reshape(-1, POSITIONS).T

    def of(
        self,
        step: CornerStep | LatticeStep,
        channel: int,
        prediction: Prediction,
        share: Int64Array | slice = slice(None),
    ) -> AnyArray:
        """A step's samples, where its canvas has but a share of the patches."""
        positions = list(step.positions)
        samples = self._planes[channel][positions][:, share][:, step.patches].ravel()
        if self._free is not None and step.stage >= _EXPECTED_FROM:
            free = self._free[positions][:, share][:, step.patches].ravel()
            samples = np.where(free, prediction.centres, samples)
        return np.asarray(samples, np.int32)


def _canvases(
    rows: AnyArray, columns: AnyArray, packets: Int64Array
) -> Iterator[tuple[Int64Array | slice, Canvas, Int64Array]]:
    """One after another: which patches, a canvas for them, and the packet of each."""
    if packets.max(initial=0) == 0:
        yield slice(None), Canvas(rows, columns), packets
        return
    for numbers in batches(rows, columns, packets):
        share = np.flatnonzero((packets >= numbers.start) & (packets < numbers.stop))
        owners = packets[share]
        places = apart(rows[share], columns[share], owners - numbers.start)
        yield share, Canvas(*places, owners), owners


def _each(step: CornerStep | LatticeStep, owners: Int64Array) -> Int64Array:
    """The packet of each of a step's samples."""
    return np.tile(owners[step.patches], len(step.positions))


def _read_sound(
    readers: Sequence[SymbolReader], tables: SymbolTables, numbers: AnyArray, owners: Int64Array, damaged: set[int]
) -> Int64Array:
    """Values of packets that are not damaged, 0 of the others; notes those that turn out to be."""
    if not damaged:
        values, found = read_together(readers, tables, numbers, owners)
    else:
        sound = ~np.isin(owners, list(damaged))
        values = np.zeros(len(numbers), np.int64)
        values[sound], found = read_together(readers, tables, numbers[sound], owners[sound])
    damaged.update(found)
    return values


def _predict(network: ExactNetwork, context: Context, channel: int) -> Prediction:
    outputs = network(context.features.T)
    activity = context.activity.astype(np.float64)
    # Exact: outputs stay below 2^24 or so and activities below 2^14, quotients by powers of two.
    offset = np.floor(outputs[:, 0] * activity * (FRACTIONS / (OUTPUT_UNIT << ACTIVITY_SHIFT)) + 0.5)
    mean = (offset + FRACTIONS * context.reference).clip(FRACTIONS * LOWEST[channel], FRACTIONS * HIGHEST[channel])
    centres = np.floor((mean + FRACTIONS // 2) / FRACTIONS)
    fraction = mean + FRACTIONS // 2 - FRACTIONS * centres
    octaves = outputs[:, 1] + (OUTPUT_UNIT // LOG_UNIT) * log2_of()[context.activity.astype(np.int64)]
    floor = OUTPUT_UNIT * (SCALE_OF_ACTIVITY + LEAST_SCALE)
    scale = np.floor((octaves - floor) * (_SCALES_PER_OCTAVE / OUTPUT_UNIT)).clip(0, SCALES - 1)
    numbers = (channel * SCALES + scale) * FRACTIONS + fraction
    return Prediction(centres.astype(np.int32), numbers.astype(np.uint16))


def load_lossless(path: Path | None = None) -> LosslessCoder:
    """Reads a coder.

    Args:
        path: a safetensors file; the shipped one if None.

    Raises:
        WeightsError: the file is absent, of another format, damaged, or not provably exact.
    """
    path = path or default_path("lossless.safetensors")
    weights = read_weights(path, LOSSLESS_FORMAT)
    try:
        names = [_name(kind, channel) for kind in range(KINDS) for channel in range(CHANNELS)]
        networks = tuple(ExactNetwork.from_tensors(weights.tensors, name) for name in names)
        return LosslessCoder(networks, SymbolTables(weights.tensors["frequencies"]), weights.hash)
    except KeyError as error:
        raise WeightsError(f"{path}: has no frequencies") from error
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


@cache
def shipped_lossless() -> LosslessCoder:
    """The shipped coder, read once."""
    return load_lossless()


def save_lossless(path: Path, coder: LosslessCoder, settings: dict[str, str]) -> None:
    """Writes a file that `load_lossless` reads."""
    tensors: dict[str, AnyArray] = {"frequencies": coder.tables.frequencies}
    for number, network in enumerate(coder.networks):
        tensors |= network.to_tensors(_name(*divmod(number, CHANNELS)))
    write_weights(path, LOSSLESS_FORMAT, tensors, settings)


def _name(kind: int, channel: int) -> str:
    return f"network.{kind}.{channel}"
