"""What was handed over, and what became of it: every packet by name, every copy of it by the order of handing over.

```
        hand                   feedback
WAITING ────► FLYING ─────────────────────────► ARRIVED
   ▲            │ 3 later ones arrived, or 1 and some time
   └── retry ── LOST ───► DROPPED   a later revision has its patches, or it no longer fits
```
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import numpy as np

from shared.arrays import BoolArray
from shared.feedback import Arrived, Feedback
from shared.packets import PACKET_HEADER_BYTES, PacketKind
from transmitter.transport.contract import PackedRevision
from transmitter.transport.entries import Entry, Handed, Name, Resolved, State, shows

REORDERING: Final = 3
"""A packet is lost when it has not arrived although one handed over so many later has."""

MAX_REORDERING: Final = 64
"""What that grows to where packets that were thought lost arrive after all."""


class Ledger:
    """All packets of a transmission, their copies, and sums over them."""

    def __init__(self) -> None:
        self.revisions: list[PackedRevision] = []
        """Plans and their scans."""
        self.plans: list[PackedRevision] = []
        self.sent_bytes = 0
        self.open_bytes_of: list[int] = []
        """By revision, of packets that are to be sent, for the first time or again."""
        self.unresolved_bytes = 0
        """Handed over, and nothing is known of them; copies count each."""
        self.arrived_bytes = 0
        """Of distinct packets of headers and patches."""
        self.arrived_patches = 0
        self.lost_packets = 0
        self.went_down = False
        """Whether packets went down with a stream that broke."""
        self.unfit_bytes = 0
        """Of packets that were given up for their size."""
        self.headers: list[list[Entry]] = []
        self._patches: list[list[Entry]] = []
        self._open: list[Entry] = []
        self._handed: dict[Name, list[Handed]] = {}
        self._unresolved: deque[Handed] = deque()
        self._written_off: set[Entry] = set()
        self._orders = 0
        self._newest: Handed | None = None
        self._reordering = REORDERING
        self._pending_passed = False
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
            self.open_bytes_of[entry.revision] -= len(entry.data)
            entry.state = State.DROPPED
            self._written_off.discard(entry)

    def keep_only(self, size: float) -> None:
        """Of what is to be sent, only so many bytes of the most important packets stay if a new revision comes."""
        for entry in self.open_entries():
            size -= len(entry.data)
            entry.kept = size >= 0 or (entry.kind is PacketKind.HEADER and not entry.refines)
        self._asked_unfit_bytes = self.unfit_bytes

    def keep_all(self) -> None:
        """No new revision comes."""
        for entry in self._entries():
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

    # ---- handing over ------------------------------------------------------------------------------

    def hand(self, entry: Entry, now: float) -> Handed:
        """A packet is handed over."""
        if entry.is_open:
            self.open_bytes_of[entry.revision] -= len(entry.data)
            self._written_off.discard(entry)
            entry.state = State.FLYING
        entry.sends += 1
        entry.flying += 1
        return self._note((entry.kind, entry.revision, entry.position), len(entry.data), now, entry)

    def hand_other(self, name: Name, size: int, now: float) -> Handed:
        """A POLL or a REPAIR packet is handed over."""
        return self._note(name, size, now, None)

    def _note(self, name: Name, size: int, now: float, entry: Entry | None) -> Handed:
        self.sent_bytes += size
        self.unresolved_bytes += size
        copies = self._handed.setdefault(name, [])
        handed = Handed(self._orders, name, size, now, self.sent_bytes, entry, alone=not copies)
        self._orders += 1
        copies.append(handed)
        self._unresolved.append(handed)
        return handed

    @property
    def in_flight_bytes(self) -> int:
        """Handed over after the newest packet that is known to have arrived, without those whose fate is known."""
        later = self.sent_bytes - (self._newest.end_bytes if self._newest else 0)
        return min(later, self.unresolved_bytes)

    def handed_since(self, entry: Entry) -> int:
        """How many packets were handed over after the last copy of one; all of them, if it never was."""
        copies = self._handed.get((entry.kind, entry.revision, entry.position))
        return self._orders - (copies[-1].order + 1 if copies else 0)

    def smallest_unresolved_bytes(self) -> int:
        """Size of the smallest packet of which nothing is known and that would be sent again; 0 if there is none."""
        return min((each.size for each in self._unresolved if each.entry is not None), default=0)

    def sent_once(self) -> list[Entry]:
        """Packets of which nothing is known, and that were handed over only once; most important first."""
        entries = {each.entry for each in self._unresolved if each.entry is not None}
        return sorted(entry for entry in entries if entry.state is State.FLYING and entry.sends == 1)

    @property
    def unresolved_packets(self) -> int:
        """Copies of which nothing is known."""
        return len(self._unresolved)

    @property
    def oldest_unresolved_s(self) -> float | None:
        """When the first packet of which nothing is known was handed over."""
        return self._unresolved[0].at_s if self._unresolved else None

    @property
    def last_handed(self) -> Handed | None:
        """The packet handed over last, if nothing is known of it."""
        return self._unresolved[-1] if self._unresolved else None

    # ---- what became of it -------------------------------------------------------------------------

    def makes_sense(self, feedback: Feedback) -> bool:
        """Whether a receiver that got these packets could say so."""
        if (feedback.last_kind, feedback.last_revision, feedback.last_position) not in self._handed:
            return False
        for state in feedback.revisions:
            if state.revision >= len(self.revisions):
                return False
            if state.runs and state.runs[-1][1] > self.revisions[state.revision].expected:
                return False
        return True

    def copy_named(self, feedback: Feedback, offset_s: float | None) -> Handed:
        """Which of the copies came last, by when it came.

        Args:
            feedback: that makes sense.
            offset_s: least of the receiver's clock over ours, delay included, so far; None if nothing is known.
        """
        copies = self._handed[feedback.last_kind, feedback.last_revision, feedback.last_position]
        if offset_s is None:
            return copies[0]
        return next((each for each in reversed(copies) if each.at_s + offset_s <= feedback.last_s + 1e-3), copies[0])

    def resolve(self, feedback: Feedback, last: Handed, now: float) -> Resolved:
        """Takes feedback that makes sense.

        Args:
            feedback: what the receiver says.
            last: the copy that came last.
            now: when that was heard.
        """
        found = Resolved()
        if self._newest is None or last.order > self._newest.order:
            self._newest = found.newest = last
        states = {state.revision: state for state in feedback.revisions}
        if found.newest is not None and last.entry is not None and last.entry.kind is PacketKind.HEADER:
            self._arrive(last.entry)  # its revision's other header packets may be missing still
        self._doubt_headers(states, last)
        found.revived = self._revive(states)
        self._sort_out(states, now, found)
        return found

    def expire(self, before_s: float) -> list[Handed]:
        """Packets that had been overtaken before a time, and are lost."""
        if not self._pending_passed:
            return []
        found = Resolved()
        remaining: deque[Handed] = deque()
        self._pending_passed = False
        for handed in self._unresolved:
            overdue = handed.passed_s is not None and handed.passed_s <= before_s
            if overdue:
                self._lose(handed, found)
            else:
                self._pending_passed |= handed.passed_s is not None
                remaining.append(handed)
        self._unresolved = remaining
        return found.lost

    @property
    def first_passed_s(self) -> float | None:
        """When the first of the unresolved packets was overtaken."""
        if not self._pending_passed:
            return None
        return min((each.passed_s for each in self._unresolved if each.passed_s is not None), default=None)

    def begin_again(self, feedback: Feedback | None) -> None:
        """Nothing is in flight any more; what feedback does not show as arrived has not, what it does has.

        Args:
            feedback: that makes sense; None where there is none: what had arrived stays so.
        """
        self._unresolved.clear()
        self.unresolved_bytes = 0
        self._pending_passed = False
        self._newest = self._handed_last()
        states = {state.revision: state for state in feedback.revisions} if feedback else {}
        open_bytes = self.open_bytes
        for entry in self._entries():
            entry.flying = 0
            there = entry.state is State.ARRIVED
            if feedback is not None and not self._unknown(entry, states):
                there = shows(states, entry)
            self._set_arrived(entry, there=there)
        self.went_down |= self.open_bytes > open_bytes

    def _handed_last(self) -> Handed | None:
        copies = [each[-1] for each in self._handed.values()]
        return max(copies, key=lambda each: each.order, default=None)

    def _entries(self) -> Iterator[Entry]:
        for header, patches in zip(self.headers, self._patches, strict=True):
            yield from header
            yield from patches

    def _set_arrived(self, entry: Entry, *, there: bool) -> None:
        if there and entry.state is not State.ARRIVED:
            self._arrive(entry)
        elif not there and entry.state in (State.ARRIVED, State.FLYING):
            if entry.state is State.ARRIVED:
                self.arrived_bytes -= len(entry.data)
                self.arrived_patches -= entry.patches
            self._reopen(entry)

    def _revive(self, states: dict[int, Arrived]) -> int:
        """Finds packets that were thought lost and have arrived, and their number."""
        revived = [each for each in self._written_off if shows(states, each)]
        for entry in revived:
            self._arrive(entry)
        if revived:
            self._reordering = min(2 * self._reordering, MAX_REORDERING)
        return len(revived)

    def _doubt_headers(self, states: dict[int, Arrived], last: Handed) -> None:
        """A header that seemed to arrive, packet by packet, and is not there when later ones are, is sent again."""
        for number, header in enumerate(self.headers):
            state = states.get(number)
            seemed = state is not None and not state.header and self._header_arrived(number)
            if seemed and all(self.handed_since(entry) > self._orders - 1 - last.order for entry in header):
                for entry in header:
                    self._set_arrived(entry, there=False)

    def _sort_out(self, states: dict[int, Arrived], now: float, found: Resolved) -> None:
        newest = self._newest
        assert newest is not None
        remaining: deque[Handed] = deque()
        self._pending_passed = False
        reach = newest.order - (1 if newest.entry is None and self._reordering == REORDERING else self._reordering)
        for handed in self._unresolved:
            entry = handed.entry
            if entry is not None and (entry.state is State.ARRIVED or shows(states, entry)):
                self._close(handed, found.arrived)
                self._arrive(entry)
            elif entry is None and handed.order <= newest.order:
                self._close(handed, None)
            elif entry is None or handed.order >= newest.order or self._unknown(entry, states):
                remaining.append(handed)
            elif handed.order <= reach:
                self._lose(handed, found)
            else:
                handed.passed_s = now if handed.passed_s is None else handed.passed_s
                self._pending_passed = True
                remaining.append(handed)
        self._unresolved = remaining

    def _unknown(self, entry: Entry, states: dict[int, Arrived]) -> bool:
        """Whether the feedback does not tell if a packet arrived."""
        if entry.kind is PacketKind.HEADER:
            return False
        state = states.get(entry.revision)
        if state is None:  # nothing of that revision: not its header either, without which nothing is told
            return not self._header_arrived(entry.revision)
        return not state.header or entry.position + entry.patches > state.known_below

    def _header_arrived(self, revision: int) -> bool:
        return all(entry.state is State.ARRIVED for entry in self.headers[revision])

    def _close(self, handed: Handed, among: list[Handed] | None) -> None:
        self.unresolved_bytes -= handed.size
        if handed.entry is not None:
            handed.entry.flying -= 1
        if among is not None:
            among.append(handed)

    def _lose(self, handed: Handed, found: Resolved) -> None:
        self._close(handed, found.lost)
        self.lost_packets += 1
        entry = handed.entry
        if entry is not None and entry.state is State.FLYING and not entry.flying:
            self._reopen(entry)

    def _reopen(self, entry: Entry) -> None:
        if not entry.kept:
            entry.state = State.DROPPED
            return
        entry.state = State.LOST
        self.open_bytes_of[entry.revision] += len(entry.data)
        self._written_off.add(entry)
        heapq.heappush(self._open, entry)

    def _arrive(self, entry: Entry) -> None:
        if entry.state is State.ARRIVED:
            return
        if entry.is_open:
            self.open_bytes_of[entry.revision] -= len(entry.data)
            self._written_off.discard(entry)
        entry.state = State.ARRIVED
        self.arrived_bytes += len(entry.data)
        self.arrived_patches += entry.patches

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
