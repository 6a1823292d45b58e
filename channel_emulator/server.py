"""The gRPC edge of the channel emulator."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeAlias

import grpc
from prometheus_client import CollectorRegistry

from channel_emulator.config import ChannelConfig
from channel_emulator.driver import LinkDriver
from channel_emulator.messages import changes, state_message
from channel_emulator.metrics import LinkCollector
from channel_emulator.relay import Relay
from shared.connections import Connection
from shared.errors import UnavailableError
from shared.service import LINK_OPTIONS, Register
from shared.stubs.mmsc.v1 import channel_pb2, channel_pb2_grpc, receiver_pb2_grpc

SERVICE_NAME = channel_pb2.DESCRIPTOR.services_by_name["ChannelService"].full_name

_Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


def channel_service(config: ChannelConfig) -> Register:
    """The registration of a channel emulator, for `shared.service.running`."""

    @asynccontextmanager
    async def register(server: grpc.aio.Server, registry: CollectorRegistry) -> AsyncIterator[Sequence[str]]:
        forward, backward = LinkDriver(config.link), LinkDriver(config.backward, "backward")
        registry.register(LinkCollector(forward.link, backward.link))
        async with Connection(config.receiver, config.access, LINK_OPTIONS) as receiver:
            servicer = ChannelServicer(forward, backward, receiver, config.connect_timeout_s)
            channel_pb2_grpc.add_ChannelServiceServicer_to_server(servicer, server)
            yield (SERVICE_NAME,)
        forward.stop()
        backward.stop()

    return register


class ChannelServicer(channel_pb2_grpc.ChannelServiceServicer):
    """Relays streams over the link, and lets it be read and set."""

    def __init__(
        self, forward: LinkDriver, backward: LinkDriver, receiver: Connection, connect_timeout_s: float
    ) -> None:
        self._forward, self._backward = forward, backward
        self._receiver = receiver
        self._stub = receiver_pb2_grpc.ReceiverServiceStub(receiver.channel)
        self._connect_timeout_s = connect_timeout_s

    async def Relay(
        self, request_iterator: AsyncIterator[channel_pb2.RelayRequest], context: _Context
    ) -> AsyncIterator[channel_pb2.RelayResponse]:
        """Relays one stream; see the proto for how it ends."""
        await self._connected()
        # A receiver that hangs holds the stream only as long as the sender's own deadline.
        call = self._stub.Receive(timeout=context.time_remaining(), metadata=self._receiver.metadata())
        async with aclosing(Relay(self._forward, self._backward, call).responses(request_iterator)) as responses:
            async for response in responses:
                yield response

    async def GetLink(
        self,
        request: channel_pb2.GetLinkRequest,  # noqa: ARG002 - gRPC passes it
        context: _Context,  # noqa: ARG002
    ) -> channel_pb2.GetLinkResponse:
        """Reads the settings and counters."""
        return channel_pb2.GetLinkResponse(link=self._state())

    async def SetLink(
        self,
        request: channel_pb2.SetLinkRequest,
        context: _Context,  # noqa: ARG002
    ) -> channel_pb2.SetLinkResponse:
        """Changes settings, all or none."""
        both = changes(self._forward.link.settings, self._backward.link.settings, request)
        for driver, change in zip((self._forward, self._backward), both, strict=True):
            driver.configure(change.settings, restart_random=change.restart_random, restart_rate=change.restart_rate)
        return channel_pb2.SetLinkResponse(link=self._state())

    async def _connected(self) -> None:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await self._receiver.channel.channel_ready()
        except TimeoutError as error:
            raise UnavailableError(f"receiver: no connection within {self._connect_timeout_s:g} s") from error

    def _state(self) -> channel_pb2.LinkState:
        now = self._forward.now_s()
        state = state_message(self._forward.link, now)
        state.backward.CopyFrom(state_message(self._backward.link, now))
        return state
