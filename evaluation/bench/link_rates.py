"""Rates, times and costs of a real emulator process; rates and windows beside those of the kernel's token bucket."""

import asyncio
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from channel_emulator.bank import LinkBank
from channel_emulator.settings import LinkSettings
from evaluation.bench.checks import Check
from evaluation.bench.kernel_bucket import kernel_stamps
from evaluation.bench.link_processes import PING, Bench, Sender, Stamps, channel_stub
from shared.service import LINK_OPTIONS
from shared.stubs.mmsc.v1 import channel_pb2, receiver_pb2, receiver_pb2_grpc

WINDOW_S: Final = 0.1
MESSAGE_BYTES: Final = 65_536
NO_OP: Final = channel_pb2.LinkSettings(rate_bps=1e12, propagation_s=0.0, queue_bytes=2**24, burst_bytes=0)

_SETTLING_S: Final = 0.5
_SENDING_S: Final = 4.0
_TRIES: Final = 3
_WINDOW_OFF: Final = 5
"""By how many percent a window of 100 ms may be off."""
_PINGS: Final = 300


@dataclass(frozen=True)
class _Case:
    """A rate, and packets of which at least 50 pass in a window."""

    name: str
    rate_bps: float
    packet_bytes: int

    @property
    def burst_bytes(self) -> int:
        """A bucket of 2 ms, and of two packets with the kernel's headers at least."""
        return max(int(self.rate_bps / 8 * 0.002), 2 * (self.packet_bytes + 64))


_CASES: Final = (
    _Case("10 kB/s", 80e3, 20),
    _Case("100 kB/s", 800e3, 200),
    _Case("1 MB/s", 8e6, 1_200),
    _Case("10 MB/s", 80e6, 8_192),
    _Case("100 MB/s", 800e6, 32_768),
)


def windows(stamps: Stamps) -> list[float]:
    """Bytes per second in each whole window after the settling time."""
    start_s = stamps[0][0] + _SETTLING_S
    count = int((stamps[-1][0] - start_s) / WINDOW_S)
    sums = [0] * count
    for at_s, size in stamps:
        place = int((at_s - start_s) // WINDOW_S)
        if 0 <= place < count:
            sums[place] += size
    return [size / WINDOW_S for size in sums]


def mean_rate(stamps: Stamps) -> float:
    """Bytes per second from the first arrival after the settling time to the last."""
    settled = [stamp for stamp in stamps if stamp[0] >= stamps[0][0] + _SETTLING_S]
    return sum(size for _, size in settled[1:]) / (settled[-1][0] - settled[0][0])


def _worst_off(stamps: Stamps, rate_bps: float) -> float:
    """By how many percent the worst window differs from the rate."""
    return max(100 * abs(8 * rate / rate_bps - 1) for rate in windows(stamps))


def _rate_rows(name: str, stamps: Stamps, rate_bps: float, *, judged: bool) -> Iterator[Check]:
    """The mean and the worst window."""
    mean_off, worst_off = 100 * abs(8 * mean_rate(stamps) / rate_bps - 1), _worst_off(stamps, rate_bps)
    tries, bar = f", best of {_TRIES} at most" if judged else "", f"<= {_WINDOW_OFF}"
    yield Check(f"{name}: mean rate, off by", mean_off, "%", "<= 1" if judged else "", mean_off <= 1)
    yield Check(f"{name}: worst 100 ms{tries}, off by", worst_off, "%", bar if judged else "", worst_off <= _WINDOW_OFF)


async def _stamps(bench: Bench, case: _Case) -> tuple[Stamps, list[float]]:
    """Arrivals at the receiver, and the rates in windows on the emulator's own clock."""
    queue_bytes = max(int(case.rate_bps / 8 * 0.3), 1_500)
    settings = channel_pb2.LinkSettings(rate_bps=case.rate_bps, propagation_s=0.0, queue_bytes=queue_bytes)
    settings.burst_bytes = case.burst_bytes
    message_bytes = min(MESSAGE_BYTES, queue_bytes // 4)
    async with channel_stub(bench, settings) as stub:
        sender = Sender(stub, [bytes(case.packet_bytes)] * max(message_bytes // case.packet_bytes, 1))
        sending = asyncio.create_task(sender.send_for(_SETTLING_S + _SENDING_S))
        await asyncio.sleep(_SETTLING_S)
        states = []
        while not sending.done():
            states.append((await stub.GetLink(channel_pb2.GetLinkRequest())).link)
            await asyncio.sleep(WINDOW_S)
        await sender.finish()
    pairs = pairwise(states[:-1])  # the last was read when the sender had stopped
    rates = [(b.delivered_bytes - a.delivered_bytes) / (b.now_s - a.now_s) for a, b in pairs]
    return bench.stamps.get(timeout=60), rates


async def _calm_stamps(bench: Bench, case: _Case) -> tuple[Stamps, list[float]]:
    """The same, again while a window is off: a machine that is busy stops a process for 50 ms now and then."""
    tries = [await _stamps(bench, case)]
    while _worst_off(tries[-1][0], case.rate_bps) > _WINDOW_OFF and len(tries) < _TRIES:
        tries.append(await _stamps(bench, case))
    return min(tries, key=lambda each: _worst_off(each[0], case.rate_bps))


async def rate_checks(bench: Bench) -> list[Check]:
    """Mean and windows at each rate, with a small token bucket, and the kernel's under the same settings."""
    checks: list[Check] = []
    for case in _CASES:
        stamps, own = await _calm_stamps(bench, case)
        checks += _rate_rows(f"{case.name}, at the receiver", stamps, case.rate_bps, judged=True)
        off = 100 * max(abs(8 * rate / case.rate_bps - 1) for rate in own)
        name = f"{case.name}, emulator's clock: worst 100 ms, off by"
        checks.append(Check(name, off, "%", f"<= {_WINDOW_OFF}", off <= _WINDOW_OFF))
        kernel = await asyncio.to_thread(
            kernel_stamps, case.rate_bps, case.burst_bytes, case.packet_bytes, _SETTLING_S + _SENDING_S
        )
        if isinstance(kernel, str):
            checks.append(Check(f"{case.name}, kernel's tbf: not measured ({kernel})", 0.0, "", "", True))
        else:
            checks += _rate_rows(f"{case.name}, kernel's tbf", kernel, case.rate_bps, judged=False)
    return checks


async def delivery_checks(bench: Bench) -> list[Check]:
    """Time to deliver B bytes at a constant rate, less the propagation, over B / rate."""
    checks = []
    for name, rate_bps, packet_bytes in (
        ("1 Mbit/s", 1e6, 1_000),
        ("10 Mbit/s", 1e7, 1_250),
        ("100 Mbit/s", 1e8, 5_000),
    ):
        size, propagation_s = int(rate_bps / 8), 0.05
        settings = channel_pb2.LinkSettings(rate_bps=rate_bps, propagation_s=propagation_s, queue_bytes=size // 4)
        settings.burst_bytes = 0
        ratios = []
        for _ in range(_TRIES):
            async with channel_stub(bench, settings) as stub:
                sender = Sender(stub, [bytes(packet_bytes)] * 5)
                await sender.ready()
                start_s = time.monotonic()
                await sender.send_bytes(size)
                await sender.finish()
            stamps: Stamps = bench.stamps.get(timeout=60)
            assert sum(arrived for _, arrived in stamps) == size
            ratios.append((stamps[-1][0] - start_s - propagation_s) / (8 * size / rate_bps))
        ratio = statistics.median(ratios)
        checks.append(Check(f"{name}: time to deliver {size:,} B over B / rate", ratio, "", "<= 1.02", ratio <= 1.02))
    return checks


async def _throughput(bench: Bench, packet_bytes: int) -> tuple[float, float]:
    """MB/s at the receiver, and the emulator's CPU time per message in ms."""
    packets = [bytes(packet_bytes)] * (MESSAGE_BYTES // packet_bytes)
    async with channel_stub(bench, NO_OP) as stub:
        sender = Sender(stub, packets)
        await sender.ready()
        before_s = bench.cpu_s()
        await sender.send_bytes(3_000 * MESSAGE_BYTES)
        await sender.finish()
        used_s = bench.cpu_s() - before_s
    stamps: Stamps = bench.stamps.get(timeout=60)
    arrived = sum(size for _, size in stamps)
    return arrived / (stamps[-1][0] - stamps[0][0]) / 1e6, 1_000 * used_s * MESSAGE_BYTES / arrived


async def cost_checks(bench: Bench) -> list[Check]:
    """What the emulator costs when it has nothing to emulate."""
    checks: list[Check] = []
    for name, packet_bytes in (("one packet", MESSAGE_BYTES), ("54 packets", 1_200)):
        tries = [await _throughput(bench, packet_bytes) for _ in range(_TRIES)]
        rate, cpu_ms = max(rate for rate, _ in tries), min(cpu for _, cpu in tries)
        title = f"no-op, 64 KiB messages of {name}"
        checks.append(Check(f"{title}: best of {_TRIES}", rate, "MB/s", ">= 100", rate >= 100))
        checks.append(Check(f"{title}: CPU of the emulator per message", cpu_ms, "ms", "", True))
        model_ms = _model_ms(packet_bytes)
        checks.append(Check(f"{title}: link model per message", model_ms, "ms", "<= 0.3", model_ms <= 0.3))
    for packets in (1, 54):
        added_ms = min([await _added_ms(bench, packets) for _ in range(_TRIES)])
        title = f"no-op, batch of {packets} of 1,200 B: delay that the emulator adds each way, best of {_TRIES}"
        checks.append(Check(title, added_ms, "ms", "<= 0.3", added_ms <= 0.3))
    return checks


def _model_ms(packet_bytes: int) -> float:
    """Time in the link model for a message, the median of a few hundred."""
    bank, packets = LinkBank(LinkSettings(1e12, 0.0, 2**24)), [bytes(packet_bytes)] * (MESSAGE_BYTES // packet_bytes)
    bank.open(1, 0.0)
    spent = []
    for n in range(400):
        start_s = time.perf_counter()
        for packet in packets:
            bank.offer(1, packet, float(n))
        bank.poll(n + 0.5)
        bank.account(1)
        spent.append(time.perf_counter() - start_s)
    return 1_000 * statistics.median(spent)


async def _added_ms(bench: Bench, packets: int) -> float:
    """Half of what the emulator adds to the median time from a batch to its answer."""
    batch = [PING + bytes(1_196)] * packets
    with_it: list[float] = []
    without: list[float] = []
    async with (
        channel_stub(bench, NO_OP) as stub,
        grpc.aio.insecure_channel(bench.receiver, options=LINK_OPTIONS) as direct,
    ):
        relay = stub.Relay(timeout=120)
        receive = receiver_pb2_grpc.ReceiverServiceStub(direct).Receive(timeout=120)
        # In turns, so that whatever else the machine does falls on both.
        for _ in range(_PINGS):
            for call, message, times in (
                (relay, channel_pb2.RelayRequest(packets=batch), with_it),
                (receive, receiver_pb2.ReceiveRequest(packets=batch), without),
            ):
                times.append(await _round_trip_s(call, message))
        for call in (relay, receive):
            await call.done_writing()
            while await call.read() is not grpc.aio.EOF:
                pass
    for _ in range(2):
        bench.stamps.get(timeout=60)
    return 500 * (statistics.median(with_it) - statistics.median(without))


async def _round_trip_s(call: Any, message: Message) -> float:
    """Seconds from a message to the next one that holds packets, on a stream of either service."""
    start_s = time.perf_counter()
    await call.write(message)
    while not (await call.read()).packets:
        pass
    return time.perf_counter() - start_s
