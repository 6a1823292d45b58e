"""A service behind the door that all services have, and a caller of it, over real sockets."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry
from servers import PATIENCE_S

from shared.service import ServiceConfig, running
from shared.stubs.mmsc.v1 import channel_pb2, channel_pb2_grpc
from shared.tls import Access

CONFIG = ServiceConfig("127.0.0.1:0", grace_s=0.0)
NAME = "mmsc.v1.ChannelService"


class Service(channel_pb2_grpc.ChannelServiceServicer):
    """Its unary RPC waits to be released, its stream echoes."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.entered = 0

    async def GetLink(self, request, context):
        self.entered += 1
        await self.released.wait()
        return channel_pb2.GetLinkResponse()

    async def SetLink(self, request, context):
        self.entered += 1
        return channel_pb2.SetLinkResponse()

    async def Relay(self, request_iterator, context):
        self.entered += 1
        async for request in request_iterator:
            yield channel_pb2.RelayResponse(packets=request.packets)


@asynccontextmanager
async def serving(config=CONFIG, registry=None, servicer=None) -> AsyncIterator[str]:
    """The address of a service that runs while the context lasts."""

    @asynccontextmanager
    async def register(server: grpc.aio.Server, _: CollectorRegistry) -> AsyncIterator[Sequence[str]]:
        channel_pb2_grpc.add_ChannelServiceServicer_to_server(servicer or Service(), server)
        yield (NAME,)

    async with running(config, registry or CollectorRegistry(), register) as address:
        yield address


@asynccontextmanager
async def connected(address: str, through: Access | None = None) -> AsyncIterator[channel_pb2_grpc.ChannelServiceStub]:
    credentials = through.credentials() if through else None
    if credentials is None:
        channel = grpc.aio.insecure_channel(address)
    else:
        channel = grpc.aio.secure_channel(address, credentials, options=through.options())
    async with channel:
        stub = channel_pb2_grpc.ChannelServiceStub(channel)
        stub.channel = channel
        yield stub


async def set_link(stub, metadata=()) -> None:
    await stub.SetLink(channel_pb2.SetLinkRequest(), timeout=PATIENCE_S, metadata=metadata)


async def healthy(stub) -> bool:
    check = health_pb2_grpc.HealthStub(stub.channel).Check
    return (await check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)).status == 1


async def failure(awaitable) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return caught.value
