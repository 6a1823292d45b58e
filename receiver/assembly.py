"""Puts the packets of one transmission together: in any order, twice, damaged, or with holes.

```
HEADER fragments ─► HeaderSection ─► StreamHeader ─► level map ─► sending order
                                                                      │ says whose bytes these are
PATCHES ──────────────── kept while the header is missing ───────────►└─► pieces, each of one level
```

Memory follows what arrived, not what a header promises: a piece is kept as it came, and nothing of the size of
the picture exists before somebody asks for the picture (`receiver.reconstruction`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

import numpy as np

from receiver.header import HeaderSection
from shared.arrays import AnyArray, BoolArray, Int64Array, UInt8Array
from shared.errors import PacketError, StreamError
from shared.level_map import decode_level_map
from shared.levels import LEVEL_BYTES, SKIPPED
from shared.packets import LADDER_CODEC, PACKET_HEADER_BYTES, Packet, PacketKind, StreamHeader
from shared.reports import Report, ReportOutcome

MAX_EARLY_BYTES: Final = 4 * 1024 * 1024
"""Memory for patches that come before their header, per transmission."""

_OBJECT_BYTES: Final = 200  # what Python needs to keep a piece, whatever its size
_LEVELS: Final = len(LEVEL_BYTES)


class Arrival(Enum):
    """What an intact packet brought."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"


@dataclass(frozen=True)
class Piece:
    """Adjacent patches of one level."""

    level: int
    first: int
    """Ordinal of the first patch in sending order."""
    payload: bytes
    """Whole patches of LEVEL_BYTES[level] bytes each."""

    @property
    def place(self) -> slice:
        """Where the patches are in sending order."""
        return slice(self.first, self.first + len(self.payload) // LEVEL_BYTES[self.level])


@dataclass(frozen=True)
class ArrivedPatches:
    """All that a picture can be rebuilt from; stays as it is while more packets arrive."""

    header: StreamHeader
    levels: UInt8Array
    """(patches,) planned level of each patch."""
    pieces: tuple[Piece, ...]
    version: int
    """Rises with every change."""


class Assembly:
    """One transmission at the receiver.

    Args:
        transmission_id: 0 to 2**32 - 1.
        weights_hash: 4 bytes that name the codec's weights; a stream of other weights cannot be decoded.
        now: seconds of any monotonic clock.
    """

    def __init__(self, transmission_id: int, weights_hash: bytes, now: float) -> None:
        self.transmission_id = transmission_id
        self.header: StreamHeader | None = None
        self.version = 0
        """Rises with everything that changes the picture."""
        self.first_s = self.last_s = now
        """When the first and the last packet that was accepted came."""
        self._weights_hash = weights_hash
        self._gathered = HeaderSection()
        self._section = b""
        self._levels: UInt8Array = np.zeros(0, np.uint8)
        self._ends: list[int] = [0] * _LEVELS
        self._arrived: BoolArray = np.zeros(0, np.bool_)
        self._pieces: list[Piece] = []
        self._early: dict[tuple[int, bytes], None] = {}
        self._header_bytes = self._patch_bytes = self._early_bytes = self._kept_bytes = 0
        self._received: Int64Array = np.zeros(_LEVELS, np.int64)
        self._closed = False

    # ---- what is known -------------------------------------------------------------------------

    @property
    def outcome(self) -> ReportOutcome:
        """COMPLETE once every announced patch is there; after `close`, PARTIAL or (without header) FAILED."""
        if self.header is not None and self.received_patches == self.expected_patches:
            return ReportOutcome.COMPLETE
        if not self._closed:
            return ReportOutcome.RECEIVING
        return ReportOutcome.FAILED if self.header is None else ReportOutcome.PARTIAL

    @property
    def received_bytes(self) -> int:
        """Bytes of the accepted packets, packet headers included."""
        return self._header_bytes + self._patch_bytes + self._early_bytes

    @property
    def expected_patches(self) -> int:
        """Patches that the level map announces; 0 before it has arrived."""
        return self._ends[1]

    @property
    def received_patches(self) -> int:
        """Patches that have arrived and have a place."""
        return int(self._received.sum())

    @property
    def levels_planned(self) -> tuple[int, ...]:
        """Patches at each level by the level map, the skipped ones at index 0."""
        return tuple(np.bincount(self._levels, minlength=_LEVELS).tolist())

    @property
    def levels_received(self) -> tuple[int, ...]:
        """Patches that have arrived at each level; nothing arrives at level 0."""
        return tuple(self._received.tolist())

    @property
    def stored_bytes(self) -> int:
        """Memory that this transmission takes."""
        early = self._early_bytes + len(self._early) * _OBJECT_BYTES
        fixed = self._gathered.stored_bytes + len(self._section) + self._levels.nbytes + self._arrived.nbytes
        return _OBJECT_BYTES + fixed + early + self._kept_bytes

    def snapshot(self) -> ArrivedPatches | None:
        """What the picture can be rebuilt from; None before the header has arrived."""
        if self.header is None:
            return None
        return ArrivedPatches(self.header, self._levels, tuple(self._pieces), self.version)

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
        if (header.codec, header.weights_hash) != (LADDER_CODEC, self._weights_hash):
            raise StreamError(f"codec {header.codec} with weights {header.weights_hash.hex()} is not known here")
        levels = decode_level_map(header.level_map, header.level_map_table, header.grid)
        counts = np.bincount(levels, minlength=_LEVELS)
        self.header, self._section, self._levels = header, section, levels
        self._ends = [int(counts[level:].sum()) for level in range(_LEVELS)]
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
        pieces = list(self._cut(position, body))
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

    def _cut(self, position: int, body: bytes) -> Iterator[Piece]:
        """Cuts a body where the sending order goes on to a lower level."""
        if not body or position >= self.expected_patches:
            raise PacketError("patches lie outside the picture")
        offset, ordinal = 0, position
        for level in range(_LEVELS - 1, SKIPPED, -1):
            size = LEVEL_BYTES[level]
            patches = min(max(self._ends[level] - ordinal, 0), (len(body) - offset) // size)
            if patches:
                yield Piece(level, ordinal, body[offset : offset + patches * size])
                offset, ordinal = offset + patches * size, ordinal + patches
            if ordinal < self._ends[level]:
                break
        if offset != len(body):
            raise PacketError("body is not a whole number of patches")

    def _missing(self, piece: Piece) -> Iterator[Piece]:
        """The parts of a piece that had not arrived; nearly always all or nothing of it."""
        size = LEVEL_BYTES[piece.level]
        arrived = self._arrived[piece.place]
        for start, stop in _runs(~arrived):
            yield Piece(piece.level, piece.first + start, piece.payload[start * size : stop * size])

    def _keep(self, piece: Piece) -> None:
        self._pieces.append(piece)
        self._kept_bytes += len(piece.payload) + _OBJECT_BYTES
        self._arrived[piece.place] = True
        self._received[piece.level] += len(piece.payload) // LEVEL_BYTES[piece.level]


def _runs(flags: BoolArray) -> list[tuple[int, int]]:
    """Start and end of every run of True."""
    if flags.all():
        return [(0, len(flags))]
    edges: AnyArray = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]])))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]
