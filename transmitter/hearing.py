"""What one transmission's feedback says of the way there: when the last byte arrived, how fast, how it would end."""

import math
from dataclasses import dataclass

from shared.feedback import Feedback
from shared.reports import Report, ReportOutcome


@dataclass
class Heard:
    """Gathers feedback; what counts from one message to the next is of one stream at a time."""

    messages: int = 0
    """How many came, on all streams."""
    latest: Feedback | None = None
    """The newest one of this stream."""
    heard_s: float = -math.inf
    """When that came, on the sender's clock."""
    _first: Feedback | None = None
    _bound_s: float = math.inf
    """No later than then, plus the way back, did the last packet arrive."""

    def take(self, feedback: Feedback, at_s: float) -> None:
        """Takes a message.

        Args:
            feedback: of our transmission; late ones are known by their counts.
            at_s: when it came, on the sender's clock.
        """
        self.messages += 1
        self.heard_s = at_s
        if self.latest is not None and feedback.arrived_packets < self.latest.arrived_packets:
            return
        same = self.latest is not None and feedback.last_s == self.latest.last_s
        self._bound_s = min(at_s - feedback.hold_s, self._bound_s if same else math.inf)
        self.latest = feedback
        self._first = self._first or feedback

    def begin_again(self) -> None:
        """Another stream: the receiver may be another process, which counts and measures time anew."""
        self.latest = self._first = None
        self._bound_s = math.inf

    def last_arrival_s(self, round_trip_s: float) -> float | None:
        """When the last packet arrived at the latest, on the sender's clock; None before anything was heard.

        Args:
            round_trip_s: half of it, feedback took to come back.
        """
        return None if self.latest is None else self._bound_s - round_trip_s / 2

    @property
    def rate_bps(self) -> float | None:
        """Bits per second that arrived between the first and the last message; None where that makes no sense."""
        if self.latest is None or self._first is None:
            return None
        seconds = self.latest.last_s - self._first.last_s
        return 8 * (self.latest.arrived_bytes - self._first.arrived_bytes) / seconds if seconds > 0 else None

    def report(self, announced_patches: int, arrived_patches: int) -> Report | None:
        """What the receiver's final report would say, had it not been lost; None where nothing was heard.

        Args:
            announced_patches: that any plan sends.
            arrived_patches: known to have arrived; one that came in two plans may count twice.
        """
        if self.latest is None:
            return None
        states = {state.revision: state for state in self.latest.revisions}
        shown = 0 in states and states[0].header
        arrived = min(arrived_patches, announced_patches) if shown else 0
        whole = ReportOutcome.COMPLETE if arrived == announced_patches else ReportOutcome.PARTIAL
        outcome = whole if shown else ReportOutcome.FAILED
        size = self.latest.arrived_bytes
        return Report(self.latest.transmission_id, outcome, size, announced_patches if shown else 0, arrived, 0.0)
