"""The link as the sender sees it: what it carries, loses and delays, and what waits in the channel's queue."""

from shared.feedback import Feedback
from transmitter.transport.contract import LinkEstimate
from transmitter.transport.entries import Handed, Resolved
from transmitter.transport.estimates import LinkEvidence, Meters
from transmitter.transport.ledger import Ledger
from transmitter.transport.queue import LocalQueue

_NEWS = 0.05
_LEAST_ALLOWANCE_S = 0.01


class LinkView:
    """Estimates, and the evidence that they are made of.

    Args:
        believed: before anything was seen.
        now: when that is.
    """

    def __init__(self, believed: LinkEstimate, now: float) -> None:
        self.queue = LocalQueue()
        self.meters = Meters.of(believed)
        self.estimate = believed
        """As of the last call."""
        self.rates_bps: list[tuple[float, float]] = []
        """(now, rate) whenever it changed by more than a twentieth."""
        self._last_sample: tuple[Handed, float] | None = None
        self._note(now)

    @property
    def evidence(self) -> LinkEvidence:
        """What was seen rather than believed."""
        return self.meters.evidence()

    @property
    def allowance_s(self) -> float:
        """For how long a packet may have been overtaken without counting as lost."""
        return max(_LEAST_ALLOWANCE_S, self.meters.round_trip.least_s / 8)

    def recent_bps(self, now: float) -> float:
        """The rate of the last moments, where it is below the estimate."""
        return self.meters.rate.recent_bps(*self.queue.in_service(now))

    def waiting_bytes(self, now: float) -> float:
        """What waits in the channel's queue."""
        return self.queue.waiting_bytes(now, self.meters.rate.rate_bps)

    def drained_s(self, target_bytes: float, now: float) -> float:
        """When no more than so much should wait; infinity where a departure must be seen before."""
        return self.queue.drained_s(target_bytes, now, self.meters.rate.rate_bps)

    def all_waits(self, ledger: Ledger) -> bool:
        """Whether nothing of what is under way has left the channel's queue."""
        return 0 < self.queue.known_bytes >= ledger.in_flight_bytes

    def look(self, room_bytes: int, ledger: Ledger, now: float) -> None:
        """Takes what the channel's credit shows, and what has been overtaken for too long."""
        self.queue.see(room_bytes, ledger.in_flight_bytes, now, self.meters.rate)
        lost = ledger.expire(now - self.allowance_s)
        self.meters.loss.saw(0, (each.order for each in lost))
        self._note(now)

    def hear(self, feedback: Feedback, ledger: Ledger, now: float) -> Resolved:
        """Takes feedback that makes sense."""
        meters = self.meters
        last = ledger.copy_named(feedback, meters.round_trip.offset_s)
        found = ledger.resolve(feedback, last, now)
        meters.loss.were_not_lost(found.revived)
        meters.loss.saw(len(found.arrived), [each.order for each in found.lost])
        if found.newest is not None and last.alone:
            self._time(last, feedback, now)
        self._note(now)
        return found

    def begin_again(self) -> None:
        """Another stream, with a queue of its own; the receiver may have another clock."""
        self.queue, self._last_sample = LocalQueue(), None
        self.meters.round_trip.begin_again()

    def _time(self, last: Handed, feedback: Feedback, now: float) -> None:
        """Round trip and rate, by a packet that was handed over once."""
        trip = self.meters.round_trip
        trip.saw_offset(feedback.last_s - last.at_s)
        seconds = now - last.at_s - feedback.hold_s
        if seconds > 0:
            trip.saw(seconds)
            self.meters.measured_round_trip = True
        if self._last_sample is not None:
            before, before_s = self._last_sample
            came_s, went_s = feedback.last_s - before_s, last.at_s - before.at_s
            if came_s > 0:
                size = last.end_bytes - before.end_bytes
                self.meters.rate.saw_arrive(size, came_s, went_s, sole=not self.queue.tells)
        self._last_sample = (last, feedback.last_s)

    def _note(self, now: float) -> None:
        self.estimate = self.meters.estimate(*self.queue.in_service(now))
        rate_bps = self.estimate.rate_bps
        if not self.rates_bps or abs(rate_bps / self.rates_bps[-1][1] - 1) > _NEWS:
            self.rates_bps.append((now, rate_bps))
