"""One stream to the channel and back, with a task that reads it: what it grants, what it brings, and how it ended."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

import grpc

from shared.errors import MmscError, PacketError, UnavailableError
from shared.feedback import Feedback
from shared.packets import Packet, PacketKind
from shared.reports import Report, ReportOutcome
from shared.rpc_errors import from_rpc
from shared.stubs.mmsc.v1 import channel_pb2

MESSAGE_S: Final = 0.005
"""A message holds what the link carries in this time: on a fast link few messages, each of which costs the same
whatever its length, and on a slow one no packet waits for the next."""

MAX_MESSAGE_BYTES: Final = 65_536
"""Largest message, unless a single packet is larger."""

RelayCall: TypeAlias = "grpc.aio.StreamStreamCall[channel_pb2.RelayRequest, channel_pb2.RelayResponse]"
"""A stream to the channel and back."""

# What a peer that was killed or cut off, or that ends in order, leaves its callers with; INTERNAL is what gRPC says to
# one who was writing at that moment, in place of the reason.
_BROKEN: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL)


def message_size(link: channel_pb2.LinkSettings) -> int:
    """How many bytes of packets to hand over in one message; never more than half the channel's queue."""
    return int(min(link.rate_bps / 8 * MESSAGE_S, MAX_MESSAGE_BYTES, link.queue_bytes // 2))


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


class RelayStream:
    """A stream that is read from the moment it is opened, so that credit and feedback wait for nobody.

    Belongs to the event loop in which it was made; `aclose` it at the end.

    Args:
        call: a fresh call of `Relay`.
        transmission_id: whose feedback and reports are ours.
        changed: called whenever something came, and at the end.
    """

    def __init__(self, call: RelayCall, transmission_id: int, changed: Callable[[], None] = lambda: None) -> None:
        self._call, self._transmission_id, self.changed = call, transmission_id, changed
        self._loop = asyncio.get_running_loop()
        self._granted_bytes = 0
        self._feedback: list[tuple[Feedback, float]] = []
        self._failure: BaseException | None = None
        self.sent_bytes = 0
        """Handed over on this stream."""
        self.departed_bytes = 0
        """Left the channel's queue onto the link."""
        self.report: Report | None = None
        """The last one that says how the transmission ended."""
        self.report_s = 0.0
        """When it came."""
        self.heard_s = self._loop.time()
        """When the channel last said anything; at first, when the stream was opened."""
        self.ended = False
        """Whether nothing more will come."""
        self._reader = asyncio.create_task(self._read())

    @property
    def granted(self) -> bool:
        """Whether the channel has answered: the way to the receiver is there."""
        return self._granted_bytes > 0

    @property
    def room_bytes(self) -> int:
        """What may be handed over now."""
        return self._granted_bytes - self.sent_bytes

    @property
    def failure(self) -> MmscError | None:
        """Why the stream ended, unless it was in order."""
        if self._failure is None:
            return None
        if isinstance(self._failure, grpc.aio.AioRpcError) and self._failure.code() is not grpc.StatusCode.INTERNAL:
            return from_rpc(self._failure, "channel")
        return UnavailableError("channel: the stream broke")

    @property
    def broken(self) -> bool:
        """Whether it ended because somebody on the way went away, so that another one may do better."""
        if isinstance(self._failure, grpc.aio.AioRpcError):
            return self._failure.code() in _BROKEN
        return self._failure is not None

    def fetch(self) -> list[tuple[Feedback, float]]:
        """The feedback that came since the last time, and when each did."""
        fetched, self._feedback = self._feedback, []
        return fetched

    async def write(self, packets: list[bytes]) -> None:
        """Hands over packets; on a stream that is over nothing happens, for why it is, the reading side tells."""
        self.sent_bytes += sum(map(len, packets))
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            await self._call.write(channel_pb2.RelayRequest(packets=packets))

    async def finish(self) -> None:
        """Ends the forward direction."""
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            await self._call.done_writing()

    async def aclose(self) -> None:
        """Cancels the call unless it has ended by itself."""
        self._call.cancel()
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while isinstance(response := await self._call.read(), channel_pb2.RelayResponse):
                self._take(response)
                self.changed()
        except grpc.aio.AioRpcError as error:
            self._failure = error
        except asyncio.CancelledError as error:
            # gRPC raises this too where the other side cancelled the call.
            self._failure = error
        finally:
            self.ended = True
            self.changed()

    def _take(self, response: channel_pb2.RelayResponse) -> None:
        self.heard_s = self._loop.time()
        self._granted_bytes = max(self._granted_bytes, response.credit_bytes)
        self.departed_bytes = max(self.departed_bytes, response.departed_bytes)
        for data in response.packets:
            # What was damaged on the way says nothing.
            with contextlib.suppress(PacketError):
                self._hear(Packet.from_bytes(data))

    def _hear(self, packet: Packet) -> None:
        if packet.transmission_id != self._transmission_id:
            return
        if packet.kind is PacketKind.FEEDBACK:
            self._feedback.append((Feedback.from_packet(packet), self.heard_s))
            return
        report = Report.from_packet(packet)
        if report.outcome is not ReportOutcome.RECEIVING:
            self.report, self.report_s = report, self.heard_s
