"""What was handed over, and what became of it: every packet by name, every copy of it by the order of handing over.

A packet is lost when three later ones have arrived and it has not, or one and some time has passed.
"""

from collections import deque
from typing import Final

from shared.feedback import Arrived, Feedback
from shared.packets import PacketKind
from transmitter.transport.entries import Entry, Handed, Name, Resolved, State, shows
from transmitter.transport.planned import PlannedPackets

REORDERING: Final = 3
"""A packet is lost when it has not arrived although one handed over so many later has."""

MAX_REORDERING: Final = 64
"""What that grows to where packets that were thought lost arrive after all."""


class Ledger:
    """The packets of a transmission's plans, and every copy of them that was handed over."""

    def __init__(self) -> None:
        self.planned = PlannedPackets()
        self.sent_bytes = 0
        self.unresolved_bytes = 0
        """Handed over, and nothing is known of them; copies count each."""
        self.lost_packets = 0
        self.went_down = False
        """Whether packets went down with a stream that broke."""
        self._handed: dict[Name, list[Handed]] = {}
        self._unresolved: deque[Handed] = deque()
        self._orders = 0
        self._newest: Handed | None = None
        self._reordering = REORDERING
        self._pending_passed = False

    # ---- handing over ------------------------------------------------------------------------------

    def hand(self, entry: Entry, now: float) -> Handed:
        """A packet is handed over."""
        if entry.is_open:
            self.planned.taken(entry)
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

    def sent_once(self) -> list[Entry]:
        """Packets of which nothing is known, and that were handed over only once; most important first."""
        entries = {each.entry for each in self._unresolved if each.entry is not None}
        return sorted(entry for entry in entries if entry.state is State.FLYING and entry.sends == 1)

    @property
    def unresolved_packets(self) -> int:
        """Copies of which nothing is known."""
        return len(self._unresolved)

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
            if state.revision >= len(self.planned.revisions):
                return False
            if state.runs and state.runs[-1][1] > self.planned.revisions[state.revision].expected:
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
            self.planned.arrive(last.entry)  # its revision's other header packets may be missing still
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
        open_bytes = self.planned.open_bytes
        for entry in self.planned:
            entry.flying = 0
            there = entry.state is State.ARRIVED
            if feedback is not None and not self._unknown(entry, states):
                there = shows(states, entry)
            self.planned.set_arrived(entry, there=there)
        self.went_down |= self.planned.open_bytes > open_bytes

    def _handed_last(self) -> Handed | None:
        copies = [each[-1] for each in self._handed.values()]
        return max(copies, key=lambda each: each.order, default=None)

    def _revive(self, states: dict[int, Arrived]) -> int:
        """Finds packets that were thought lost and have arrived, and their number."""
        revived = [each for each in self.planned.written_off if shows(states, each)]
        for entry in revived:
            self.planned.arrive(entry)
        if revived:
            self._reordering = min(2 * self._reordering, MAX_REORDERING)
        return len(revived)

    def _doubt_headers(self, states: dict[int, Arrived], last: Handed) -> None:
        """A header that seemed to arrive, packet by packet, and is not there when later ones are, is sent again."""
        for number, header in enumerate(self.planned.headers):
            state = states.get(number)
            seemed = state is not None and not state.header and self.planned.header_arrived(number)
            if seemed and all(self.handed_since(entry) > self._orders - 1 - last.order for entry in header):
                for entry in header:
                    self.planned.set_arrived(entry, there=False)

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
                self.planned.arrive(entry)
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
            return not self.planned.header_arrived(entry.revision)
        return not state.header or entry.position + entry.patches > state.known_below

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
            self.planned.reopen(entry)
