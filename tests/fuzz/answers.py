"""What the channel answers the transmitter: the state of its link, credit, and the packets that come back."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from shared.feedback import Arrived, Feedback
from shared.limits import RpcLimits
from shared.packets import Packet, PacketKind
from shared.pictures import png_bytes
from shared.reports import Report, ReportOutcome
from shared.stubs.mmsc.v1 import channel_pb2, transmitter_pb2
from transmitter.codecs import load_sender
from transmitter.config import TransmitterConfig
from transmitter.pipeline import Pipeline
from transmitter.server import transmitter

from .mutations import Sample, seal_packet
from .protobuf import message_change
from .rpc import Method, RefusedError, Service
from .runner import Target
from .samples import TRANSMISSION, LeftHalf, photo

_MIB: Final = 1024 * 1024
_CHANNEL: Final = "mmsc.v1.ChannelService"
_TRANSMIT: Final = Method(
    "/mmsc.v1.TransmitterService/Transmit",
    responses=True,
    failures=(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS),
)


class _Answers:
    """A channel that answers with bytes it is given, whatever it is asked."""

    def __init__(self) -> None:
        self.link = b""
        self.responses: Sequence[bytes] = ()
        server = grpc.server(ThreadPoolExecutor(8))
        handlers = {
            "GetLink": grpc.unary_unary_rpc_method_handler(lambda _request, _context: self.link),
            "Relay": grpc.stream_stream_rpc_method_handler(self._relay),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_CHANNEL, handlers),))
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        self._server = server

    def _relay(self, requests: Iterator[bytes], _: Any) -> Iterator[bytes]:
        """Grants a little, learns the transmission's number from what comes, and then says what it was given."""
        responses = self.responses
        yield channel_pb2.RelayResponse(credit_bytes=4_000).SerializeToString()
        first = channel_pb2.RelayRequest.FromString(next(requests, b""))
        number = Packet.from_bytes(first.packets[0]).transmission_id if first.packets else 0
        for response in responses:
            yield _addressed(response, number)


def _addressed(data: bytes, number: int) -> bytes:
    """The same answer to another transmission, where it is one at all."""
    try:
        response = channel_pb2.RelayResponse.FromString(data)
    except DecodeError:
        return data
    for at, packet in enumerate(response.packets):
        if packet[1:5] == TRANSMISSION.to_bytes(4, "big"):
            response.packets[at] = seal_packet(packet[:1] + number.to_bytes(4, "big") + packet[5:])
    return bytes(response.SerializeToString())


def channel_answers() -> Target:
    """Each sample is the kind of request, the answer to GetLink, and those on the stream."""
    answers = _Answers()

    @asynccontextmanager
    async def context() -> AsyncIterator[str]:
        pipeline = Pipeline({"ladder": load_sender("ladder")}, {"left-half": LeftHalf()})
        config = TransmitterConfig(
            listen="127.0.0.1:0",
            channel=answers.address,
            limits=RpcLimits(total=64),
            stall_timeout_s=1.0,
            resume_s=0.0,
        )
        async with transmitter(config, pipeline) as address:
            yield address

    service = Service(context)
    transmit = service.method(_TRANSMIT)
    requests = [request.SerializeToString() for request in _requests()]

    def decode(sample: Sample) -> None:
        kind, answers.link, *answers.responses = (*sample, b"")[: max(len(sample), 2)]
        events = transmit([requests[(kind + b"\0")[0] % len(requests)]])
        assert not events or transmitter_pb2.TransmitResponse.FromString(events[-1]).WhichOneof("event") == "delivered"

    change = message_change([channel_pb2.RelayResponse], seal_packet)
    corpus = _corpus()
    return Target("rpc-answers", corpus, decode, (RefusedError,), 10.0, 256 * _MIB, change=_any_part(change))


def _any_part(change: Callable[..., Sample]) -> Callable[..., Sample]:
    """Damage of the link's state or of what follows."""
    of_link = message_change([channel_pb2.GetLinkResponse])

    def changed(rng: Any, sample: Sample) -> Sample:
        kind, link, *responses = sample
        kind = bytes([rng.randrange(4)])
        if rng.random() < 0.4:
            link = of_link(rng, (b"", link))[1]
        return (kind, link, *change(rng, (b"", *responses))[1:])

    return changed


def _requests() -> list[transmitter_pb2.TransmitRequest]:
    budgets = (transmitter_pb2.Budget(wire_bytes=900), transmitter_pb2.Budget(deadline_s=0.2))
    return [
        transmitter_pb2.TransmitRequest(
            image=png_bytes(photo(40, 24)), query="cat", budget=budget, options=transmitter_pb2.TransmitOptions(**loop)
        )
        for budget in budgets
        for loop in ({}, {"open_loop": True})
    ]


def _corpus() -> list[Sample]:
    settings = channel_pb2.LinkSettings(rate_bps=1e6, propagation_s=0.01, queue_bytes=65_536)
    link = channel_pb2.GetLinkResponse(link=channel_pb2.LinkState(settings=settings)).SerializeToString()
    everything = Feedback(TRANSMISSION, 1, 900, 4, 7.5, 0.0, PacketKind.HEADER, 0, 0, (Arrived(0, header=True),))
    nothing = Feedback(TRANSMISSION, 2, 0, 0, 7.5, 0.001, PacketKind.HEADER, 0, 0, ())
    reports = [Report(TRANSMISSION, outcome, 900, 15, 15, 0.05).to_packet() for outcome in ReportOutcome]
    granted = channel_pb2.RelayResponse(credit_bytes=65_536, departed_bytes=900)
    heard = channel_pb2.RelayResponse(packets=[nothing.to_packet(), everything.to_packet()], credit_bytes=9_000)
    ended = [channel_pb2.RelayResponse(packets=[report], credit_bytes=9_000) for report in reports]
    answers = [answer.SerializeToString() for answer in (granted, heard, *ended)]
    streams = ([], answers[:1], answers[:2], answers, answers[::-1], [answers[3]], [answers[0], answers[5]])
    return [(bytes([kind]), link, *stream) for stream in streams for kind in range(4)]
