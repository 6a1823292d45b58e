"""What the receiver is told when it starts."""

from dataclasses import dataclass, field

from shared.limits import RELAYING_RPCS, RpcLimits
from shared.service import ServiceConfig


@dataclass(frozen=True)
class ReceiverConfig(ServiceConfig):
    """Settings of the receiver."""

    listen: str = "127.0.0.1:50053"
    """HOST:PORT of the gRPC server; port 0 picks a free one."""

    limits: RpcLimits = field(default_factory=lambda: RpcLimits(RELAYING_RPCS))
    """RPCs at once and per second."""

    max_transmissions: int = 64
    """Transmissions that are remembered, at least 1."""

    max_stored_bytes: int = 256 * 1024 * 1024
    """Memory for the transmissions and their encoded pictures."""

    idle_s: float = 60.0
    """Seconds of silence after which a transmission counts as ended, above 0."""

    store: str = ""
    """Folder that keeps the transmissions over a restart; empty keeps them in memory alone."""

    store_bytes: int = 1024**3
    """Room on the disk for them, at least 1."""

    store_age_s: float = 7 * 86_400.0
    """Seconds since its last packet after which a transmission is removed from the disk, above 0."""

    threads: int = 0
    """Threads of one reconstruction; 0 means one per core."""
