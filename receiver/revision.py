"""One revision of a transmission at the receiver: its header section, and whose bytes came.

```
HEADER fragments ─► HeaderSection ─► (checked by the assembly) ─► open ─► Layout
                                                                            │ says whose bytes these are
PATCHES ──────────────── kept while the header is missing ─────────────────►└─► pieces
```
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from receiver.contract import ArrivedPatches, Layout, Piece, ReceiverCodec
from receiver.header import HeaderSection
from shared.arrays import AnyArray, BoolArray
from shared.errors import PacketError
from shared.feedback import Arrived
from shared.packets import PACKET_HEADER_BYTES, StreamHeader

OBJECT_BYTES: Final = 200
"""What Python needs to keep a piece, whatever its size."""


class Revision:
    """What has arrived of one revision.

    Args:
        number: 0 to MAX_REVISIONS - 1.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.header: StreamHeader | None = None
        """As the patches are decoded by, with the sketch of the first revision; None before it is open."""
        self.layout = Layout(np.zeros(0, np.uint8), (0, 0))
        self.received: list[int] = [0, 0]
        """Patches that have arrived at each level; nothing arrives at level 0."""
        self.kept_bytes = 0
        """Of the patches that have a place, without what is around them."""
        self._codec: ReceiverCodec | None = None
        self._gathered = HeaderSection()
        self._section = b""
        self._arrived: BoolArray = np.zeros(0, np.bool_)
        self._pieces: dict[int, Piece] = {}
        self._early: dict[tuple[int, bytes], None] = {}
        self._header_bytes = self._patch_bytes = self._early_bytes = 0

    # ---- what is known -------------------------------------------------------------------------

    @property
    def empty(self) -> bool:
        """Whether nothing has arrived, or nothing that was not forgotten."""
        return not self.received_bytes

    @property
    def received_bytes(self) -> int:
        """Bytes of the accepted packets, packet headers included."""
        return self._header_bytes + self._patch_bytes + self._early_bytes

    @property
    def gathered_bytes(self) -> int:
        """Memory of a header section that is not open."""
        return self._gathered.stored_bytes

    @property
    def early_bytes(self) -> int:
        """Memory of patches that wait for the header."""
        return self._early_bytes + len(self._early) * OBJECT_BYTES

    @property
    def stored_bytes(self) -> int:
        """Memory that this revision takes."""
        fixed = self._gathered.stored_bytes + len(self._section) + self.layout.levels.nbytes + self._arrived.nbytes
        return OBJECT_BYTES + fixed + self.early_bytes + self.kept_bytes + len(self._pieces) * OBJECT_BYTES

    @property
    def scan(self) -> bool:
        """Whether it is open, and a scan of the revision before."""
        return self.header is not None and self.header.scan

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """What has a place."""
        return tuple(self._pieces.values())

    def begins(self, first: int) -> bool:
        """Whether a piece that has a place begins with a patch, by its ordinal."""
        return first in self._pieces

    @property
    def places(self) -> Iterator[slice]:
        """Where in the order of sending the patches are that arrived, piece by piece."""
        return (piece.place for piece in self._pieces.values())

    def arrived(self) -> Arrived:
        """What the sender may be told."""
        if self.header is None:
            whole = self._gathered.whole() is not None
            return Arrived(self.number, whole, known_below=0)
        return Arrived(self.number, header=True, runs=tuple(_runs(self._arrived)))

    def has(self, place: slice) -> bool:
        """Whether all patches of a place in the order of sending have arrived."""
        there = self._arrived[place]
        return len(there) == place.stop - place.start and bool(there.all())

    def body(self, place: slice) -> bytes | None:
        """The body of a packet as it came; None if it has not arrived, or not as one packet of these patches."""
        at, found = place.start, []
        while at < place.stop and (piece := self._pieces.get(at)) is not None:
            found.append(piece.payload)
            at = piece.place.stop
        return b"".join(found) if at == place.stop else None

    def snapshot(
        self, version: int, scans: tuple[tuple[Piece, ...], ...] = (), later: tuple[ArrivedPatches, ...] = ()
    ) -> ArrivedPatches:
        """What can be decoded, with its further scans; to be asked of an open revision."""
        assert self._codec is not None
        assert self.header is not None
        return ArrivedPatches(self._codec, self.header, self.layout, self.pieces, version, later, scans)

    # ---- header --------------------------------------------------------------------------------

    def add_fragment(self, position: int, body: bytes) -> bool:
        """Takes a fragment of the header section.

        Returns:
            Whether it brought something new.

        Raises:
            PacketError: it fits nowhere, or contradicts what is known; nothing has changed.
        """
        if self.header is not None:
            if not body or not self._section.startswith(body, position):
                raise PacketError("fragment contradicts the header")
            return False
        fresh = self._gathered.add(position, body)
        if fresh:
            self._header_bytes += PACKET_HEADER_BYTES + len(body)
        return fresh

    def section(self) -> bytes | None:
        """The section if every byte of it has arrived.

        Raises:
            StreamError: it announces a size that no legal picture needs.
        """
        return self._gathered.whole()

    def forget_header(self) -> None:
        """Makes as if no fragment had arrived."""
        self._gathered, self._header_bytes = HeaderSection(), 0

    def open(self, section: bytes, header: StreamHeader, layout: Layout, codec: ReceiverCodec) -> None:
        """From now on patches have a place; those that waited for it find theirs.

        Args:
            section: the whole header section.
            header: what it says, with the sketch that the patches are decoded by.
            layout: of its level map.
            codec: the one that it names.
        """
        self.header, self.layout, self._codec, self._section = header, layout, codec, section
        self.received = [0] * codec.entry.levels
        self._gathered = HeaderSection()
        early, self._early, self._early_bytes = self._early, {}, 0
        for position, body in early:
            try:
                self.place(position, body)
            except PacketError:
                continue  # without the header nobody could tell that it was foreign

    # ---- patches -------------------------------------------------------------------------------

    def keep_early(self, position: int, body: bytes) -> bool:
        """Keeps a body for when the header has arrived; whether it had not come before."""
        key = (position, body)
        if key in self._early:
            return False
        self._early[key] = None
        self._early_bytes += PACKET_HEADER_BYTES + len(body)
        return True

    def place(self, position: int, body: bytes) -> list[Piece]:
        """Puts the patches of a body where they belong; to be asked of an open revision.

        Returns:
            What had not arrived before; nothing if all of it had.

        Raises:
            PacketError: it fits nowhere; nothing has changed.
        """
        assert self._codec is not None
        pieces = self._codec.pieces(self.layout, position, body)
        if not len(self._arrived):
            self._arrived = np.zeros(self.layout.expected, np.bool_)
        fresh = [part for piece in pieces for part in self._missing(piece)]
        for piece in fresh:
            self._keep(piece)
        if fresh:
            self._patch_bytes += PACKET_HEADER_BYTES + len(body)
        return fresh

    def _missing(self, piece: Piece) -> Iterator[Piece]:
        """The parts of a piece that had not arrived; nearly always all or nothing of it.

        Raises:
            PacketError: only a part of it had arrived, and it cannot be cut.
        """
        arrived = self._arrived[piece.place]
        if not arrived.any():
            yield piece
        elif piece.sized:
            for start, stop in _runs(~arrived):
                yield piece.part(start, stop)
        elif (there := self._pieces.get(piece.first)) is None or there.patches != piece.patches:
            raise PacketError("body overlaps others")

    def _keep(self, piece: Piece) -> None:
        self._pieces[piece.first] = piece
        self.kept_bytes += len(piece.payload)
        self._arrived[piece.place] = True
        for level, patches in enumerate(self.layout.level_counts(piece.place)):
            self.received[level] += patches


def _runs(flags: BoolArray) -> list[tuple[int, int]]:
    """Start and end of every run of True."""
    if flags.all():
        return [(0, len(flags))] if len(flags) else []
    edges: AnyArray = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]])))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]
