"""A running receiver, a connection to it, and what goes over it."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry
from receiver_fakes import ID, Sent, receivers, sent

from receiver.config import ReceiverConfig
from receiver.server import receiver_service
from shared.packets import Packet, PacketKind
from shared.reports import Report
from shared.service import LINK_OPTIONS
from shared.stubs.mmsc.v1 import receiver_pb2, receiver_pb2_grpc

SENT = sent()
OTHER = sent(0x12345678, seed=1)
TIMEOUT_S = 20.0


class Receiver:
    """A running receiver and a connection to it."""

    def __init__(self, address: str, channel: grpc.aio.Channel, registry: CollectorRegistry) -> None:
        self.address, self.channel, self.registry = address, channel, registry
        self.stub: Any = receiver_pb2_grpc.ReceiverServiceStub(channel)

    async def send(self, *messages: list[bytes]) -> list[Report]:
        """Sends messages of packets, half-closes, and returns the reports."""
        return await self.reports(self.stub.Receive(requests(*messages), timeout=TIMEOUT_S))

    async def reports(self, call: Any) -> list[Report]:
        """Each report once, though it is sent several times."""
        return list(dict.fromkeys([report async for answer in call for report in reports_in(answer.packets)]))

    async def get(self, transmission_id: str = f"{ID:08x}", level_map: bool = False) -> receiver_pb2.Reconstruction:
        request = receiver_pb2.GetReconstructionRequest(transmission_id=transmission_id, return_level_map=level_map)
        return (await self.stub.GetReconstruction(request, timeout=TIMEOUT_S)).reconstruction

    async def list(self) -> list[receiver_pb2.Reconstruction]:
        answer = await self.stub.ListReconstructions(receiver_pb2.ListReconstructionsRequest(), timeout=TIMEOUT_S)
        return list(answer.reconstructions)

    def watch(self, interval_s: float = 0.001, transmission_id: str = f"{ID:08x}") -> Any:
        request = receiver_pb2.WatchReconstructionRequest(transmission_id=transmission_id, interval_s=interval_s)
        return self.stub.WatchReconstruction(request, timeout=TIMEOUT_S)

    async def until(self, condition: Callable[[receiver_pb2.Reconstruction], bool]) -> receiver_pb2.Reconstruction:
        """Asks for the list until the transmission is as wanted."""
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                found = [item for item in await self.list() if item.transmission_id == f"{ID:08x}" and condition(item)]
                if found:
                    return found[0]

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


def reports_in(packets: Iterable[bytes]) -> list[Report]:
    found = map(Packet.from_bytes, packets)
    return [Report.from_packet(packet) for packet in found if packet.kind is PacketKind.REPORT]


async def next_report(call: Any, transmission_id: int) -> Report:
    """Reads on to the next report of a transmission."""
    while True:
        answer = await call.read()
        assert answer is not grpc.aio.EOF
        for report in reports_in(answer.packets):
            if report.transmission_id == transmission_id:
                return report


async def requests(*messages: list[bytes]) -> AsyncIterator[receiver_pb2.ReceiveRequest]:
    for packets in messages:
        yield receiver_pb2.ReceiveRequest(packets=packets)


@asynccontextmanager
async def running(codec: Any = None, **settings: Any) -> AsyncIterator[Receiver]:
    config = ReceiverConfig(listen="127.0.0.1:0", grace_s=1.0, **settings)
    registry = CollectorRegistry()
    service = receiver_service(config, receivers(codec), registry=registry)
    async with service as address, grpc.aio.insecure_channel(address, options=LINK_OPTIONS) as channel:
        yield Receiver(address, channel, registry)


@pytest.fixture(name="receiver")
async def receiver_fixture() -> AsyncIterator[Receiver]:
    async with running() as started:
        yield started


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def split(whole: Sent, size: int = 4) -> list[list[bytes]]:
    return [whole.packets[i : i + size] for i in range(0, len(whole.packets), size)]
