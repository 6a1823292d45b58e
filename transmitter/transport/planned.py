"""The packets of all plans of a transmission, and which of them are to be sent.

```
        taken                 arrive
WAITING ────► FLYING ────────────────► ARRIVED
   ▲            │ reopen
   └─────────  LOST ───► DROPPED   a later revision has its patches, or it no longer fits
```
"""

import heapq
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from shared.arrays import BoolArray
from shared.packets import PACKET_HEADER_BYTES, PacketKind
from transmitter.transport.contract import PackedRevision
from transmitter.transport.entries import Entry, State


class PlannedPackets:
    """Packets by revision, and sums over those that are to be sent or have arrived."""

    def __init__(self) -> None:
        self.revisions: list[PackedRevision] = []
        """Plans and their scans."""
        self.plans: list[PackedRevision] = []
        self.headers: list[list[Entry]] = []
        self.open_bytes_of: list[int] = []
        """By revision, of packets that are to be sent, for the first time or again."""
        self.arrived_bytes = 0
        """Of distinct packets of headers and patches."""
        self.arrived_patches = 0
        self.unfit_bytes = 0
        """Of packets that were given up for their size."""
        self.written_off: set[Entry] = set()
        """Packets that are thought lost, and are to be sent again."""
        self._patches: list[list[Entry]] = []
        self._open: list[Entry] = []
        self._asked_unfit_bytes = 0

    # ---- what there is to send ---------------------------------------------------------------------

    def add(self, revision: PackedRevision) -> None:
        """Adds a plan, with all its scans: its packets wait."""
        self.plans.append(revision)
        self._add(revision, refines=False)
        for scan in revision.scans:
            self._add(scan, refines=True)

    def _add(self, revision: PackedRevision, *, refines: bool) -> None:
        number = len(self.revisions)
        step = len(revision.header[0])
        header = [
            Entry(PacketKind.HEADER, number, index, index * (step - PACKET_HEADER_BYTES), 0, data, refines)
            for index, data in enumerate(revision.header)
        ]
        patches = [
            Entry(PacketKind.PATCHES, number, index, packet.position, packet.patches, packet.data, refines)
            for index, packet in enumerate(revision.patches)
        ]
        self.revisions.append(revision)
        self.headers.append(header)
        self._patches.append(patches)
        self._open.extend((*header, *patches))
        heapq.heapify(self._open)
        self.open_bytes_of.append(revision.wire_bytes)

    @property
    def open_bytes(self) -> int:
        """Of packets that are to be sent, for the first time or again."""
        return sum(self.open_bytes_of)

    @property
    def refining_bytes(self) -> int:
        """Of these, those that only refine what others show."""
        return sum(self.open_bytes_of[scan.number] for plan in self.plans for scan in plan.scans)

    def next_open(self) -> Entry | None:
        """The most important packet that is to be sent."""
        while self._open and not self._open[0].is_open:
            heapq.heappop(self._open)
        return self._open[0] if self._open else None

    def open_entries(self) -> list[Entry]:
        """All packets that are to be sent, most important first."""
        return sorted({entry for entry in self._open if entry.is_open})

    def smallest_open_bytes(self) -> int:
        """Size of the smallest packet that is to be sent; 0 if there is none."""
        return min((len(entry.data) for entry in self._open if entry.is_open), default=0)

    def give_up(self, entry: Entry) -> None:
        """Gives up a packet that is larger than the bytes that are left."""
        self.unfit_bytes += len(entry.data)
        self.drop(entry)

    def drop(self, entry: Entry) -> None:
        """Gives up a packet that is to be sent."""
        if entry.is_open:
            self._close(entry)
            entry.state = State.DROPPED

    def keep_only(self, size: float) -> None:
        """Of what is to be sent, only so many bytes of the most important packets stay if a new revision comes."""
        for entry in self.open_entries():
            size -= len(entry.data)
            entry.kept = size >= 0 or (entry.kind is PacketKind.HEADER and not entry.refines)
        self._asked_unfit_bytes = self.unfit_bytes

    def keep_all(self) -> None:
        """No new revision comes."""
        for entry in self:
            entry.kept = True

    def hand_over_to_revision(self) -> int:
        """Gives up what the newest revision is to hold: what is not kept of the earlier ones; how many patches."""
        patches = 0
        for entry in self.open_entries():
            if not entry.kept:
                patches += entry.patches
                self.drop(entry)
        # What was given up since is in no plan yet.
        self.unfit_bytes -= self._asked_unfit_bytes
        self._asked_unfit_bytes = 0
        return patches

    # ---- what becomes of them ----------------------------------------------------------------------

    def __iter__(self) -> Iterator[Entry]:
        """All packets, revision by revision."""
        for header, patches in zip(self.headers, self._patches, strict=True):
            yield from header
            yield from patches

    def taken(self, entry: Entry) -> None:
        """A packet that is to be sent is handed over."""
        self._close(entry)
        entry.state = State.FLYING

    def reopen(self, entry: Entry) -> None:
        """A packet did not arrive: it is to be sent again, or was kept only until a new plan came."""
        if not entry.kept:
            entry.state = State.DROPPED
            return
        entry.state = State.LOST
        self.open_bytes_of[entry.revision] += len(entry.data)
        self.written_off.add(entry)
        heapq.heappush(self._open, entry)

    def arrive(self, entry: Entry) -> None:
        """A packet has arrived, whatever was thought of it."""
        if entry.state is State.ARRIVED:
            return
        if entry.is_open:
            self._close(entry)
        entry.state = State.ARRIVED
        self.arrived_bytes += len(entry.data)
        self.arrived_patches += entry.patches

    def set_arrived(self, entry: Entry, *, there: bool) -> None:
        """A packet that was handed over is there, or is not after all."""
        if there:
            self.arrive(entry)
        elif entry.state in (State.ARRIVED, State.FLYING):
            if entry.state is State.ARRIVED:
                self.arrived_bytes -= len(entry.data)
                self.arrived_patches -= entry.patches
            self.reopen(entry)

    def header_arrived(self, revision: int) -> bool:
        """Whether all packets of a revision's header have arrived."""
        return all(entry.state is State.ARRIVED for entry in self.headers[revision])

    def _close(self, entry: Entry) -> None:
        self.open_bytes_of[entry.revision] -= len(entry.data)
        self.written_off.discard(entry)

    # ---- for the planner ---------------------------------------------------------------------------

    def served(self) -> tuple[BoolArray, ...]:
        """For each revision, (expected,) the patches that are there, on their way, or kept to be sent."""
        return self._marked(lambda entry: entry.state is not State.DROPPED and (entry.kept or not entry.is_open))

    def arrived(self) -> tuple[BoolArray, ...]:
        """For each revision, (expected,) the patches that are there."""
        return self._marked(lambda entry: entry.state is State.ARRIVED)

    def _marked(self, chosen: Callable[[Entry], bool]) -> tuple[BoolArray, ...]:
        return tuple(
            _patches_of(revision.expected, filter(chosen, entries))
            for revision, entries in zip(self.revisions, self._patches, strict=True)
        )

    def missing_patches(self) -> int:
        """Patches that were given up or are still to be sent; those of further scans are there, if less fine."""
        return sum(
            entry.patches
            for entries in self._patches
            for entry in entries
            if not entry.refines and (entry.is_open or (entry.state is State.DROPPED and entry.kept))
        )


def _patches_of(expected: int, entries: Iterable[Entry]) -> BoolArray:
    marked = np.zeros(expected, np.bool_)
    for entry in entries:
        marked[entry.position : entry.position + entry.patches] = True
    return marked
