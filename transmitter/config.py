"""Settings of the transmitter service."""

from dataclasses import dataclass, field

from shared.codec.registry import DEFAULT_CODEC
from shared.service import ServiceConfig
from shared.tls import Access
from transmitter.relevance.registry import DEFAULT_EXTRACTOR


@dataclass(frozen=True)
class TransmitterConfig(ServiceConfig):
    """What the transmitter is told when it starts."""

    listen: str = "127.0.0.1:50051"
    """HOST:PORT of the gRPC server; port 0 picks a free one."""

    channel: str = "127.0.0.1:50052"
    """HOST:PORT of the channel that leads to the receiver."""

    access: Access = field(default_factory=Access)
    """What is shown to the channel."""

    extractors: tuple[str, ...] = (DEFAULT_EXTRACTOR,)
    """Names of the relevance extractors to load; the first is the default."""

    codec: str = DEFAULT_CODEC
    """Name of the codec of requests that name none."""

    device: str = "cpu"
    """Where relevance is computed: "cpu", "cuda", "cuda:1"..."""

    threads: int = 1
    """Threads of one relevance map; patch coding uses all cores whatever this says. More than one helps on an idle
    machine with cores to spare, and harms on a busy one."""

    jobs: int = 2
    """Pictures worked on at once; further requests wait."""

    channel_timeout_s: float = 5.0
    """Seconds within which the channel must answer a question about its link."""

    stall_timeout_s: float = 60.0
    """Seconds without any progress on the channel after which a transmission is given up."""

    resume_s: float = 20.0
    """Seconds for which a stream that broke is opened again, before the transmission fails; 0: at once."""
