"""What goes next: a header's copy, a packet of a plan, its repair, a question, or nothing, and why not."""

from shared.packets import PacketKind
from transmitter.transport import policy
from transmitter.transport.copies import Copies
from transmitter.transport.entries import Entry, State
from transmitter.transport.holding import Hold
from transmitter.transport.protection import Protection
from transmitter.transport.questions import Questions
from transmitter.transport.standing import Standing
from transmitter.transport.wishes import Wishes


class Outgoing:
    """Chooses the packets of one transmission and hands them over.

    Args:
        standing: of the transmission.
        copies: of packets of which nothing is known.
        questions: to the receiver.
        wishes: for new plans.
    """

    def __init__(self, standing: Standing, copies: Copies, questions: Questions, wishes: Wishes) -> None:
        self.held: Hold | None = Hold.NOTHING
        """Why the next packet does not go."""
        self.protection = Protection(standing.number, standing.settings.packet_bytes)
        self._standing, self._ledger, self._holding = standing, standing.ledger, standing.holding
        self._copies, self._questions, self._wishes = copies, questions, wishes

    def next(self, now: float, room_bytes: int) -> bytes | None:
        """The next packet, handed over, if any may go.

        Args:
            now: the time.
            room_bytes: that the channel takes.
        """
        questions = self._questions
        if questions.rejoining:
            due = questions.is_due(Hold.NOTHING, now, room_bytes)
            # Where nobody has answered for too long, that was the end of it: all is sent anew.
            if due or questions.rejoining:
                return self._ask(now) if due else None
        if questions.is_early(room_bytes):
            return self._ask(now)
        entry = self._next_entry(now)
        if self._standing.closed and (entry is None or not self._joins_block(entry, now)):
            self.protection.end_block(self._standing.estimate)
        if self.protection.ready is not None:
            return self._repair(now, room_bytes)
        self.held = self._why_not(entry, now, room_bytes)
        if entry is not None and self.held is None:
            return self._hand(entry, now)
        saw = not self._standing.blind
        if questions.is_due(self.held, now, room_bytes):
            return self._ask(now)
        return self.next(now, room_bytes) if self._standing.blind and saw else None

    def last_copy(self, now: float) -> Entry | None:
        """Of the last packets one once more, where the bytes that are left are of no other use."""
        standing = self._standing
        if standing.hurry or not standing.closed or self._wishes.outstanding or self._questions.matter(now):
            return None
        expects = policy.expects_loss(standing.estimate, self._ledger.unresolved_packets)
        return self._copies.last() if expects else None

    # ---- choosing ----------------------------------------------------------------------------------

    def _next_entry(self, now: float) -> Entry | None:
        """The most important packet that the bytes suffice for."""
        copy = self._copies.due()
        if copy is not None and len(copy.data) <= self._standing.left:
            return copy
        while (entry := self._ledger.planned.next_open()) is not None and len(entry.data) > self._standing.left:
            self._ledger.planned.give_up(entry)
        return entry or self.last_copy(now)

    def _why_not(self, entry: Entry | None, now: float, room_bytes: int) -> Hold | None:
        held = self._holding.why_not(entry, now, room_bytes, self._wishes.promised_bytes(now))
        if held is None and entry is not None and entry.kind is PacketKind.PATCHES and self._wishes.holds_back(now):
            return Hold.PAUSE
        return held

    def _protects(self, entry: Entry, now: float) -> bool:
        """Whether a packet goes too late to be sent again, and would be missed."""
        standing, link = self._standing, self._standing.estimate
        late = standing.hurry and policy.rounds_left(standing.settings, link, now) < 1
        missed = entry.kind is PacketKind.PATCHES and not entry.refines
        return late and standing.closed and missed and link.loss_rate >= policy.WORTH_REPAIR

    def _joins_block(self, entry: Entry, now: float) -> bool:
        """Whether a packet belongs to the block of repair that is being sent, with time and bytes for its repair."""
        if not self._protects(entry, now) or not self.protection.continues(entry):
            return False
        size = len(entry.data) + self.protection.repair_bytes_with(entry, self._standing.estimate)
        waiting = self._standing.link.waiting_bytes(now)
        return size <= self._standing.left and self._holding.in_time(waiting + size, now)

    # ---- handing over ------------------------------------------------------------------------------

    def _hand(self, entry: Entry, now: float) -> bytes:
        size, stats = len(entry.data), self._standing.stats
        if entry.state is State.LOST:
            stats.again_bytes += size
        elif entry.sends:
            stats.repair_bytes += size
        self._ledger.hand(entry, now)
        if self._protects(entry, now):
            self.protection.add(entry)
        self._sent(size, now)
        return entry.data

    def _ask(self, now: float) -> bytes:
        packet = self._questions.next_packet()
        data = packet.to_bytes()
        self._ledger.hand_other((PacketKind.POLL, 0, packet.position), len(data), now)
        self._standing.stats.poll_bytes += len(data)
        self._sent(len(data), now)
        self._questions.asked(now)
        return data

    def _repair(self, now: float, room_bytes: int) -> bytes | None:
        """The repair packet that is ready, if it may go; too late, it is of no use."""
        repair = self.protection.ready
        assert repair is not None
        size = len(repair.data)
        self.held = self._holding.too_many(size, now, room_bytes)
        if self.held is Hold.TIME or size > self._standing.left:
            self.protection.give_up()
            return self.next(now, room_bytes)
        if self.held is not None:
            return None
        self.protection.taken()
        self._ledger.hand_other((PacketKind.REPAIR, repair.revision, repair.position), size, now)
        self._standing.stats.repair_bytes += size
        self._sent(size, now)
        return repair.data

    def _sent(self, size: int, now: float) -> None:
        standing = self._standing
        standing.link.queue.hand(size, now)
        standing.stats.sent_bytes += size
        standing.stats.sent_packets += 1
        if standing.closed and not standing.blind:
            self._questions.expect(now)
