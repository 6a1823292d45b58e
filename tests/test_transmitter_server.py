"""The transmitter service against a channel without a link."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest
import skimage.data
from fakes import FakeChannel, LeftHalf, mean_sender
from google.rpc import error_details_pb2, status_pb2
from servers import serving

from shared.errors import BusyError
from shared.packets import Packet
from shared.pictures import png_bytes, read_picture
from shared.rpc_errors import Ending, abort, retry_after_s
from shared.stubs.mmsc.v1 import channel_pb2_grpc, transmitter_pb2, transmitter_pb2_grpc
from transmitter.config import TransmitterConfig
from transmitter.pipeline import Pipeline
from transmitter.server import transmitter

_PHOTO = png_bytes(skimage.data.chelsea()[:120, :160])


@asynccontextmanager
async def _stub(channel=None, **settings):
    """A client of a transmitter behind which `channel` stands (None: nothing at all)."""
    async with AsyncExitStack() as stack:
        address = "127.0.0.1:1"
        if channel is not None:
            add = channel_pb2_grpc.add_ChannelServiceServicer_to_server
            address = await stack.enter_async_context(serving(lambda server: add(channel, server)))
        config = TransmitterConfig(listen="127.0.0.1:0", channel=address, grace_s=0, **settings)
        pipeline = Pipeline({"ladder": mean_sender()}, {"left-half": LeftHalf()})
        listening = await stack.enter_async_context(transmitter(config, pipeline))
        yield transmitter_pb2_grpc.TransmitterServiceStub(
            await stack.enter_async_context(grpc.aio.insecure_channel(listening))
        )


def _request(**changes):
    budget = changes.pop("budget", transmitter_pb2.Budget(wire_bytes=5000))
    options = changes.pop("options", transmitter_pb2.TransmitOptions(return_maps=True))
    return transmitter_pb2.TransmitRequest(
        **{"image": _PHOTO, "query": "left", "budget": budget, "options": options, **changes}
    )


async def _events(stub, request):
    return [event async for event in stub.Transmit(request, timeout=20)]


async def _refusal(stub, request):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _events(stub, request)
    return caught.value


def _violation(error):
    """What a refusal says about the first field that it names."""
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    request = error_details_pb2.BadRequest()
    assert status_pb2.Status.FromString(details).details[0].Unpack(request)
    return request.field_violations[0]


async def test_events_come_in_order_and_count_every_byte():
    channel = FakeChannel()
    async with _stub(channel) as stub:
        events = await _events(stub, _request())
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[:2] == ["relevance", "plan"]
    assert kinds[-1] == "delivered"
    assert set(kinds[2:-1]) <= {"progress"}
    delivered, plan = events[-1].delivered, events[1].plan
    assert sum(map(len, channel.packets)) == delivered.wire_bytes <= 5000
    assert plan.wire_bytes == delivered.wire_bytes - delivered.poll_bytes
    assert sum(level.patches for level in plan.levels) == 300
    assert sum(level.patches * level.patch_bytes for level in plan.levels) == plan.content_bytes
    assert plan.codec == "ladder"
    assert {Packet.from_bytes(data).transmission_id for data in channel.packets} == {int(plan.transmission_id, 16)}
    assert read_picture(events[0].relevance.relevance_png).shape == (120, 160, 3)
    assert read_picture(plan.level_map_png).shape == (15, 20, 3)


async def test_the_stages_add_up_to_the_elapsed_time():
    async with _stub(FakeChannel()) as stub:
        delivered = (await _events(stub, _request()))[-1].delivered
    parts = sum(value for _, value in delivered.stages.ListFields())
    assert parts == pytest.approx(delivered.elapsed_s)
    assert delivered.stages.serialization_s == pytest.approx(8 * delivered.wire_bytes / 64_000)
    assert delivered.stages.propagation_s == pytest.approx(0.02)


async def test_maps_are_left_out_unless_asked_for():
    async with _stub(FakeChannel()) as stub:
        events = await _events(stub, _request(options=transmitter_pb2.TransmitOptions()))
    assert events[0].relevance.relevance_png == events[1].plan.level_map_png == b""


async def test_no_more_is_handed_over_than_the_channel_grants():
    channel = FakeChannel(queue_bytes=3000)
    async with _stub(channel) as stub:
        await _events(stub, _request(budget=transmitter_pb2.Budget(percent_of_raw=100)))
    assert sum(map(len, channel.packets)) > 50_000
    assert channel.most_ahead_bytes <= 3000


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"image": b""}, "image"),
        ({"image": b"no picture"}, "image"),
        ({"budget": transmitter_pb2.Budget()}, "budget"),
        ({"budget": transmitter_pb2.Budget(wire_bytes=0)}, "budget.wire_bytes"),
        ({"budget": transmitter_pb2.Budget(wire_bytes=20)}, "budget"),
        ({"budget": transmitter_pb2.Budget(percent_of_raw=-1)}, "budget.percent_of_raw"),
        ({"budget": transmitter_pb2.Budget(deadline_s=float("nan"))}, "budget.deadline_s"),
        ({"options": transmitter_pb2.TransmitOptions(extractor="oracle")}, "options.extractor"),
        ({"options": transmitter_pb2.TransmitOptions(extractor="vit-attention")}, "options.extractor"),
        ({"options": transmitter_pb2.TransmitOptions(codec="zip")}, "options.codec"),
        ({"options": transmitter_pb2.TransmitOptions(packet_bytes=100)}, "options.packet_bytes"),
        ({"options": transmitter_pb2.TransmitOptions(allocation=77)}, "options.allocation"),
        ({"options": transmitter_pb2.TransmitOptions(relevance_png=b"x")}, "options.relevance_png"),
    ],
)
async def test_bad_input_is_refused_with_the_field_named(changes, field):
    async with _stub(FakeChannel()) as stub:
        error = await _refusal(stub, _request(**changes))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert _violation(error).field == field


async def test_packets_larger_than_the_queue_are_refused():
    async with _stub(FakeChannel(queue_bytes=1000)) as stub:
        error = await _refusal(stub, _request())
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "1000" in error.details()


async def test_without_a_channel_the_request_is_unavailable():
    async with _stub(None, channel_timeout_s=2, resume_s=0) as stub:
        error = await _refusal(stub, _request())
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert "channel" in error.details()


async def test_a_channel_that_breaks_in_the_middle_is_unavailable():
    def broken(_):
        raise RuntimeError("cable cut")

    async with _stub(FakeChannel(broken)) as stub:
        error = await _refusal(stub, _request())
    assert error.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_channel_that_never_answers_runs_into_the_stall_timeout():
    async with _stub(FakeChannel(answers=False), stall_timeout_s=0.3) as stub:
        error = await _refusal(stub, _request())
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "0.3 s" in error.details()


async def test_a_client_that_goes_away_ends_its_relay_and_no_other():
    channel = FakeChannel(answers=False)
    async with _stub(channel) as stub:
        lost = stub.Transmit(_request(), timeout=20)
        while (await lost.read()).WhichOneof("event") != "plan":
            pass
        while channel.open_streams == 0:
            await asyncio.sleep(0.01)
        lost.cancel()
        async with asyncio.timeout(5):
            while channel.open_streams:
                await asyncio.sleep(0.01)
        channel.answers = True
        channel.packets.clear()
        assert (await _events(stub, _request()))[-1].WhichOneof("event") == "delivered"


async def test_two_transmissions_at_once_do_not_mix():
    async with _stub(FakeChannel()) as first, _stub(FakeChannel()) as second:
        runs = await asyncio.gather(_events(first, _request()), _events(second, _request(query="unicorn")))
    ids = {run[-1].delivered.transmission_id for run in runs}
    assert len(ids) == 2
    assert [run[0].relevance.present for run in runs] == [True, False]


async def test_relevance_alone_sends_nothing():
    channel = FakeChannel()
    async with _stub(channel) as stub:
        response = await stub.GetRelevance(transmitter_pb2.GetRelevanceRequest(image=_PHOTO, query="left"))
        info = await stub.GetTransmitterInfo(transmitter_pb2.GetTransmitterInfoRequest())
    assert read_picture(response.relevance.relevance_png)[0, 0, 0] == 255
    assert not channel.packets
    assert list(info.extractors) == ["left-half"]
    assert (list(info.codecs), info.default_codec) == (["ladder"], "ladder")
    assert info.codec_weights == mean_sender().weights_hash.hex()


async def test_relevance_by_an_extractor_that_is_not_loaded_is_refused_with_the_loaded_ones():
    async with _stub() as stub:
        request = transmitter_pb2.GetRelevanceRequest(image=_PHOTO, query="left", extractor="vit-attention")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetRelevance(request)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert _violation(caught.value).field == "extractor"
    assert _violation(caught.value).description.endswith("loaded: left-half")


async def test_for_what_is_not_there_the_events_say_that_the_bytes_are_spread_by_content():
    async with _stub(FakeChannel()) as stub:
        absent, found = [await _events(stub, _request(query=query)) for query in ("unicorn", "left")]
    assert [(run[0].relevance.present, run[1].plan.spread_by_content) for run in (absent, found)] == [
        (False, True),
        (True, False),
    ]
    levels = [read_picture(run[1].plan.level_map_png)[:, :, 0].astype(float) for run in (absent, found)]
    assert levels[1][:, :10].mean() > 3 * levels[1][:, 10:].mean()
    assert levels[0][:, 10:].mean() > levels[1][:, 10:].mean()


async def test_a_channel_that_is_full_is_passed_on_with_its_advice():
    class Full(FakeChannel):
        async def GetLink(self, request, context):
            await abort(context, Ending.of(BusyError("all 128 places are taken", retry_s=2.5)))

    async with _stub(Full()) as stub:
        error = await _refusal(stub, _request())
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.details() == "channel: resource exhausted: all 128 places are taken"
    assert retry_after_s(error) == 2.5
