"""A transmission as far as it has come, and what is told of it on the way."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from shared.reports import Report, ReportOutcome
from transmitter.hearing import Heard
from transmitter.replanning import Replanner, Revised
from transmitter.transport.contract import LinkEstimate, SenderStats
from transmitter.transport.sender import Sender


@dataclass(frozen=True)
class Sent:
    """How far a transmission has come on this side of the channel."""

    sent_bytes: int
    """Handed to the channel, on all streams."""
    departed_bytes: int
    """Left the channel's queue onto the link."""
    acknowledged_bytes: int
    """Known to have arrived."""
    estimate: LinkEstimate


@dataclass(frozen=True)
class Replanned:
    """A new plan is about to be sent."""

    revised: Revised
    estimate: LinkEstimate


@dataclass(frozen=True)
class Ended:
    """How a transmission ended."""

    report: Report
    """The receiver's last word, or what is known where that was lost."""
    stats: SenderStats
    deadline_met: bool | None
    """Whether there was a picture by the deadline, and nothing came after it; None: there was no deadline."""


Event: TypeAlias = Sent | Replanned | Ended


@dataclass(eq=False)
class Course:
    """A transmission as far as it has come; it may be taken up again on another stream, or by another call."""

    replanner: Replanner
    begin: Callable[[float], Sender]
    """Makes the sender when the first byte may be sent, on the event loop's clock."""
    message_bytes: int
    """How many bytes of packets go in one message."""
    allowed_s: float | None = None
    """Seconds from then to the deadline; None: there is none."""
    closed_loop: bool = True
    """Whether the sender reacts to feedback, and cannot do without."""
    sender: Sender | None = None
    """None before the channel has answered."""
    deadline_s: float | None = None
    """On the event loop's clock, once sending has begun."""
    estimate: LinkEstimate | None = None
    """What was last believed of the link while there was something to send; who only waits learns nothing."""
    resumed: int = 0
    """How often it was taken up."""
    heard: Heard = field(default_factory=Heard)

    def begun(self, now: float) -> Sender:
        """The sender, which begins now unless it has before; seconds on the event loop's clock."""
        if self.sender is None:
            self.sender = self.begin(now)
            self.deadline_s = None if self.allowed_s is None else now + self.allowed_s
            self.heard.heard_s = now
        return self.sender

    def go_on(self, sender: Sender, now: float) -> None:
        """Has the sender go on, on another stream."""
        self.resumed += 1
        self.heard.begin_again()
        self.heard.heard_s = now
        sender.reconnected(now)

    def heard_report(self) -> Report | None:
        """What the receiver's final report would say by what was heard on this stream; None if that was nothing."""
        if self.sender is None:
            return None
        announced = int(np.count_nonzero(self.replanner.levels))
        return self.heard.report(announced, self.sender.acknowledged.patches)

    def ended(self, sender: Sender, report: Report, report_s: float) -> Ended:
        """How the transmission ended.

        Args:
            sender: which has no more to send.
            report: the receiver's last word.
            report_s: when that came, on the event loop's clock.
        """
        stats = replace(sender.stats, estimate=self.estimate or sender.estimate)
        if self.deadline_s is None:
            return Ended(report, stats, None)
        round_trip_s = sender.estimate.round_trip_s
        last_s = self.heard.last_arrival_s(round_trip_s)
        if last_s is None:
            last_s = report_s - report.reconstruct_s - round_trip_s / 2
        return Ended(report, stats, report.outcome is not ReportOutcome.FAILED and last_s <= self.deadline_s)

    def sent(self, sender: Sender, departed_bytes: int) -> Sent:
        """How far it has come, when so many bytes have left the channel's queue."""
        estimate = self.estimate or sender.estimate
        return Sent(sender.stats.sent_bytes, departed_bytes, sender.acknowledged.bytes, estimate)
