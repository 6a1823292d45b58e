"""One relayed stream: from the sender through the link to the receiver, and the reports back.

```
sender ──► take_in ──► forward link ──► forward ──► receiver
sender ◄── responses ◄── backward link ◄── collect ◄──┘
```
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Final, TypeAlias

import grpc

from channel_emulator.driver import LinkDriver
from shared.errors import InvalidInputError, UnavailableError
from shared.rpc_errors import from_rpc
from shared.stubs.mmsc.v1 import channel_pb2, receiver_pb2

CREDIT_INTERVAL_S: Final = 0.005
"""Least time between two messages that only tell the credit."""

MESSAGE_BYTES: Final = 262_144
"""Packets that are due together share a message of about this size: a message costs, not its bytes."""

HELD_BYTES: Final = 1_048_576
"""What may wait for a receiver that does not read, before the sender's credit stops growing."""

BACKLOG_BYTES: Final = 16 * 1024 * 1024
"""What may wait for such a receiver, from a sender that does not heed its credit, before the stream ends."""

ReceiveCall: TypeAlias = grpc.aio.StreamStreamCall[receiver_pb2.ReceiveRequest, receiver_pb2.ReceiveResponse]


class Relay:
    """One stream between a sender and the receiver."""

    def __init__(self, forward: LinkDriver, backward: LinkDriver, call: ReceiveCall) -> None:
        self._forward_link, self._backward_link, self._call = forward, backward, call
        self._port = forward.open()
        # Reports wake the same loop as the account.
        self._reports = backward.open(self._port.changed)
        self._failure: BaseException | None = None
        self._told: tuple[int, int] | None = None
        self._told_s = -math.inf

    async def responses(
        self, requests: AsyncIterator[channel_pb2.RelayRequest]
    ) -> AsyncGenerator[channel_pb2.RelayResponse, None]:
        """Runs the relay, and gives what the sender is to see.

        Raises:
            UnavailableError: the receiver went away, or does not read.
            InvalidInputError: a packet is empty.
        """
        tasks = [self._start(work) for work in (self._take_in(requests), self._forward(), self._collect())]
        try:
            while not self._over():
                self._port.changed.clear()
                response = self._response()
                if response is None:
                    await self._wait()
                else:
                    yield response
        finally:
            self._forward_link.close(self._port)
            self._backward_link.close(self._reports)
            self._call.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(self._settle)
        return task

    def _settle(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception():
            self._failure = self._failure or task.exception()
        self._port.changed.set()

    async def _take_in(self, requests: AsyncIterator[channel_pb2.RelayRequest]) -> None:
        async for request in requests:
            if not all(request.packets):
                raise InvalidInputError("packets", "a packet is empty")
            self._forward_link.offer(self._port, request.packets)
        self._forward_link.finish(self._port)

    async def _forward(self) -> None:
        # A call that is over refuses to be written to; why it is over, the reading side tells.
        with contextlib.suppress(asyncio.InvalidStateError):
            while not (self._port.ended and not self._port.packets):
                await self._port.arrived.wait()
                # No more at a time than is written: what waits for a slow receiver stays in sight.
                while self._port.packets:
                    held = self._port.packets_bytes > HELD_BYTES
                    await self._call.write(receiver_pb2.ReceiveRequest(packets=self._port.fetch(MESSAGE_BYTES)))
                    if held:
                        self._port.changed.set()
            await self._call.done_writing()

    async def _collect(self) -> None:
        async for response in self._call:
            self._backward_link.offer(self._reports, filter(None, response.packets))
        self._backward_link.finish(self._reports)

    def _over(self) -> bool:
        """Whether all has been said; raises what went wrong."""
        if isinstance(self._failure, grpc.aio.AioRpcError):
            raise from_rpc(self._failure, "receiver")
        if self._failure is not None:
            raise self._failure
        if self._port.packets_bytes > BACKLOG_BYTES:
            raise UnavailableError("receiver: does not read what the link delivers")
        return self._reports.ended and not self._reports.packets and not self._news()

    def _credit_bytes(self) -> int:
        """What the sender may have handed over: as the link says, less while much waits for the receiver."""
        held_bytes = max(self._port.packets_bytes - HELD_BYTES, 0)
        return max(self._port.account.credit_bytes - held_bytes, self._told_bytes())

    def _told_bytes(self) -> int:
        return self._told[0] if self._told else 0

    def _news(self) -> bool:
        return (self._credit_bytes(), self._port.account.departed_bytes) != self._told

    def _response(self) -> channel_pb2.RelayResponse | None:
        """What the sender is to be told now, if anything."""
        if not self._reports.packets and not (self._news() and self._forward_link.now_s() >= self._tell_s()):
            return None
        credit_bytes, departed_bytes = self._credit_bytes(), self._port.account.departed_bytes
        self._told, self._told_s = (credit_bytes, departed_bytes), self._forward_link.now_s()
        return channel_pb2.RelayResponse(
            packets=self._reports.fetch(), credit_bytes=credit_bytes, departed_bytes=departed_bytes
        )

    def _tell_s(self) -> float:
        """When the account may be told: seldom while the sender has something to go on with, else at once."""
        account = self._port.account
        handed_bytes = account.departed_bytes + account.queued_bytes
        ample = self._told_bytes() - handed_bytes > self._forward_link.link.settings.queue_bytes // 2
        waits = account.queued_bytes or (ample and not self._port.ended)
        return self._told_s + CREDIT_INTERVAL_S if waits else -math.inf

    async def _wait(self) -> None:
        """Until something changes, or the account may be told."""
        until_s = self._tell_s() if self._news() else math.inf
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until_s if until_s < math.inf else None):
                await self._port.changed.wait()
