"""What the receiver answers on a stream: feedback, reports, and what it knows of what it is asked about."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from receiver_fakes import ID, Sent, sent, sources
from receiver_server_fakes import Receiver, pixels, receiver_fixture, running  # noqa: F401 - a fixture

from receiver.journal import read_journal
from receiver.receiving import Answers
from shared.feedback import Arrived, Feedback
from shared.packets import Packet, PacketKind
from shared.repair import repair_packets
from shared.reports import Report, ReportOutcome
from shared.stubs.mmsc.v1 import common_pb2, receiver_pb2

SENT = sent()
OTHER_ID = 0x12345678
OTHER = sent(OTHER_ID, seed=1)
POLL = Packet(PacketKind.POLL, ID, 0, b"").to_bytes()
FIRST = sent(levels=np.where(np.arange(SENT.grid.count) % 2, 2, 0).astype(np.uint8))
MORE = sent(levels=np.where(np.arange(SENT.grid.count) % 2, 0, 3).astype(np.uint8), revision=1, seed=3)
_TIMEOUT_S = 20.0


class Stream:
    """A stream to the receiver, and what came back."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def write(self, packets: Iterable[bytes]) -> None:
        await self.call.write(receiver_pb2.ReceiveRequest(packets=list(packets)))

    async def _packets(self) -> AsyncIterator[Packet]:
        async for answer in self.call:
            for data in answer.packets:
                yield Packet.from_bytes(data)

    async def until(self, kind: PacketKind) -> Packet:
        """Reads on to the next packet of a kind."""
        async for packet in self._packets():
            if packet.kind is kind:
                return packet
        raise AssertionError("the stream ended")

    async def feedback(self) -> Feedback:
        return Feedback.from_packet(await self.until(PacketKind.FEEDBACK))

    async def report(self) -> Report:
        return Report.from_packet(await self.until(PacketKind.REPORT))

    async def rest(self) -> list[Packet]:
        await self.call.done_writing()
        return [packet async for packet in self._packets()]


def stream(receiver: Receiver) -> Stream:
    return Stream(receiver.stub.Receive(timeout=_TIMEOUT_S))


def whole(sent: Sent, revision: int = 0) -> Arrived:
    return Arrived(revision, True, ((0, sent.expected),))


# ---- feedback -------------------------------------------------------------------------------------


async def test_a_header_is_confirmed_at_once_and_the_patches_after_it(receiver: Receiver) -> None:
    talk = stream(receiver)
    await talk.write(SENT.header)
    first = await talk.feedback()
    assert first.revisions == (Arrived(0, True),)
    assert (first.sequence, first.arrived_packets) == (0, len(SENT.header))
    await talk.write(SENT.patches[1:3])
    second = await talk.feedback()
    (state,) = second.revisions
    assert state.runs[0][0] == Packet.from_bytes(SENT.patches[1]).position
    assert state.runs[0][1] == Packet.from_bytes(SENT.patches[3]).position
    assert second.arrived_bytes == sum(map(len, SENT.header + SENT.patches[1:3]))
    assert second.last_position == Packet.from_bytes(SENT.patches[2]).position
    assert second.last_s >= first.last_s
    assert receiver.value("mmsc_receiver_feedback_messages_total") >= 2
    assert receiver.value("mmsc_receiver_feedback_bytes_total") > 0


async def test_what_was_not_heard_is_said_again(receiver: Receiver) -> None:
    talk = stream(receiver)
    await talk.write(SENT.header)
    said = [await talk.feedback() for _ in range(3)]
    assert [message.sequence for message in said] == [0, 1, 2]
    assert {message.revisions for message in said} == {(Arrived(0, True),)}
    assert said[0].hold_s < said[1].hold_s < said[2].hold_s


async def test_the_report_is_said_three_times_and_again_when_asked(receiver: Receiver) -> None:
    talk = stream(receiver)
    await talk.write(SENT.packets)
    reports = [await talk.report() for _ in range(3)]
    assert set(reports) == {reports[0]}
    assert reports[0].outcome is ReportOutcome.COMPLETE
    await talk.write([POLL])
    assert (await talk.feedback()).revisions == (whole(SENT),)
    assert await talk.report() == reports[0]
    await talk.write(SENT.patches[:1])
    assert (await talk.feedback()).arrived_packets == len(SENT.packets) + 2
    assert await talk.report() == reports[0]
    assert await talk.rest() == []


async def test_the_end_of_a_stream_waits_for_the_last_report(receiver: Receiver) -> None:
    talk = stream(receiver)
    await talk.write(SENT.packets[:-1])
    said = await talk.rest()
    reports = [Report.from_packet(packet) for packet in said if packet.kind is PacketKind.REPORT]
    assert [report.outcome for report in reports] == [ReportOutcome.PARTIAL] * 3
    feedback = [Feedback.from_packet(packet) for packet in said if packet.kind is PacketKind.FEEDBACK]
    assert feedback[-1].arrived_packets == len(SENT.packets) - 1


async def test_revisions_open_a_complete_transmission_again(receiver: Receiver) -> None:
    talk = stream(receiver)
    await talk.write(FIRST.packets)
    assert (await talk.report()).expected_patches == FIRST.expected
    await talk.write([*MORE.header, *MORE.patches[:-1]])
    await receiver.until(lambda item: item.outcome == common_pb2.OUTCOME_UNSPECIFIED)
    await talk.write(MORE.patches[-1:])
    while (report := await talk.report()).expected_patches == FIRST.expected:
        pass
    assert report.outcome is ReportOutcome.COMPLETE
    assert report.received_patches == FIRST.expected + MORE.expected == SENT.grid.count
    assert report.received_bytes == sum(map(len, FIRST.packets + MORE.packets))
    assert receiver.value("mmsc_receiver_transmissions_total", outcome="complete") == 1
    shown = pixels((await receiver.get(level_map=True)).level_map_png).ravel()
    assert (shown == np.maximum(FIRST.levels, MORE.levels)).all()


async def test_finer_patches_of_a_complete_one_are_reported_in_the_end(receiver: Receiver) -> None:
    finer = sent(levels=np.where(np.arange(SENT.grid.count) % 2, 3, 0).astype(np.uint8), revision=1, seed=3)
    talk = stream(receiver)
    await talk.write(FIRST.packets)
    first = await talk.report()
    await talk.write(finer.packets)
    reports = [Report.from_packet(packet) for packet in await talk.rest() if packet.kind is PacketKind.REPORT]
    assert first.outcome is reports[-1].outcome is ReportOutcome.COMPLETE
    assert first.received_bytes == sum(map(len, FIRST.packets))
    assert reports[-1].received_bytes == first.received_bytes + sum(map(len, finer.packets))


async def test_a_revision_that_is_not_finished_ends_partial(receiver: Receiver) -> None:
    talk = stream(receiver)
    await talk.write(FIRST.packets)
    await talk.report()
    await talk.write([*MORE.header, *MORE.patches[:-1]])
    reports = [Report.from_packet(packet) for packet in await talk.rest() if packet.kind is PacketKind.REPORT]
    assert reports[-1].outcome is ReportOutcome.PARTIAL
    assert reports[-1].expected_patches == SENT.grid.count > reports[-1].received_patches


# ---- questions ------------------------------------------------------------------------------------


async def test_a_question_about_nothing_is_answered_and_opens_nothing(receiver: Receiver) -> None:
    talk = stream(receiver)
    await talk.write([POLL])
    answer = await talk.feedback()
    assert (answer.revisions, answer.arrived_packets, answer.arrived_bytes) == ((), 1, len(POLL))
    assert answer.last_kind is PacketKind.POLL
    assert await talk.rest() == []
    assert await receiver.list() == []
    assert receiver.value("mmsc_receiver_packets_total", outcome="poll") == 1


async def test_after_a_new_connection_a_question_tells_what_is_there(receiver: Receiver) -> None:
    await receiver.send(SENT.packets[:5])
    talk = stream(receiver)
    await talk.write([POLL])
    answer = await talk.feedback()
    assert answer.arrived_packets == 1  # on this stream
    assert answer.revisions[0].header
    await talk.write(SENT.packets[5:])
    assert (await talk.report()).outcome is ReportOutcome.COMPLETE


async def test_a_sender_that_only_asks_gets_a_report_in_the_end(receiver: Receiver) -> None:
    await receiver.send(SENT.packets[:5])
    talk = stream(receiver)
    await talk.write([POLL])
    await talk.feedback()
    reports = [Report.from_packet(packet) for packet in await talk.rest() if packet.kind is PacketKind.REPORT]
    assert {report.outcome for report in reports} == {ReportOutcome.PARTIAL}


async def test_a_complete_one_is_reported_to_who_asks(receiver: Receiver) -> None:
    await receiver.send(SENT.packets)
    talk = stream(receiver)
    await talk.write([POLL])
    assert (await talk.feedback()).revisions == (whole(SENT),)
    assert (await talk.report()).outcome is ReportOutcome.COMPLETE


async def test_what_is_on_the_disk_is_told_too(tmp_path: Path) -> None:
    async with running(store=str(tmp_path), max_transmissions=1) as receiver:
        await receiver.send(FIRST.packets + MORE.packets[:-1])
        await receiver.send(OTHER.packets)
        talk = stream(receiver)
        await talk.write([POLL])
        first, second = (await talk.feedback()).revisions
        assert (first, second.header) == (whole(FIRST), True)
        await talk.write(MORE.packets[-1:])
        assert (await talk.report()).outcome is ReportOutcome.COMPLETE


async def test_nothing_untrue_is_told_of_what_finds_no_room(tmp_path: Path) -> None:
    async with running(store=str(tmp_path), max_transmissions=1) as receiver:
        await receiver.send(SENT.packets)
        busy = stream(receiver)
        await busy.write(OTHER.packets[:-1])
        await busy.feedback()
        talk = stream(receiver)
        await talk.write([POLL])
        assert await talk.rest() == []
        assert receiver.value("mmsc_receiver_packets_total", outcome="refused") == 1
        await busy.call.done_writing()


async def test_forged_answers_are_nobody_s(receiver: Receiver, tmp_path: Path) -> None:
    feedback = Feedback(ID, 0, 0, 0, 0.0, 0.0, PacketKind.PATCHES, 0, 0, ()).to_packet()
    talk = stream(receiver)
    await talk.write([feedback, Report(ID, ReportOutcome.COMPLETE, 0, 0, 0, 0.0).to_packet()])
    assert await talk.rest() == []
    assert receiver.value("mmsc_receiver_packets_total", outcome="foreign") == 2
    assert await receiver.list() == []


# ---- repair, and journals -------------------------------------------------------------------------


def journal(folder: Path) -> list[Packet]:
    packets = read_journal((folder / f"{ID:08x}.journal").read_bytes()).packets
    return [packet for packet in packets if packet.kind is not PacketKind.REPORT]


async def test_what_was_repaired_has_arrived_and_is_kept(tmp_path: Path) -> None:
    repairs = repair_packets(ID, 0, sources(SENT)[:6], 4)
    lost = {1, 4}
    kept = [data for at, data in enumerate(SENT.patches) if at not in lost]
    async with running(store=str(tmp_path)) as receiver:
        talk = stream(receiver)
        await talk.write([*SENT.header, POLL, *kept, *repairs])
        report = await talk.report()
        assert (report.outcome, report.received_patches) == (ReportOutcome.COMPLETE, SENT.expected)
        assert report.received_bytes == sum(map(len, SENT.packets))
        await talk.write([POLL])
        assert (await talk.feedback()).revisions == (whole(SENT),)
        assert receiver.value("mmsc_receiver_repaired_packets_total") == len(lost)
        assert receiver.value("mmsc_receiver_packets_total", outcome="repair") >= len(lost)
        await talk.rest()
    assert sorted(packet.to_bytes() for packet in journal(tmp_path)) == sorted(SENT.packets)
    async with running(store=str(tmp_path)) as receiver:
        assert (pixels((await receiver.get()).image_png) == SENT.picture).all()


async def test_journals_of_several_revisions_are_read_back(tmp_path: Path) -> None:
    packets = FIRST.packets + MORE.packets
    async with running(store=str(tmp_path)) as receiver:
        (*_, report) = await receiver.send(packets[::-1])
        before = await receiver.get(level_map=True)
    assert sorted(packet.to_bytes() for packet in journal(tmp_path)) == sorted(packets)
    async with running(store=str(tmp_path)) as receiver:
        after = await receiver.get(level_map=True)
    after.reconstruct_s = before.reconstruct_s
    assert after == before
    assert report.outcome is ReportOutcome.COMPLETE


# ---- a peer that does not read --------------------------------------------------------------------


async def test_answers_that_nobody_takes_are_replaced() -> None:
    answers = Answers()
    for sequence in range(1_000):
        for number in (1, 2):
            answers.put(Feedback(number, sequence, 0, 0, 0.0, 0.0, PacketKind.POLL, 0, 0, ()).to_packet())
    told = [Feedback.from_packet(Packet.from_bytes(data)) for data in await answers.take()]
    assert [(each.transmission_id, each.sequence) for each in told] == [(1, 999), (2, 999)]
    taking = asyncio.create_task(answers.take())
    await asyncio.sleep(0)
    assert not taking.done()
    answers.close()
    assert await taking == []


async def test_a_flood_of_questions_costs_no_memory(receiver: Receiver) -> None:
    """More transmissions are asked about than a stream remembers."""
    talk = stream(receiver)
    polls: Sequence[bytes] = [Packet(PacketKind.POLL, number, 0, b"").to_bytes() for number in range(500)]
    await talk.write(polls)
    said = await talk.rest()
    assert 0 < len(said) <= 500
    assert all(Feedback.from_packet(packet).revisions == () for packet in said)
    assert await receiver.list() == []


async def test_a_stream_that_is_cancelled_leaves_nothing_behind(receiver: Receiver) -> None:
    talk = stream(receiver)
    await talk.write(SENT.packets)
    await talk.feedback()
    talk.call.cancel()
    await receiver.until(lambda item: item.outcome == common_pb2.OUTCOME_COMPLETE)
    with pytest.raises(asyncio.CancelledError):
        await talk.call.read()
    async with asyncio.timeout(_TIMEOUT_S):
        while receiver.value("mmsc_receiver_stage_seconds_count", stage="png") < 1:
            await asyncio.sleep(0.005)
