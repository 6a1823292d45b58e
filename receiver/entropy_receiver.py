"""The entropy codec's receiving half: bodies kept whole, decoded together, restored over the background layer.

```
level map ─► base, spacing, levels ─┐
sketch ─► background ───────────────┴─► Scene ─┐
pieces ────────────────────────────────────────┴─► patches, qualities ─► restoration ─► picture
```
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar, Final, Protocol

import numpy as np

from receiver.contract import ArrivedPatches, DecodedPatches, Layout, Piece, overlaid
from receiver.whole_bodies import scanned, whole_body
from shared.arrays import BoolArray, Int16Array, Int64Array, UInt8Array
from shared.codec.entropy.background import GREY
from shared.codec.entropy.codec import EntropyCodec, Scene, beginning, goes_on, joined, patches_in
from shared.codec.entropy.context import QUALITIES
from shared.codec.entropy.levels import (
    EXACT,
    LEVELS,
    QUALITY_EXACT,
    QUALITY_SKIPPED,
    SKIPPED,
    coarser_by,
    sending_order,
)
from shared.codec.registry import ENTROPY, CodecEntry
from shared.entropy_level_map import decode as decode_level_map
from shared.entropy_level_map import encode as encode_level_map
from shared.errors import StreamError
from shared.packets import MAX_REVISIONS, StreamHeader
from shared.patches import PATCH_SIZE, PatchGrid

_QUANTISER_BYTES: Final = 2  # base and spacing, before the level map proper
_BACKGROUNDS: Final = 8  # kept: 3 bytes per patch each


class Restorer(Protocol):
    """Fills what was not sent, and takes the quantisers' traces away."""

    def restore(
        self, patches: UInt8Array, qualities: Int16Array, grid: PatchGrid, background: UInt8Array
    ) -> UInt8Array:
        """Paints the picture.

        Args:
            patches: (grid.count, 8, 8, 3) RGB, zero where nothing arrived.
            qualities: (grid.count,) as of `shared.codec.entropy.levels.qualities_of`.
            grid: the picture's grid.
            background: (grid.count, 3) RGB, a colour for every patch.

        Returns:
            (grid.height, grid.width, 3) RGB; exact patches are exactly as decoded.
        """
        ...


@dataclass(frozen=True)
class DecodedEntropy(DecodedPatches):
    """What the restoration needs besides the patches."""

    qualities: Int16Array
    """(grid.count,) quantiser of each patch that arrived."""
    colours: UInt8Array
    """(grid.count, 3) RGB, the background layer; shared with others, and not to be changed."""


@dataclass(frozen=True)
class EntropyReceiver:
    """Implements `receiver.contract.ReceiverCodec`."""

    codec: EntropyCodec
    restorer: Restorer

    entry: ClassVar[CodecEntry] = ENTROPY
    scans: ClassVar[bool] = True

    @property
    def weights_hash(self) -> bytes:
        """Of all that both ends must have alike."""
        return self.codec.weights_hash

    def open(self, header: StreamHeader) -> UInt8Array:
        """See the contract."""
        if len(header.level_map) <= _QUANTISER_BYTES or header.level_map_table >= MAX_REVISIONS:
            raise StreamError("level map is damaged")
        return decode_level_map(header.level_map[_QUANTISER_BYTES:], header.grid)

    def order(self, levels: UInt8Array, grid: PatchGrid) -> Int64Array:
        """By level, highest first, along a curve within a level."""
        return sending_order(levels, grid)

    def pieces(self, layout: Layout, position: int, body: bytes) -> list[Piece]:
        """The body as it is."""
        return whole_body(layout, position, body, patches_in(body), goes_on=goes_on(body))

    def usable(self, layout: Layout, position: int, body: bytes) -> bytes:
        """The beginning of lossy patches tells all of them, more coarsely; that of exact ones is of no use."""
        return b"" if position < layout.ends[EXACT] else beginning(body)

    def decode(self, arrived: ArrivedPatches) -> DecodedEntropy:
        """Decodes every body; where the background layer makes no sense, nothing that builds on it does."""
        header, planned = arrived.header, arrived.layout.levels
        try:
            colours = self._background(header.sketch, header.grid)
        except StreamError:
            return self._nothing(header)
        base, spacing = header.level_map[:_QUANTISER_BYTES]
        order, means = sending_order(planned, header.grid), self.codec.expected_means(colours)
        scene = Scene(header.grid, planned, base, spacing, order, means)
        bodies = list(scanned(arrived))
        patches, qualities = self.codec.decode(scene, [(piece.first, joined(parts)) for piece, parts in bodies])
        for piece, parts in bodies:
            if goes_on(parts[-1]):
                _coarsen(qualities, order[piece.place], len(parts), 1 + header.level_map_table)
        levels = np.where(qualities == QUALITY_SKIPPED, SKIPPED, planned).astype(np.uint8)
        return DecodedEntropy(self, header, patches, levels, qualities, colours)

    def merge(self, earlier: DecodedPatches, later: DecodedPatches) -> DecodedPatches:
        """The finer quantiser counts; each revision has its own."""
        assert isinstance(earlier, DecodedEntropy)
        assert isinstance(later, DecodedEntropy)
        finer = _at_least_as_fine(later.qualities, earlier.qualities)
        earlier.qualities[finer] = later.qualities[finer]
        return overlaid(earlier, later, finer)

    def paint(self, decoded: DecodedPatches) -> UInt8Array:
        """Restores what `decode` gave."""
        assert isinstance(decoded, DecodedEntropy)
        return self.restorer.restore(decoded.patches, decoded.qualities, decoded.header.grid, decoded.colours)

    def warm_up(self) -> None:
        """Decodes bodies of garbage, lossy and exact, and restores what comes of them."""
        grid = PatchGrid(LEVELS * PATCH_SIZE, PATCH_SIZE)
        levels = np.arange(LEVELS, dtype=np.uint8)
        level_map = bytes(_QUANTISER_BYTES) + encode_level_map(levels, grid)
        header = StreamHeader(self.entry.number, self.weights_hash, grid, b"", level_map, 0)
        layout = Layout.of(self.open(header), self.entry)
        bodies = ((0, b"\x00\x01" + bytes(64)), (1, b"\x00\x06" + bytes(64)))
        pieces = [piece for position, body in bodies for piece in self.pieces(layout, position, body)]
        self.decode(ArrivedPatches(self, header, layout, tuple(pieces), 0)).paint()

    @cached_property
    def _background(self) -> Callable[[bytes, PatchGrid], UInt8Array]:
        """The background layer of a sketch; all revisions need it, and a picture that is watched as it grows."""
        return lru_cache(_BACKGROUNDS)(self.codec.background)

    def _nothing(self, header: StreamHeader) -> DecodedEntropy:
        count = header.grid.count
        patches, levels = np.zeros((count, PATCH_SIZE, PATCH_SIZE, 3), np.uint8), np.zeros(count, np.uint8)
        qualities, colours = np.full(count, QUALITY_SKIPPED, np.int16), np.full((count, 3), GREY, np.uint8)
        return DecodedEntropy(self, header, patches, levels, qualities, colours)


def _coarsen(qualities: Int16Array, numbers: Int64Array, there: int, scans: int) -> None:
    """Of patches whose later scans are missing, the quantiser that would show them about as well."""
    told = qualities[numbers]
    coarser = np.minimum(told + coarser_by(max(scans - there, 0), scans), QUALITIES - 1)
    qualities[numbers] = np.where(told >= 0, coarser, told)


def _at_least_as_fine(qualities: Int16Array, others: Int16Array) -> BoolArray:
    """Where something is there that is no coarser than the others; qualities as of `qualities_of`."""
    exact, there = qualities == QUALITY_EXACT, qualities != QUALITY_SKIPPED
    finer = (others == QUALITY_SKIPPED) | ((others != QUALITY_EXACT) & (qualities <= others))
    return np.asarray(exact | (there & finer))
