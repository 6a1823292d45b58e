"""The channel emulator between ends that go away, refuse, hang, or do not read."""

import asyncio

import grpc
import pytest
from channel_fakes import PACKETS, SLOW, Emulator, Recorder, emulating, end_of, receiving, relay, reports, request
from servers import eventually

import channel_emulator.relay


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
        assert (await end_of(call)).code() == grpc.StatusCode.UNAVAILABLE
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
        assert (await end_of(call)).code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(lambda: emulator.metric("streams") == 0)


async def test_a_receiver_that_does_not_read_ends_the_relay(monkeypatch):
    monkeypatch.setattr(channel_emulator.relay, "BACKLOG_BYTES", 100_000)
    async with receiving(Recorder()) as receiver, emulating(receiver) as emulator:
        await emulator.set(queue_bytes=2**30)
        call = emulator.stub.Relay(timeout=20)
        await call.write(request([b"hang", *[bytes(1_000)] * 2_000]))
        error = await end_of(call)
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert "does not read" in error.details()


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
        assert sent_bytes < 65_536 + 50_000 + 400_000
        recorder.awake.set()
        await sending
        await call.done_writing()
        while await call.read() is not grpc.aio.EOF:
            pass
    assert sum(map(len, recorder.streams[0].packets)) == sent_bytes >= 2_000_000
