"""A receiver that only records, a running emulator, and a client of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from prometheus_client import CollectorRegistry
from servers import serving

from channel_emulator.config import ChannelConfig
from channel_emulator.server import channel_service
from channel_emulator.settings import LinkSettings
from shared.service import LINK_OPTIONS, running
from shared.stubs.mmsc.v1 import channel_pb2, channel_pb2_grpc, receiver_pb2, receiver_pb2_grpc

FAST = LinkSettings(rate_bps=1e9, propagation_s=0.001)
SLOW = LinkSettings(rate_bps=1_000.0, propagation_s=0.001)
"""Eight seconds for 1,000 bytes: for traffic that must still be under way."""
PACKETS = [bytes([number]) * 900 for number in range(40)]


@dataclass
class Stream:
    """What one Receive stream saw."""

    packets: list[bytes] = field(default_factory=list)
    ended: bool = False
    over: bool = field(default=False, compare=False)
    """Whether the RPC is over, whichever way."""


class Recorder(receiver_pb2_grpc.ReceiverServiceServicer):
    """Answers each message with its number of packets, and the end with `done`."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.awake = asyncio.Event()

    async def Receive(self, request_iterator, context) -> AsyncIterator[receiver_pb2.ReceiveResponse]:
        stream = Stream()
        self.streams.append(stream)
        context.add_done_callback(lambda _: setattr(stream, "over", True))
        async for request in request_iterator:
            stream.packets += request.packets
            if b"abort" in request.packets:
                await context.abort(grpc.StatusCode.DATA_LOSS, "forged")
            if b"enough" in request.packets:
                return
            if b"hang" in request.packets:
                await asyncio.Event().wait()
            if b"pause" in request.packets:
                await self.awake.wait()
            yield receiver_pb2.ReceiveResponse(packets=[b"report %d" % len(stream.packets)])
        stream.ended = True
        yield receiver_pb2.ReceiveResponse(packets=[b"done"])


@asynccontextmanager
async def receiving(recorder: Recorder, listen: str = "127.0.0.1:0") -> AsyncIterator[str]:
    def add(server: grpc.aio.Server) -> None:
        receiver_pb2_grpc.add_ReceiverServiceServicer_to_server(recorder, server)

    async with serving(add, listen, [*LINK_OPTIONS, ("grpc.so_reuseport", 0)]) as address:
        yield address


@dataclass
class Emulator:
    """A running emulator and a client of it."""

    stub: channel_pb2_grpc.ChannelServiceStub
    registry: CollectorRegistry

    async def link(self) -> channel_pb2.LinkState:
        return (await self.stub.GetLink(channel_pb2.GetLinkRequest())).link

    async def set(self, **settings) -> channel_pb2.LinkState:
        request = channel_pb2.SetLinkRequest(settings=channel_pb2.LinkSettings(**settings))
        return (await self.stub.SetLink(request)).link

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"mmsc_channel_{name}", labels)


@asynccontextmanager
async def emulating(receiver: str, link: LinkSettings = FAST) -> AsyncIterator[Emulator]:
    config = ChannelConfig("127.0.0.1:0", grace_s=0.0, receiver=receiver, connect_timeout_s=0.3, link=link)
    registry = CollectorRegistry()
    async with (
        running(config, registry, channel_service(config), LINK_OPTIONS) as address,
        grpc.aio.insecure_channel(address, options=LINK_OPTIONS) as channel,
    ):
        yield Emulator(channel_pb2_grpc.ChannelServiceStub(channel), registry)


def request(packets: list[bytes]) -> channel_pb2.RelayRequest:
    return channel_pb2.RelayRequest(packets=packets)


async def relay(emulator: Emulator, packets: list[bytes]) -> list[channel_pb2.RelayResponse]:
    """Sends packets in messages of ten, half-closes, and gives all that came back."""
    call = emulator.stub.Relay(timeout=20)
    for start in range(0, len(packets), 10):
        await call.write(request(packets[start : start + 10]))
    await call.done_writing()
    return [response async for response in call]


async def end_of(call: Any) -> grpc.aio.AioRpcError:
    """The error in which a relay ends; what comes before is passed over."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    return caught.value


def reports(responses: list[channel_pb2.RelayResponse]) -> list[bytes]:
    return [packet for response in responses for packet in response.packets]


def violated_field(error: grpc.aio.AioRpcError) -> str:
    """The field that a rich error names."""
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    bad = error_details_pb2.BadRequest()
    assert status_pb2.Status.FromString(details).details[0].Unpack(bad)
    return bad.field_violations[0].field
