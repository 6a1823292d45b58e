"""What a codec's receiving half must offer; assembly, pictures and reports know no more than this.

```
StreamHeader ─► open ─► levels ─► Layout ─► pieces of a body ─► ArrivedPatches ─► decode ─► DecodedPatches ─► paint
                                                                   of each revision ─► merge ─┘
```
Whatever the codec, patches are sent by level, highest first, and are counted in that order. Revisions are decoded one
by one; where a patch came in several of them, `merge` keeps the finest.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeAlias

import numpy as np

from shared.arrays import BoolArray, Int64Array, UInt8Array
from shared.codec.registry import CodecEntry
from shared.packets import StreamHeader
from shared.patches import PatchGrid


@dataclass(frozen=True, eq=False)
class Layout:
    """How many patches come at which level, and thus in which places of the sending order."""

    levels: UInt8Array
    """(patches,) planned level of each patch in raster order."""
    ends: tuple[int, ...]
    """Per level: how many patches are sent at that level or a higher one; the first is the number of all patches."""

    @classmethod
    def of(cls, levels: UInt8Array, codec: CodecEntry) -> "Layout":
        """The layout of a level map, (patches,) of the codec's levels."""
        counts = np.bincount(levels, minlength=codec.levels)
        return cls(levels, tuple(np.cumsum(counts[::-1])[::-1].tolist()))

    @property
    def expected(self) -> int:
        """Patches that are sent."""
        return self.ends[1]

    def level_counts(self, place: slice) -> list[int]:
        """How many of the patches at adjacent places of the sending order are at each level; 0 of them skipped."""
        bounds = [min(max(end, place.start), place.stop) for end in (*self.ends[1:], 0)]
        return [0, *(upper - lower for upper, lower in pairwise(bounds))]


@dataclass(frozen=True)
class Piece:
    """Adjacent patches that are kept together."""

    first: int
    """Ordinal of the first patch in sending order."""
    patches: int
    """How many, at least 1."""
    payload: bytes
    """Their bytes."""
    sized: bool
    """Whether all patches take the same number of bytes, so that the piece can be cut between them."""
    goes_on: bool = False
    """Whether more of the same patches comes in the next scan."""

    @property
    def place(self) -> slice:
        """Where the patches are in sending order."""
        return slice(self.first, self.first + self.patches)

    def part(self, start: int, stop: int) -> "Piece":
        """The patches from `start` to `stop` of a piece that can be cut, counted from its first."""
        size = len(self.payload) // self.patches
        return Piece(self.first + start, stop - start, self.payload[start * size : stop * size], sized=True)


@dataclass(frozen=True)
class ArrivedPatches:
    """All that a picture can be rebuilt from; stays as it is while more packets arrive."""

    codec: "ReceiverCodec"
    """The one that the header names."""
    header: StreamHeader
    """Of the first revision, or of a later one with the sketch of the first, which all share."""
    layout: Layout
    pieces: tuple[Piece, ...]
    """None overlaps another."""
    version: int
    """Rises with every change."""
    later: tuple["ArrivedPatches", ...] = ()
    """What arrived of later revisions, rising; theirs are empty."""
    scans: tuple[tuple[Piece, ...], ...] = ()
    """What arrived of each scan that goes on where `pieces` end, in their order."""

    def decode(self) -> "DecodedPatches":
        """The patches as pixels, each from the revision that has it finest."""
        decoded = self.codec.decode(self)
        for revision in self.later:
            decoded = self.codec.merge(decoded, self.codec.decode(revision))
        return decoded

    @property
    def patches(self) -> int:
        """How many different ones there are."""
        if not self.later:
            return sum(piece.patches for piece in self.pieces)
        there: BoolArray = np.zeros(self.header.grid.count, np.bool_)
        for revision in (self, *self.later):
            order = self.codec.order(revision.layout.levels, self.header.grid)
            for piece in revision.pieces:
                there[order[piece.place]] = True
        return int(np.count_nonzero(there))


@dataclass(frozen=True)
class DecodedPatches:
    """The patches that arrived, as pixels; a codec may add what its painting needs."""

    codec: "ReceiverCodec"
    header: StreamHeader
    patches: UInt8Array
    """(grid.count, 8, 8, 3) RGB, zero where nothing arrived."""
    levels: UInt8Array
    """(grid.count,) level of each patch, 0 where skipped, lost, or not to be made sense of."""

    def paint(self) -> UInt8Array:
        """The picture, (height, width, 3) RGB."""
        return self.codec.paint(self)

    @property
    def level_picture(self) -> UInt8Array:
        """The levels as (rows, columns), one pixel per patch."""
        return self.levels.reshape(self.header.grid.rows, self.header.grid.columns)

    @property
    def level_counts(self) -> tuple[int, ...]:
        """Patches at each level; none counts at level 0, which nothing arrives at."""
        counts = np.bincount(self.levels, minlength=self.codec.entry.levels)
        return (0, *counts[1:].tolist())

    @property
    def read_patches(self) -> int:
        """Patches that arrived and could be made sense of."""
        return int(np.count_nonzero(self.levels))


def overlaid(earlier: DecodedPatches, later: DecodedPatches, finer: BoolArray) -> DecodedPatches:
    """Puts patches of a later revision over those of an earlier one, whose arrays are taken over.

    Args:
        earlier: gives what remains.
        later: of the same picture.
        finer: (grid.count,) the patches to take from it.
    """
    earlier.patches[finer] = later.patches[finer]
    earlier.levels[finer] = later.levels[finer]
    return earlier


class ReceiverCodec(Protocol):
    """The receiving half of a codec; may be used by several threads at once."""

    @property
    def entry(self) -> CodecEntry:
        """Its name, number and levels."""
        ...

    @property
    def weights_hash(self) -> bytes:
        """4 bytes; a stream header with others cannot be decoded here."""
        ...

    def open(self, header: StreamHeader) -> UInt8Array:
        """Reads the level map, in memory bounded by the picture's number of patches.

        Returns:
            (grid.count,) planned level of each patch, in raster order.

        Raises:
            StreamError: the header is damaged or forged.
        """
        ...

    @property
    def scans(self) -> bool:
        """Whether its bodies may come in several scans; `pieces` and `decode` then know of them."""
        ...

    def order(self, levels: UInt8Array, grid: PatchGrid) -> Int64Array:
        """The patches that a level map announces, in the order of sending.

        Args:
            levels: (grid.count,) as `open` gives them.
            grid: the picture's.

        Returns:
            (announced patches,) numbers in raster order.
        """
        ...

    def pieces(self, layout: Layout, position: int, body: bytes) -> list[Piece]:
        """Says whose bytes a body holds, without decoding it.

        Args:
            layout: the transmission's.
            position: ordinal of its first patch, 0 or more.
            body: of a PATCHES packet, of any content.

        Returns:
            At least one, in the order of sending, without gaps.

        Raises:
            PacketError: the body lies outside the announced patches, or is none of this codec.
        """
        ...

    def usable(self, layout: Layout, position: int, body: bytes) -> bytes:
        """As much of the beginning of a body as `pieces` takes; empty if it can be used only as a whole."""
        ...

    def decode(self, arrived: ArrivedPatches) -> DecodedPatches:
        """Decodes every patch that arrived of one revision, alone, whatever `arrived.later` says.

        What makes no sense counts as lost and takes nothing else with it. The arrays are the caller's to change.
        """
        ...

    def merge(self, earlier: DecodedPatches, later: DecodedPatches) -> DecodedPatches:
        """Takes of every patch the finer one, of two alike that of the later revision.

        Args:
            earlier: as `decode` or this method gave it; its arrays may be taken over.
            later: of the same picture, as `decode` gave it.
        """
        ...

    def paint(self, decoded: DecodedPatches) -> UInt8Array:
        """Paints the picture, (height, width, 3) RGB, with something in the place of what is not there."""
        ...

    def warm_up(self) -> None:
        """Makes the first picture as fast as those after it: builds tables, starts threads."""
        ...


ReceiverCodecs: TypeAlias = Mapping[int, ReceiverCodec]
"""The codecs at hand, by their numbers."""


def by_number(*codecs: ReceiverCodec) -> ReceiverCodecs:
    """The codecs as everything here takes them."""
    return {codec.entry.number: codec for codec in codecs}
