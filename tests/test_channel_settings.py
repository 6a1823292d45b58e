"""What the channel emulator is told over gRPC: settings that hold at once, and bad ones that are refused."""

import asyncio

import grpc
import pytest
from channel_fakes import PACKETS, Recorder, Stream, emulating, receiving, relay, reports, violated_field

from shared.stubs.mmsc.v1 import channel_pb2


async def test_losses_repeat_with_the_seed():
    recorder = Recorder()
    async with receiving(recorder) as receiver, emulating(receiver) as emulator:
        for _ in range(2):
            await emulator.set(loss_rate=0.5, seed=11)
            await relay(emulator, PACKETS)
        state = await emulator.link()
        assert emulator.metric("packets_total", outcome="lost") == 80 - emulator.metric(
            "packets_total", outcome="delivered"
        )
    first, second = recorder.streams
    assert first.packets == second.packets
    assert 0 < len(first.packets) < len(PACKETS)
    assert state.lost_bytes + state.delivered_bytes == state.accepted_bytes


async def test_a_link_that_loses_everything_still_ends():
    recorder = Recorder()
    async with receiving(recorder) as receiver, emulating(receiver) as emulator:
        await emulator.set(loss_rate=1.0)
        assert reports(await relay(emulator, PACKETS)) == [b"done"]


async def test_settings_change_alone_and_are_told():
    async with receiving(Recorder()) as receiver, emulating(receiver) as emulator:
        state = await emulator.set(loss_rate=0.25, propagation_s=0.0)
        assert state.settings == channel_pb2.LinkSettings(
            rate_bps=1e9, propagation_s=0.0, queue_bytes=65_536, loss_rate=0.25, seed=0
        )
        assert (await emulator.link()).settings == state.settings
        assert emulator.metric("rate_bytes_per_second") == 1.25e8
        assert emulator.metric("propagation_seconds") == 0.0


async def test_the_directions_are_set_alone_and_told_apart():
    recorder = Recorder()
    async with receiving(recorder) as receiver, emulating(receiver) as emulator:
        lost = channel_pb2.LinkSettings(loss_rate=1.0)
        state = (await emulator.stub.SetLink(channel_pb2.SetLinkRequest(backward=lost))).link
        assert (state.settings.loss_rate, state.backward.settings.loss_rate) == (0.0, 1.0)
        responses = await relay(emulator, PACKETS)
        state = await emulator.link()
    assert recorder.streams == [Stream(PACKETS, ended=True)]
    assert reports(responses) == []
    assert (state.lost_packets, state.delivered_packets) == (0, len(PACKETS))
    assert state.backward.lost_packets > state.backward.delivered_packets == 0
    assert responses[-1].departed_bytes == sum(map(len, PACKETS))


async def test_reports_take_the_backward_links_time():
    async with receiving(Recorder()) as receiver, emulating(receiver) as emulator:
        slow = channel_pb2.LinkSettings(propagation_s=0.2)
        await emulator.stub.SetLink(channel_pb2.SetLinkRequest(backward=slow))
        start_s = asyncio.get_running_loop().time()
        assert reports(await relay(emulator, []))
        assert asyncio.get_running_loop().time() - start_s >= 0.2


async def test_flipped_bits_and_duplicates_reach_the_receiver():
    recorder = Recorder()
    async with receiving(recorder) as receiver, emulating(receiver) as emulator:
        state = await emulator.set(impairments=channel_pb2.Impairments(duplicate_rate=1.0, bit_error_rate=0.01))
        assert state.settings.impairments == channel_pb2.Impairments(duplicate_rate=1.0, bit_error_rate=0.01)
        await relay(emulator, PACKETS)
        assert emulator.metric("impaired_packets_total", outcome="duplicated") == len(PACKETS)
    (stream,) = recorder.streams
    assert len(stream.packets) == 2 * len(PACKETS)
    assert stream.packets[::2] == stream.packets[1::2] != PACKETS
    assert [len(packet) for packet in stream.packets[::2]] == [len(packet) for packet in PACKETS]


async def test_a_trace_is_replayed_from_when_it_is_set():
    recorder = Recorder()
    async with receiving(recorder) as receiver, emulating(receiver) as emulator:
        trace = channel_pb2.TraceReplay(name="mine", content="0,0\n0.3,1e9\n100,1e9\n")
        state = await emulator.set(model=channel_pb2.RateModel(trace=trace), propagation_s=0.0)
        assert state.settings.model.trace == channel_pb2.TraceReplay(name="mine")
        assert state.settings.rate_bps == pytest.approx(1e9, rel=0.01) == state.mean_rate_bps
        start_s = asyncio.get_running_loop().time()
        await relay(emulator, PACKETS)
        assert asyncio.get_running_loop().time() - start_s >= 0.2
    assert recorder.streams == [Stream(PACKETS, ended=True)]


async def test_bad_parts_are_refused_by_their_path():
    async with receiving(Recorder()) as receiver, emulating(receiver) as emulator:
        before = await emulator.link()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await emulator.set(seed=9, impairments=channel_pb2.Impairments(jitter_s=-1.0))
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert violated_field(caught.value) == "settings.impairments.jitter_s"
        assert (await emulator.link()).settings == before.settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate_bps", 0.0),
        ("rate_bps", float("nan")),
        ("rate_bps", float("inf")),
        ("rate_bps", -5.0),
        ("propagation_s", -0.01),
        ("queue_bytes", 0),
        ("loss_rate", 1.5),
    ],
)
async def test_bad_settings_are_refused_by_name_and_nothing_is_applied(name, value):
    async with receiving(Recorder()) as receiver, emulating(receiver) as emulator:
        before = (await emulator.link()).settings
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await emulator.set(**{"seed": 5, "rate_bps": 5e5, name: value})
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert violated_field(caught.value) == f"settings.{name}"
        assert (await emulator.link()).settings == before
