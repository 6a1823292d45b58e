"""A receiver that keeps what it received: restarted, killed, out of memory for it, and with a disk that is full."""

import asyncio
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry
from receiver_fakes import ID, receivers, sent
from receiver_server_fakes import Receiver, pixels, running

from receiver.__main__ import main
from receiver.assembly import Assembly
from receiver.config import ReceiverConfig
from receiver.journal import read_journal
from receiver.recorder import replayed
from receiver.server import receiver_service
from shared.errors import InvalidInputError
from shared.packets import Packet
from shared.reports import Report, ReportOutcome
from shared.service import LINK_OPTIONS
from shared.stubs.mmsc.v1 import common_pb2, receiver_pb2

SENT = sent()
OTHER_ID = 0x12345678
OTHER = sent(OTHER_ID, seed=1)
_HALF = len(SENT.packets) // 2


def journal(folder: Path, number: int = ID) -> list[bytes]:
    """The packets that a receiver has written so far, without the reports."""
    path = folder / f"{number:08x}.journal"
    found = read_journal(path.read_bytes()).packets if path.exists() else ()
    return [packet.to_bytes() for packet in found if packet.to_bytes()[0] != 0x12]


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def written(folder: Path, packets: Iterable[bytes], number: int = ID) -> None:
    async with asyncio.timeout(60):
        while journal(folder, number) != list(packets):
            await asyncio.sleep(0.005)


# ---- restarted --------------------------------------------------------------------------------------


async def test_a_restarted_receiver_shows_the_same(tmp_path: Path) -> None:
    async with running(store=str(tmp_path)) as receiver:
        (report,) = await receiver.send(SENT.packets)
        before = await receiver.get(level_map=True)
    async with running(store=str(tmp_path)) as receiver:
        assert [item.transmission_id for item in await receiver.list()] == [f"{ID:08x}"]
        after = await receiver.get(level_map=True)
        assert receiver.value("mmsc_receiver_store_files") == 1
    assert (pixels(after.image_png) == SENT.picture).all()
    assert after.reconstruct_s > 0
    after.reconstruct_s = before.reconstruct_s
    assert after == before
    assert report.outcome is ReportOutcome.COMPLETE


async def test_what_was_cut_goes_on_with_the_rest_alone(tmp_path: Path) -> None:
    """The second receiver is on what the disk of the first was like while it received."""
    async with running(store=str(tmp_path / "one")) as receiver:
        call = receiver.stub.Receive()
        await call.write(receiver_pb2.ReceiveRequest(packets=SENT.packets[:_HALF]))
        await written(tmp_path / "one", SENT.packets[:_HALF])
        shutil.copytree(tmp_path / "one", tmp_path / "two")
        call.cancel()
    async with running(store=str(tmp_path / "two")) as receiver:
        shown = await receiver.get()
        assert shown.outcome == common_pb2.OUTCOME_PARTIAL
        assert shown.received_bytes == sum(map(len, SENT.packets[:_HALF]))
        (report,) = await receiver.send(SENT.packets[_HALF:])
        assert report.outcome is ReportOutcome.COMPLETE
        assert report.received_bytes == sum(map(len, SENT.packets))
        assert (pixels((await receiver.get()).image_png) == SENT.picture).all()
    assert journal(tmp_path / "two") == SENT.packets


async def test_memory_that_ran_out_is_read_from_the_disk(tmp_path: Path) -> None:
    async with running(store=str(tmp_path), max_transmissions=1) as receiver:
        await receiver.send(SENT.packets[:-1])
        await receiver.send(OTHER.packets)
        assert [item.transmission_id for item in await receiver.list()] == [f"{OTHER_ID:08x}"]
        assert (await receiver.get()).outcome == common_pb2.OUTCOME_PARTIAL
        assert (pixels((await receiver.get(f"{OTHER_ID:08x}")).image_png) == OTHER.picture).all()
        (report,) = await receiver.send(SENT.packets[-1:])  # not in memory: the disk knows the rest
        assert report.outcome is ReportOutcome.COMPLETE
        assert (pixels((await receiver.get()).image_png) == SENT.picture).all()


async def test_only_what_is_new_is_written(tmp_path: Path) -> None:
    async with running(store=str(tmp_path)) as receiver:
        await receiver.send([*SENT.packets, *SENT.packets, b"garbage", SENT.packets[0][:-1] + b"?"])
        await receiver.send(SENT.packets)
    assert journal(tmp_path) == SENT.packets


async def test_without_a_store_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with running() as receiver:
        await receiver.send(SENT.packets)
    assert names(tmp_path) == []


async def test_what_came_last_is_taken_back_first(tmp_path: Path) -> None:
    async with running(store=str(tmp_path)) as receiver:
        await receiver.send(SENT.packets)
        await receiver.send(OTHER.packets)
    for number, modified_s in ((ID, 2e9), (OTHER_ID, 1e9)):
        os.utime(tmp_path / f"{number:08x}.journal", (modified_s, modified_s))
    async with running(store=str(tmp_path), store_age_s=1e10, max_transmissions=1) as receiver:
        assert [item.transmission_id for item in await receiver.list()] == [f"{ID:08x}"]
        assert (await receiver.get(f"{OTHER_ID:08x}")).outcome == common_pb2.OUTCOME_COMPLETE


async def test_a_damaged_journal_is_not_found(tmp_path: Path) -> None:
    (tmp_path / f"{ID:08x}.journal").write_bytes(b"not what it should be, but long enough")
    async with running(store=str(tmp_path)) as receiver:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await receiver.get()
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        assert receiver.value("mmsc_receiver_store_failures_total", outcome="damaged") == 1
        assert [report.outcome for report in await receiver.send(SENT.packets)] == [ReportOutcome.COMPLETE]
    assert journal(tmp_path) == SENT.packets


async def test_other_weights_show_nothing_and_lose_nothing(tmp_path: Path) -> None:
    async with running(store=str(tmp_path)) as receiver:
        await receiver.send(SENT.packets)
    config = ReceiverConfig(listen="127.0.0.1:0", grace_s=1.0, store=str(tmp_path))
    async with (
        receiver_service(config, {}, registry=CollectorRegistry()) as address,
        grpc.aio.insecure_channel(address, options=LINK_OPTIONS) as channel,
    ):
        shown = await Receiver(address, channel, CollectorRegistry()).get()
        assert (shown.outcome, shown.image_png) == (common_pb2.OUTCOME_FAILED, b"")
    async with running(store=str(tmp_path)) as receiver:
        assert (await receiver.get()).outcome == common_pb2.OUTCOME_COMPLETE


def test_patches_that_made_no_sense_are_known_without_decoding() -> None:
    assembly = Assembly(ID, receivers(), 0.0)
    for data in SENT.packets:
        assembly.accept(Packet.from_bytes(data), 0.0)
    assembly.unreadable_patches = 2
    packets = [Packet.from_bytes(data) for data in [*SENT.packets, assembly.report(0.1).to_packet()]]
    again = replayed(ID, packets, receivers(), 5.0)
    assert again.report(0.1) == assembly.report(0.1)
    assert again.outcome is ReportOutcome.PARTIAL
    assert (again.first_s, again.last_s) == (5.0, 5.0)
    # A report from before the last packets says nothing about them.
    early = [*packets[:-2], Packet.from_bytes(Report(ID, ReportOutcome.PARTIAL, 1, 1, 0, 0.0).to_packet()), packets[-2]]
    assert replayed(ID, early, receivers(), 5.0).outcome is ReportOutcome.COMPLETE


# ---- killed, and without room -----------------------------------------------------------------------


async def test_a_full_disk_ends_no_transmission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with running(store=str(tmp_path)) as receiver:
        with monkeypatch.context() as patched:
            patched.setattr("receiver.folder._write_all", full)
            (report,) = await receiver.send(SENT.packets)
            assert report.outcome is ReportOutcome.COMPLETE
            assert (pixels((await receiver.get()).image_png) == SENT.picture).all()
            async with asyncio.timeout(60):
                while not receiver.value("mmsc_receiver_store_failures_total", outcome="full"):
                    await asyncio.sleep(0.005)
        await written(tmp_path, SENT.packets)  # tried again once there is room


async def test_the_store_s_limit_ends_no_transmission(tmp_path: Path) -> None:
    async with running(store=str(tmp_path), store_bytes=1) as receiver:
        assert [report.outcome for report in await receiver.send(SENT.packets)] == [ReportOutcome.COMPLETE]
        assert (pixels((await receiver.get()).image_png) == SENT.picture).all()
    assert journal(tmp_path) == []


_CHILD = """
import asyncio, sys
from receiver_fakes import receivers
from receiver.config import ReceiverConfig
from receiver.server import receiver_service
from shared.service import serve_until_signal
config = ReceiverConfig(listen="127.0.0.1:0", store=sys.argv[1])
asyncio.run(serve_until_signal(receiver_service(config, receivers()), "receiver"))
"""


async def test_a_killed_receiver_goes_on_where_it_was(tmp_path: Path) -> None:
    root = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root.parent)])}
    command = [sys.executable, "-c", _CHILD, str(tmp_path)]
    # Started and read here: nothing else runs in this loop meanwhile.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:  # noqa: ASYNC220
        try:
            assert child.stdout is not None
            ready = await asyncio.to_thread(child.stdout.readline)
            async with grpc.aio.insecure_channel(ready.split('"')[7], options=LINK_OPTIONS) as channel:
                call = Receiver("", channel, CollectorRegistry()).stub.Receive()
                await call.write(receiver_pb2.ReceiveRequest(packets=SENT.packets[:_HALF]))
                await written(tmp_path, SENT.packets[:_HALF])
                child.send_signal(signal.SIGKILL)
                with pytest.raises(grpc.aio.AioRpcError):
                    await Receiver("", channel, CollectorRegistry()).reports(call)
        finally:
            child.kill()
    async with running(store=str(tmp_path)) as receiver:
        assert [report.outcome for report in await receiver.send(SENT.packets[_HALF:])] == [ReportOutcome.COMPLETE]
        assert (pixels((await receiver.get()).image_png) == SENT.picture).all()


async def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidInputError, match="store"):
        async with running(store=str(tmp_path / "file")):
            pass
    async with running(store=str(tmp_path / "used")):
        with pytest.raises(InvalidInputError, match="another process"):
            async with running(store=str(tmp_path / "used")):
                pass


def test_a_folder_that_cannot_be_used_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("receiver.__main__.load_receivers", receivers)
    (tmp_path / "file").write_bytes(b"")
    result = CliRunner().invoke(main, ["--listen", "127.0.0.1:0", "--store", str(tmp_path / "file")])
    assert result.exit_code == 2
    assert "store" in result.output
    assert len(result.output.splitlines()) == 1
