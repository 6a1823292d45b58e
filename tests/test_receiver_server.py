"""What a receiver makes of the packets that come, over a real socket, with a stand-in for the trained codec."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from receiver_fakes import ID, sent
from receiver_server_fakes import (
    OTHER,
    SENT,
    TIMEOUT_S,
    Receiver,
    next_report,
    pixels,
    receiver_fixture,  # noqa: F401 - a fixture
    reports_in,
    running,
    split,
)

from shared.reports import Report, ReportOutcome
from shared.stubs.mmsc.v1 import common_pb2, receiver_pb2


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
    call = receiver.stub.Receive(timeout=TIMEOUT_S)
    await call.write(receiver_pb2.ReceiveRequest(packets=SENT.packets))
    assert (await next_report(call, ID)).outcome is ReportOutcome.COMPLETE
    await call.write(receiver_pb2.ReceiveRequest(packets=OTHER.packets))
    assert (await next_report(call, 0x12345678)).outcome is ReportOutcome.COMPLETE
    await call.done_writing()
    async with asyncio.timeout(TIMEOUT_S):
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
    call = raw(iter([whole, b"\xff\xff\xff"]), timeout=TIMEOUT_S)
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
