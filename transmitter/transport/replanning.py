"""When a new plan is worth having, and what it may take."""

import math
from dataclasses import dataclass
from typing import Final

from transmitter.transport import policy
from transmitter.transport.contract import LinkEstimate, PackedRevision, SenderSettings
from transmitter.transport.ledger import Ledger

PATIENCE_S: Final = 3.0
"""For how long the rest is held back for a new plan, where there is no deadline."""

FORGET_S: Final = 10.0
"""After which time a new plan is not expected any more."""

_REPLAN_S: Final = 0.3  # how long a plan takes, before one was seen
_LEFTOVER: Final = 0.04  # less than this part of all bytes is not worth another plan
_FINER: Final = 0.15  # likewise, where all that was planned is there
_NEWS: Final = 0.3  # by how much a budget must change before it is offered again
_LEAST_BYTES: Final = 300


@dataclass(frozen=True)
class Prospect:
    """How what is to be sent compares with what can be sent, when a new plan comes and until then."""

    open_bytes: float
    """To be sent, for the first time or again."""
    committed_bytes: float
    """Of these, those that go before the new plan comes."""
    later_bytes: float
    """That bytes and time allow for once it is there, losses taken off."""
    served_bytes: float
    """There or on their way."""
    unfit_bytes: float
    """Of packets that are larger than the bytes that are left."""
    header_bytes: float
    """What the new plan's header takes, at a guess."""

    def worthwhile(self, *, hurry: bool) -> bool:
        """Whether a new plan is worth having.

        Args:
            hurry: whether time decides rather than bytes: its forecasts are less sure.
        """
        if self.later_bytes < max(4 * self.header_bytes, _LEAST_BYTES):
            return False
        slack = 0.15 if hurry else 0.05
        rest = self.open_bytes - self.committed_bytes
        total = self.open_bytes + self.unfit_bytes + self.served_bytes
        over = self.later_bytes - rest
        if self.unfit_bytes and not rest:
            return over > _LEFTOVER * total
        if over < 0:
            return rest > (1 + 2 * slack) * self.later_bytes and -over > slack / 2 * total
        if self.open_bytes > 0.1 * total:
            return over > slack * max(rest, total)
        return over > _FINER * total


class Replanning:
    """The plan that was asked for, if any, and what was said to the one before.

    Args:
        settings: of the transmission.
        now: when it begins.
    """

    def __init__(self, settings: SenderSettings, now: float) -> None:
        self._settings = settings
        self._hurry = settings.deadline_s is not None
        self._replan_s = _REPLAN_S
        self._asked_s: float | None = None
        self._asked_bytes = 0.0
        self._refused_bytes: float | None = None
        self._after_s = now

    @property
    def outstanding(self) -> bool:
        """Whether a plan was asked for and has not come."""
        return self._asked_s is not None

    def wish(self, ledger: Ledger, link: LinkEstimate, waiting_bytes: float, now: float) -> Prospect | None:
        """What a new plan could do, if one is worth having now."""
        if self.outstanding or now < self._after_s:
            return None
        prospect = self._prospect(ledger, link, waiting_bytes, now)
        if not prospect.worthwhile(hurry=self._hurry):
            return None
        if self._refused_bytes is not None and abs(prospect.later_bytes / self._refused_bytes - 1) < _NEWS:
            return None
        return prospect

    def ask(self, prospect: Prospect, now: float) -> int:
        """The plan is asked for; its bytes."""
        self._asked_s, self._asked_bytes = now, prospect.later_bytes
        return int(prospect.later_bytes)

    def answer(self, revision: PackedRevision | None, link: LinkEstimate, now: float) -> None:
        """The plan is there, or there is none."""
        assert self._asked_s is not None
        self._replan_s += (now - self._asked_s - self._replan_s) / 2
        self._asked_s, self._after_s = None, now + link.round_trip_s + policy.QUEUE_S
        self._refused_bytes = self._asked_bytes if revision is None else None
        if revision is None:
            self._after_s = max(self._after_s, now + 2 * self._replan_s)

    def forgotten(self, now: float) -> bool:
        """Whether nobody is going to answer any more; then nothing is outstanding."""
        if self._asked_s is None or now <= self._asked_s + FORGET_S:
            return False
        self._asked_s, self._after_s = None, math.inf
        return True

    def pauses(self, now: float) -> bool:
        """Whether the rest waits for the new plan; where time is short, nothing does."""
        return self._asked_s is not None and not self._hurry and now < self._asked_s + PATIENCE_S

    def wake_s(self, now: float) -> float:
        """When its answers change by themselves."""
        if self._asked_s is None:
            return self._after_s if self._after_s > now else math.inf
        return self._asked_s + (PATIENCE_S if self.pauses(now) else FORGET_S)

    def _prospect(self, ledger: Ledger, link: LinkEstimate, waiting_bytes: float, now: float) -> Prospect:
        carried = policy.carried_bytes(self._settings, link, now, cautious=True) - waiting_bytes
        left = self._settings.budget_bytes - ledger.sent_bytes - policy.POLL_SPARE_BYTES
        again = link.loss_rate * ledger.unresolved_bytes
        arrives = policy.share_that_counts(self._settings, link, now)
        affordable = max(min(left, carried) - again, 0.0) * arrives
        meanwhile = link.rate_bps / 8 * self._replan_s
        share = 0.6 * affordable if self._hurry else 0.5 * min(ledger.open_bytes, affordable)
        committed = min(meanwhile * arrives, share, ledger.open_bytes)
        later = min(left - committed / arrives, carried - meanwhile if self._hurry else math.inf)
        return Prospect(
            ledger.open_bytes,
            committed,
            max(later - again, 0.0) * arrives,
            ledger.arrived_bytes + ledger.unresolved_bytes,
            ledger.unfit_bytes,
            _header_guess(ledger),
        )


def _header_guess(ledger: Ledger) -> float:
    """Bytes of the next revision's header: without a sketch it is shorter than the first."""
    sizes = [sum(map(len, revision.header)) for revision in ledger.revisions]
    return sizes[-1] if len(sizes) > 1 else sizes[0] / 2
