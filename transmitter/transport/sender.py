"""The sending half of the transport: a state machine without clock or I/O.

```
              ┌────────── LinkEstimate ◄── meters ◄───┐
              ▼                                       │
give ─► what may go? ─► ledger ─► packets      take ─► ledger: arrived, lost ─► wanted ─► revise
```
"""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from shared.arrays import BoolArray
from shared.feedback import Feedback
from shared.packets import MAX_REVISIONS, Packet, PacketKind
from transmitter.transport import policy
from transmitter.transport.contract import (
    LinkEstimate,
    PackedRevision,
    RevisionWanted,
    SenderSettings,
    SenderStats,
)
from transmitter.transport.estimates import LinkEvidence, Meters
from transmitter.transport.ledger import Entry, Handed, Ledger, State
from transmitter.transport.policy import POLL_BYTES, POLL_SPARE_BYTES, first_budget
from transmitter.transport.queue import LocalQueue

__all__ = ["Acknowledged", "Sender", "first_budget"]

MAX_UNANSWERED: Final = 6
"""After so many polls without any answer, nothing is expected to come back any more."""

_MIN_TIMEOUT_S: Final = 0.1
_MAX_TIMEOUT_S: Final = 8.0
_ANSWER_S: Final = 0.02  # what a receiver that was asked may take
_HURRIED_TIMEOUT_S: Final = 0.5  # with a deadline there is no time to be patient
_REPLAN_S: Final = 0.3  # how long a new plan takes, before one was seen
_PATIENCE_S: Final = 3.0  # for how long the rest is held back for a new plan
_STEP_S: Final = 1e-3  # a clock's tick: waking is always later than now
_SURE_PACKETS: Final = 10  # fates that say something of the losses
_RATE_NEWS: Final = 0.05
_SURE_S: Final = 0.1  # busy seconds that say something of the rate
_FORGET_S: Final = 10.0  # after which a new plan is not expected any more


class Acknowledged(NamedTuple):
    """What is known to have arrived, distinct packets of all revisions."""

    bytes: int
    """Of HEADER and PATCHES packets, their packet headers included."""
    patches: int
    """Of every revision: a patch that arrived in two counts twice."""


class _Hold(Enum):
    """Why a packet does not go."""

    ROOM = "no credit"
    QUEUE = "enough waits in the channel's queue"
    WINDOW = "enough is under way"
    TIME = "would be late"
    RESERVE = "bytes are kept for what may be lost"
    PAUSE = "a new plan will hold its patches"
    NOTHING = "nothing is to be sent"


@dataclass(frozen=True)
class _Asked:
    """A new plan that was asked for."""

    at_s: float
    budget_bytes: int


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
        self._ledger, self._queue, self._meters = Ledger(), LocalQueue(), Meters.of(link)
        self._ledger.add(first)
        self._asked: _Asked | None = None
        self._ask_after_s = now
        self._refused_bytes: float | None = None
        self._replan_s = _REPLAN_S
        self._copies = policy.header_copies(settings, link, now)
        self._polls = self._more_polls = self._unanswered = 0
        self._poll_s = math.inf
        self._patience = 1.0
        self._rejoining = self._blind = False
        self._forgotten_bytes = 0
        self._held = _Hold.NOTHING
        self._last_sample: tuple[Handed, float] | None = None
        self._estimate = link
        self._note_estimate(now)

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
        self._look(now, room_bytes)
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
        self._learn(feedback, now)
        self._settle(now)

    def wanted(self, now: float) -> RevisionWanted | None:
        """Asks for a new plan; until `revise` brings it, not again."""
        prospect = self._wish(now)
        if prospect is None:
            return None
        budget = int(prospect.later_bytes)
        self._ledger.keep_only(prospect.committed_bytes)
        self._asked = _Asked(now, budget)
        served = self._ledger.served()
        return RevisionWanted(len(served), budget, self._settings.packet_bytes, served)

    def revise(self, revision: PackedRevision | None, now: float) -> None:
        """Takes the new plan that was asked for, or that there is none."""
        if self._asked is None:
            return
        asked, self._asked = self._asked, None
        self._replan_s += (now - asked.at_s - self._replan_s) / 2
        self._ask_after_s = now + self._estimate.round_trip_s + policy.QUEUE_S
        if revision is None or not revision.patches:
            self._ledger.keep_all()
            self._refused_bytes = asked.budget_bytes
            self._ask_after_s = max(self._ask_after_s, now + 2 * self._replan_s)
        else:
            self._refused_bytes = None
            self.stats.revisions += 1
            self._ledger.hand_over_to_revision()
            self._ledger.add(revision)
        self._settle(now)

    def reconnected(self, now: float) -> None:
        """A new stream to the receiver stands; what was in flight may have been lost with the old one."""
        if self.done:
            return
        self._queue = LocalQueue()
        self._meters.round_trip.begin_again()
        self._last_sample = None
        self._rejoining, self._more_polls, self._unanswered, self._patience = True, 0, 0, 1.0
        self._poll_s = now
        self.wake_s = now + _STEP_S

    @property
    def estimate(self) -> LinkEstimate:
        """What is believed of the link now."""
        return self._estimate

    @property
    def evidence(self) -> LinkEvidence:
        """What was seen of the link, for `LinkMemory.learn`."""
        return self._meters.evidence()

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
            return self._poll(now) if self._poll_due(_Hold.PAUSE, now, room_bytes) else None
        entry, hold = self._due_copy(), None
        while entry is None or len(entry.data) > self._left:
            if entry is not None:
                self._ledger.give_up(entry)
            entry = self._ledger.next_open()
            if entry is None:
                hold = _Hold.NOTHING
                break
        if entry is not None:
            hold = self._hold(entry, now, room_bytes)
            if hold is None:
                return self._hand(entry, now)
        assert hold is not None
        self._held = hold
        return self._poll(now) if self._poll_due(hold, now, room_bytes) else None

    def _hold(self, entry: Entry, now: float, room_bytes: int) -> _Hold | None:
        """Why a packet does not go, if so."""
        size, link = len(entry.data), self._estimate
        if size > room_bytes:
            return _Hold.ROOM
        if not self._closed:
            return None
        waiting = self._queue.waiting_bytes(now, link.rate_bps)
        late = not policy.in_time(self._settings, link, self._recent_bps(now), waiting + size, now)
        full = self._under_way > policy.window_bytes(link, self._settings.packet_bytes) and not self._blind
        reasons = (
            (_Hold.QUEUE, waiting > policy.queue_bytes(link)),
            (_Hold.WINDOW, full),
            (_Hold.TIME, late),
            (_Hold.RESERVE, self._left - size < self._reserve(entry, now)),
            (_Hold.PAUSE, self._pauses(now) and not entry.kept),
        )
        return next((reason for reason, holds in reasons if holds), None)

    def _pauses(self, now: float) -> bool:
        """Whether the rest waits for the new plan; where time is short, nothing does."""
        return self._asked is not None and not self._hurry and now < self._asked.at_s + _PATIENCE_S

    def _reserve(self, entry: Entry, now: float) -> float:
        """Bytes that must be left after a packet, for what may turn out to be lost."""
        if (
            entry.kind is PacketKind.HEADER
            or self._blind
            or policy.rounds_left(self._settings, self._estimate, now) < 1
        ):
            return 0.0
        reserve = self._header_reserve()
        if entry.state is State.WAITING:
            ledger, link = self._ledger, self._estimate
            if policy.expects_loss(link, ledger.unresolved_packets + 1):
                reserve += link.loss_at_most * (ledger.unresolved_bytes + len(entry.data))
        return reserve

    def _header_reserve(self) -> float:
        """Bytes for the first header until it has arrived."""
        needed = policy.sends_needed(self._estimate.loss_rate, policy.NO_HEADER)
        return sum(
            len(entry.data) * max(needed - entry.sends, 1 if needed > 1 else 0)
            for entry in self._ledger.headers[0]
            if entry.state is not State.ARRIVED
        )

    def _due_copy(self) -> Entry | None:
        """The header once more, before anything is known, with some packets between."""
        if self._copies <= 1:
            return None
        for entry in self._ledger.headers[0]:
            apart = max(3, math.ceil(self._estimate.burst_packets))
            wanted = entry.state is State.FLYING and entry.sends < self._copies
            if wanted and (self._ledger.handed_since(entry) >= apart or self._ledger.next_open() is None):
                return entry
        return None

    def _hand(self, entry: Entry, now: float) -> bytes:
        size = len(entry.data)
        if entry.state is State.LOST:
            self.stats.again_bytes += size
        elif entry.sends:
            self.stats.repair_bytes += size
        self._ledger.hand(entry, now)
        self._sent(size, now)
        return entry.data

    def _poll(self, now: float) -> bytes:
        name = (PacketKind.POLL, 0, self._polls)
        packet = Packet(PacketKind.POLL, self._id, self._polls, b"").to_bytes()
        self._polls += 1
        self._ledger.hand_other(name, len(packet), now)
        self.stats.poll_bytes += len(packet)
        self._sent(len(packet), now)
        self._poll_s = now + self._timeout_s(now)
        return packet

    def _sent(self, size: int, now: float) -> None:
        self._queue.hand(size, now)
        self.stats.sent_bytes += size
        self.stats.sent_packets += 1
        if self._poll_s == math.inf:
            self._poll_s = now + self._timeout_s(now)

    # ---- asking for feedback -----------------------------------------------------------------------

    def _poll_due(self, hold: _Hold, now: float, room_bytes: int) -> bool:
        """Whether to ask: at the end of what can be sent for now, and where no answer comes."""
        if not self._closed or self._blind or min(self._left, room_bytes) < POLL_BYTES:
            return False
        last = self._ledger.last_handed
        if self._poll_s <= now:
            return self._run_out(now)
        if self._more_polls:
            self._more_polls -= 1
            return True
        ends = hold in (_Hold.NOTHING, _Hold.RESERVE, _Hold.PAUSE) and not self._rejoining
        ends = (ends and self._left - POLL_BYTES >= self._ledger.open_bytes) or hold is _Hold.PAUSE
        return ends and last is not None and last.entry is not None and self._answer_matters(now)

    def _run_out(self, now: float) -> bool:
        """No answer came in time; whether to ask (again)."""
        ledger = self._ledger
        if not self._rejoining and (not ledger.unresolved_packets or self._all_waits):
            self._poll_s = now + self._timeout_s(now) if ledger.unresolved_packets else math.inf
            return False
        last = ledger.last_handed
        if last is not None and last.entry is None:
            self._unanswered += 1
            self._patience *= 2
            self._more_polls = self._unanswered  # losses come in rows
        self._forgotten_bytes = ledger.sent_bytes if self._hurry else self._forgotten_bytes
        if self._rejoining and self._unanswered >= MAX_UNANSWERED // 2:
            self._rejoin(None)
            return False
        self._blind = self._unanswered >= MAX_UNANSWERED
        return not self._blind

    @property
    def _all_waits(self) -> bool:
        """Whether nothing of what is under way has left the channel's queue."""
        return self._queue.known_bytes > 0 and self._queue.known_bytes >= self._ledger.in_flight_bytes

    def _timeout_s(self, now: float) -> float:
        """How long an answer may take."""
        trip, link = self._meters.round_trip, self._estimate
        queue_s = 8 * self._queue.waiting_bytes(now, link.rate_bps) / link.rate_bps
        last = self._ledger.last_handed
        asked = last is not None and last.entry is None
        base = max(trip.smoothed_s + 4 * trip.deviation_s, trip.least_s + queue_s) + (
            0.02 if asked else policy.FEEDBACK_S
        )
        most = _HURRIED_TIMEOUT_S + trip.smoothed_s + queue_s if self._hurry else _MAX_TIMEOUT_S
        return min(max(base, _MIN_TIMEOUT_S) * self._patience, max(most, base))

    def _answer_matters(self, now: float) -> bool:
        """Whether anything could be done about what feedback would tell."""
        if self._left < POLL_BYTES + self._ledger.smallest_unresolved_bytes():
            return False
        return self._settings.deadline_s is None or policy.rounds_left(self._settings, self._estimate, now) > 1

    # ---- what is heard -----------------------------------------------------------------------------

    def _look(self, now: float, room_bytes: int) -> None:
        ledger, meters = self._ledger, self._meters
        self._queue.see(room_bytes, ledger.in_flight_bytes, now, meters.rate)
        lost = ledger.expire(now - self._allowance_s)
        meters.loss.saw(0, (each.order for each in lost))
        self._note_estimate(now)

    def _learn(self, feedback: Feedback, now: float) -> None:
        ledger, meters = self._ledger, self._meters
        last = ledger.copy_named(feedback, meters.round_trip.offset_s)
        found = ledger.resolve(feedback, last, now)
        meters.loss.were_not_lost(found.revived)
        meters.loss.saw(len(found.arrived), [each.order for each in found.lost])
        if found.newest is not None:
            self._time(last, feedback, now)
            self._more_polls, self._unanswered, self._patience = 0, 0, 1.0
            self._poll_s = now + self._timeout_s(now) if ledger.unresolved_packets else math.inf
        self._note_estimate(now)

    def _time(self, last: Handed, feedback: Feedback, now: float) -> None:
        """Round trip and rate, by a packet that was handed over once."""
        if not last.alone:
            return
        trip = self._meters.round_trip
        trip.saw_offset(feedback.last_s - last.at_s)
        seconds = now - last.at_s - feedback.hold_s
        if seconds > 0:
            trip.saw(seconds)
            self._meters.measured_round_trip = True
        if self._last_sample is not None:
            before, before_s = self._last_sample
            came_s, went_s = feedback.last_s - before_s, last.at_s - before.at_s
            size = last.end_bytes - before.end_bytes
            if came_s > 0 and size > 0:
                self._meters.rate.saw_arrive(size, came_s, went_s, sole=not self._queue.tells)
        self._last_sample = (last, feedback.last_s)

    def _rejoin(self, feedback: Feedback | None) -> None:
        self._rejoining = False
        self._more_polls, self._unanswered, self._patience, self._poll_s = 0, 0, 1.0, math.inf
        self._ledger.begin_again(feedback)

    def _note_estimate(self, now: float) -> None:
        self._estimate = self._meters.estimate(*self._queue.in_service(now))
        self.stats.estimate, self.stats.lost_packets = self._estimate, self._ledger.lost_packets
        rates = self.stats.rates_bps
        if not rates or abs(self._estimate.rate_bps / rates[-1][1] - 1) > _RATE_NEWS:
            rates.append((now, self._estimate.rate_bps))

    # ---- new plans ---------------------------------------------------------------------------------

    def _wish(self, now: float) -> policy.Prospect | None:
        """What a new plan could do, if one is worth having now."""
        if self._asked or self.done or not self._closed or self._rejoining or self._blind:
            return None
        if now < self._ask_after_s or len(self._ledger.revisions) >= MAX_REVISIONS or not self._sure:
            return None
        prospect = self._prospect(now)
        if not prospect.worthwhile(hurry=self._hurry):
            return None
        if self._refused_bytes is not None and abs(prospect.later_bytes / self._refused_bytes - 1) < 0.3:
            return None
        return prospect

    def _prospect(self, now: float) -> policy.Prospect:
        """What is to be sent, and what can be."""
        ledger, link = self._ledger, self._estimate
        carried = policy.carried_bytes(self._settings, link, now, cautious=True)
        carried -= self._queue.waiting_bytes(now, link.rate_bps)
        arrives, again = 1 - link.loss_rate, link.loss_rate * ledger.unresolved_bytes
        left = self._left - POLL_SPARE_BYTES
        affordable = max(min(left, carried) - again, 0.0) * arrives
        meanwhile = link.rate_bps / 8 * self._replan_s
        share = 0.6 * affordable if self._hurry else 0.5 * min(ledger.open_bytes, affordable)
        committed = min(meanwhile * arrives, share, ledger.open_bytes)
        later = min(left - committed / arrives, carried - meanwhile if self._hurry else math.inf)
        return policy.Prospect(
            ledger.open_bytes,
            affordable,
            committed,
            max(later - again, 0.0) * arrives,
            ledger.arrived_bytes + ledger.unresolved_bytes,
            ledger.unfit_bytes,
            self._header_guess(),
        )

    def _header_guess(self) -> float:
        """Bytes of the next revision's header: without a sketch it is shorter than the first."""
        sizes = [sum(map(len, revision.header)) for revision in self._ledger.revisions]
        return sizes[-1] if len(sizes) > 1 else sizes[0] / 2

    @property
    def _sure(self) -> bool:
        """Whether enough was seen of the link to plan again."""
        if self._hurry:
            return self._meters.rate.busy_s >= _SURE_S
        return self._meters.loss.packets >= _SURE_PACKETS or not self._ledger.unresolved_packets

    # ---- the end, and when to be asked again -------------------------------------------------------

    def _settle(self, now: float) -> None:
        if self._asked and now > self._asked.at_s + _FORGET_S:  # nobody is going to answer
            self._asked = None
            self._ledger.keep_all()
        self.done = self.done or self._finished(now)
        self.wake_s = math.inf if self.done else max(self._wake_at(now), now + _STEP_S)
        if self.done:
            self.stats.dropped_patches = self._ledger.missing_patches()

    def _finished(self, now: float) -> bool:
        """Whether nothing more will be sent."""
        if not self._closed:
            return not self._ledger.open_bytes
        if self._left < POLL_BYTES or self._too_late(now):
            return True
        if self._asked or self._rejoining or self._ledger.open_bytes:
            return False
        if self._ledger.unresolved_packets and not self._blind and self._answer_matters(now):
            return False
        return self._wish(now) is None

    def _too_late(self, now: float) -> bool:
        """Whether nothing that goes now can arrive in time."""
        smallest = self._ledger.smallest_open_bytes() if self._held is _Hold.TIME and not self._queue.known_bytes else 0
        return not policy.in_time(self._settings, self._estimate, self._recent_bps(now), smallest, now)

    def _wake_at(self, now: float) -> float:
        times = [self._poll_s]
        if self._held is _Hold.QUEUE:
            target = policy.queue_bytes(self._estimate)
            times.append(self._queue.drained_s(target, now, self._estimate.rate_bps))
        if self._asked:
            times.append(self._asked.at_s + (_FORGET_S if now >= self._asked.at_s + _PATIENCE_S else _PATIENCE_S))
        elif self._ask_after_s > now:
            times.append(self._ask_after_s)
        if self._ledger.first_passed_s is not None:
            times.append(self._ledger.first_passed_s + self._allowance_s)
        if self._settings.deadline_s is not None:
            times.append(max(self._settings.deadline_s - policy.one_way_s(self._estimate), now))
        return min(times)

    def _recent_bps(self, now: float) -> float:
        return self._meters.rate.recent_bps(*self._queue.in_service(now))

    @property
    def _allowance_s(self) -> float:
        """For how long a packet may have been overtaken without counting as lost."""
        return max(0.01, self._meters.round_trip.least_s / 8)

    @property
    def _closed(self) -> bool:
        return self._settings.closed_loop

    @property
    def _hurry(self) -> bool:
        return self._settings.deadline_s is not None

    @property
    def _left(self) -> int:
        return self._settings.budget_bytes - self._ledger.sent_bytes

    @property
    def _under_way(self) -> int:
        """Handed over, neither overtaken nor so long ago that it must be there or lost."""
        return min(self._ledger.in_flight_bytes, self._ledger.sent_bytes - self._forgotten_bytes)
