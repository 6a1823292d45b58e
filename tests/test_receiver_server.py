"""The receiver's RPCs over a real socket, with a stand-in for the trained codec."""

import asyncio
import io
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from prometheus_client import CollectorRegistry
from receiver_fakes import ID, FakeCodec, Sent, receivers, sent

from receiver.__main__ import main
from receiver.config import ReceiverConfig
from receiver.ingest import StreamIngest
from receiver.metrics import ReceiverMetrics
from receiver.pictures import PictureMaker
from receiver.server import receiver_service
from receiver.store import Entry, Store
from shared.errors import InvalidInputError, WeightsError
from shared.packets import Packet, PacketKind
from shared.reports import Report, ReportOutcome
from shared.service import LINK_OPTIONS
from shared.stubs.mmsc.v1 import common_pb2, receiver_pb2, receiver_pb2_grpc

SENT = sent()
OTHER = sent(0x12345678, seed=1)
_TIMEOUT_S = 20.0


class Receiver:
    """A running receiver and a connection to it."""

    def __init__(self, address: str, channel: grpc.aio.Channel, registry: CollectorRegistry) -> None:
        self.address, self.channel, self.registry = address, channel, registry
        self.stub: Any = receiver_pb2_grpc.ReceiverServiceStub(channel)

    async def send(self, *messages: list[bytes]) -> list[Report]:
        """Sends messages of packets, half-closes, and returns the reports."""
        return await self.reports(self.stub.Receive(requests(*messages), timeout=_TIMEOUT_S))

    async def reports(self, call: Any) -> list[Report]:
        """Each report once, though it is sent several times."""
        return list(dict.fromkeys([report async for answer in call for report in reports_in(answer.packets)]))

    async def get(self, transmission_id: str = f"{ID:08x}", level_map: bool = False) -> receiver_pb2.Reconstruction:
        request = receiver_pb2.GetReconstructionRequest(transmission_id=transmission_id, return_level_map=level_map)
        return (await self.stub.GetReconstruction(request, timeout=_TIMEOUT_S)).reconstruction

    async def list(self) -> list[receiver_pb2.Reconstruction]:
        answer = await self.stub.ListReconstructions(receiver_pb2.ListReconstructionsRequest(), timeout=_TIMEOUT_S)
        return list(answer.reconstructions)

    def watch(self, interval_s: float = 0.001, transmission_id: str = f"{ID:08x}") -> Any:
        request = receiver_pb2.WatchReconstructionRequest(transmission_id=transmission_id, interval_s=interval_s)
        return self.stub.WatchReconstruction(request, timeout=_TIMEOUT_S)

    async def until(self, condition: Callable[[receiver_pb2.Reconstruction], bool]) -> receiver_pb2.Reconstruction:
        """Asks for the list until the transmission is as wanted."""
        async with asyncio.timeout(_TIMEOUT_S):
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


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with running() as started:
        yield started


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def split(whole: Sent, size: int = 4) -> list[list[bytes]]:
    return [whole.packets[i : i + size] for i in range(0, len(whole.packets), size)]


# ---- Receive and GetReconstruction ------------------------------------------------------------------


async def test_complete(receiver: Receiver) -> None:
    (report,) = await receiver.send(*split(SENT))
    assert report.outcome is ReportOutcome.COMPLETE
    assert (report.expected_patches, report.received_patches) == (SENT.expected, SENT.expected)
    assert report.received_bytes == sum(map(len, SENT.packets))
    assert report.reconstruct_s > 0
    shown = await receiver.get(level_map=True)
    assert shown.outcome == common_pb2.OUTCOME_COMPLETE
    assert (shown.width, shown.height) == (SENT.grid.width, SENT.grid.height)
    assert (pixels(shown.image_png) == SENT.picture).all()
    assert (pixels(shown.level_map_png).ravel() == SENT.levels).all()
    assert shown.codec == "ladder"
    assert shown.reconstruct_s == pytest.approx(report.reconstruct_s)


async def test_complete_is_answered_while_the_stream_is_open(receiver: Receiver) -> None:
    call = receiver.stub.Receive(timeout=_TIMEOUT_S)
    await call.write(receiver_pb2.ReceiveRequest(packets=SENT.packets))
    assert (await next_report(call, ID)).outcome is ReportOutcome.COMPLETE
    await call.write(receiver_pb2.ReceiveRequest(packets=OTHER.packets))
    assert (await next_report(call, 0x12345678)).outcome is ReportOutcome.COMPLETE
    await call.done_writing()
    async with asyncio.timeout(_TIMEOUT_S):
        while await call.read() is not grpc.aio.EOF:
            pass


async def test_loss(receiver: Receiver) -> None:
    (report,) = await receiver.send(SENT.packets[:-2])
    assert report.outcome is ReportOutcome.PARTIAL
    assert 0 < report.received_patches < report.expected_patches
    shown = await receiver.get(level_map=True)
    assert shown.outcome == common_pb2.OUTCOME_PARTIAL
    assert shown.received_patches == np.count_nonzero(pixels(shown.level_map_png)) == report.received_patches
    assert not (pixels(shown.image_png) == SENT.picture).all()
    assert receiver.value("mmsc_receiver_transmissions_total", outcome="partial") == 1


async def test_header_lost(receiver: Receiver) -> None:
    (report,) = await receiver.send(SENT.packets[1:])
    assert (report.outcome, report.received_patches) == (ReportOutcome.FAILED, 0)
    shown = await receiver.get()
    assert shown.outcome == common_pb2.OUTCOME_FAILED
    assert (shown.width, shown.image_png) == (0, b"")
    assert shown.received_bytes == sum(map(len, SENT.packets[1:]))


async def test_patches_before_the_header(receiver: Receiver) -> None:
    (report,) = await receiver.send(SENT.patches, SENT.header[::-1])
    assert report.outcome is ReportOutcome.COMPLETE
    assert (pixels((await receiver.get()).image_png) == SENT.picture).all()


async def test_the_rest_may_come_on_another_stream(receiver: Receiver) -> None:
    assert [report.outcome for report in await receiver.send(SENT.packets[:5])] == [ReportOutcome.PARTIAL]
    assert [report.outcome for report in await receiver.send(SENT.packets[4:])] == [ReportOutcome.COMPLETE]
    assert (pixels((await receiver.get()).image_png) == SENT.picture).all()


async def test_interleaved_on_one_stream(receiver: Receiver) -> None:
    mixed = [packet for pair in zip(SENT.packets, OTHER.packets, strict=False) for packet in pair]
    reports = await receiver.send(mixed, SENT.packets, OTHER.packets)
    assert {report.transmission_id: report.outcome for report in reports} == {
        ID: ReportOutcome.COMPLETE,
        0x12345678: ReportOutcome.COMPLETE,
    }
    assert len(reports) == 2
    assert [item.transmission_id for item in await receiver.list()] == ["12345678", f"{ID:08x}"]


async def test_concurrent_streams(receiver: Receiver) -> None:
    all_sent = [sent(number, seed=number) for number in range(1, 9)]
    answers = await asyncio.gather(*(receiver.send(*split(whole, 3)) for whole in all_sent))
    assert [[report.outcome for report in answer] for answer in answers] == [[ReportOutcome.COMPLETE]] * 8
    shown = [await receiver.get(f"{number:08x}") for number in range(1, 9)]
    assert all((pixels(a.image_png) == b.picture).all() for a, b in zip(shown, all_sent, strict=True))


async def test_empty_stream(receiver: Receiver) -> None:
    assert await receiver.send() == []
    assert await receiver.send([], [b""]) == []
    assert await receiver.list() == []


_damage = st.lists(
    st.one_of(
        st.binary(max_size=60).map(lambda garbage: lambda _: garbage),
        st.integers(0, 300).map(lambda size: lambda packet: packet[:size]),
        st.integers(0, 11).map(lambda at: lambda p: p[:at] + bytes([p[at] ^ 0x55]) + p[at + 1 :]),
        st.just(lambda packet: packet),
        st.just(lambda packet: b""),
    ),
    min_size=len(SENT.packets),
    max_size=len(SENT.packets),
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_damage, st.randoms())
def test_any_damage_ends_in_an_answer(damage: list[Callable[[bytes], bytes]], random: Any) -> None:
    damaged = [break_it(data) for break_it, data in zip(damage, SENT.packets, strict=True)]
    random.shuffle(damaged)
    intact = set(damaged) & set(SENT.packets)

    async def run() -> tuple[list[Report], Receiver]:
        async with running() as receiver:
            return await receiver.send(damaged), receiver

    reports, receiver = asyncio.run(run())
    assert [report.received_bytes for report in reports] == ([sum(map(len, intact))] if intact else [])
    assert receiver.value("mmsc_receiver_packets_total", outcome="corrupt") == sum(
        data not in SENT.packets for data in damaged
    )


async def test_a_message_that_is_none_is_told_after_the_reports(receiver: Receiver) -> None:
    raw = receiver.channel.stream_stream("/mmsc.v1.ReceiverService/Receive")
    whole = receiver_pb2.ReceiveRequest(packets=SENT.packets).SerializeToString()
    call = raw(iter([whole, b"\xff\xff\xff"]), timeout=_TIMEOUT_S)
    answers = []

    async def read() -> None:
        async for answer in call:
            answers.extend(receiver_pb2.ReceiveResponse.FromString(answer).packets)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read()
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "packets" in (caught.value.details() or "")
    (report,) = set(reports_in(answers))
    assert report.outcome is ReportOutcome.COMPLETE


# ---- clients that go away -------------------------------------------------------------------------


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
                assert gate.wait(_TIMEOUT_S)
            return super().decode(level, payload)

    async with running(Waiting()) as receiver:
        call = receiver.stub.Receive(timeout=_TIMEOUT_S)
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
            assert gate.wait(_TIMEOUT_S)
            return super().decode(level, payload)

    metrics = ReceiverMetrics(CollectorRegistry())
    store = Store(10, 10**7, 60.0, receivers(Waiting()))
    maker = PictureMaker(store, metrics, time.monotonic)
    everything = [sent(number, levels=np.ones(SENT.grid.count, np.uint8)).packets for number in range(5)]
    entries = [entry for packets in everything for data in packets if (entry := take(store, metrics, data))]
    async with asyncio.timeout(_TIMEOUT_S):
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
        call = receiver.stub.Receive(timeout=_TIMEOUT_S)
        await call.write(receiver_pb2.ReceiveRequest(packets=SENT.packets[:-1]))
        await receiver.until(lambda item: item.outcome == common_pb2.OUTCOME_PARTIAL)
        await call.write(receiver_pb2.ReceiveRequest(packets=SENT.packets[-1:]))
        await call.done_writing()
        assert [report.outcome for report in await receiver.reports(call)] == [ReportOutcome.COMPLETE]


async def test_a_full_receiver_refuses_and_says_so() -> None:
    async with running(max_transmissions=1) as receiver:
        call = receiver.stub.Receive(timeout=_TIMEOUT_S)
        await call.write(receiver_pb2.ReceiveRequest(packets=SENT.packets[:-1]))
        await receiver.until(lambda item: item.received_bytes > 0)
        assert await receiver.send(OTHER.packets) == []
        assert receiver.value("mmsc_receiver_packets_total", outcome="refused") == len(OTHER.packets)
        await call.done_writing()
        assert [report.outcome for report in await receiver.reports(call)] == [ReportOutcome.PARTIAL]
        assert [report.outcome for report in await receiver.send(OTHER.packets)] == [ReportOutcome.COMPLETE]


# ---- other RPCs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["", "1234567", "123456789", "0x123456", "zzzzzzzz", "1234567\n", "12 45678"])
async def test_wrong_id(receiver: Receiver, wrong: str) -> None:
    for call in (receiver.get(wrong), receiver.watch(transmission_id=wrong).read()):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "transmission_id" in (caught.value.details() or "")


async def test_unknown_id(receiver: Receiver) -> None:
    for call in (receiver.get("00000000"), receiver.watch(transmission_id="00000000").read()):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
async def test_wrong_interval(receiver: Receiver, wrong: float) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await receiver.watch(interval_s=wrong).read()
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "interval_s" in (caught.value.details() or "")


async def test_capital_digits_are_the_same_id(receiver: Receiver) -> None:
    await receiver.send(SENT.packets)
    assert (await receiver.get(f"{ID:08X}")).transmission_id == f"{ID:08x}"


async def test_a_picture_is_made_once() -> None:
    codec = FakeCodec()
    async with running(codec) as receiver:
        await receiver.send(SENT.packets)
        calls = codec.calls
        first, second = await asyncio.gather(receiver.get(), receiver.get())
        assert first.image_png == second.image_png
        assert codec.calls == calls


async def test_watch(receiver: Receiver) -> None:
    call = receiver.stub.Receive(timeout=_TIMEOUT_S)
    await call.write(receiver_pb2.ReceiveRequest(packets=SENT.header[:1]))
    await receiver.until(lambda item: item.received_bytes > 0)
    watch = receiver.watch()
    first = (await watch.read()).reconstruction
    assert (first.image_png, first.outcome) == (b"", common_pb2.OUTCOME_UNSPECIFIED)
    await call.write(receiver_pb2.ReceiveRequest(packets=SENT.packets[1:-1]))
    grown = (await watch.read()).reconstruction
    assert pixels(grown.image_png).shape == SENT.picture.shape
    await call.write(receiver_pb2.ReceiveRequest(packets=SENT.packets[-1:]))
    last = (await watch.read()).reconstruction
    assert last.outcome == common_pb2.OUTCOME_COMPLETE
    assert (pixels(last.image_png) == SENT.picture).all()
    assert await watch.read() is grpc.aio.EOF
    await call.done_writing()


async def test_the_end_does_not_wait_for_the_interval(receiver: Receiver) -> None:
    call = receiver.stub.Receive(timeout=_TIMEOUT_S)
    await call.write(receiver_pb2.ReceiveRequest(packets=SENT.packets[:-1]))
    await receiver.until(lambda item: item.received_bytes > 0)
    watch = receiver.watch(interval_s=1e6)
    await watch.read()
    call.cancel()
    assert (await watch.read()).reconstruction.outcome == common_pb2.OUTCOME_PARTIAL
    assert await watch.read() is grpc.aio.EOF


async def test_list_has_no_pictures(receiver: Receiver) -> None:
    await receiver.send(SENT.packets)
    await receiver.get()  # the report does not wait for the PNG, and the list tells of the last picture
    (item,) = await receiver.list()
    assert (item.image_png, item.level_map_png) == (b"", b"")
    assert item.received_patches == item.expected_patches == SENT.expected
    assert item.reconstruct_s > 0


# ---- metrics and process ----------------------------------------------------------------------------


async def test_metrics(receiver: Receiver) -> None:
    await receiver.send(SENT.packets + SENT.packets[:3] + [b"garbage"])
    await receiver.get()  # the report does not wait for the PNG
    assert receiver.value("mmsc_receiver_packets_total", outcome="accepted") == len(SENT.packets)
    assert receiver.value("mmsc_receiver_packets_total", outcome="duplicate") == 3
    assert receiver.value("mmsc_receiver_packets_total", outcome="corrupt") == 1
    assert receiver.value("mmsc_receiver_stored_bytes") > sum(map(len, SENT.patches))
    for stage in ("decode", "restore", "png"):
        assert receiver.value("mmsc_receiver_stage_seconds_count", stage=stage) == 1
    labels = {"grpc_service": "mmsc.v1.ReceiverService", "grpc_method": "Receive", "grpc_type": "bidi_stream"}
    assert receiver.value("grpc_server_started_total", **labels) == 1


async def test_address_in_use(receiver: Receiver) -> None:
    config = ReceiverConfig(listen=receiver.address)
    with pytest.raises(InvalidInputError, match="listen"):
        async with receiver_service(config, receivers(), registry=CollectorRegistry()):
            pass


def test_absent_weights_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise WeightsError("ladder.safetensors: cannot be read")

    monkeypatch.setattr("shared.codec.ladder.load_ladder", absent)
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 2
    assert result.output == "error: ladder.safetensors: cannot be read\n"


def test_command_line_starts_and_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ReceiverConfig] = []

    async def stop_at_once(context: Any, name: str) -> None:
        async with context as address:
            print(json.dumps({"service": name, "listen": address}))

    def service(config: ReceiverConfig, codecs: Any) -> Any:
        seen.append(config)
        return receiver_service(config, codecs)

    monkeypatch.setattr("receiver.__main__.load_receivers", receivers)
    monkeypatch.setattr("receiver.__main__.serve_until_signal", stop_at_once)
    monkeypatch.setattr("receiver.__main__.receiver_service", service)
    threads: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", threads.append)
    environment = {"MMSC_RECEIVER_MAX_TRANSMISSIONS": "7", "MMSC_RECEIVER_THREADS": "1"}
    result = CliRunner().invoke(main, ["--listen", "127.0.0.1:0", "--grace", "0.5"], env=environment)
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["service"] == "receiver"
    assert (seen[0].max_transmissions, seen[0].threads, seen[0].grace_s) == (7, 1, 0.5)
    assert threads == [1]
