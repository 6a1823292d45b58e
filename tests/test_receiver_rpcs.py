"""What a receiver tells of a transmission over its other RPCs, its metrics, and its process."""

import asyncio
import json
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry
from receiver_fakes import ID, FakeCodec, receivers
from receiver_server_fakes import SENT, TIMEOUT_S, Receiver, pixels, receiver_fixture, running  # noqa: F401 - a fixture

from receiver.__main__ import main
from receiver.config import ReceiverConfig
from receiver.server import receiver_service
from shared.errors import InvalidInputError, WeightsError
from shared.stubs.mmsc.v1 import common_pb2, receiver_pb2

# ---- other RPCs ----------------------------------------------------------------------------------


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
    call = receiver.stub.Receive(timeout=TIMEOUT_S)
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
    call = receiver.stub.Receive(timeout=TIMEOUT_S)
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


# ---- metrics and process -------------------------------------------------------------------------


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
