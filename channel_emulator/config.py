"""What the channel emulator is told when it starts."""

from dataclasses import dataclass, field
from typing import Final

from channel_emulator.rates import MAX_RATE_BPS
from channel_emulator.settings import LinkSettings
from shared.limits import RELAYING_RPCS, RpcLimits
from shared.service import ServiceConfig
from shared.tls import Access

BACKWARD_QUEUE_BYTES: Final = 16 * 1024 * 1024
"""The queue of reports, which the receiver fills without knowing a credit."""


@dataclass(frozen=True)
class ChannelConfig(ServiceConfig):
    """Configuration of the channel emulator."""

    listen: str = "127.0.0.1:50052"
    """HOST:PORT of the gRPC server; port 0 picks a free one."""

    receiver: str = "127.0.0.1:50053"
    """HOST:PORT of the receiver that packets are relayed to."""

    limits: RpcLimits = field(default_factory=lambda: RpcLimits(RELAYING_RPCS))
    """RPCs at once and per second."""

    access: Access = field(default_factory=Access)
    """What is shown to the receiver."""

    connect_timeout_s: float = 2.0
    """Seconds for which a relay waits for a connection to the receiver before it ends with UNAVAILABLE."""

    link: LinkSettings = field(default_factory=LinkSettings)
    """The link at the start: 1 Mbit/s, 0.02 s each way, a queue of 65,536 bytes per stream, no loss, seed 0."""

    @property
    def backward(self) -> LinkSettings:
        """The other direction at the start: the same delay and seed, and room for all reports at any rate."""
        return LinkSettings(MAX_RATE_BPS, self.link.propagation_s, BACKWARD_QUEUE_BYTES, seed=self.link.seed)
