"""Sends packets through the channel, never more than it has granted, and waits for the receiver's report."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import grpc

from shared.errors import DeadlineError, PacketError, StreamError
from shared.packets import Packet
from shared.reports import Report, ReportOutcome
from shared.rpc_errors import from_rpc
from shared.stubs.mmsc.v1 import channel_pb2, channel_pb2_grpc

MESSAGE_S = 0.005
"""A message holds what the link carries in this time: on a fast link few messages, each of which costs the same
whatever its length, and on a slow one no packet waits for the next."""

MAX_MESSAGE_BYTES = 65_536
"""Largest message, unless a single packet is larger."""


def message_size(link: channel_pb2.LinkSettings) -> int:
    """How many bytes of packets to hand over in one message; never more than half the channel's queue."""
    return int(min(link.rate_bps / 8 * MESSAGE_S, MAX_MESSAGE_BYTES, link.queue_bytes // 2))


@dataclass(frozen=True)
class Sent:
    """How far a transmission has come on this side of the channel."""

    sent_bytes: int
    """Handed to the channel."""
    departed_bytes: int
    """Left the channel's queue onto the link."""


class _Window:
    """What was handed over, and what the channel lets us hand over; the sender waits for that to grow."""

    def __init__(self) -> None:
        self.sent_bytes = self._granted_bytes = 0
        self._grown = asyncio.Event()

    def grow(self, granted_bytes: int) -> None:
        if granted_bytes > self._granted_bytes:
            self._granted_bytes = granted_bytes
            self._grown.set()

    async def has_room_for(self, more_bytes: int) -> None:
        while self._granted_bytes < self.sent_bytes + more_bytes:
            self._grown.clear()
            await self._grown.wait()


RelayCall: TypeAlias = "grpc.aio.StreamStreamCall[channel_pb2.RelayRequest, channel_pb2.RelayResponse]"
"""A stream to the channel and back."""


@contextmanager
def relay_call(
    stub: "channel_pb2_grpc.ChannelServiceAsyncStub", metadata: tuple[tuple[str, str], ...] = ()
) -> Iterator[RelayCall]:
    """Opens a stream to the channel, and cancels it at the end unless it has ended by itself.

    Opened while the patches are still being encoded, it has its credit by the time the packets are there.

    Args:
        stub: of the channel.
        metadata: goes with the call: token and trace.
    """
    call = stub.Relay(metadata=metadata)
    try:
        yield call
    finally:
        call.cancel()


async def relay(
    call: RelayCall,
    packets: list[bytes],
    transmission_id: int,
    *,
    message_bytes: int,
    stall_timeout_s: float,
) -> AsyncIterator[Sent | Report]:
    """Sends packets, yielding progress and, last, the receiver's final report.

    Args:
        call: a fresh stream to the channel.
        packets: in the order of sending, all of one transmission.
        transmission_id: which reports are ours.
        message_bytes: how many bytes of packets go in one message.
        stall_timeout_s: seconds that may pass between two answers of the channel.

    Raises:
        UnavailableError: the channel or the receiver behind it went away.
        DeadlineError: nothing moved for `stall_timeout_s`.
        StreamError: the stream ended without a final report.
    """
    window = _Window()
    writer = asyncio.create_task(_write(call, batches(packets, message_bytes), window))
    try:
        while True:
            # Not wait_for: in Python 3.11 it swallows a cancellation that comes together with the answer.
            async with asyncio.timeout(stall_timeout_s):
                response = await call.read()
            if not isinstance(response, channel_pb2.RelayResponse):
                break
            window.grow(response.credit_bytes)
            for report in _reports(response.packets, transmission_id):
                if report.outcome is not ReportOutcome.RECEIVING:
                    yield report
                    return
            yield Sent(window.sent_bytes, response.departed_bytes)
        raise StreamError("the channel closed without a report from the receiver")
    except TimeoutError as error:
        raise DeadlineError(f"nothing moved on the channel for {stall_timeout_s:g} s") from error
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error, "channel") from error
    finally:
        writer.cancel()
        with contextlib.suppress(asyncio.CancelledError, grpc.RpcError, asyncio.InvalidStateError):
            await writer


async def _write(call: RelayCall, messages: Iterator[list[bytes]], window: _Window) -> None:
    for batch in messages:
        size = sum(map(len, batch))
        await window.has_room_for(size)
        await call.write(channel_pb2.RelayRequest(packets=batch))
        window.sent_bytes += size
    await call.done_writing()


def batches(packets: Iterable[bytes], limit_bytes: int) -> Iterator[list[bytes]]:
    """Groups packets into messages of at most `limit_bytes` (or one packet, if that is larger)."""
    batch: list[bytes] = []
    size = 0
    for packet in packets:
        if batch and size + len(packet) > limit_bytes:
            yield batch
            batch, size = [], 0
        batch.append(packet)
        size += len(packet)
    if batch:
        yield batch


def _reports(packets: Iterable[bytes], transmission_id: int) -> Iterator[Report]:
    for data in packets:
        # A report that was damaged on the way is no report.
        with contextlib.suppress(PacketError):
            report = Report.from_packet(Packet.from_bytes(data))
            if report.transmission_id == transmission_id:
                yield report
