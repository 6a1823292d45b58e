"""The channel emulator over gRPC, between a client and a receiver that only records."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import pytest
from click.testing import CliRunner
from google.rpc import error_details_pb2, status_pb2
from prometheus_client import CollectorRegistry

import channel_emulator.relay
from channel_emulator.__main__ import main
from channel_emulator.config import ChannelConfig
from channel_emulator.server import channel_service
from channel_emulator.settings import LinkSettings
from shared.service import LINK_OPTIONS, running
from shared.stubs.mmsc.v1 import channel_pb2, channel_pb2_grpc, receiver_pb2, receiver_pb2_grpc

FAST = LinkSettings(rate_bps=1e9, propagation_s=0.001)
SLOW = LinkSettings(rate_bps=1_000.0, propagation_s=0.001)
"""Eight seconds for 1,000 bytes: for traffic that must still be under way."""

PACKETS = [bytes([number]) * 900 for number in range(40)]


@dataclass
class Stream:
    """What one Receive stream saw."""

    packets: list[bytes] = field(default_factory=list)
    ended: bool = False
    over: bool = field(default=False, compare=False)
    """Whether the RPC is over, whichever way."""


class Recorder(receiver_pb2_grpc.ReceiverServiceServicer):
    """Answers each message with its number of packets, and the end with `done`."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.awake = asyncio.Event()

    async def Receive(self, request_iterator, context) -> AsyncIterator[receiver_pb2.ReceiveResponse]:
        stream = Stream()
        self.streams.append(stream)
        context.add_done_callback(lambda _: setattr(stream, "over", True))
        async for request in request_iterator:
            stream.packets += request.packets
            if b"abort" in request.packets:
                await context.abort(grpc.StatusCode.DATA_LOSS, "forged")
            if b"enough" in request.packets:
                return
            if b"hang" in request.packets:
                await asyncio.Event().wait()
            if b"pause" in request.packets:
                await self.awake.wait()
            yield receiver_pb2.ReceiveResponse(packets=[b"report %d" % len(stream.packets)])
        stream.ended = True
        yield receiver_pb2.ReceiveResponse(packets=[b"done"])


@asynccontextmanager
async def receiving(recorder: Recorder, listen: str = "127.0.0.1:0") -> AsyncIterator[str]:
    server = grpc.aio.server(options=[*LINK_OPTIONS, ("grpc.so_reuseport", 0)])
    receiver_pb2_grpc.add_ReceiverServiceServicer_to_server(recorder, server)
    port = server.add_insecure_port(listen)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@dataclass
class Emulator:
    """A running emulator and a client of it."""

    stub: channel_pb2_grpc.ChannelServiceStub
    registry: CollectorRegistry

    async def link(self) -> channel_pb2.LinkState:
        return (await self.stub.GetLink(channel_pb2.GetLinkRequest())).link

    async def set(self, **settings) -> channel_pb2.LinkState:
        request = channel_pb2.SetLinkRequest(settings=channel_pb2.LinkSettings(**settings))
        return (await self.stub.SetLink(request)).link

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"mmsc_channel_{name}", labels)


@asynccontextmanager
async def emulating(receiver: str, link: LinkSettings = FAST) -> AsyncIterator[Emulator]:
    config = ChannelConfig("127.0.0.1:0", grace_s=0.0, receiver=receiver, connect_timeout_s=0.3, link=link)
    registry = CollectorRegistry()
    async with (
        running(config, registry, channel_service(config), LINK_OPTIONS) as address,
        grpc.aio.insecure_channel(address, options=LINK_OPTIONS) as channel,
    ):
        yield Emulator(channel_pb2_grpc.ChannelServiceStub(channel), registry)


def request(packets: list[bytes]) -> channel_pb2.RelayRequest:
    return channel_pb2.RelayRequest(packets=packets)


async def relay(emulator: Emulator, packets: list[bytes]) -> list[channel_pb2.RelayResponse]:
    """Sends packets in messages of ten, half-closes, and gives all that came back."""
    call = emulator.stub.Relay(timeout=20)
    for start in range(0, len(packets), 10):
        await call.write(request(packets[start : start + 10]))
    await call.done_writing()
    return [response async for response in call]


def reports(responses: list[channel_pb2.RelayResponse]) -> list[bytes]:
    return [packet for response in responses for packet in response.packets]


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def violated_field(error: grpc.aio.AioRpcError) -> str:
    """The field that a rich error names."""
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    bad = error_details_pb2.BadRequest()
    assert status_pb2.Status.FromString(details).details[0].Unpack(bad)
    return bad.field_violations[0].field


async def test_packets_cross_in_order_and_reports_come_back():
    recorder = Recorder()
    async with receiving(recorder) as receiver, emulating(receiver) as emulator:
        responses = await relay(emulator, PACKETS)
        state = await emulator.link()
    (stream,) = recorder.streams
    assert stream.packets == PACKETS
    assert stream.ended
    assert reports(responses)[-2:] == [b"report 40", b"done"]
    total = sum(map(len, PACKETS))
    granted = [response.credit_bytes for response in responses]
    assert granted[0] == FAST.queue_bytes
    assert granted == sorted(granted)
    assert responses[-1].departed_bytes == total
    assert responses[-1].credit_bytes == FAST.queue_bytes + total
    assert (state.accepted_bytes, state.delivered_bytes, state.queued_bytes) == (total, total, 0)
    assert state.busy_s == pytest.approx(8 * total / FAST.rate_bps)
    assert state.streams == 0


async def test_a_stream_without_packets_ends_like_any_other():
    recorder = Recorder()
    async with receiving(recorder) as receiver, emulating(receiver) as emulator:
        assert reports(await relay(emulator, [])) == [b"done"]
    assert recorder.streams == [Stream(ended=True)]


async def test_the_half_close_waits_for_the_queue():
    recorder = Recorder()
    async with receiving(recorder) as receiver, emulating(receiver, SLOW) as emulator:
        call = emulator.stub.Relay(timeout=20)
        await call.write(request(PACKETS[:2]))
        await call.done_writing()
        await eventually(lambda: emulator.metric("queue_bytes") == 1_800)
        await eventually(lambda: recorder.streams != [])
        assert recorder.streams == [Stream()]
        await emulator.set(rate_bps=1e9)  # holds at once, for the packet on the link too
        assert reports([response async for response in call])[-1] == b"done"
    assert recorder.streams == [Stream(PACKETS[:2], ended=True)]


async def test_packets_that_are_due_together_share_messages():
    recorder = Recorder()
    async with receiving(recorder) as receiver, emulating(receiver) as emulator:
        answers = reports(await relay(emulator, PACKETS))
    assert len(answers) < len(PACKETS)


async def test_what_exceeds_the_queue_is_dropped_at_its_tail():
    recorder = Recorder()
    async with receiving(recorder) as receiver, emulating(receiver, SLOW) as emulator:
        await emulator.set(queue_bytes=2_000)
        call = emulator.stub.Relay(timeout=20)
        await call.write(request(PACKETS[:10]))
        await eventually(lambda: emulator.metric("overflow_bytes_total") == 7_200)
        assert emulator.metric("packets_total", outcome="overflow") == 8
        await emulator.set(rate_bps=1e9)
        await call.done_writing()
        last = [response async for response in call][-1]
    assert recorder.streams[0].packets == PACKETS[:2]
    assert last.departed_bytes == 1_800
    assert last.credit_bytes == 2_000 + 9_000  # a sender that honours it from now on is not throttled


async def test_two_streams_cross_at_once():
    recorder = Recorder()
    async with receiving(recorder) as receiver, emulating(receiver) as emulator:
        await asyncio.gather(relay(emulator, PACKETS), relay(emulator, PACKETS[::-1]))
    assert sorted(stream.packets for stream in recorder.streams) == [PACKETS, PACKETS[::-1]]


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


async def test_an_empty_packet_is_refused():
    async with receiving(Recorder()) as receiver, emulating(receiver) as emulator:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await relay(emulator, [b"good", b""])
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert violated_field(caught.value) == "packets"
        assert (await emulator.link()).streams == 0


async def test_without_a_receiver_a_relay_is_unavailable():
    async with receiving(Recorder()) as receiver:
        pass
    async with emulating(receiver) as emulator:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await relay(emulator, [])
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "receiver" in caught.value.details()
        assert (await emulator.link()).streams == 0


async def test_a_receiver_killed_in_the_middle_ends_the_relay_and_is_found_again():
    first, second = Recorder(), Recorder()
    async with receiving(first) as receiver:
        pass
    async with emulating(receiver) as emulator:
        async with receiving(first, receiver):
            call = emulator.stub.Relay(timeout=20)
            await call.write(request([b"one"]))
            await eventually(lambda: [stream.packets for stream in first.streams] == [[b"one"]])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert (await emulator.link()).streams == 0
        async with receiving(second, receiver):
            await _until_relayed(emulator)
    assert second.streams[0].ended


async def _until_relayed(emulator: Emulator) -> None:
    for _ in range(20):
        try:
            await relay(emulator, PACKETS)
        except grpc.aio.AioRpcError:
            continue
        return
    raise AssertionError("the receiver that came back was not found")


async def test_a_stream_that_the_receiver_refuses_leaves_the_others_alone():
    recorder = Recorder()
    async with receiving(recorder) as receiver, emulating(receiver) as emulator:
        other = emulator.stub.Relay(timeout=20)
        await other.write(request(PACKETS[:1]))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await relay(emulator, [b"abort"])
        assert caught.value.code() == grpc.StatusCode.DATA_LOSS
        await other.write(request(PACKETS[1:]))
        await other.done_writing()
        assert reports([response async for response in other])[-1] == b"done"
    assert PACKETS in [stream.packets for stream in recorder.streams]


async def test_a_receiver_that_has_enough_ends_the_relay():
    async with receiving(Recorder()) as receiver, emulating(receiver) as emulator:
        call = emulator.stub.Relay(timeout=20)
        await call.write(request([b"enough"]))
        assert reports([response async for response in call]) == []
        assert await call.code() == grpc.StatusCode.OK


async def test_a_sender_that_goes_away_leaves_nothing_behind():
    recorder = Recorder()
    async with receiving(recorder) as receiver, emulating(receiver, SLOW) as emulator:
        await emulator.link()
        tasks = len(asyncio.all_tasks())
        call = emulator.stub.Relay(timeout=20)
        await call.write(request(PACKETS))
        await eventually(lambda: emulator.metric("queue_bytes") == 36_000 and recorder.streams != [])
        call.cancel()
        await eventually(lambda: emulator.metric("streams") == 0)
        assert emulator.metric("queue_bytes") == 0
        assert emulator.metric("discarded_bytes_total") == 36_000
        await eventually(lambda: recorder.streams[0].over)
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
    assert recorder.streams[0].packets == []


async def test_a_receiver_that_hangs_holds_a_relay_no_longer_than_its_deadline():
    async with receiving(Recorder()) as receiver, emulating(receiver) as emulator:
        call = emulator.stub.Relay(timeout=0.4)
        await call.write(request([b"hang"]))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(lambda: emulator.metric("streams") == 0)


async def test_a_receiver_that_does_not_read_ends_the_relay(monkeypatch):
    monkeypatch.setattr(channel_emulator.relay, "BACKLOG_BYTES", 100_000)
    async with receiving(Recorder()) as receiver, emulating(receiver) as emulator:
        await emulator.set(queue_bytes=2**30)
        call = emulator.stub.Relay(timeout=20)
        await call.write(request([b"hang", *[bytes(1_000)] * 2_000]))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "does not read" in caught.value.details()


async def test_the_credit_stops_while_a_receiver_does_not_read_and_goes_on_afterwards(monkeypatch):
    monkeypatch.setattr(channel_emulator.relay, "HELD_BYTES", 50_000)
    monkeypatch.setattr(channel_emulator.relay, "MESSAGE_BYTES", 20_000)
    recorder = Recorder()
    async with receiving(recorder) as receiver, emulating(receiver) as emulator:
        call = emulator.stub.Relay(timeout=20)
        await call.write(request([b"pause"]))
        credit_bytes, sent_bytes = 0, len(b"pause")

        async def send(until_bytes: int) -> None:
            nonlocal credit_bytes, sent_bytes
            while sent_bytes < until_bytes:
                while credit_bytes < sent_bytes + 9_000:
                    credit_bytes = (await call.read()).credit_bytes
                await call.write(request([bytes(900)] * 10))
                sent_bytes += 9_000

        sending = asyncio.create_task(send(2_000_000))
        await asyncio.sleep(0.5)
        assert not sending.done()
        # The queue, what is held, and what gRPC itself has between the two services.
        assert sent_bytes < 65_536 + 50_000 + 250_000
        recorder.awake.set()
        await sending
        await call.done_writing()
        while await call.read() is not grpc.aio.EOF:
            pass
    assert sum(map(len, recorder.streams[0].packets)) == sent_bytes >= 2_000_000


def test_the_process_loads_nothing_heavy():
    program = (
        "import sys, channel_emulator.__main__; "
        "heavy = {'torch', 'numpy', 'PIL', 'scipy', 'rich', 'matplotlib'} & set(sys.modules); "
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--rate", "3parsec"], {}, "3parsec"),
        (["--rate", "0"], {}, "not above 0"),
        (["--propagation", "-1ms"], {}, "negative"),
        (["--queue-bytes", "10"], {}, "queue_bytes"),
        ([], {"MMSC_CHANNEL_LOSS_RATE": "1.5"}, "loss_rate"),
        (["--listen", "nowhere"], {}, "listen"),
        (["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:none"], {}, "metrics_listen"),
    ],
)
def test_the_command_line_tells_bad_values_in_one_line(arguments, environment, message):
    result = CliRunner().invoke(main, arguments, env=environment)
    assert result.exit_code == 2
    assert message in result.output.splitlines()[-1]
