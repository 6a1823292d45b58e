"""The sending half of the transport: a state machine without clock or I/O.

```
              ┌────────── LinkEstimate ◄── meters ◄───┐
              ▼                                       │
give ─► what may go? ─► ledger ─► packets      take ─► ledger: arrived, lost ─► wanted ─► revise
```
"""

import math
from typing import Final, NamedTuple

from shared.arrays import BoolArray
from shared.feedback import Feedback
from shared.packets import MAX_REVISIONS, Packet, PacketKind
from transmitter.transport import policy
from transmitter.transport.asking import MAX_UNANSWERED, Asking
from transmitter.transport.contract import (
    LinkEstimate,
    PackedRevision,
    RevisionWanted,
    SenderSettings,
    SenderStats,
)
from transmitter.transport.entries import Entry, State
from transmitter.transport.estimates import LinkEvidence
from transmitter.transport.holding import Hold, Holding
from transmitter.transport.ledger import Ledger
from transmitter.transport.link import LinkView
from transmitter.transport.policy import POLL_BYTES, first_budget, first_packet_bytes, scans_for
from transmitter.transport.protection import Protection
from transmitter.transport.replanning import Prospect, Replanning

__all__ = ["Acknowledged", "Sender", "first_budget", "first_packet_bytes", "scans_for"]

_STEP_S: Final = 1e-3  # a clock's tick: waking is always later than now
_LOOK_S: Final = 0.005  # at the channel's queue, if nothing is heard of it
_MOST_QUEUE_S: Final = 4.0  # that an answer is allowed to wait in the channel's queue
_SURE_PACKETS: Final = 10  # fates that say something of the losses
_FINER_PLANS: Final = 4  # revisions after which nobody waits for another
_SURE_S: Final = 0.1  # busy seconds that say something of the rate
_APART: Final = 3  # packets between two copies of a header


class Acknowledged(NamedTuple):
    """What is known to have arrived, distinct packets of all revisions."""

    bytes: int
    """Of HEADER and PATCHES packets, their packet headers included."""
    patches: int
    """Of every revision: a patch that arrived in two counts twice."""


class Sender:
    """Sends one transmission; asked again whenever anything happens, and at `wake_s`.

    Args:
        first: the first plan, of `first_budget` bytes.
        settings: what it may take.
        link: what is believed of the link.
        transmission_id: of its packets.
        now: when it begins; seconds on any clock that does not go back.
    """

    def __init__(
        self, first: PackedRevision, settings: SenderSettings, link: LinkEstimate, transmission_id: int, now: float
    ) -> None:
        self.stats = SenderStats()
        self.done = False
        self.wake_s = now
        self._settings, self._id = settings, transmission_id
        self._ledger, self._link = Ledger(), LinkView(link, now)
        self._replanning = Replanning(settings, now)
        self._holding = Holding(settings, self._ledger, self._link, now)
        self._ledger.add(first)
        if settings.closed_loop:  # a plan may need all of a tight budget
            self._holding.kept_bytes = min(max(settings.budget_bytes - first.whole_bytes, 0), POLL_BYTES)
        self._asking = Asking(hurry=settings.deadline_s is not None)
        self._protection = Protection(transmission_id, settings.packet_bytes)
        self._copies: list[int] = []
        self._copy_headers(first, now)
        self._polls = self._asked_packets = 0
        self._rejoining = False
        self._held: Hold | None = Hold.NOTHING
        self._note()

    # ---- what the edge calls -----------------------------------------------------------------------

    def give(self, now: float, room_bytes: int) -> list[bytes]:
        """What to hand over now.

        Args:
            now: the time.
            room_bytes: what the channel takes now, all its credit.

        Returns:
            Packets of at most `room_bytes` together, within the budget.
        """
        if self.done:
            return []
        self._link.look(room_bytes, self._ledger, now)
        given: list[bytes] = []
        while (packet := self._next(now, room_bytes)) is not None:
            given.append(packet)
            room_bytes -= len(packet)
        self._settle(now)
        return given

    def take(self, feedback: Feedback, now: float) -> None:
        """Hears what has arrived; what makes no sense is ignored."""
        if feedback.transmission_id != self._id or not self._ledger.makes_sense(feedback) or not self._closed:
            return
        if self._rejoining:
            self._rejoin(feedback)
        if self._link.hear(feedback, self._ledger, now).newest is not None:
            self._asking.answered()
            self._holding.blind = False
            if self._ledger.unresolved_packets:
                self._asking.expect(now, self._timeout_s(now))
        self._settle(now)

    def wanted(self, now: float) -> RevisionWanted | None:
        """Asks for a new plan; until `revise` brings it, not again."""
        prospect = self._wish(now)
        if prospect is None or not (self._hurry or self._holding.blind or not self._ledger.unresolved_packets):
            return None
        budget = self._replanning.ask(prospect, now)
        self._ledger.keep_only(prospect.committed_bytes)
        served = self._ledger.served()
        packet_bytes = policy.packet_bytes_for(self._settings, self._link.estimate, budget)
        return RevisionWanted(len(served), budget, packet_bytes, served, prospect.scans)

    def revise(self, revision: PackedRevision | None, now: float) -> None:
        """Takes the new plan that was asked for, or that there is none."""
        if not self._replanning.outstanding:
            return
        if revision is not None and not revision.patches:
            revision = None
        handed_over = 0 if revision is None else self._ledger.hand_over_to_revision()
        self._replanning.answer(revision, handed_over, self._link.estimate, now)
        if revision is None:
            self._ledger.keep_all()
        else:
            self.stats.revisions += 1
            self._ledger.add(revision)
            self._copy_headers(revision, now)
        self._settle(now)

    def reconnected(self, now: float) -> None:
        """A new stream to the receiver stands; what was in flight may have been lost with the old one."""
        self._holding.kept_bytes = 0
        if self.done and not (self._closed and self._left >= POLL_BYTES):
            return
        # Even with nothing more to send: only an answer tells what is left of what was sent.
        self.done = self._holding.blind = False
        self._link.begin_again()
        self._protection.give_up()
        self._asking.answered()
        if self._closed:
            self._asking.due_s, self._rejoining = now, True
        self.wake_s = now + _STEP_S

    @property
    def estimate(self) -> LinkEstimate:
        """What is believed of the link now."""
        return self._link.estimate

    @property
    def evidence(self) -> LinkEvidence:
        """What was seen of the link, for `LinkMemory.learn`."""
        return self._link.evidence

    @property
    def replan_s(self) -> float:
        """What a new plan takes, by those that were made."""
        return self._replanning.replan_s

    @property
    def acknowledged(self) -> Acknowledged:
        """What feedback has told of."""
        return Acknowledged(self._ledger.arrived_bytes, self._ledger.arrived_patches)

    @property
    def arrived(self) -> tuple[BoolArray, ...]:
        """For every revision, (expected,) the patches that feedback has told of, in sending order."""
        return self._ledger.arrived()

    # ---- what goes next ----------------------------------------------------------------------------

    def _next(self, now: float, room_bytes: int) -> bytes | None:
        """The next packet, if any may go."""
        if self._rejoining:
            due = self._poll_due(Hold.NOTHING, now, room_bytes)
            # Where nobody has answered for too long, that was the end of it: all is sent anew.
            if due or self._rejoining:
                return self._poll(now) if due else None
        if self._asks_early(room_bytes):
            return self._poll(now)
        entry = self._next_entry(now)
        if self._closed and (entry is None or not self._joins_block(entry, now)):
            self._protection.end_block(self._link.estimate)
        if self._protection.ready is not None:
            return self._repair(now, room_bytes)
        self._held = self._holding.why_not(entry, now, room_bytes, self._replanning.promised_bytes(now))
        if self._held is None and entry is not None and entry.kind is PacketKind.PATCHES and self._waits_for_plan(now):
            self._held = Hold.PAUSE
        if entry is not None and self._held is None:
            return self._hand(entry, now)
        saw = not self._holding.blind
        if self._poll_due(self._held, now, room_bytes):
            return self._poll(now)
        return self._next(now, room_bytes) if self._holding.blind and saw else None

    def _next_entry(self, now: float) -> Entry | None:
        """The most important packet that the bytes suffice for."""
        copy = self._due_copy()
        if copy is not None and len(copy.data) <= self._left:
            return copy
        while (entry := self._ledger.next_open()) is not None and len(entry.data) > self._left:
            self._ledger.give_up(entry)
        return entry or self._spare_copy(now)

    def _copy_headers(self, plan: PackedRevision, now: float) -> None:
        """Says how often the headers of a plan and its scans go before anything is known of them."""
        for scan in (plan, *plan.scans):
            self._copies.append(policy.header_copies(self._settings, self._link.estimate, now, scan.number))

    def _due_copy(self) -> Entry | None:
        """A header once more, before anything is known, with some packets between."""
        for number, copies in enumerate(self._copies):
            for entry in self._ledger.headers[number] if copies > 1 else ():
                if entry.state is State.FLYING and entry.sends < copies and self._far_enough(entry):
                    return entry
        return None

    def _spare_copy(self, now: float) -> Entry | None:
        """Of the last packets one once more, where the bytes that are left are of no other use."""
        ledger, link = self._ledger, self._link.estimate
        if self._hurry or not self._closed or self._replanning.outstanding or self._answer_matters(now):
            return None
        if not policy.expects_loss(link, ledger.unresolved_packets):
            return None
        fitting = (entry for entry in reversed(ledger.sent_once()) if len(entry.data) <= self._left)
        return min(fitting, key=lambda entry: (entry.kind is not PacketKind.HEADER, -entry.revision), default=None)

    def _far_enough(self, entry: Entry) -> bool:
        """Whether enough packets lie between, so that one row of losses does not take both."""
        apart = max(_APART, math.ceil(self._link.estimate.burst_packets))
        return self._ledger.handed_since(entry) >= apart or self._ledger.next_open() is None

    # ---- handing over ------------------------------------------------------------------------------

    def _hand(self, entry: Entry, now: float) -> bytes:
        size = len(entry.data)
        if entry.state is State.LOST:
            self.stats.again_bytes += size
        elif entry.sends:
            self.stats.repair_bytes += size
        self._ledger.hand(entry, now)
        if self._protects(entry, now):
            self._protection.add(entry)
        self._sent(size, now)
        return entry.data

    def _poll(self, now: float) -> bytes:
        packet = Packet(PacketKind.POLL, self._id, self._polls, b"").to_bytes()
        self._ledger.hand_other((PacketKind.POLL, 0, self._polls), len(packet), now)
        self._polls += 1
        self._asked_packets = self.stats.sent_packets
        self.stats.poll_bytes += len(packet)
        self._sent(len(packet), now)
        self._asking.asked(now, self._timeout_s(now))
        return packet

    def _repair(self, now: float, room_bytes: int) -> bytes | None:
        """The repair packet that is ready, if it may go; too late, it is of no use."""
        repair = self._protection.ready
        assert repair is not None
        size = len(repair.data)
        self._held = self._holding.too_many(size, now, room_bytes)
        if self._held is Hold.TIME or size > self._left:
            self._protection.give_up()
            return self._next(now, room_bytes)
        if self._held is not None:
            return None
        self._protection.taken()
        self._ledger.hand_other((PacketKind.REPAIR, repair.revision, repair.position), size, now)
        self.stats.repair_bytes += size
        self._sent(size, now)
        return repair.data

    def _sent(self, size: int, now: float) -> None:
        self._link.queue.hand(size, now)
        self.stats.sent_bytes += size
        self.stats.sent_packets += 1
        if self._closed and not self._holding.blind:
            self._asking.expect(now, self._timeout_s(now))

    def _protects(self, entry: Entry, now: float) -> bool:
        """Whether a packet goes too late to be sent again, and would be missed."""
        link = self._link.estimate
        late = self._hurry and policy.rounds_left(self._settings, link, now) < 1
        missed = entry.kind is PacketKind.PATCHES and not entry.refines
        return late and self._closed and missed and link.loss_rate >= policy.WORTH_REPAIR

    def _joins_block(self, entry: Entry, now: float) -> bool:
        """Whether a packet belongs to the block of repair that is being sent, with time and bytes for its repair."""
        if not self._protects(entry, now) or not self._protection.continues(entry):
            return False
        size = len(entry.data) + self._protection.repair_bytes_with(entry, self._link.estimate)
        return size <= self._left and self._holding.in_time(self._link.waiting_bytes(now) + size, now)

    # ---- asking for feedback -----------------------------------------------------------------------

    def _poll_due(self, hold: Hold | None, now: float, room_bytes: int) -> bool:
        """Whether to ask: at the end of what can be sent for now, and where no answer comes."""
        if not self._closed or self._holding.blind:
            return False
        if self._asking.due_s <= now:
            return self._run_out(now, room_bytes)
        if min(self._left, room_bytes) < POLL_BYTES:
            return False
        if self._asking.more or self._rejoining:
            return self._asking.more > 0
        last = self._ledger.last_handed
        ends = hold in (Hold.NOTHING, Hold.RESERVE) and self._left - POLL_BYTES >= self._ledger.open_bytes
        asks = (ends or hold is Hold.PAUSE) and last is not None and last.entry is not None
        return asks and self._answer_matters(now)

    def _asks_early(self, room_bytes: int) -> bool:
        """Whether to ask while there is more to send."""
        if self._hurry or not self._closed or self._holding.blind or not self._ledger.open_bytes:
            return False
        packets = self.stats.sent_packets - self._asked_packets
        early = policy.asks_early(self._link.estimate, self._settings.packet_bytes, packets)
        return early and min(self._left - policy.POLL_SPARE_BYTES, room_bytes) >= POLL_BYTES

    def _run_out(self, now: float, room_bytes: int) -> bool:
        """No answer came in time; whether to ask (again)."""
        ledger, asking = self._ledger, self._asking
        asking.due_s = now + self._timeout_s(now)
        if min(self._left, room_bytes) < POLL_BYTES or not (self._rejoining or ledger.unresolved_packets):
            return False
        if not self._rejoining and self._link.all_waits(ledger) and asking.waits():
            return False
        asking.ran_out(was_asked=self._was_asked)
        if self._hurry:
            self._holding.forget()
        if self._rejoining and asking.unanswered >= MAX_UNANSWERED // 2:
            self._rejoin(None)
        elif asking.hopeless:
            self._give_up_asking()
        else:
            return True
        return False

    def _give_up_asking(self) -> None:
        """Nothing will be heard any more: the rest is sent, the headers that may be missing several times."""
        self._holding.blind, self._asking.due_s = True, math.inf
        needed = policy.sends_needed(self._link.estimate.loss_at_most, policy.NO_HEADER)
        # Those that went before the silence may have been lost with the answers.
        sends = (max(entry.sends for entry in header) for header in self._ledger.headers)
        self._copies = [max(copies, before + needed - 1) for copies, before in zip(self._copies, sends, strict=True)]

    @property
    def _was_asked(self) -> bool:
        """Whether the last packet handed over was a question."""
        last = self._ledger.last_handed
        return last is not None and last.name[0] is PacketKind.POLL

    def _timeout_s(self, now: float) -> float:
        link = self._link
        queue_s = min(8 * link.waiting_bytes(now) / link.estimate.rate_bps, _MOST_QUEUE_S)
        return self._asking.timeout_s(link.meters.round_trip, queue_s, was_asked=self._was_asked)

    def _answer_matters(self, now: float) -> bool:
        """Whether anything could be done about what feedback would tell."""
        if self._left - POLL_BYTES < policy.LEAST_PLAN_BYTES:
            return False
        return policy.rounds_left(self._settings, self._link.estimate, now) > 1

    def _rejoin(self, feedback: Feedback | None) -> None:
        self._rejoining = False
        self._asking.answered()
        self._ledger.begin_again(feedback)

    # ---- new plans, and the end --------------------------------------------------------------------

    def _waits_for_plan(self, now: float) -> bool:
        """Whether too much was lost for what is left, and all of it is to be planned again."""
        if self._hurry or not (self._ledger.lost_packets or self._ledger.went_down):
            return False
        prospect = self._wish(now)
        return prospect is not None and prospect.short

    def _wish(self, now: float, *, soon: bool = False) -> Prospect | None:
        """What a new plan could do, if one is worth having now, or soon."""
        if self.done or not self._closed or self._rejoining or self._holding.blind or not self._sure:
            return None
        if len(self._ledger.revisions) + policy.scans_for(self._settings) > MAX_REVISIONS:
            return None
        waiting = self._link.waiting_bytes(now)
        return self._replanning.wish(self._ledger, self._link.estimate, waiting, now, soon=soon)

    @property
    def _sure(self) -> bool:
        """Whether enough was seen of the link to plan again."""
        if self._hurry:
            rate = self._link.meters.rate
            # With nothing more to send, no more is going to be seen.
            return not self._ledger.open_bytes or (rate.busy_s >= _SURE_S and not rate.settles)
        return self._link.meters.loss.packets >= _SURE_PACKETS or not self._ledger.unresolved_packets

    def _settle(self, now: float) -> None:
        if self._replanning.forgotten(now):
            self._ledger.keep_all()
        self.done = self.done or self._finished(now)
        self.wake_s = math.inf if self.done else max(self._wake_at(now), now + _STEP_S)
        self._note()

    def _note(self) -> None:
        self.stats.estimate, self.stats.rates_bps = self._link.estimate, self._link.rates_bps
        self.stats.lost_packets = self._ledger.lost_packets
        if self.done:
            self.stats.dropped_patches = self._ledger.missing_patches()

    def _finished(self, now: float) -> bool:
        """Whether nothing more will be sent."""
        if not self._closed:
            return not self._ledger.open_bytes
        if self._left < POLL_BYTES or self._too_late(now):
            return True
        if self._replanning.outstanding or self._rejoining or self._ledger.open_bytes or not self._protection.idle:
            return False
        awaits = self._ledger.unresolved_packets and not self._holding.blind and self._answer_matters(now)
        if awaits or self._spare_copy(now) is not None:
            return False
        if len(self._ledger.plans) < _FINER_PLANS and self._replanning.enough_time(self._link.estimate, now):
            return self._holding.blind
        return self._wish(now, soon=not self._hurry) is None

    def _too_late(self, now: float) -> bool:
        """Whether nothing that goes now can arrive in time."""
        idle = self._held is Hold.TIME and not self._link.queue.known_bytes
        return not self._holding.in_time(self._ledger.smallest_open_bytes() if idle else 0, now)

    def _wake_at(self, now: float) -> float:
        """When something changes by itself."""
        link = self._link
        times = [self._asking.due_s, self._replanning.wake_s(now)]
        if self._held is Hold.QUEUE:
            times.append(max(link.drained_s(policy.queue_bytes(link.estimate), now), now + _LOOK_S))
        if self._held is Hold.RESERVE and link.waiting_bytes(now) > self._holding.spare_bytes:
            times.append(max(link.drained_s(self._holding.spare_bytes, now), now + _LOOK_S))
        if self._ledger.first_passed_s is not None:
            times.append(self._ledger.first_passed_s + link.allowance_s)
        if self._settings.deadline_s is not None:
            times.append(self._settings.deadline_s - policy.one_way_s(link.estimate))
            if not self._ledger.open_bytes:
                times.append(now + policy.QUEUE_S)
        return min(times)

    @property
    def _closed(self) -> bool:
        return self._settings.closed_loop

    @property
    def _hurry(self) -> bool:
        return self._settings.deadline_s is not None

    @property
    def _left(self) -> int:
        return self._holding.left
