"""One transmission of a photo, from the first plan to the picture, with what it is measured by.

```
LinkMemory ─► LinkEstimate ─► first_budget ─► plan ─► Sender ─┐
    ▲                                             Assembly ───┴─► simulate ─► Outcome ─► Trial
    └──────────────── what was learnt ◄───────────────────────────────┘
```
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from channel_emulator.rates import MAX_RATE_BPS
from channel_emulator.settings import LinkSettings
from evaluation.transport.receiving import Receiving
from evaluation.transport.simulation import Course, Outcome, bytes_by, carried_bytes, simulate
from receiver.contract import ArrivedPatches, ReceiverCodecs
from shared.errors import BudgetTooSmallError
from shared.packets import DEFAULT_PACKET_BYTES
from transmitter.packing import pack_revision
from transmitter.planning import Earlier, Plan, PlanRequest, earlier_plans
from transmitter.replanning import request_for
from transmitter.transport.contract import (
    USUAL_REPLAN_S,
    PackedRevision,
    RevisionWanted,
    SenderSettings,
    SenderStats,
)
from transmitter.transport.memory import LinkMemory
from transmitter.transport.pace import PlanningPace
from transmitter.transport.sender import Sender, first_budget, first_packet_bytes, scans_for

REPLAN_S = USUAL_REPLAN_S
"""What planning a revision takes of a photo of the paper's size on one core."""

_ID = 7


@dataclass(frozen=True)
class Wish:
    """What is asked of a transmission."""

    budget_bytes: int
    """Every byte of the sender's counts."""
    deadline_s: float | None = None
    """Seconds from its start."""
    closed_loop: bool = True
    """False: the first plan is sent as it is."""
    packet_bytes: int = DEFAULT_PACKET_BYTES


@dataclass(frozen=True, eq=False)
class Trial:
    """What became of it."""

    wish: Wish
    link: LinkSettings
    start_s: float
    """On the clock of the link's model."""
    first_bytes: int
    """Of the first plan."""
    outcome: Outcome
    stats: SenderStats

    @property
    def pictured(self) -> bool:
        """Whether there was a picture at the deadline, or without one in the end."""
        return self.arrived is not None

    @property
    def arrived(self) -> ArrivedPatches | None:
        """What the picture at the deadline, or without one in the end, is made of."""
        return self.outcome.at_end if self.wish.deadline_s is None else self.outcome.at_deadline

    @property
    def arrived_bytes(self) -> int:
        """Bytes that came by the deadline, or without one in the end."""
        return bytes_by(self.outcome.arrivals, math.inf if self.wish.deadline_s is None else self.wish.deadline_s)

    @property
    def late_bytes(self) -> int:
        """Bytes that had not left the link by the deadline: what arrived later than it and the way."""
        if self.wish.deadline_s is None:
            return 0
        arrivals = self.outcome.arrivals
        return bytes_by(arrivals, math.inf) - bytes_by(arrivals, self.wish.deadline_s + self.link.propagation_s)

    @property
    def met(self) -> bool:
        """Whether there was a picture at the deadline, and nothing was on the link after it."""
        return self.pictured and not self.late_bytes

    @property
    def delivery_ratio(self) -> float:
        """Time until all was there, less the propagation, over what the bytes sent take at the claimed rate."""
        least_s = 8 * self.outcome.sent_bytes / self.link.rate_bps
        there_s = min(self.outcome.complete_s, self.outcome.last_arrival_s)
        return (there_s - self.link.propagation_s) / least_s if least_s else 1.0

    @property
    def deliverable_bytes(self) -> int:
        """What the link, kept full, would have brought by the deadline."""
        assert self.wish.deadline_s is not None
        return carried_bytes(self.link, self.start_s, self.start_s + self.wish.deadline_s)


class Subject(Protocol):
    """What is sent: a photo with the region that counts, or something that behaves like one."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    @property
    def receivers(self) -> ReceiverCodecs:
        """What an assembly needs to take its packets in."""
        ...

    @property
    def raw_bytes(self) -> int:
        """Of its pixels."""
        ...

    def plan(self, request: PlanRequest) -> Plan:
        """The first plan for a budget.

        Raises:
            BudgetTooSmallError: not even the stream header fits.
        """
        ...

    def replan(self, request: PlanRequest, earlier: Sequence[Earlier]) -> Plan | None:
        """A plan for what is not there yet; None where nothing is worth its bytes."""
        ...

    def shown_db(self, arrived: ArrivedPatches | None) -> float:
        """PSNR of what arrived within the region."""
        ...

    def oracle_db(self, budget_bytes: int, packet_bytes: int) -> float | None:
        """What one plan gives that has so many bytes and loses none; None where not even the header fits."""
        ...


class Session:
    """A transmitter that sends a photo again and again over one link, and learns what the link is like.

    Args:
        photo: what is sent.
        link: the way there; the way back has the same delay and loses as many packets, but carries all at once.
        replan_s: what planning a revision takes.
    """

    def __init__(self, photo: Subject, link: LinkSettings, replan_s: float = REPLAN_S) -> None:
        self._photo, self._link, self._replan_s = photo, link, replan_s
        self._memory, self._pace = LinkMemory(), PlanningPace()

    def transmit(self, wish: Wish, start_s: float, seed: int) -> Trial:
        """Sends the photo once.

        Args:
            wish: what is asked of the transmission.
            start_s: when it begins, on the clock of the link's model; not before an earlier transmission's end.
            seed: of the link's losses.

        Where not even a stream header fits the first plan, nothing is sent.
        """
        link = replace(self._link, seed=seed)
        estimate = self._memory.estimate(link.rate_bps, link.propagation_s, start_s, wish.deadline_s)
        deadline_s = None if wish.deadline_s is None else start_s + wish.deadline_s
        replan_s = self._pace.replan_s(self._photo.raw_bytes)
        settings = SenderSettings(wish.budget_bytes, deadline_s, wish.closed_loop, wish.packet_bytes, replan_s)
        budget_bytes = first_budget(settings, estimate, start_s)
        try:
            packet_bytes = first_packet_bytes(settings, estimate, start_s)
            planner = _Planner(self._photo, PlanRequest(budget_bytes, packet_bytes, scans=scans_for(settings)))
        except BudgetTooSmallError:
            return Trial(wish, link, start_s, budget_bytes, Outcome(), SenderStats(revisions=0))
        sender = Sender(planner.first, settings, estimate, _ID, start_s)
        backward = LinkSettings(MAX_RATE_BPS, link.propagation_s, seed=seed, impairments=link.impairments)
        course = Course(link, backward, start_s, wish.deadline_s, self._replan_s)
        outcome = simulate(sender, Receiving(_ID, self._photo.receivers, start_s), planner, course)
        self._pace.learn(self._photo.raw_bytes, sender.replan_s)
        self._memory.learn(sender.evidence, start_s + min(outcome.done_s, outcome.end_s))
        return Trial(wish, link, start_s, budget_bytes, outcome, sender.stats)


class _Planner:
    """Makes the revisions of one transmission."""

    def __init__(self, photo: Subject, request: PlanRequest) -> None:
        self._photo = photo
        self._plans: list[Plan] = [photo.plan(request)]
        self.first = pack_revision(self._plans[0], _ID, 0)

    def __call__(self, wanted: RevisionWanted) -> PackedRevision | None:
        earlier = earlier_plans(self._plans, wanted.served)
        plan = self._photo.replan(request_for(wanted), earlier)
        if plan is None or not plan.bodies:
            return None
        self._plans.append(plan)
        return pack_revision(plan, _ID, wanted.number)
