"""The channel emulator over gRPC: packets that cross, and the process itself."""

import asyncio
import subprocess
import sys

import grpc
import pytest
from channel_fakes import (
    FAST,
    PACKETS,
    SLOW,
    Recorder,
    Stream,
    emulating,
    receiving,
    relay,
    reports,
    request,
    violated_field,
)
from click.testing import CliRunner
from servers import eventually

from channel_emulator.__main__ import main


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


async def test_an_empty_packet_is_refused():
    async with receiving(Recorder()) as receiver, emulating(receiver) as emulator:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await relay(emulator, [b"good", b""])
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert violated_field(caught.value) == "packets"
        assert (await emulator.link()).streams == 0


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
