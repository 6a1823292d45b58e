"""How a transmission stands: what all parts of its sender look at."""

from dataclasses import dataclass, field

from transmitter.transport.contract import LinkEstimate, SenderSettings, SenderStats
from transmitter.transport.holding import Holding
from transmitter.transport.ledger import Ledger
from transmitter.transport.link import LinkView


@dataclass(frozen=True)
class Standing:
    """What a transmission may take, what became of its packets, and how the link is seen."""

    number: int
    """Of the transmission."""
    settings: SenderSettings
    ledger: Ledger
    link: LinkView
    holding: Holding
    stats: SenderStats = field(default_factory=SenderStats)

    @property
    def closed(self) -> bool:
        """Whether feedback counts."""
        return self.settings.closed_loop

    @property
    def hurry(self) -> bool:
        """Whether there is a deadline."""
        return self.settings.deadline_s is not None

    @property
    def blind(self) -> bool:
        """Whether nothing is expected to be heard any more."""
        return self.holding.blind

    @property
    def left(self) -> int:
        """Bytes of the budget that are left, but for those that are kept."""
        return self.holding.left

    @property
    def estimate(self) -> LinkEstimate:
        """What is believed of the link now."""
        return self.link.estimate
