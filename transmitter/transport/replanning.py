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

_LEAST_BYTES: Final = 120  # less is not worth a plan
_HEADER_BYTES: Final = 60  # of a revision, before there was one: it has no sketch, and skips most patches
_NEWS: Final = 0.3  # by how much a budget must change before it is offered again
_FITS: Final = 0.85  # of what the link is going to carry: so much is sure to come
_MISSING: Final = 0.03  # of all bytes: patches that come nowhere are what costs most
_SHORT: Final = 0.005  # likewise, where nothing but bytes is short
_FINER: Final = 0.3  # of all bytes: with so many more, what is there is sent again, finer
_FINER_BY_BYTES: Final = 0.15  # likewise, where nothing but bytes is short
_FINER_SHARE: Final = 0.95  # of the bytes that time allows for; what is late of it is missed least
_EARLY: Final = 1.4  # over what is sent while a plan is made: some take longer, and then the link would idle
_FEW_PACKETS: Final = 4.0  # of so few any one may be lost
_MANY_PACKETS: Final = 10.0  # of so many about as many get lost as is expected
_MAY_BE_LOST: Final = 0.04  # a link that loses less is not worth keeping bytes for a last small plan
_ONE: Final = 0.65  # of what is left for a last small plan, and a tenth more for each packet


@dataclass(frozen=True)
class Prospect:
    """How what is to be sent compares with what can be sent, when a new plan comes and until then."""

    open_bytes: float
    """To be sent, for the first time or again, or given up because it is larger than the bytes that are left."""
    committed_bytes: float
    """Of these, those that go before the new plan comes."""
    later_bytes: float
    """That bytes and time allow for once it is there, losses taken off."""
    total_bytes: float
    """Of all packets: there, on their way, or to be sent."""
    fits: bool
    """Whether what is not to be had in any other revision will be there in time without a new plan."""
    finer_bytes: float
    """To be sent of patches that are to be had in another revision, only less fine."""
    scans: int = 1
    """In how many scans the new plan is to be sent: one where its patches are to be had in another revision."""

    @property
    def short(self) -> bool:
        """Whether patches would be missing without a new plan."""
        return self.open_bytes - self.committed_bytes > self.later_bytes


class Replanning:
    """The plan that was asked for, if any, and what was said to the one before.

    Args:
        settings: of the transmission.
        now: when it begins.
    """

    def __init__(self, settings: SenderSettings, now: float) -> None:
        self._settings = settings
        self._hurry = settings.deadline_s is not None
        self.replan_s = settings.replan_s
        """Seconds that a plan is expected to take, by those of this transmission."""
        self._finer: set[int] = set()
        """Revisions that only show more finely what is shown without them."""
        self._asked_finer = self._left_out = False
        self._scans = policy.scans_for(settings)
        self._asked_s: float | None = None
        self._asked_bytes = 0.0
        self._refused_bytes: float | None = None
        self._after_s = now

    @property
    def outstanding(self) -> bool:
        """Whether a plan was asked for and has not come."""
        return self._asked_s is not None

    def wish(
        self, ledger: Ledger, link: LinkEstimate, waiting_bytes: float, now: float, *, soon: bool = False
    ) -> Prospect | None:
        """What a new plan could do, if one is worth having now, or soon."""
        if self.outstanding or self._after_s == math.inf or (now < self._after_s and not soon):
            return None
        make, judge = (self._in_time, self._worth_time) if self._hurry else (self._in_bytes, self._worth_bytes)
        prospect = make(ledger, link, waiting_bytes, now)
        if prospect.later_bytes < max(_header_guess(ledger) + 60, _LEAST_BYTES) or not judge(prospect, ledger):
            return None
        if self._refused_bytes is not None and abs(prospect.later_bytes / self._refused_bytes - 1) < _NEWS:
            return None
        return prospect

    def ask(self, prospect: Prospect, now: float) -> int:
        """The plan is asked for; its bytes."""
        self._asked_s, self._asked_bytes = now, prospect.later_bytes
        self._asked_finer = prospect.fits
        return int(prospect.later_bytes)

    def answer(self, revision: PackedRevision | None, handed_over: int, link: LinkEstimate, now: float) -> None:
        """The plan is there, or there is none.

        Args:
            revision: the plan.
            handed_over: patches of earlier plans that it was to hold.
            link: as it is believed to be.
            now: when that is.
        """
        assert self._asked_s is not None
        self.replan_s += (now - self._asked_s - self.replan_s) / 2
        self._asked_s, self._after_s = None, now + link.round_trip_s + policy.QUEUE_S
        self._refused_bytes = self._asked_bytes if revision is None else None
        if revision is not None:
            self._left_out = revision.expected < handed_over
            self._finer |= {revision.number} if self._asked_finer else set()
        if revision is None:
            self._after_s = max(self._after_s, now + 2 * self.replan_s)

    def forgotten(self, now: float) -> bool:
        """Whether nobody is going to answer any more; then nothing is outstanding."""
        if self._asked_s is None or now <= self._asked_s + FORGET_S:
            return False
        self._asked_s, self._after_s = None, math.inf
        return True

    def promised_bytes(self, now: float) -> float:
        """Bytes that must be left for a plan that is being made; 0 where nothing waits for it."""
        return self._asked_bytes if self.pauses(now) else 0.0

    def pauses(self, now: float) -> bool:
        """Whether the rest waits for the new plan; where time is short, nothing does."""
        return self._asked_s is not None and not self._hurry and now < self._asked_s + PATIENCE_S

    def wake_s(self, now: float) -> float:
        """When its answers change by themselves."""
        if self._asked_s is None:
            return self._after_s if self._after_s > now else math.inf
        return self._asked_s + (PATIENCE_S if self.pauses(now) else FORGET_S)

    def enough_time(self, link: LinkEstimate, now: float) -> bool:
        """Whether a plan that is asked for soon could still be sent before the deadline."""
        rest_s = policy.rounds_left(self._settings, link, now) * (link.round_trip_s + policy.QUEUE_S)
        return self._hurry and rest_s > self.replan_s + link.round_trip_s + 2 * policy.QUEUE_S

    # ---- where time is short -----------------------------------------------------------------------

    def _in_time(self, ledger: Ledger, link: LinkEstimate, waiting_bytes: float, now: float) -> Prospect:
        careful, carried = (
            policy.carried_bytes(self._settings, link, now, cautious=cautious) - waiting_bytes
            for cautious in (True, False)
        )
        left = self._settings.budget_bytes - ledger.sent_bytes - policy.POLL_SPARE_BYTES
        again = link.loss_rate * ledger.unresolved_bytes
        arrives = policy.share_that_counts(self._settings, link, now)
        finer = sum(ledger.planned.open_bytes_of[number] for number in self._finer)
        needed, further = ledger.planned.open_bytes - finer, ledger.planned.refining_bytes
        affordable = max(min(left, careful) - again, 0.0) * arrives
        meanwhile = link.rate_bps / 8 * self.replan_s
        total = (
            ledger.planned.arrived_bytes
            + ledger.unresolved_bytes
            + ledger.planned.open_bytes
            + ledger.planned.unfit_bytes
        )
        if needed - further <= _FITS * affordable:
            later = min(left - needed / arrives, carried - max(needed, meanwhile)) - again
            later = _FINER_SHARE * later if needed <= _EARLY * meanwhile else 0.0
            return Prospect(needed, needed, max(later, 0.0) * arrives, total, True, finer)
        needed -= further
        committed = min(meanwhile * arrives, 0.6 * affordable, needed)
        later = min(left - committed / arrives, careful - meanwhile) - again
        return Prospect(needed, committed, max(later, 0.0) * arrives, total, False, finer, self._scans)

    def _worth_time(self, prospect: Prospect, ledger: Ledger) -> bool:
        """What is nowhere must come; what is there may become finer, one plan at a time."""
        if prospect.fits:
            more_bytes = prospect.later_bytes - prospect.finer_bytes
            return bool(ledger.planned.unfit_bytes) or more_bytes > _FINER * prospect.total_bytes
        rest = prospect.open_bytes - prospect.committed_bytes
        return rest - prospect.later_bytes > _MISSING * prospect.total_bytes

    # ---- where only bytes are ----------------------------------------------------------------------

    def _in_bytes(self, ledger: Ledger, link: LinkEstimate, _waiting_bytes: float, _now: float) -> Prospect:
        """Nothing goes while the plan is made: what all lost packets need is shared evenly among them."""
        unspent = self._settings.budget_bytes - ledger.sent_bytes - policy.POLL_SPARE_BYTES
        left = max(unspent - link.loss_rate * ledger.unresolved_bytes, 0.0)
        packets = left / self._settings.packet_bytes
        share = 1 - min(link.loss_at_most if packets < _MANY_PACKETS else policy.feared_loss(link), 0.5)
        if packets < _FEW_PACKETS and link.loss_at_most > _MAY_BE_LOST:
            share = min(share, _ONE + 0.1 * packets)
        needed = ledger.planned.open_bytes + ledger.planned.unfit_bytes
        total = ledger.planned.arrived_bytes + ledger.unresolved_bytes + needed
        later = left * share
        return Prospect(needed, 0.0, later, total, needed <= later, 0.0)

    def _worth_bytes(self, prospect: Prospect, ledger: Ledger) -> bool:
        over, total = prospect.later_bytes - prospect.open_bytes, prospect.total_bytes
        if ledger.planned.unfit_bytes:
            return True
        if over < 0:
            return -over > _SHORT * total
        return not prospect.open_bytes and (self._left_out or over > _FINER_BY_BYTES * total)


def _header_guess(ledger: Ledger) -> float:
    """Bytes of the next revision's header."""
    later = ledger.planned.plans[1:]
    return sum(map(len, later[-1].header)) if later else _HEADER_BYTES
