"""Stand-ins for what a test does not look at: a codec and an extractor without weights, a channel without a link."""

import asyncio
import time
import zlib
from collections.abc import Callable
from dataclasses import replace

import grpc
import numpy as np
from receiver_fakes import FakeRestorer

from receiver.assembly import Assembly
from receiver.contract import by_number
from receiver.ladder_receiver import LadderReceiver
from shared.codec.contract import EncodedPatches
from shared.feedback import Feedback
from shared.levels import LEVEL_BYTES
from shared.packets import Packet, PacketKind
from shared.stubs.mmsc.v1 import channel_pb2, channel_pb2_grpc
from transmitter.ladder.sender import LadderSender
from transmitter.relevance.contract import Relevance


class MeanCodec:
    """A codec whose lower levels hold the patch's mean colour."""

    weights_hash = b"mean"

    def encode(self, patches: np.ndarray) -> EncodedPatches:
        flat = patches.reshape(len(patches), -1, 3)
        mean = np.rint(flat.mean(axis=1)).astype(np.uint8)
        coded = [np.tile(mean, size // 3) for size in LEVEL_BYTES[:-1]]
        error = ((flat.astype(np.float32) - mean[:, None]) ** 2).sum(axis=(1, 2))
        columns = [np.full(len(flat), np.inf, np.float32), error, error * 0.9, error * 0.8, error * 0]
        return EncodedPatches((*coded, flat.reshape(len(flat), -1)), np.stack(columns, axis=1))

    def decode(self, level: int, payload: np.ndarray) -> np.ndarray:
        samples = payload if level == 4 else np.tile(payload[:, :3], 64)
        return samples.reshape(-1, 8, 8, 3)


def mean_sender() -> LadderSender:
    """The ladder's sending half around the codec above."""
    return LadderSender(MeanCodec())


_RECEIVERS = by_number(LadderReceiver(MeanCodec(), FakeRestorer()))


class LeftHalf:
    """An extractor to which the left half is what was asked for, unless asked for nothing that exists."""

    name = "left-half"

    def __call__(self, image: np.ndarray, query: str) -> Relevance:
        relevance = np.zeros(image.shape[:2], np.float32)
        relevance[:, : max(image.shape[1] // 2, 1)] = 1
        present = query != "unicorn"
        return Relevance(relevance if present else relevance * 0.01, present)


class FakeChannel(channel_pb2_grpc.ChannelServiceServicer):
    """Takes packets at once, and answers as the receiver would behind a link without rate and delay.

    Args:
        on_packets: called with each message's packets; may raise to break the stream, ConnectionError as a receiver
            does that goes away.
        queue_bytes: granted credit.
        answers: False grants credit, but neither feeds back nor reports.
        loses: told each packet; where it says so, the packet does not arrive.
        reports: False loses the final reports on their way back.
        delay_s: seconds that each message takes.
    """

    def __init__(
        self,
        on_packets: Callable[[list[bytes]], None] = lambda _: None,
        queue_bytes: int = 65_536,
        *,
        answers: bool = True,
        loses: Callable[[Packet], bool] = lambda _: False,
        reports: bool = True,
        delay_s: float = 0.0,
    ) -> None:
        self.on_packets, self.queue_bytes, self.answers = on_packets, queue_bytes, answers
        self.loses, self.reports, self.delay_s = loses, reports, delay_s
        self.rate_bps = 64_000.0
        self.packets: list[bytes] = []
        self.most_ahead_bytes = 0
        self.open_streams = 0
        self.opened_streams = 0
        self.assemblies: dict[int, Assembly] = {}

    async def GetLink(self, request, context):
        settings = channel_pb2.LinkSettings(rate_bps=self.rate_bps, propagation_s=0.01, queue_bytes=self.queue_bytes)
        return channel_pb2.GetLinkResponse(link=channel_pb2.LinkState(settings=settings))

    async def Relay(self, request_iterator, context):
        self.open_streams += 1
        self.opened_streams += 1
        try:
            granted, got = self.queue_bytes, 0
            hearing = _Hearing(self.assemblies)
            yield channel_pb2.RelayResponse(credit_bytes=granted)
            async for request in request_iterator:
                got += sum(map(len, request.packets))
                self.most_ahead_bytes = max(self.most_ahead_bytes, got - granted + self.queue_bytes)
                self.packets += request.packets
                try:
                    self.on_packets(list(request.packets))
                except ConnectionError as error:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, f"receiver: {error}")
                await asyncio.sleep(self.delay_s)
                granted = got + self.queue_bytes
                told = hearing.take([data for data in request.packets if not self.loses(Packet.from_bytes(data))])
                answer = told if self.answers else []
                yield channel_pb2.RelayResponse(packets=answer, credit_bytes=granted, departed_bytes=got)
            if not self.answers:
                await asyncio.Event().wait()
            if self.reports:
                yield channel_pb2.RelayResponse(packets=[b"damaged", *hearing.reports()])
        finally:
            self.open_streams -= 1


class _Hearing:
    """What a receiver has of the transmissions of a stream, and tells of them after every message."""

    def __init__(self, assemblies: dict[int, Assembly]) -> None:
        self._assemblies = assemblies
        self._here: list[int] = []
        self._bytes = self._packets = 0

    def take(self, packets: list[bytes]) -> list[bytes]:
        for data in packets:
            packet = Packet.from_bytes(data)
            self._bytes, self._packets = self._bytes + len(data), self._packets + 1
            number = packet.transmission_id
            if number not in self._assemblies:
                self._assemblies[number] = Assembly(number, _RECEIVERS, time.monotonic())
            self._here = [*self._here, number] if number not in self._here else self._here
            if packet.kind is not PacketKind.POLL:
                self._assemblies[number].accept(packet, time.monotonic())
        return [self._feedback(Packet.from_bytes(packets[-1]))] if packets else []

    def _feedback(self, last: Packet) -> bytes:
        assembly = self._assemblies[last.transmission_id]
        counts = (last.transmission_id, self._packets & 0xFFFF, self._bytes, self._packets)
        name = (last.kind, last.revision, last.position)
        return Feedback(*counts, time.monotonic(), 0.0, *name, assembly.arrived).to_packet()

    def reports(self) -> list[bytes]:
        """One of another transmission first."""
        for number in self._here:
            self._assemblies[number].close()
        reports = [self._assemblies[number].report(0.05) for number in self._here]
        others = [replace(report, transmission_id=report.transmission_id ^ 1, received_bytes=0) for report in reports]
        return [report.to_packet() for report in (*others, *reports)]


def checksum(array: np.ndarray) -> int:
    """A short name for an array's content."""
    return zlib.crc32(np.ascontiguousarray(array).tobytes())
