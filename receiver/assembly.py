"""Puts the packets of one transmission together: in any order, twice, damaged, or with holes.

```
HEADER, PATCHES ─► Revision 0, 1 ... 15 ─┬─► ArrivedPatches ─► picture
                     ▲                   └─► Tally ─► how much is there
REPAIR ─► Repairs ───┘ what did not arrive itself
```

Memory follows what arrived, not what a header promises: a piece is kept as it came, and nothing of the size of
the picture exists before somebody asks for the picture. What a body holds, the codec says (`receiver.contract`).
"""

from enum import Enum
from itertools import pairwise
from typing import Final

from receiver.contract import ArrivedPatches, Layout, Piece, ReceiverCodec, ReceiverCodecs
from receiver.header import MAX_SECTION_BYTES, readable
from receiver.repairs import Repairs
from receiver.revision import OBJECT_BYTES, Revision
from receiver.scans import OpenEnds
from receiver.tally import Tally
from shared.codec.registry import CodecEntry
from shared.errors import PacketError, StreamError
from shared.feedback import Arrived
from shared.packets import PACKET_HEADER_BYTES, POSITIONS, Packet, PacketKind, StreamHeader
from shared.patches import PatchGrid
from shared.reports import Report, ReportOutcome

MAX_EARLY_BYTES: Final = 4 * 1024 * 1024
"""Memory for patches that come before their header, per transmission."""

_MAX_GATHERED_BYTES: Final = 2 * MAX_SECTION_BYTES  # for headers after the first: one of the largest picture, or many


class Arrival(Enum):
    """What an intact packet brought."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    REPAIR = "repair"
    """Kept, or of use at once, in the place of patches that did not arrive."""


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
        """Of the first revision; the others agree with it."""
        self.version = 0
        """Rises with everything that changes the picture."""
        self.first_s = self.last_s = now
        """When the first and the last packet that was accepted came."""
        self.unreadable_patches = 0
        """Of those that arrived, how many the codec could make nothing of when it last decoded them."""
        self._codecs = codecs
        self._codec: ReceiverCodec | None = None
        self._revisions: dict[int, Revision] = {}
        self._tally: Tally | None = None  # only where there is more than one revision to count over
        self._open_ends = OpenEnds()
        self._repairs = Repairs()
        self._recovered: list[Packet] = []
        self._closed = False
        self._decoded_version = 0

    # ---- what is known -------------------------------------------------------------------------

    @property
    def outcome(self) -> ReportOutcome:
        """COMPLETE once every announced patch is there; after `close`, PARTIAL or (without header) FAILED.

        Where every patch is there but not all can be made sense of, nothing more will come: PARTIAL. A revision that
        announces more makes it RECEIVING again. Of patches that come in several scans, all scans must be there.
        """
        if self.header is not None and sum(self.levels_received) == self.expected_patches and not self._open_ends:
            return ReportOutcome.PARTIAL if self.unreadable_patches else ReportOutcome.COMPLETE
        if not self._closed:
            return ReportOutcome.RECEIVING
        return ReportOutcome.FAILED if self.header is None else ReportOutcome.PARTIAL

    @property
    def received_bytes(self) -> int:
        """Bytes of the accepted packets, packet headers included; of what was repaired, of the packets in its place."""
        return sum(revision.received_bytes for revision in self._revisions.values())

    @property
    def content_bytes(self) -> int:
        """Bytes of the patches that have a place, without what is around them."""
        return sum(revision.kept_bytes for revision in self._revisions.values())

    @property
    def expected_patches(self) -> int:
        """Patches that any level map announces; 0 before the first has arrived."""
        if self._tally is not None:
            return self._tally.expected
        return self._revisions[0].layout.expected if self.header else 0

    @property
    def received_patches(self) -> int:
        """Patches that have arrived, have a place, and were not found unreadable."""
        return sum(self.levels_received) - self.unreadable_patches

    @property
    def codec(self) -> CodecEntry | None:
        """The codec that the header names; None before it has arrived."""
        return None if self._codec is None else self._codec.entry

    @property
    def levels_planned(self) -> tuple[int, ...]:
        """Patches at each level by the level maps, the skipped ones at index 0; all 0 before the first has arrived."""
        if self._tally is not None:
            return self._tally.levels_planned
        ends = (*(self._revisions[0].layout.ends if self.header else (0, 0)), 0)
        return tuple(upper - lower for upper, lower in pairwise(ends))

    @property
    def levels_received(self) -> tuple[int, ...]:
        """Patches that have arrived at each level; nothing arrives at level 0."""
        if self._tally is not None:
            return self._tally.levels_received
        return tuple(self._revisions[0].received if self.header else (0, 0))

    @property
    def arrived(self) -> tuple[Arrived, ...]:
        """What the sender may be told of every revision that anything arrived of, rising."""
        return tuple(self._revisions[number].arrived() for number in sorted(self._revisions))

    @property
    def headers(self) -> int:
        """Revisions whose header is there."""
        return sum(revision.header is not None for revision in self._revisions.values())

    @property
    def stored_bytes(self) -> int:
        """Memory that this transmission takes."""
        revisions = sum(revision.stored_bytes for revision in self._revisions.values())
        others = self._open_ends.stored_bytes + self._repairs.stored_bytes
        return OBJECT_BYTES + revisions + others + (self._tally.stored_bytes if self._tally else 0)

    def snapshot(self) -> ArrivedPatches | None:
        """What the picture can be rebuilt from; None before the header of the first revision has arrived."""
        if self.header is None:
            return None
        first, *others = (self._revisions[number] for number in sorted(self._revisions))
        plans = (revision for revision in others if revision.kept_bytes and not revision.scan)
        later = (revision.snapshot(self.version, self._scans_after(revision.number)) for revision in plans)
        return first.snapshot(self.version, self._scans_after(0), tuple(later))

    def _scans_after(self, number: int) -> tuple[tuple[Piece, ...], ...]:
        """What arrived of the scans that go on where a revision ends."""
        scans: list[tuple[Piece, ...]] = []
        while (scan := self._revisions.get(number + 1 + len(scans))) is not None and scan.scan:
            scans.append(scan.pieces)
        return tuple(scans)

    def report(self, reconstruct_s: float) -> Report:
        """The answer to the transmitter; `reconstruct_s` is what the picture took."""
        counts = (self.received_bytes, self.expected_patches, self.received_patches)
        return Report(self.transmission_id, self.outcome, *counts, reconstruct_s)

    # ---- what arrives --------------------------------------------------------------------------

    def accept(self, packet: Packet, now: float) -> Arrival:
        """Takes an intact packet of this transmission.

        Args:
            packet: HEADER, PATCHES or REPAIR.
            now: seconds of the same clock as at the start.

        Raises:
            PacketError: it fits nowhere, or contradicts what is known; nothing has changed.
            StreamError: it completes a header that cannot be decoded here, or does not agree with that of the first
                revision; the header is forgotten.
        """
        if packet.kind is PacketKind.HEADER:
            arrival = self._accept_fragment(packet)
        elif packet.kind is PacketKind.PATCHES:
            arrival = self._accept_patches(packet)
        elif packet.kind is PacketKind.REPAIR:
            arrival = self._accept_repair(packet)
        else:
            raise PacketError(f"a {packet.kind.name} packet has no place in a transmission")
        if arrival is not Arrival.DUPLICATE:
            self.last_s, self._closed = now, False
        return arrival

    def take_recovered(self) -> list[Packet]:
        """The PATCHES packets that repair packets gave since the last call; they have been accepted."""
        recovered, self._recovered = self._recovered, []
        return recovered

    def decoded(self, version: int, unreadable_patches: int) -> None:
        """Notes what decoding the packets of some version told; what is known of a later one stays."""
        if version >= self._decoded_version:
            self._decoded_version, self.unreadable_patches = version, unreadable_patches

    def close(self) -> None:
        """Nothing more is awaited. A packet that comes after all opens the transmission again."""
        self._closed = True

    # ---- headers -------------------------------------------------------------------------------

    def _accept_fragment(self, packet: Packet) -> Arrival:
        revision = self._revisions.get(packet.revision) or Revision(packet.revision)
        if revision.number and revision.header is None:
            self._check_gathered(revision, packet.position + len(packet.body))
        if not revision.add_fragment(packet.position, packet.body):
            return Arrival.DUPLICATE
        self._revisions[revision.number] = revision
        self._open(revision)
        return Arrival.ACCEPTED

    def _check_gathered(self, revision: Revision, size: int) -> None:
        """Headers that are forged, or wait for the first revision's, take no more than one of the largest picture."""
        others = [held for held in self._revisions.values() if held.number and held is not revision]
        if sum(held.gathered_bytes for held in others) + 2 * size > _MAX_GATHERED_BYTES:
            raise PacketError("too many headers at once")

    def _open(self, revision: Revision) -> None:
        """Opens a revision whose header is whole, then those that have waited for it.

        All wait for the first one, a scan also for the revision that it goes on with.
        """
        try:
            section = revision.section()
            if section is None or (revision.number and self.header is None):
                return
            header, codec = readable(section, self.header, self._codecs)
            if header.scan and not self._is_open(revision.number - 1):
                return
            self._open_by(section, revision, header, codec)
        except StreamError:
            self._forget_header(revision)
            raise
        waiting = [revision.number + 1] if revision.number else sorted(self._revisions.keys() - {0})
        for number in waiting:
            try:
                if number in self._revisions and not self._is_open(number):
                    self._open(self._revisions[number])
            except StreamError:
                continue  # without the one before, nobody could tell that it was foreign

    def _is_open(self, number: int) -> bool:
        return number in self._revisions and self._revisions[number].header is not None

    def _forget_header(self, revision: Revision) -> None:
        revision.forget_header()
        if revision.empty:
            del self._revisions[revision.number]

    def _open_by(self, section: bytes, revision: Revision, header: StreamHeader, codec: ReceiverCodec) -> None:
        """Everything that can fail comes first, so that a bad header leaves no trace."""
        if header.scan:
            layout = self._revisions[revision.number - 1].layout
        else:
            layout = Layout.of(codec.open(header), codec.entry)
        if self.header is None:
            self.header, self._codec = header, codec
        revision.open(section, header, layout, codec)
        self._count(revision, codec, header.grid)
        self._open_ends.arrive(revision, revision.pieces, self._revisions.get(revision.number + 1))
        self._recover(revision, slice(0, POSITIONS))
        self.version += 1

    def _count(self, revision: Revision, codec: ReceiverCodec, grid: PatchGrid) -> None:
        """From the second plan on, patches are counted over all of them; a scan brings no patches of its own."""
        if revision.scan:
            return
        fresh = [revision]
        if self._tally is None:
            fresh = [held for held in self._revisions.values() if held.header is not None and not held.scan]
            if len(fresh) == 1:
                return
            self._tally = Tally(grid.count, codec.entry.levels)
        for held in fresh:
            self._tally.announce(held.number, held.layout.levels, codec.order(held.layout.levels, grid))
            for place in held.places:
                self._tally.arrive(held.number, place)

    # ---- patches -------------------------------------------------------------------------------

    def _accept_patches(self, packet: Packet) -> Arrival:
        revision = self._revisions.get(packet.revision) or Revision(packet.revision)
        if revision.header is None:
            fresh = self._keep_early(revision, packet)
        else:
            fresh = self._place(revision, packet.position, packet.body)
        return Arrival.ACCEPTED if fresh else Arrival.DUPLICATE

    def _keep_early(self, revision: Revision, packet: Packet) -> bool:
        more = PACKET_HEADER_BYTES + len(packet.body) + OBJECT_BYTES
        if sum(held.early_bytes for held in self._revisions.values()) + more > MAX_EARLY_BYTES:
            raise PacketError("too many patches before the header")
        self._revisions[revision.number] = revision
        return revision.keep_early(packet.position, packet.body)

    def _place(self, revision: Revision, position: int, body: bytes) -> bool:
        """Puts patches where they belong, and what repair packets know then; whether anything was new."""
        pieces = revision.place(position, body)
        if not pieces:
            return False
        if self._tally is not None and not revision.scan:
            for piece in pieces:
                self._tally.arrive(revision.number, piece.place)
        self._open_ends.arrive(revision, pieces, self._revisions.get(revision.number + 1))
        self.version += 1
        self._recover(revision, slice(pieces[0].first, pieces[-1].place.stop))
        return True

    # ---- repair --------------------------------------------------------------------------------

    def _accept_repair(self, packet: Packet) -> Arrival:
        revision = self._revisions.get(packet.revision)
        if not self._repairs.add(packet, revision):
            return Arrival.DUPLICATE
        if revision is not None and revision.header is not None:
            self._recover(revision, slice(packet.position, POSITIONS))
        return Arrival.REPAIR

    def _recover(self, revision: Revision, place: slice) -> None:
        """Takes what repair packets bring back as if it had arrived."""
        for position, body in self._repairs.recovered(revision, place):
            try:
                fresh = self._place(revision, position, body)
            except PacketError:
                continue  # the repair packets were none of this transmission
            if fresh:
                number = self.transmission_id
                self._recovered.append(Packet(PacketKind.PATCHES, number, position, body, revision.number))
