"""One relayed stream: from the sender through the link to the receiver, and the reports back.

```
sender ──► take_in ──► link ──► forward ──► receiver
sender ◄── responses ◄── propagation ◄── collect ◄──┘
```
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from typing import Final, TypeAlias

import grpc

from channel_emulator.delay import DelayLine
from channel_emulator.driver import LinkDriver
from shared.errors import InvalidInputError, UnavailableError
from shared.rpc_errors import from_rpc
from shared.stubs.mmsc.v1 import channel_pb2, receiver_pb2

CREDIT_INTERVAL_S: Final = 0.005
"""Least time between two messages that only tell the credit."""

MESSAGE_BYTES: Final = 65_536
"""Packets that are due together share a message of about this size: a message costs, not its bytes."""

BACKLOG_BYTES: Final = 16 * 1024 * 1024
"""What may wait for a receiver that does not read, before its stream ends."""

ReceiveCall: TypeAlias = grpc.aio.StreamStreamCall[receiver_pb2.ReceiveRequest, receiver_pb2.ReceiveResponse]


class Relay:
    """One stream between a sender and the receiver."""

    def __init__(self, driver: LinkDriver, call: ReceiveCall) -> None:
        self._driver, self._call = driver, call
        self._port = driver.open()
        self._reports: DelayLine[bytes] = DelayLine()
        self._answered = False
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
            self._driver.close(self._port)
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
            self._driver.offer(self._port, request.packets)
        self._driver.finish(self._port)

    async def _forward(self) -> None:
        # A call that is over refuses to be written to; why it is over, the reading side tells.
        with contextlib.suppress(asyncio.InvalidStateError):
            while not (self._port.ended and not self._port.packets):
                await self._port.arrived.wait()
                for message in _messages(self._port.fetch()):
                    await self._call.write(message)
            await self._call.done_writing()

    async def _collect(self) -> None:
        async for response in self._call:
            due_s = self._driver.now_s() + self._driver.link.settings.propagation_s
            for packet in response.packets:
                self._reports.put(packet, due_s)
            self._port.changed.set()
        self._answered = True

    def _over(self) -> bool:
        """Whether all has been said; raises what went wrong."""
        if isinstance(self._failure, grpc.aio.AioRpcError):
            raise from_rpc(self._failure, "receiver")
        if self._failure is not None:
            raise self._failure
        if self._port.packets_bytes > BACKLOG_BYTES:
            raise UnavailableError("receiver: does not read what the link delivers")
        return self._answered and self._reports.next_due_s == math.inf and not self._news()

    def _news(self) -> bool:
        account = self._port.account
        return (account.credit_bytes, account.departed_bytes) != self._told

    def _response(self) -> channel_pb2.RelayResponse | None:
        """What the sender is to be told now, if anything."""
        now, account = self._driver.now_s(), self._port.account
        packets = [packet for _, packet in self._reports.take(now)]
        hasty = now < self._told_s + CREDIT_INTERVAL_S and account.queued_bytes > 0
        if not packets and (hasty or not self._news()):
            return None
        self._told, self._told_s = (account.credit_bytes, account.departed_bytes), now
        return channel_pb2.RelayResponse(
            packets=packets, credit_bytes=account.credit_bytes, departed_bytes=account.departed_bytes
        )

    async def _wait(self) -> None:
        """Until something changes, a report falls due, or the credit may be told again."""
        until_s = min(self._reports.next_due_s, self._told_s + CREDIT_INTERVAL_S if self._news() else math.inf)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until_s if until_s < math.inf else None):
                await self._port.changed.wait()


def _messages(packets: list[bytes]) -> Iterator[receiver_pb2.ReceiveRequest]:
    """Packs packets into messages of about MESSAGE_BYTES, never splitting one."""
    batch: list[bytes] = []
    size = 0
    for packet in packets:
        if batch and size + len(packet) > MESSAGE_BYTES:
            yield receiver_pb2.ReceiveRequest(packets=batch)
            batch, size = [], 0
        batch.append(packet)
        size += len(packet)
    if batch:
        yield receiver_pb2.ReceiveRequest(packets=batch)
