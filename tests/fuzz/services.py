"""The RPCs of all services, given bytes that are no requests."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import grpc
from google.protobuf.message import DecodeError
from prometheus_client import CollectorRegistry

from channel_emulator.config import ChannelConfig
from channel_emulator.server import channel_service
from channel_emulator.settings import LinkSettings
from receiver.codecs import load_receiver
from receiver.config import ReceiverConfig
from receiver.contract import by_number
from receiver.server import receiver_service
from shared.errors import InvalidInputError
from shared.limits import RpcLimits
from shared.pictures import png_bytes
from shared.service import LINK_OPTIONS, running
from shared.stubs.mmsc.v1 import channel_pb2, receiver_pb2, transmitter_pb2
from transmitter.codecs import load_sender
from transmitter.config import TransmitterConfig
from transmitter.messages import job_from
from transmitter.packing import pack
from transmitter.pipeline import Pipeline, PlanStage
from transmitter.relevance.contract import RelevanceExtractor
from transmitter.relevance.registry import load_embedded
from transmitter.server import transmitter

from .links import set_link_requests
from .mutations import Sample, seal_png
from .protobuf import message_change
from .rpc import Method, RefusedError, Service
from .runner import Target
from .samples import TRANSMISSION, LeftHalf, clock, encoded_photos, photo, plans

_MIB: Final = 1024 * 1024
_ANY_PORT: Final = "127.0.0.1:0"
_LIMITS: Final = RpcLimits(total=64)
_FAST: Final = LinkSettings(rate_bps=1e9, propagation_s=0.0)
_SLOW: Final = LinkSettings(rate_bps=2e5, propagation_s=0.005)


# ---- receiver --------------------------------------------------------------------------------------

_RECEIVER: Final = "/mmsc.v1.ReceiverService/"
_RECEIVER_METHODS: Final = (
    Method(_RECEIVER + "Receive", requests=True, responses=True),
    Method(_RECEIVER + "GetReconstruction"),
    Method(_RECEIVER + "WatchReconstruction", responses=True),
    Method(_RECEIVER + "ListReconstructions"),
)
_RECEIVER_REQUESTS: Final = (
    receiver_pb2.ReceiveRequest,
    receiver_pb2.GetReconstructionRequest,
    receiver_pb2.WatchReconstructionRequest,
    receiver_pb2.ListReconstructionsRequest,
)


def _receiver(codecs: Sequence[str] = ("ladder",)) -> AbstractAsyncContextManager[str]:
    config = ReceiverConfig(listen=_ANY_PORT, max_transmissions=200, limits=_LIMITS)
    return receiver_service(config, by_number(*map(load_receiver, codecs)), registry=CollectorRegistry())


def receiver_calls() -> Target:
    """Each sample is the number of the method, and the messages of the call."""
    packets, number = pack(plans("ladder")[0], TRANSMISSION), f"{TRANSMISSION:08x}"
    request = receiver_pb2.WatchReconstructionRequest(transmission_id=number, interval_s=0.01)
    reconstruction = receiver_pb2.GetReconstructionRequest(transmission_id=number, return_level_map=True)
    corpus: list[Sample] = [
        (b"\0", receiver_pb2.ReceiveRequest(packets=packets).SerializeToString()),
        (b"\0", *(receiver_pb2.ReceiveRequest(packets=[packet]).SerializeToString() for packet in packets)),
        (b"\1", reconstruction.SerializeToString()),
        (b"\2", request.SerializeToString()),
        (b"\3", receiver_pb2.ListReconstructionsRequest().SerializeToString()),
    ]
    decode = Service(_receiver).calls(_RECEIVER_METHODS)
    change = message_change(_RECEIVER_REQUESTS)
    return Target("rpc-receiver", corpus, decode, (RefusedError,), 5.0, 128 * _MIB, change=change)


# ---- channel ---------------------------------------------------------------------------------------

_CHANNEL: Final = "/mmsc.v1.ChannelService/"
_RELAY: Final = Method(_CHANNEL + "Relay", requests=True, responses=True)
_CHANNEL_METHODS: Final = (_RELAY, Method(_CHANNEL + "GetLink"), Method(_CHANNEL + "SetLink"))
_HURRIED: Final = _RELAY._replace(timeout_s=0.1, may_be_late=True)


@asynccontextmanager
async def _channel(codecs: Sequence[str] = ("ladder",), link: LinkSettings = _FAST) -> AsyncIterator[str]:
    """A channel with a receiver behind it."""
    async with _receiver(codecs) as receiver:
        config = ChannelConfig(listen=_ANY_PORT, receiver=receiver, link=link, limits=_LIMITS)
        async with running(config, CollectorRegistry(), channel_service(config), LINK_OPTIONS) as address:
            yield address


def channel_calls() -> Target:
    """Relay and GetLink: each sample is the number of the method, and the messages of the call."""
    packets = pack(plans("ladder")[0], TRANSMISSION)
    corpus: list[Sample] = [
        (b"\0", channel_pb2.RelayRequest(packets=packets).SerializeToString()),
        (b"\0", *(channel_pb2.RelayRequest(packets=[packet]).SerializeToString() for packet in packets)),
        (b"\0",),
        (b"\1", channel_pb2.GetLinkRequest().SerializeToString()),
    ]
    decode = Service(_channel).calls(_CHANNEL_METHODS[:2])
    change = message_change([channel_pb2.RelayRequest, channel_pb2.GetLinkRequest])
    return Target("rpc-channel", corpus, decode, (RefusedError,), 5.0, 128 * _MIB, change=change)


def set_link_calls() -> Target:
    """Settings, and a transmission over what they make of the link; the first string is empty, the second a request."""
    packets = pack(plans("ladder")[0], TRANSMISSION)
    relayed = channel_pb2.RelayRequest(packets=packets).SerializeToString()
    corpus: list[Sample] = [(b"", request.SerializeToString()) for request in set_link_requests()]
    service = Service(_channel)
    set_link, relay = service.method(_CHANNEL_METHODS[2]), service.method(_HURRIED)
    get_link, usual = service.method(_CHANNEL_METHODS[1]), [_usual_link().SerializeToString()]

    def decode(sample: Sample) -> None:
        set_link(list(sample[1:2]))
        relay([relayed])
        channel_pb2.GetLinkResponse.FromString(get_link([b""])[0])
        state = channel_pb2.SetLinkResponse.FromString(set_link(usual)[0])
        assert state.link.settings.rate_bps == _FAST.rate_bps

    change = message_change([channel_pb2.SetLinkRequest])
    return Target("rpc-set-link", corpus, decode, (RefusedError,), 5.0, 128 * _MIB, change=change)


def _usual_link() -> channel_pb2.SetLinkRequest:
    """Every setting as it is at the start."""
    sound = channel_pb2.Impairments(
        loss_rate=0, burst_rate=0, bit_error_rate=0, duplicate_rate=0, reorder_rate=0, jitter_s=0
    )
    sound.gilbert_elliott.SetInParent()
    sound.blackouts.SetInParent()
    direction = channel_pb2.LinkSettings(
        rate_bps=_FAST.rate_bps, propagation_s=0, queue_bytes=_FAST.queue_bytes, loss_rate=0, seed=0, burst_bytes=0
    )
    direction.queue_s, direction.per_stream = 0.0, False
    direction.impairments.CopyFrom(sound)
    direction.stream_impairments.CopyFrom(sound)
    return channel_pb2.SetLinkRequest(settings=direction, backward=direction)


# ---- transmitter -----------------------------------------------------------------------------------

_TRANSMITTER: Final = "/mmsc.v1.TransmitterService/"
# DATA_LOSS: the receiver has not heard of the transmission: no time was left before its deadline, or no byte for a
# question when it was taken up again.
_TRANSMIT: Final = Method(_TRANSMITTER + "Transmit", responses=True, failures=(grpc.StatusCode.DATA_LOSS,))
_TRANSMITTER_METHODS: Final = (
    _TRANSMIT,
    Method(_TRANSMITTER + "GetRelevance"),
    Method(_TRANSMITTER + "GetTransmitterInfo"),
)
_TRANSMITTER_REQUESTS: Final = (
    transmitter_pb2.TransmitRequest,
    transmitter_pb2.GetRelevanceRequest,
    transmitter_pb2.GetTransmitterInfoRequest,
)


def _transmit_requests() -> list[transmitter_pb2.TransmitRequest]:
    budgets = (
        transmitter_pb2.Budget(wire_bytes=1_500),
        transmitter_pb2.Budget(percent_of_raw=20),
        transmitter_pb2.Budget(deadline_s=0.05),
    )
    options = (
        transmitter_pb2.TransmitOptions(),
        transmitter_pb2.TransmitOptions(
            return_maps=True, packet_bytes=300, allocation=transmitter_pb2.ALLOCATION_GREEDY
        ),
        transmitter_pb2.TransmitOptions(codec="ladder", relevance_png=png_bytes(photo(40, 24)[:, :, 0])),
    )
    pictures = [sample[0] for sample in encoded_photos()]
    return [
        transmitter_pb2.TransmitRequest(
            image=picture,
            query="the cat, and nothing else",
            budget=budgets[number % 3],
            options=options[number // 3 % 3],
        )
        for number, picture in enumerate(pictures)
    ]


def transmit_requests(codec: str) -> Target:
    """Requests to transmit, up to the packets; no service around it. The first string is empty."""
    pipeline = Pipeline({codec: load_sender(codec)}, {"left-half": LeftHalf()})
    corpus: list[Sample] = [(b"", request.SerializeToString()) for request in _transmit_requests()]

    def decode(sample: Sample) -> None:
        request = transmitter_pb2.TransmitRequest()
        request.MergeFromString(b"".join(sample[1:]))
        stages = list(pipeline.run(job_from(request, TRANSMISSION), 1e6, clock()))
        plan = stages[-1]
        assert isinstance(plan, PlanStage)
        assert sum(map(len, plan.packets)) <= plan.budget_bytes
        assert max(map(len, plan.packets)) <= (request.options.packet_bytes or 1_200)

    change = message_change([transmitter_pb2.TransmitRequest], seal_png)
    errors = (InvalidInputError, DecodeError)
    return Target(f"transmit-{codec}", corpus, decode, errors, 10.0, 512 * _MIB, change=change)


def transmitter_calls() -> Target:
    """Each sample is the number of the method and its request; behind the transmitter are a channel and a receiver."""
    return _transmitter_target("rpc-transmitter", LeftHalf, ("ladder",))


def whole_transmitter_calls() -> Target:
    """The same with the shipped extractor and both codecs."""
    return _transmitter_target("rpc-transmitter-whole", load_embedded, ("entropy", "ladder"))


def taking_up() -> Target:
    """Requests that are left after some milliseconds, as the first string says, and then taken up again."""
    service = Service(lambda: _transmitter(LeftHalf, ("ladder",), _SLOW))
    hurried = [service.method(_TRANSMIT._replace(timeout_s=at / 1e3, may_be_late=True)) for at in (5, 30, 60, 120, 250)]
    again = service.method(_TRANSMIT)
    corpus: list[Sample] = [
        (bytes([number]), request.SerializeToString()) for number, request in enumerate(_transmit_requests())
    ]

    def decode(sample: Sample) -> None:
        first, *messages = sample
        events = hurried[(first + b"\0")[0] % len(hurried)](messages)
        made = [
            event.plan for event in map(transmitter_pb2.TransmitResponse.FromString, events) if event.HasField("plan")
        ]
        request = transmitter_pb2.TransmitRequest.FromString(b"".join(messages[:1]))
        request.options.transmission_id = made[0].transmission_id if made else "0badcafe"
        for last in again([request.SerializeToString()])[-1:]:
            assert transmitter_pb2.TransmitResponse.FromString(last).HasField("delivered")

    change = message_change([transmitter_pb2.TransmitRequest], seal_png)
    return Target("rpc-taking-up", corpus, decode, (RefusedError, DecodeError), 15.0, 256 * _MIB, change=change)


@asynccontextmanager
async def _transmitter(
    extractor: Callable[[], RelevanceExtractor], codecs: Sequence[str], link: LinkSettings = _FAST
) -> AsyncIterator[str]:
    """A transmitter with a channel and a receiver behind it."""
    loaded = extractor()
    pipeline = Pipeline({codec: load_sender(codec) for codec in codecs}, {loaded.name: loaded})
    async with _channel(codecs, link) as channel:
        config = TransmitterConfig(listen=_ANY_PORT, channel=channel, limits=_LIMITS, jobs=1)
        async with transmitter(config, pipeline) as address:
            yield address


def _transmitter_target(name: str, extractor: Callable[[], RelevanceExtractor], codecs: Sequence[str]) -> Target:
    decode = Service(lambda: _transmitter(extractor, codecs)).calls(_TRANSMITTER_METHODS)
    change = message_change(_TRANSMITTER_REQUESTS, seal_png)
    return Target(name, _transmitter_corpus(), decode, (RefusedError,), 15.0, 768 * _MIB, change=change)


def _transmitter_corpus() -> list[Sample]:
    requests = _transmit_requests()
    corpus: list[Sample] = [(b"\0", request.SerializeToString()) for request in requests]
    for request in requests[::4]:
        relevance = transmitter_pb2.GetRelevanceRequest(image=request.image, query=request.query)
        corpus.append((b"\1", relevance.SerializeToString()))
    return [*corpus, (b"\2", b"")]
