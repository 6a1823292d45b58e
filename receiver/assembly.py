"""Puts the packets of one transmission together: in any order, twice, damaged, or with holes.

```
HEADER fragments ─► HeaderSection ─► StreamHeader ─► level map ─► Layout
                                                                      │ says whose bytes these are
PATCHES ──────────────── kept while the header is missing ───────────►└─► pieces
```

Memory follows what arrived, not what a header promises: a piece is kept as it came, and nothing of the size of
the picture exists before somebody asks for the picture. What a body holds, the codec says (`receiver.contract`).
"""

from collections.abc import Iterator
from enum import Enum
from itertools import pairwise
from typing import Final

import numpy as np

from receiver.contract import ArrivedPatches, Layout, Piece, ReceiverCodec, ReceiverCodecs
from receiver.header import HeaderSection
from shared.arrays import AnyArray, BoolArray
from shared.codec.registry import CodecEntry
from shared.errors import PacketError, StreamError
from shared.packets import PACKET_HEADER_BYTES, Packet, PacketKind, StreamHeader
from shared.reports import Report, ReportOutcome

MAX_EARLY_BYTES: Final = 4 * 1024 * 1024
"""Memory for patches that come before their header, per transmission."""

_OBJECT_BYTES: Final = 200  # what Python needs to keep a piece, whatever its size


class Arrival(Enum):
    """What an intact packet brought."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"


class Assembly:
    """One transmission at the receiver.

    Args:
        transmission_id: 0 to 2**32 - 1.
        codecs: those at hand; a stream of another one, or of other weights, cannot be decoded.
        now: seconds of any monotonic clock.
    """

    def __init__(self, transmission_id: int, codecs: ReceiverCodecs, now: float) -> None:
        self.transmission_id = transmission_id
        self.header: StreamHeader | None = None
        self.version = 0
        """Rises with everything that changes the picture."""
        self.first_s = self.last_s = now
        """When the first and the last packet that was accepted came."""
        self.unreadable_patches = 0
        """Of those that arrived, how many the codec could make nothing of when it last decoded them."""
        self._codecs = codecs
        self._codec: ReceiverCodec | None = None
        self._gathered = HeaderSection()
        self._section = b""
        self._layout = Layout(np.zeros(0, np.uint8), (0, 0))
        self._arrived: BoolArray = np.zeros(0, np.bool_)
        self._pieces: dict[int, Piece] = {}
        self._early: dict[tuple[int, bytes], None] = {}
        self._header_bytes = self._patch_bytes = self._early_bytes = self._kept_bytes = 0
        self._received: list[int] = [0, 0]
        self._closed = False

    # ---- what is known -------------------------------------------------------------------------

    @property
    def outcome(self) -> ReportOutcome:
        """COMPLETE once every announced patch is there; after `close`, PARTIAL or (without header) FAILED.

        Where every patch is there but not all can be made sense of, nothing more will come: PARTIAL.
        """
        if self.header is not None and sum(self._received) == self.expected_patches:
            return ReportOutcome.PARTIAL if self.unreadable_patches else ReportOutcome.COMPLETE
        if not self._closed:
            return ReportOutcome.RECEIVING
        return ReportOutcome.FAILED if self.header is None else ReportOutcome.PARTIAL

    @property
    def received_bytes(self) -> int:
        """Bytes of the accepted packets, packet headers included."""
        return self._header_bytes + self._patch_bytes + self._early_bytes

    @property
    def content_bytes(self) -> int:
        """Bytes of the patches that have a place, without what is around them."""
        return self._kept_bytes

    @property
    def expected_patches(self) -> int:
        """Patches that the level map announces; 0 before it has arrived."""
        return self._layout.expected

    @property
    def received_patches(self) -> int:
        """Patches that have arrived, have a place, and were not found unreadable."""
        return sum(self._received) - self.unreadable_patches

    @property
    def codec(self) -> CodecEntry | None:
        """The codec that the header names; None before it has arrived."""
        return None if self._codec is None else self._codec.entry

    @property
    def levels_planned(self) -> tuple[int, ...]:
        """Patches at each level by the level map, the skipped ones at index 0; all 0 before it has arrived."""
        ends = (*self._layout.ends, 0)
        return tuple(upper - lower for upper, lower in pairwise(ends))

    @property
    def levels_received(self) -> tuple[int, ...]:
        """Patches that have arrived at each level; nothing arrives at level 0."""
        return tuple(self._received)

    @property
    def stored_bytes(self) -> int:
        """Memory that this transmission takes."""
        early = self._early_bytes + len(self._early) * _OBJECT_BYTES
        fixed = self._gathered.stored_bytes + len(self._section) + self._layout.levels.nbytes + self._arrived.nbytes
        return _OBJECT_BYTES + fixed + early + self._kept_bytes + len(self._pieces) * _OBJECT_BYTES

    def snapshot(self) -> ArrivedPatches | None:
        """What the picture can be rebuilt from; None before the header has arrived."""
        if self.header is None or self._codec is None:
            return None
        return ArrivedPatches(self._codec, self.header, self._layout, tuple(self._pieces.values()), self.version)

    def report(self, reconstruct_s: float) -> Report:
        """The answer to the transmitter; `reconstruct_s` is what the picture took."""
        counts = (self.received_bytes, self.expected_patches, self.received_patches)
        return Report(self.transmission_id, self.outcome, *counts, reconstruct_s)

    # ---- what arrives --------------------------------------------------------------------------

    def accept(self, packet: Packet, now: float) -> Arrival:
        """Takes an intact packet of this transmission.

        Args:
            packet: HEADER or PATCHES.
            now: seconds of the same clock as at the start.

        Raises:
            PacketError: it fits nowhere, or contradicts what is known; nothing has changed.
            StreamError: it completes a header that cannot be decoded here; the header is forgotten.
        """
        if packet.kind is PacketKind.HEADER:
            arrival = self._accept_fragment(packet)
        elif packet.kind is PacketKind.PATCHES:
            arrival = self._accept_patches(packet)
        else:
            raise PacketError("a report has no place in a transmission")
        if arrival is Arrival.ACCEPTED:
            self.last_s, self._closed = now, False
        return arrival

    def close(self) -> None:
        """Nothing more is awaited. A packet that comes after all opens the transmission again."""
        self._closed = True

    # ---- header --------------------------------------------------------------------------------

    def _accept_fragment(self, packet: Packet) -> Arrival:
        if self.header is not None:
            if not packet.body or not self._section.startswith(packet.body, packet.position):
                raise PacketError("fragment contradicts the header")
            return Arrival.DUPLICATE
        if not self._gathered.add(packet.position, packet.body):
            return Arrival.DUPLICATE
        self._header_bytes += PACKET_HEADER_BYTES + len(packet.body)
        try:
            section = self._gathered.whole()
            if section is not None:
                self._open(section)
        except StreamError:
            self._gathered, self._header_bytes = HeaderSection(), 0
            raise
        return Arrival.ACCEPTED

    def _open(self, section: bytes) -> None:
        """Everything that can fail comes first, so that a bad header leaves no trace."""
        header = StreamHeader.from_bytes(section)
        codec = self._codecs.get(header.codec)
        if codec is None or header.weights_hash != codec.weights_hash:
            raise StreamError(f"codec {header.codec} with weights {header.weights_hash.hex()} is not known here")
        layout = Layout.of(codec.open(header), codec.entry)
        self.header, self._section, self._codec, self._layout = header, section, codec, layout
        self._received = [0] * codec.entry.levels
        self._gathered = HeaderSection()
        self.version += 1
        self._place_early()

    # ---- patches -------------------------------------------------------------------------------

    def _accept_patches(self, packet: Packet) -> Arrival:
        if self.header is not None:
            return self._place(packet.position, packet.body)
        key = (packet.position, packet.body)
        if key in self._early:
            return Arrival.DUPLICATE
        size = PACKET_HEADER_BYTES + len(packet.body)
        if self._early_bytes + size + (len(self._early) + 1) * _OBJECT_BYTES > MAX_EARLY_BYTES:
            raise PacketError("too many patches before the header")
        self._early[key] = None
        self._early_bytes += size
        return Arrival.ACCEPTED

    def _place_early(self) -> None:
        early, self._early, self._early_bytes = self._early, {}, 0
        for position, body in early:
            try:
                self._place(position, body)
            except PacketError:
                continue  # without the header nobody could tell that it was foreign

    def _place(self, position: int, body: bytes) -> Arrival:
        assert self._codec is not None
        pieces = self._codec.pieces(self._layout, position, body)
        if not len(self._arrived):
            self._arrived = np.zeros(self.expected_patches, np.bool_)
        fresh = [part for piece in pieces for part in self._missing(piece)]
        for piece in fresh:
            self._keep(piece)
        if not fresh:
            return Arrival.DUPLICATE
        self._patch_bytes += PACKET_HEADER_BYTES + len(body)
        self.version += 1
        return Arrival.ACCEPTED

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
        self._kept_bytes += len(piece.payload)
        self._arrived[piece.place] = True
        for level, patches in enumerate(self._layout.level_counts(piece.place)):
            self._received[level] += patches


def _runs(flags: BoolArray) -> list[tuple[int, int]]:
    """Start and end of every run of True."""
    if flags.all():
        return [(0, len(flags))]
    edges: AnyArray = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]])))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]
