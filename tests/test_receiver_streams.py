"""Streams to a receiver that break, fall silent, wait, or are too many."""

import asyncio
import threading
import time
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from receiver_fakes import FakeCodec, receivers, sent
from receiver_server_fakes import OTHER, SENT, TIMEOUT_S, Receiver, pixels, receiver_fixture, running  # noqa: F401 - a fixture

from receiver.ingest import StreamIngest
from receiver.metrics import ReceiverMetrics
from receiver.pictures import PictureMaker
from receiver.store import Entry, Store
from shared.reports import ReportOutcome
from shared.stubs.mmsc.v1 import common_pb2, receiver_pb2


async def test_a_client_that_goes_away_leaves_what_it_sent(receiver: Receiver) -> None:
    call = receiver.stub.Receive()
    await call.write(receiver_pb2.ReceiveRequest(packets=SENT.packets[:-1]))
    seen = await receiver.until(lambda item: item.received_bytes == sum(map(len, SENT.packets[:-1])))
    assert seen.outcome == common_pb2.OUTCOME_UNSPECIFIED
    call.cancel()
    kept = await receiver.until(lambda item: item.outcome != common_pb2.OUTCOME_UNSPECIFIED)
    assert kept.outcome == common_pb2.OUTCOME_PARTIAL
    assert pixels((await receiver.get()).image_png).shape == SENT.picture.shape


async def test_receiving_goes_on_while_a_picture_is_made() -> None:
    gate = threading.Event()

    class Waiting(FakeCodec):
        def decode(self, level: int, payload: Any) -> Any:
            if len(payload) > 2:  # lets the warm-up pass
                assert gate.wait(TIMEOUT_S)
            return super().decode(level, payload)

    async with running(Waiting()) as receiver:
        call = receiver.stub.Receive(timeout=TIMEOUT_S)
        await call.write(receiver_pb2.ReceiveRequest(packets=OTHER.packets))
        await call.write(receiver_pb2.ReceiveRequest(packets=SENT.packets))
        await receiver.until(lambda item: item.outcome == common_pb2.OUTCOME_COMPLETE)
        gate.set()
        await call.done_writing()
        assert len(await receiver.reports(call)) == 2


async def test_pictures_that_wait_for_a_thread_do_not_hold_up_the_end() -> None:
    gate = threading.Event()
    made: list[int] = []

    class Waiting(FakeCodec):
        def decode(self, level: int, payload: Any) -> Any:
            made.append(level)
            assert gate.wait(TIMEOUT_S)
            return super().decode(level, payload)

    metrics = ReceiverMetrics(CollectorRegistry())
    store = Store(10, 10**7, 60.0, receivers(Waiting()))
    maker = PictureMaker(store, metrics, time.monotonic)
    everything = [sent(number, levels=np.ones(SENT.grid.count, np.uint8)).packets for number in range(5)]
    entries = [entry for packets in everything for data in packets if (entry := take(store, metrics, data))]
    async with asyncio.timeout(TIMEOUT_S):
        waiting = [asyncio.create_task(maker.current(entry)) for entry in entries]
        while len(made) < 2:
            await asyncio.sleep(0)
        closing = asyncio.create_task(maker.close())
        while sum(task.cancelled() for task in waiting) < 3:
            await asyncio.sleep(0)
        gate.set()
        await closing
    assert made == [1, 1]  # one for each thread


def take(store: Store, metrics: ReceiverMetrics, data: bytes) -> Entry | None:
    return StreamIngest(store, metrics).take(data, 0.0)


async def test_silence_ends_a_transmission(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("receiver.server._SWEEP_S", 0.001)
    async with running(idle_s=0.01) as receiver:
        call = receiver.stub.Receive(timeout=TIMEOUT_S)
        await call.write(receiver_pb2.ReceiveRequest(packets=SENT.packets[:-1]))
        await receiver.until(lambda item: item.outcome == common_pb2.OUTCOME_PARTIAL)
        await call.write(receiver_pb2.ReceiveRequest(packets=SENT.packets[-1:]))
        await call.done_writing()
        assert [report.outcome for report in await receiver.reports(call)] == [ReportOutcome.COMPLETE]


async def test_a_full_receiver_refuses_and_says_so() -> None:
    async with running(max_transmissions=1) as receiver:
        call = receiver.stub.Receive(timeout=TIMEOUT_S)
        await call.write(receiver_pb2.ReceiveRequest(packets=SENT.packets[:-1]))
        await receiver.until(lambda item: item.received_bytes > 0)
        assert await receiver.send(OTHER.packets) == []
        assert receiver.value("mmsc_receiver_packets_total", outcome="refused") == len(OTHER.packets)
        await call.done_writing()
        assert [report.outcome for report in await receiver.reports(call)] == [ReportOutcome.PARTIAL]
        assert [report.outcome for report in await receiver.send(OTHER.packets)] == [ReportOutcome.COMPLETE]
