"""The processes around a measured emulator: a receiver that stamps arrivals, and senders that honour credit."""

import asyncio
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from multiprocessing.queues import Queue
from typing import Any, Final, TypeAlias

import grpc

from shared.service import LINK_OPTIONS
from shared.stubs.mmsc.v1 import channel_pb2, channel_pb2_grpc, receiver_pb2, receiver_pb2_grpc

Stamps: TypeAlias = list[tuple[float, int]]
"""(monotonic seconds, bytes) of each message that arrived."""

PING: Final = b"ping"
"""A packet that begins so is answered at once."""


class _Receiver(receiver_pb2_grpc.ReceiverServiceServicer):
    """Notes when how many bytes came; at the end of a stream hands that over."""

    def __init__(self, stamps: "Queue[Any]") -> None:
        self._stamps = stamps

    async def Receive(  # noqa: N802 - the name of the RPC
        self,
        request_iterator: AsyncIterator[receiver_pb2.ReceiveRequest],
        context: Any,  # noqa: ARG002 - gRPC passes it
    ) -> AsyncIterator[receiver_pb2.ReceiveResponse]:
        """Takes everything."""
        arrivals: Stamps = []
        async for request in request_iterator:
            arrivals.append((time.monotonic(), sum(map(len, request.packets))))
            if request.packets[-1].startswith(PING):
                yield receiver_pb2.ReceiveResponse(packets=[PING])
        self._stamps.put(arrivals)


def _serve(results: "Queue[Any]") -> None:
    async def run() -> None:
        server = grpc.aio.server(options=LINK_OPTIONS)
        receiver = _Receiver(results)  # type: ignore[abstract]  # only Receive is called
        receiver_pb2_grpc.add_ReceiverServiceServicer_to_server(receiver, server)
        results.put(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await server.wait_for_termination()

    asyncio.run(run())


@dataclass(frozen=True)
class Bench:
    """A running emulator and a receiver behind it, each a process of its own."""

    emulator: str
    """HOST:PORT."""
    emulator_pid: int
    receiver: str
    """HOST:PORT, for measuring without the emulator."""
    stamps: "Queue[Any]"
    """Gets the stamps of each stream at its end."""

    def cpu_s(self) -> float:
        """CPU time of the emulator so far, in seconds, to 0.01."""
        with open(f"/proc/{self.emulator_pid}/stat", encoding="ascii") as stat:  # noqa: PTH123 - no file
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100


@contextmanager
def bench() -> Iterator[Bench]:
    """Starts both."""
    context = multiprocessing.get_context("spawn")
    results: Queue[Any] = context.Queue()
    process = context.Process(target=_serve, args=(results,), daemon=True)
    process.start()
    receiver = f"127.0.0.1:{results.get(timeout=60)}"
    arguments = [sys.executable, "-m", "channel_emulator", "--listen", "127.0.0.1:0", "--receiver", receiver]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as emulator:  # noqa: S603 - our own module
        assert emulator.stdout is not None
        try:
            address = json.loads(emulator.stdout.readline())["listen"]
            yield Bench(address, emulator.pid, receiver, results)
        finally:
            emulator.terminate()
            process.terminate()


@asynccontextmanager
async def channel_stub(
    bench: Bench, settings: channel_pb2.LinkSettings
) -> "AsyncIterator[channel_pb2_grpc.ChannelServiceAsyncStub]":
    """A client of the emulator, which has been set."""
    async with grpc.aio.insecure_channel(bench.emulator, options=LINK_OPTIONS) as channel:
        stub = channel_pb2_grpc.ChannelServiceStub(channel)
        await stub.SetLink(channel_pb2.SetLinkRequest(settings=settings))
        yield stub


class Sender:
    """Sends as much as the credit allows."""

    def __init__(self, stub: "channel_pb2_grpc.ChannelServiceAsyncStub", packets: list[bytes]) -> None:
        self._call = stub.Relay(timeout=120)
        self._message = channel_pb2.RelayRequest(packets=packets)
        self._message_bytes = sum(map(len, packets))
        self._credit_bytes = 0
        self._sent_bytes = 0
        self._grown = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def ready(self) -> None:
        """Waits for the first credit."""
        while not self._credit_bytes:
            await self._wait()

    async def send_for(self, seconds: float) -> None:
        """Sends messages for a time."""
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            await self._send()

    async def send_bytes(self, size: int) -> None:
        """Sends whole messages of at least so many bytes together."""
        while self._sent_bytes < size:
            await self._send()

    async def finish(self) -> None:
        """Half-closes, and waits until the relay has ended."""
        await self._call.done_writing()
        await self._reading

    async def _send(self) -> None:
        while self._credit_bytes < self._sent_bytes + self._message_bytes:
            await self._wait()
        await self._call.write(self._message)
        self._sent_bytes += self._message_bytes

    async def _wait(self) -> None:
        self._grown.clear()
        await self._grown.wait()

    async def _read(self) -> None:
        async for response in self._call:
            self._credit_bytes = max(self._credit_bytes, response.credit_bytes)
            self._grown.set()
