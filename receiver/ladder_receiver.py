"""The ladder's receiving half: whole patches out of every body, and the restoration around them.

```
pieces ─► codec, level by level ─► patches ──┐
sketch ──────────────────► background ───────┴─► restoration ─► picture
```
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from receiver.contract import ArrivedPatches, DecodedPatches, Layout, Piece, overlaid
from shared.arrays import Int64Array, UInt8Array
from shared.codec.contract import PatchCodec
from shared.codec.identity import stream_weights_hash
from shared.codec.ladder_order import sending_order
from shared.codec.registry import LADDER, CodecEntry
from shared.errors import PacketError
from shared.level_map import decode_level_map
from shared.levels import LEVEL_BYTES, RAW, SKIPPED
from shared.packets import StreamHeader
from shared.patches import PATCH_SIZE, PatchGrid
from shared.sketch import decode_sketch


class Restorer(Protocol):
    """Fills what was not sent and hides the borders between patches of different levels."""

    def restore(self, decoded: UInt8Array, levels: UInt8Array, grid: PatchGrid, background: UInt8Array) -> UInt8Array:
        """Paints the picture.

        Args:
            decoded: (grid.count, 8, 8, 3) RGB, zero where the level is 0.
            levels: (grid.count,) level of each patch that arrived, 0 where skipped or lost.
            grid: the picture's grid.
            background: (grid.count, 8, 8, 3) RGB, the sketch.

        Returns:
            (grid.height, grid.width, 3) RGB.
        """
        ...


@dataclass(frozen=True)
class LadderReceiver:
    """Implements `receiver.contract.ReceiverCodec`."""

    codec: PatchCodec
    restorer: Restorer

    entry: ClassVar[CodecEntry] = LADDER
    scans: ClassVar[bool] = False

    @property
    def weights_hash(self) -> bytes:
        """Of the levels' tables and the level map's."""
        return stream_weights_hash(self.codec)

    def open(self, header: StreamHeader) -> UInt8Array:
        """See the contract."""
        return decode_level_map(header.level_map, header.level_map_table, header.grid)

    def order(self, levels: UInt8Array, grid: PatchGrid) -> Int64Array:  # noqa: ARG002 - see the contract
        """By level, highest first, in raster order within a level."""
        return sending_order(levels)

    def pieces(self, layout: Layout, position: int, body: bytes) -> list[Piece]:
        """Cuts a body where the sending order goes on to a lower level; each piece is of one level."""
        if not body or position >= layout.expected:
            raise PacketError("patches lie outside the picture")
        found = list(_pieces(layout, position, body))
        if sum(len(piece.payload) for piece in found) != len(body):
            raise PacketError("body is not a whole number of patches")
        return found

    def usable(self, layout: Layout, position: int, body: bytes) -> bytes:
        """The whole patches at the beginning of a body."""
        return b"".join(piece.payload for piece in _pieces(layout, position, body))

    def decode(self, arrived: ArrivedPatches) -> DecodedPatches:
        """Decodes every patch that arrived, one call of the codec per level."""
        grid = arrived.header.grid
        order = sending_order(arrived.layout.levels)
        patches = np.zeros((grid.count, PATCH_SIZE, PATCH_SIZE, 3), np.uint8)
        levels = np.zeros(grid.count, np.uint8)
        by_level = _by_level(arrived)
        for level in range(SKIPPED + 1, len(LEVEL_BYTES)):
            if pieces := by_level[level]:
                numbers = np.concatenate([order[piece.place] for piece in pieces])
                joined = np.frombuffer(b"".join(piece.payload for piece in pieces), np.uint8)
                patches[numbers] = self.codec.decode(level, joined.reshape(-1, LEVEL_BYTES[level]))
                levels[numbers] = level
        return DecodedPatches(self, arrived.header, patches, levels)

    def merge(self, earlier: DecodedPatches, later: DecodedPatches) -> DecodedPatches:
        """The higher level is the finer one."""
        finer = (later.levels > SKIPPED) & (later.levels >= earlier.levels)
        return overlaid(earlier, later, finer)

    def paint(self, decoded: DecodedPatches) -> UInt8Array:
        """Restores the patches over the sketch."""
        grid = decoded.header.grid
        background = decode_sketch(decoded.header.sketch, grid)
        return self.restorer.restore(decoded.patches, decoded.levels, grid, background)

    def warm_up(self) -> None:
        """Decodes and restores a small picture that has every level."""
        grid = PatchGrid(8 * PATCH_SIZE, PATCH_SIZE)
        header = StreamHeader(LADDER.number, self.weights_hash, grid, b"", b"", 0)
        levels = np.arange(grid.count, dtype=np.uint8) % len(LEVEL_BYTES)
        layout = Layout.of(levels, LADDER)
        body = bytes(int(np.asarray(LEVEL_BYTES)[levels].sum()))
        self.decode(ArrivedPatches(self, header, layout, tuple(self.pieces(layout, 0, body)), 0)).paint()


def _pieces(layout: Layout, position: int, body: bytes) -> Iterator[Piece]:
    """The whole patches at the beginning of a body, level by level."""
    offset, ordinal = 0, position
    for level in range(RAW, SKIPPED, -1):
        size = LEVEL_BYTES[level]
        patches = min(max(layout.ends[level] - ordinal, 0), (len(body) - offset) // size)
        if patches:
            yield Piece(ordinal, patches, body[offset : offset + patches * size], sized=True)
            offset, ordinal = offset + patches * size, ordinal + patches
        if ordinal < layout.ends[level]:
            return


def _by_level(arrived: ArrivedPatches) -> list[list[Piece]]:
    """The pieces of each level; a piece lies within one."""
    found: list[list[Piece]] = [[] for _ in LEVEL_BYTES]
    for piece in arrived.pieces:
        found[LEVEL_BYTES.index(len(piece.payload) // piece.patches)].append(piece)
    return found
