"""When to ask the receiver for feedback: at the end of what can be sent for now, and when no word comes in time.

Losses come in rows, so that a question that stays unanswered is asked again in growing numbers, less and less often.
"""

import math
from dataclasses import dataclass
from typing import Final

from transmitter.transport.estimates import RoundTrip
from transmitter.transport.policy import FEEDBACK_S

MAX_UNANSWERED: Final = 6
"""After so many questions without an answer, none is expected any more."""

_LEAST_S: Final = 0.1
_MOST_S: Final = 8.0
_MOST_HURRIED_S: Final = 0.5
_MOST_WAITS: Final = 3
_ANSWER_S: Final = 0.02  # what a receiver that was asked may take


@dataclass
class Asking:
    """The timer of the next question."""

    hurry: bool
    """Whether there is a deadline, and no time to be patient."""
    due_s: float = math.inf
    """When no word has come in time; infinity while none is expected."""
    unanswered: int = 0
    """Questions without an answer, one after the other."""
    more: int = 0
    """Questions to be sent together with the last one."""
    _patience: float = 1.0
    _waited: int = 0

    @property
    def hopeless(self) -> bool:
        """Whether nothing is expected to come back any more."""
        return self.unanswered >= MAX_UNANSWERED

    def expect(self, now: float, timeout_s: float) -> None:
        """A word is expected from now on; an earlier expectation stays."""
        if self.due_s == math.inf:
            self.due_s = now + timeout_s

    def asked(self, now: float, timeout_s: float) -> None:
        """A question was handed over."""
        self.more = max(self.more - 1, 0)
        self.due_s = now + timeout_s

    def ran_out(self, *, was_asked: bool) -> None:
        """No word came in time.

        Args:
            was_asked: whether it had been asked for.
        """
        if was_asked:
            self.unanswered += 1
            self.more = self.unanswered
            self._patience *= 2

    def waits(self) -> bool:
        """Nothing has left the channel's queue yet, or seems not to have; whether that is a reason to wait."""
        self._waited += 1
        return self._waited <= _MOST_WAITS

    def answered(self) -> None:
        """News came."""
        self.due_s, self.unanswered, self.more, self._patience, self._waited = math.inf, 0, 0, 1.0, 0

    def timeout_s(self, trip: RoundTrip, queue_s: float, *, was_asked: bool) -> float:
        """How long a word may take to come.

        Args:
            trip: what is known of the round trip.
            queue_s: what packets wait in the channel's queue.
            was_asked: whether a question was the last packet that was handed over.
        """
        usual_s = max(trip.smoothed_s + 4 * trip.deviation_s, trip.least_s + queue_s)
        usual_s = max(usual_s + (_ANSWER_S if was_asked else FEEDBACK_S), _LEAST_S)
        most_s = _MOST_HURRIED_S + trip.smoothed_s + queue_s if self.hurry else _MOST_S
        return min(usual_s * self._patience, max(most_s, usual_s))
