"""The transmitter over a channel that loses, breaks and is late: what it sends again, plans anew and takes up."""

import asyncio
import random
from collections import Counter

import grpc
import pytest
from fakes import FakeChannel
from test_transmitter_server import _events, _refusal, _request, _stub, _violation

from shared.packets import Packet, PacketKind
from shared.stubs.mmsc.v1 import common_pb2, transmitter_pb2

SMALL = transmitter_pb2.TransmitOptions(packet_bytes=300)


def budget(wire_bytes):
    return transmitter_pb2.Budget(wire_bytes=wire_bytes)


def options(**more):
    return transmitter_pb2.TransmitOptions(packet_bytes=300, **more)


def delivered(events):
    assert events[-1].WhichOneof("event") == "delivered"
    return events[-1].delivered


def sent_patches(channel):
    """Copies of each PATCHES packet that was handed over."""
    return Counter(data for data in channel.packets if Packet.from_bytes(data).kind is PacketKind.PATCHES)


class Breaks:
    """Breaks the stream at some packets, counted over all streams."""

    def __init__(self, *at: int) -> None:
        self.at, self.count = set(at), 0

    def __call__(self, packets):
        before, self.count = self.count, self.count + len(packets)
        if self.at & set(range(before, self.count)):
            raise ConnectionError("cable cut")


async def test_what_gets_lost_is_sent_again_and_counts():
    rng = random.Random(4)
    channel = FakeChannel(loses=lambda packet: packet.kind is PacketKind.PATCHES and rng.random() < 0.1)
    async with _stub(channel) as stub:
        end = delivered(await _events(stub, _request(budget=budget(20_000), options=SMALL)))
    assert end.lost_packets > 3
    assert end.again_bytes > 0
    assert sum(map(len, channel.packets)) == end.wire_bytes <= end.budget_bytes == 20_000
    again = sum((copies - 1) * len(data) for data, copies in sent_patches(channel).items())
    assert again == pytest.approx(end.again_bytes + end.repair_bytes, abs=600)
    assert end.received_patches > 0.7 * end.sent_patches
    assert 0.03 < end.estimate.loss_rate < 0.25


async def test_the_open_loop_sends_the_plan_and_nothing_else():
    channel = FakeChannel(loses=lambda packet: packet.kind is PacketKind.PATCHES and packet.position > 50)
    async with _stub(channel) as stub:
        events = await _events(stub, _request(budget=budget(20_000), options=options(open_loop=True)))
    end = delivered(events)
    assert end.wire_bytes == events[1].plan.wire_bytes == sum(map(len, channel.packets))
    assert end.wire_bytes > 0.98 * 20_000
    assert end.outcome == common_pb2.OUTCOME_PARTIAL
    assert 0 < end.received_patches < end.sent_patches
    assert max(sent_patches(channel).values()) == 1


async def test_progress_tells_what_has_arrived_and_what_the_link_seems_to_be():
    async with _stub(FakeChannel()) as stub:
        events = await _events(stub, _request(budget=budget(20_000)))
    progress = [event.progress for event in events if event.HasField("progress")]
    assert progress
    assert progress[-1].estimate.rate_bps > 0
    end = delivered(events)
    assert end.revisions == 1
    assert end.estimate.rate_bps > 64_000
    assert not end.HasField("deadline_met")


async def test_a_final_report_that_is_lost_is_made_from_what_was_heard():
    channel = FakeChannel(reports=False)
    async with _stub(channel) as stub:
        end = delivered(await _events(stub, _request(budget=budget(9_000), options=SMALL)))
    (assembly,) = channel.assemblies.values()
    assembly.close()
    lost = assembly.report(0.0)
    assert (end.outcome, end.received_patches) == (lost.outcome, lost.received_patches)
    assert end.sent_patches == lost.expected_patches > 0
    assert end.received_bytes == end.wire_bytes


# ---- streams that break -----------------------------------------------------------------------------


async def _rest(call):
    while (event := await call.read()) is not grpc.aio.EOF:
        yield event


async def test_a_stream_that_breaks_is_opened_again_and_what_arrived_is_not_sent_twice():
    channel = FakeChannel(Breaks(20, 45), queue_bytes=1_500)
    async with _stub(channel, resume_s=5.0) as stub:
        end = delivered(await _events(stub, _request(budget=budget(20_000), options=SMALL)))
    assert end.resumed == 2
    assert channel.opened_streams == 3
    assert end.received_patches > 0.8 * end.sent_patches
    # What was written to a stream that was dead already is spent too.
    assert 16_000 < sum(map(len, channel.packets)) <= end.wire_bytes <= 20_000
    twice = sum(copies - 1 for copies in sent_patches(channel).values())
    assert twice <= 6, "only what was in the messages that broke"
    assert end.poll_bytes >= 24


async def test_a_stream_that_breaks_before_the_report_is_opened_again_to_ask():
    class Ends(FakeChannel):
        async def Relay(self, request_iterator, context):
            first = not self.opened_streams
            async for response in super().Relay(request_iterator, context):
                if first and any(Packet.from_bytes(data).kind is PacketKind.REPORT for data in response.packets[1:]):
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "receiver: gone")
                yield response

    channel = Ends()
    async with _stub(channel, resume_s=5.0) as stub:
        end = delivered(await _events(stub, _request(budget=transmitter_pb2.Budget(percent_of_raw=200))))
    assert (end.outcome, end.resumed) == (common_pb2.OUTCOME_COMPLETE, 1)
    assert end.poll_bytes >= 12
    assert max(sent_patches(channel).values()) == 1


async def test_after_the_last_byte_of_a_budget_the_receiver_can_still_be_asked_what_it_has():
    class Cut(FakeChannel):
        breaks = False

        async def Relay(self, request_iterator, context):
            async for response in super().Relay(request_iterator, context):
                ends = any(Packet.from_bytes(data).kind is PacketKind.REPORT for data in response.packets[1:])
                if ends and self.breaks:
                    self.breaks = False
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "receiver: gone")
                yield response

    channel = Cut()
    async with _stub(channel, resume_s=5.0) as stub:
        await _events(stub, _request(budget=budget(40_000), options=SMALL))
        channel.breaks = True
        end = delivered(await _events(stub, _request(budget=budget(900), options=SMALL)))
    assert (end.outcome, end.resumed) == (common_pb2.OUTCOME_COMPLETE, 1)
    assert end.poll_bytes == 12
    assert end.again_bytes == 0
    assert end.wire_bytes <= 900


async def test_a_channel_that_is_about_to_come_back_is_waited_for():
    class Starting(FakeChannel):
        asked = 0

        async def GetLink(self, request, context):
            self.asked += 1
            if self.asked < 4:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "starting")
            return await super().GetLink(request, context)

    channel = Starting()
    async with _stub(channel, resume_s=5.0) as stub:
        assert delivered(await _events(stub, _request())).outcome == common_pb2.OUTCOME_COMPLETE
    async with _stub(Starting(), resume_s=0.2) as stub:
        error = await _refusal(stub, _request())
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "channel: unavailable: starting")


async def test_a_stream_that_breaks_before_anything_is_sent_is_opened_again():
    class Late(FakeChannel):
        async def Relay(self, request_iterator, context):
            if self.opened_streams < 2:
                self.opened_streams += 1
                await context.abort(grpc.StatusCode.UNAVAILABLE, "receiver: gone")
            async for response in super().Relay(request_iterator, context):
                yield response

    channel = Late()
    async with _stub(channel, resume_s=5.0) as stub:
        end = delivered(await _events(stub, _request()))
    assert (end.outcome, end.resumed) == (common_pb2.OUTCOME_COMPLETE, 0)
    assert channel.opened_streams == 3


async def test_a_stream_that_breaks_again_and_again_is_given_up_in_time():
    class Gone(FakeChannel):
        async def Relay(self, request_iterator, context):
            if self.opened_streams:
                self.opened_streams += 1
                await context.abort(grpc.StatusCode.UNAVAILABLE, "receiver: gone")
            async for response in super().Relay(request_iterator, context):
                yield response

    channel = Gone(Breaks(20))
    loop = asyncio.get_running_loop()
    async with _stub(channel, resume_s=0.8) as stub:
        start_s = loop.time()
        error = await _refusal(stub, _request(budget=budget(20_000), options=SMALL))
        took_s = loop.time() - start_s
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "channel: unavailable: receiver: gone")
    assert 3 <= channel.opened_streams < 12
    assert took_s < 3


async def test_what_cannot_be_helped_by_another_stream_is_told_at_once():
    channel, loop = FakeChannel(lambda _: 1 / 0), asyncio.get_running_loop()
    async with _stub(channel, resume_s=60.0) as stub:
        start_s = loop.time()
        await _refusal(stub, _request())
        assert loop.time() - start_s < 10
    # Who writes at that moment is not told why the stream ended, and may try another one.
    assert channel.opened_streams <= 3


async def test_a_transmission_is_taken_up_by_another_request():
    channel = FakeChannel(Breaks(30), queue_bytes=1_500)
    async with _stub(channel, resume_s=0) as stub:
        request = _request(budget=budget(20_000), options=options())
        call = stub.Transmit(request, timeout=20)
        while not (event := await call.read()).HasField("plan"):
            pass
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [event async for event in _rest(call)]
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        before, plan = len(channel.packets), event.plan
        request.options.transmission_id = plan.transmission_id
        events = await _events(stub, request)
    end = delivered(events)
    assert events[1].plan == plan
    assert (end.transmission_id, end.resumed) == (plan.transmission_id, 1)
    assert end.received_patches > 0.8 * end.sent_patches
    assert sum(map(len, channel.packets)) <= end.wire_bytes <= 20_000
    assert len(channel.packets) > before
    assert sum(copies - 1 for copies in sent_patches(channel).values()) <= 3
    assert len(channel.assemblies) == 1


async def test_a_client_that_left_can_come_back():
    channel = FakeChannel(delay_s=0.005)
    async with _stub(channel) as stub:
        request = _request(budget=budget(40_000), options=options())
        call = stub.Transmit(request, timeout=20)
        while not (event := await call.read()).HasField("plan"):
            pass
        while len(channel.packets) < 10:
            await asyncio.sleep(0.01)
        call.cancel()
        while channel.open_streams:
            await asyncio.sleep(0.01)
        request.options.transmission_id = event.plan.transmission_id
        end = delivered(await _events(stub, request))
    assert end.resumed == 1
    assert end.received_patches > 0.97 * end.sent_patches  # what was under way when it left stays spent


@pytest.mark.parametrize(("known", "code"), [("00c0ffee", "NOT_FOUND"), ("coffee", "INVALID_ARGUMENT")])
async def test_what_is_not_there_cannot_be_taken_up(known, code):
    async with _stub(FakeChannel()) as stub:
        error = await _refusal(stub, _request(options=options(transmission_id=known)))
    assert error.code().name == code


async def test_another_request_cannot_take_up_a_transmission():
    async with _stub(FakeChannel(Breaks(30)), resume_s=0) as stub:
        request = _request(budget=budget(20_000), options=options())
        call = stub.Transmit(request, timeout=20)
        while not (event := await call.read()).HasField("plan"):
            pass
        with pytest.raises(grpc.aio.AioRpcError):
            [event async for event in _rest(call)]
        other = _request(budget=budget(20_001), options=options(transmission_id=event.plan.transmission_id))
        error = await _refusal(stub, other)
    assert _violation(error).field == "options.transmission_id"


# ---- deadlines --------------------------------------------------------------------------------------


async def test_with_a_deadline_sending_stops_in_time():
    loop = asyncio.get_running_loop()
    async with _stub(FakeChannel(delay_s=0.002)) as stub:
        start_s = loop.time()
        events = await _events(stub, _request(budget=transmitter_pb2.Budget(deadline_s=0.5), options=SMALL))
        took_s = loop.time() - start_s
    end, plan = delivered(events), events[1].plan
    assert plan.budget_bytes == 4000
    assert end.deadline_met
    assert took_s < 3
    assert end.wire_bytes >= plan.wire_bytes > 1_200


async def test_a_link_that_claims_another_rate_is_another_link():
    channel = FakeChannel(delay_s=0.002)
    async with _stub(channel) as stub:
        request = _request(budget=transmitter_pb2.Budget(deadline_s=0.3), options=SMALL)
        slow = (await _events(stub, request))[1].plan.wire_bytes
        channel.rate_bps = 10 * channel.rate_bps
        fast = (await _events(stub, request))[1].plan.wire_bytes
    assert 8 * slow < fast < 12 * slow


async def test_a_deadline_beside_a_budget_leaves_it_the_limit():
    channel = FakeChannel()
    async with _stub(channel) as stub:
        end = delivered(await _events(stub, _request(budget=budget(3_000), options=options(deadline_s=5.0))))
    assert end.deadline_met
    assert end.budget_bytes == 3_000
    assert sum(map(len, channel.packets)) == end.wire_bytes <= 3_000


async def test_a_deadline_that_passed_before_anything_arrived_is_missed():
    async with _stub(FakeChannel(delay_s=0.6)) as stub:
        request = _request(budget=transmitter_pb2.Budget(deadline_s=0.4), options=SMALL)
        end = delivered(await _events(stub, request))
    assert end.HasField("deadline_met")
    assert not end.deadline_met


async def test_long_after_its_deadline_a_transmission_ends_by_what_was_heard(monkeypatch):
    class Silent(FakeChannel):
        async def Relay(self, request_iterator, context):
            async for response in super().Relay(request_iterator, context):
                if any(Packet.from_bytes(data).kind is PacketKind.REPORT for data in response.packets[1:]):
                    await asyncio.Event().wait()
                yield response

    monkeypatch.setattr("transmitter.sending.LATE_S", 0.3)
    async with _stub(Silent(delay_s=0.002)) as stub:
        request = _request(budget=transmitter_pb2.Budget(deadline_s=1.0), options=SMALL)
        end = delivered(await _events(stub, request))
    assert end.deadline_met
    assert end.outcome in {common_pb2.OUTCOME_COMPLETE, common_pb2.OUTCOME_PARTIAL}
    assert end.received_patches > 0


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"options": options(deadline_s=float("nan"))}, "options.deadline_s"),
        ({"options": options(deadline_s=-1.0)}, "options.deadline_s"),
        ({"options": options(deadline_s=1e6)}, "options.deadline_s"),
        ({"options": options(deadline_s=1.0), "budget": transmitter_pb2.Budget(deadline_s=2.0)}, "options.deadline_s"),
        ({"budget": transmitter_pb2.Budget(deadline_s=1e6)}, "budget.deadline_s"),
        ({"options": options(transmission_id="0000000g")}, "options.transmission_id"),
        ({"options": options(transmission_id="0" * 100)}, "options.transmission_id"),
    ],
)
async def test_deadlines_and_ids_that_are_none_are_refused_by_field(changes, field):
    async with _stub(FakeChannel()) as stub:
        error = await _refusal(stub, _request(**changes))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert _violation(error).field == field
