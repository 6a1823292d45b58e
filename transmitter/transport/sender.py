"""The sending half of the transport: a state machine without clock or I/O.

```
              ┌────────── LinkEstimate ◄── meters ◄───┐
              ▼                                       │
give ─► what may go? ─► ledger ─► packets      take ─► ledger: arrived, lost ─► wanted ─► revise
        outgoing.py                                                             wishes.py
```
"""

import math
from typing import Final, NamedTuple

from shared.arrays import BoolArray
from shared.feedback import Feedback
from transmitter.transport import policy
from transmitter.transport.contract import (
    LinkEstimate,
    PackedRevision,
    RevisionWanted,
    SenderSettings,
    SenderStats,
)
from transmitter.transport.copies import Copies
from transmitter.transport.estimates import LinkEvidence
from transmitter.transport.holding import Hold, Holding
from transmitter.transport.ledger import Ledger
from transmitter.transport.link import LinkView
from transmitter.transport.outgoing import Outgoing
from transmitter.transport.policy import POLL_BYTES, first_budget, first_packet_bytes, scans_for
from transmitter.transport.questions import Questions
from transmitter.transport.replanning import Replanning
from transmitter.transport.standing import Standing
from transmitter.transport.wishes import Wishes

__all__ = ["Acknowledged", "Sender", "first_budget", "first_packet_bytes", "scans_for"]

_STEP_S: Final = 1e-3  # a clock's tick: waking is always later than now
_LOOK_S: Final = 0.005  # at the channel's queue, if nothing is heard of it
_FINER_PLANS: Final = 4  # revisions after which nobody waits for another


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
        self.done = False
        self.wake_s = now
        self._ledger, self._link = Ledger(), LinkView(link, now)
        self._holding = Holding(settings, self._ledger, self._link, now)
        self._standing = Standing(transmission_id, settings, self._ledger, self._link, self._holding)
        self.stats: SenderStats = self._standing.stats
        self._ledger.planned.add(first)
        if settings.closed_loop:  # a plan may need all of a tight budget
            self._holding.kept_bytes = min(max(settings.budget_bytes - first.whole_bytes, 0), POLL_BYTES)
        self._replanning = Replanning(settings, now)
        self._wishes = Wishes(self._standing, self._replanning)
        self._copies = Copies(self._standing)
        self._questions = Questions(self._standing, self._copies)
        self._outgoing = Outgoing(self._standing, self._copies, self._questions, self._wishes)
        self._copies.expect(first, now)
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
        while (packet := self._outgoing.next(now, room_bytes)) is not None:
            given.append(packet)
            room_bytes -= len(packet)
        self._settle(now)
        return given

    def take(self, feedback: Feedback, now: float) -> None:
        """Hears what has arrived; what makes no sense is ignored."""
        standing = self._standing
        if feedback.transmission_id != standing.number or not self._ledger.makes_sense(feedback) or not standing.closed:
            return
        if self._questions.rejoining:
            self._questions.rejoin(feedback)
        if self._link.hear(feedback, self._ledger, now).newest is not None:
            self._questions.answered()
            self._holding.blind = False
            if self._ledger.unresolved_packets:
                self._questions.expect(now)
        self._settle(now)

    def wanted(self, now: float) -> RevisionWanted | None:
        """Asks for a new plan; until `revise` brings it, not again."""
        standing, ledger = self._standing, self._ledger
        prospect = None if self.done or self._questions.rejoining else self._wishes.prospect(now)
        if prospect is None or not (standing.hurry or standing.blind or not ledger.unresolved_packets):
            return None
        budget = self._replanning.ask(prospect, now)
        ledger.planned.keep_only(prospect.committed_bytes)
        served = ledger.planned.served()
        packet_bytes = policy.packet_bytes_for(standing.settings, standing.estimate, budget)
        return RevisionWanted(len(served), budget, packet_bytes, served, prospect.scans, hurried=standing.hurry)

    def revise(self, revision: PackedRevision | None, now: float) -> None:
        """Takes the new plan that was asked for, or that there is none."""
        if not self._replanning.outstanding:
            return
        if revision is not None and not revision.patches:
            revision = None
        handed_over = 0 if revision is None else self._ledger.planned.hand_over_to_revision()
        self._replanning.answer(revision, handed_over, self._link.estimate, now)
        if revision is None:
            self._ledger.planned.keep_all()
        else:
            self.stats.revisions += 1
            self._ledger.planned.add(revision)
            self._copies.expect(revision, now)
        self._settle(now)

    def reconnected(self, now: float) -> None:
        """A new stream to the receiver stands; what was in flight may have been lost with the old one."""
        self._holding.kept_bytes = 0
        if self.done and not (self._standing.closed and self._standing.left >= POLL_BYTES):
            return
        # Even with nothing more to send: only an answer tells what is left of what was sent.
        self.done = self._holding.blind = False
        self._link.begin_again()
        self._outgoing.protection.give_up()
        self._questions.begin_again(now)
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
        return Acknowledged(self._ledger.planned.arrived_bytes, self._ledger.planned.arrived_patches)

    @property
    def arrived(self) -> tuple[BoolArray, ...]:
        """For every revision, (expected,) the patches that feedback has told of, in sending order."""
        return self._ledger.planned.arrived()

    # ---- the end, and when to look again -----------------------------------------------------------

    def _settle(self, now: float) -> None:
        if self._replanning.forgotten(now):
            self._ledger.planned.keep_all()
        self.done = self.done or self._finished(now)
        self.wake_s = math.inf if self.done else max(self._wake_at(now), now + _STEP_S)
        self._note()

    def _note(self) -> None:
        self.stats.estimate, self.stats.rates_bps = self._link.estimate, self._link.rates_bps
        self.stats.lost_packets = self._ledger.lost_packets
        if self.done:
            self.stats.dropped_patches = self._ledger.planned.missing_patches()

    def _finished(self, now: float) -> bool:
        """Whether nothing more will be sent."""
        standing, ledger = self._standing, self._ledger
        if not standing.closed:
            return not ledger.planned.open_bytes
        if standing.left < POLL_BYTES or self._too_late(now):
            return True
        busy = self._replanning.outstanding or self._questions.rejoining or not self._outgoing.protection.idle
        if busy or ledger.planned.open_bytes:
            return False
        awaits = ledger.unresolved_packets and not standing.blind and self._questions.matter(now)
        if awaits or self._outgoing.last_copy(now) is not None:
            return False
        if len(ledger.planned.plans) < _FINER_PLANS and self._replanning.enough_time(standing.estimate, now):
            return standing.blind
        return self._wishes.prospect(now, soon=not standing.hurry) is None

    def _too_late(self, now: float) -> bool:
        """Whether nothing that goes now can arrive in time."""
        idle = self._outgoing.held is Hold.TIME and not self._link.queue.known_bytes
        size = self._ledger.planned.smallest_open_bytes() if idle else 0
        return not self._holding.in_time(size, now, sure=not self._link.queue.is_idle)

    def _wake_at(self, now: float) -> float:
        """When something changes by itself."""
        link, held, settings = self._link, self._outgoing.held, self._standing.settings
        times = [self._questions.due_s, self._replanning.wake_s(now)]
        if held is Hold.QUEUE:
            times.append(max(link.drained_s(policy.queue_bytes(link.estimate), now), now + _LOOK_S))
        if held is Hold.RESERVE and link.waiting_bytes(now) > self._holding.spare_bytes:
            times.append(max(link.drained_s(self._holding.spare_bytes, now), now + _LOOK_S))
        if self._ledger.first_passed_s is not None:
            times.append(self._ledger.first_passed_s + link.allowance_s)
        if settings.deadline_s is not None:
            times.append(settings.deadline_s - policy.one_way_s(link.estimate))
            if not self._ledger.planned.open_bytes:
                times.append(now + policy.QUEUE_S)
        return min(times)
