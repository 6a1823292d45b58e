"""Whether a new plan is wished for now: what replanning says, where enough is known to ask it."""

from typing import Final

from shared.packets import MAX_REVISIONS
from transmitter.transport import policy
from transmitter.transport.replanning import Prospect, Replanning
from transmitter.transport.standing import Standing

_SURE_PACKETS: Final = 10  # fates that say something of the losses
_SURE_S: Final = 0.1  # busy seconds that say something of the rate


class Wishes:
    """New plans as this transmission would have them.

    Args:
        standing: of the transmission.
        replanning: judges what a new plan could do.
    """

    def __init__(self, standing: Standing, replanning: Replanning) -> None:
        self._standing, self._ledger, self._link = standing, standing.ledger, standing.link
        self._replanning = replanning

    def prospect(self, now: float, *, soon: bool = False) -> Prospect | None:
        """What a new plan could do, if one is worth having now, or soon."""
        standing = self._standing
        if not standing.closed or standing.blind or not self._sure:
            return None
        if len(self._ledger.planned.revisions) + policy.scans_for(standing.settings) > MAX_REVISIONS:
            return None
        waiting = self._link.waiting_bytes(now)
        return self._replanning.wish(self._ledger, standing.estimate, waiting, now, soon=soon)

    def holds_back(self, now: float) -> bool:
        """Whether too much was lost for what is left, and all of it is to be planned again."""
        if self._standing.hurry or not (self._ledger.lost_packets or self._ledger.went_down):
            return False
        prospect = self.prospect(now)
        return prospect is not None and prospect.short

    @property
    def outstanding(self) -> bool:
        """Whether a plan was asked for and has not come."""
        return self._replanning.outstanding

    def promised_bytes(self, now: float) -> float:
        """Bytes that must be left for a plan that is being made."""
        return self._replanning.promised_bytes(now)

    @property
    def _sure(self) -> bool:
        """Whether enough was seen of the link to plan again."""
        meters = self._link.meters
        if self._standing.hurry:
            # With nothing more to send, no more is going to be seen.
            return not self._ledger.planned.open_bytes or (meters.rate.busy_s >= _SURE_S and not meters.rate.settles)
        return meters.loss.packets >= _SURE_PACKETS or not self._ledger.unresolved_packets
