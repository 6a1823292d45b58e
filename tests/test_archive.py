"""The archive over a folder that runs full, breaks, holds foreign files, and is found again; and over a real one."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store_fakes import NO_LIMITS, Counts, FakeFolder, packet

import receiver.archive as archive_module
from receiver.archive import BLOCK_BYTES, Archive, Limits
from receiver.folder import RealFolder
from receiver.journal import read_journal
from shared.errors import InvalidInputError, StoreError
from shared.packets import Packet, PacketKind


def report(number: int) -> bytes:
    return Packet(PacketKind.REPORT, number, 0, b"").to_bytes()


class Kept:
    """An archive, its folder and its counts."""

    def __init__(self, folder=None, limits=NO_LIMITS, now_s: float = 0.0, epoch_s: float = 1e9) -> None:
        self.folder, self.counts = folder or FakeFolder(), Counts()
        self.archive = Archive(self.folder, limits, self.counts, now_s=now_s, epoch_s=epoch_s)

    def read(self, number: int) -> list[bytes]:
        journal = self.archive.read(number)
        return [found.to_bytes() for found in journal.packets] if journal else []

    def whole(self, number: int, now_s: float, size: int = 40) -> None:
        self.archive.write(number, [packet(number, 0, size)], now_s)
        self.archive.finish(number, report(number), now_s)


def test_what_was_written_is_found_by_the_next_archive():
    kept = Kept()
    kept.archive.write(7, [packet(7, 0), packet(7, 1)], 1.0)
    kept.archive.write(8, [packet(8, 0)], 2.0)
    kept.archive.finish(7, report(7), 3.0)
    again = Kept(kept.folder)
    assert again.read(7) == [packet(7, 0), packet(7, 1), report(7)]
    assert again.read(8) == [packet(8, 0)]
    assert again.read(9) == []
    assert (again.archive.knows(7), again.archive.knows(9)) == (True, False)
    assert again.archive.stored_bytes == 2 * BLOCK_BYTES


def test_a_transmission_goes_on_in_its_journal():
    kept = Kept()
    kept.whole(7, 1.0)
    again = Kept(kept.folder)
    again.archive.write(7, [packet(7, 1)], 2.0)
    assert again.read(7) == [packet(7, 0), report(7), packet(7, 1)]


def test_what_ended_longest_ago_makes_room():
    kept = Kept(limits=Limits(3 * BLOCK_BYTES, 1e9))
    for number, now_s in ((1, 1.0), (2, 2.0), (3, 3.0), (1, 4.0)):
        kept.whole(number, now_s)
    kept.whole(4, 5.0)
    assert [kept.archive.knows(number) for number in (1, 2, 3, 4)] == [True, False, True, True]
    assert kept.counts.evictions == {"bytes": 1}
    assert kept.archive.stored_bytes == 3 * BLOCK_BYTES
    assert kept.archive.newest(2) == [4, 1]


def test_what_is_still_received_stays_and_what_finds_no_room_is_counted():
    kept = Kept(limits=Limits(2 * BLOCK_BYTES, 1e9))
    kept.archive.write(1, [packet(1, 0)], 1.0)
    kept.archive.write(2, [packet(2, 0)], 2.0)
    kept.archive.write(3, [packet(3, 0)], 3.0)
    assert kept.counts.failures == {"limit": 1}
    assert not kept.archive.knows(3)
    assert kept.archive.waiting_bytes == 0
    kept.archive.finish(1, report(1), 4.0)
    kept.archive.write(3, [packet(3, 1)], 5.0)
    assert kept.archive.knows(3)
    assert not kept.archive.knows(1)


def test_age():
    kept = Kept(limits=Limits(10**9, 60.0))
    kept.whole(1, 0.0)
    kept.archive.write(2, [packet(2, 0)], 0.0)
    kept.whole(3, 30.0)
    kept.archive.tick(60.0)
    assert kept.counts.evictions == {}
    kept.archive.tick(60.1)
    assert [kept.archive.knows(number) for number in (1, 2, 3)] == [False, True, True]
    assert kept.counts.evictions == {"age": 1}
    assert kept.counts.shown == (2 * BLOCK_BYTES, 2, 0)


def test_limits_hold_from_the_start():
    folder = FakeFolder()
    first = Kept(folder)
    for number in range(1, 6):
        first.whole(number, float(number))
        folder.modified_s[f"{number:08x}.journal"] = 1e9 - 100 + number
    again = Kept(folder, Limits(2 * BLOCK_BYTES, 97.5), now_s=5.0)
    assert sorted(folder.contents) == ["00000004.journal", "00000005.journal"]
    assert again.counts.evictions == {"age": 2, "bytes": 1}
    assert again.archive.last_s(4) == pytest.approx(5.0 - 96)


@pytest.mark.parametrize("jump_s", [-1e8, 1e8])
def test_a_clock_that_was_set_ages_nothing_that_came_since_the_start(jump_s):
    folder = FakeFolder()
    kept = Kept(folder, Limits(10**9, 60.0))
    kept.whole(1, 0.0)
    folder.modified_s["00000001.journal"] = 1e9 + jump_s  # what the file system says does not matter while it runs
    kept.archive.tick(59.0)
    assert kept.archive.knows(1)
    back = Kept(folder, Limits(10**9, 60.0), epoch_s=1e9 + min(jump_s, 0.0))
    assert back.archive.knows(1)  # from the future, or of this moment: as good as new


# ---- a disk that does not do as it should -----------------------------------------------------------


def test_a_full_disk_is_counted_and_what_it_refused_follows():
    kept = Kept(FakeFolder(room_bytes=250))
    kept.archive.write(7, [packet(7, 0)], 1.0)
    for place in range(1, 6):
        kept.archive.write(7, [packet(7, place)], 2.0)
    assert kept.counts.failures["full"] > 0
    assert kept.archive.waiting_bytes > 0
    assert kept.read(7) == [packet(7, place) for place in range(len(kept.read(7)))]
    kept.folder.room_bytes = 10**6
    kept.archive.tick(3.0)
    assert kept.read(7) == [packet(7, place) for place in range(6)]
    assert kept.archive.waiting_bytes == 0


def test_a_disk_that_is_full_from_the_start():
    kept = Kept(FakeFolder(room_bytes=10))
    kept.archive.write(7, [packet(7, 0)], 1.0)
    kept.archive.finish(7, report(7), 2.0)
    assert kept.counts.failures == {"full": 2}
    kept.folder.room_bytes = 10**6
    kept.archive.tick(3.0)
    assert kept.read(7) == [packet(7, 0), report(7)]
    kept.whole(8, 4.0)
    small = Kept(kept.folder, Limits(BLOCK_BYTES, 1e9), now_s=5.0)
    assert small.archive.files == 1  # nothing that ended is held on to


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archive_module, "MAX_WAITING_BYTES", 1_000)
    kept = Kept(FakeFolder(room_bytes=0))
    for number in range(1, 30):
        kept.archive.write(number, [packet(number, 0, 90)], 1.0)
        assert kept.archive.waiting_bytes <= 1_000
    assert kept.counts.failures["full"] == 29
    assert kept.counts.failures["behind"] == 29 - 9


def test_a_broken_disk_raises_nothing():
    kept = Kept()
    kept.whole(7, 1.0)
    kept.folder.broken = True
    kept.archive.write(7, [packet(7, 1)], 2.0)
    kept.archive.finish(7, report(7), 2.0)
    kept.archive.tick(3.0)
    assert kept.archive.read(7) is None
    kept.archive.close()
    assert kept.folder.closed
    assert set(kept.counts.failures) == {"io"}


def test_the_end_of_a_transmission_is_brought_to_the_disk_at_once_and_the_rest_by_the_second():
    kept = Kept()
    name = "00000007.journal"
    kept.archive.write(7, [packet(7, 0)], 1.0)
    kept.archive.write(7, [packet(7, 1)], 1.0)
    assert kept.folder.synced[name] < len(kept.folder.contents[name])
    kept.archive.tick(2.0)
    assert kept.folder.synced[name] == len(kept.folder.contents[name])
    kept.archive.write(7, [packet(7, 2)], 2.0)
    kept.archive.finish(7, report(7), 2.0)
    assert kept.folder.synced[name] == len(kept.folder.contents[name])


# ---- what else may be in the folder -----------------------------------------------------------------


def test_damaged_and_foreign_files():
    folder = FakeFolder()
    first = Kept(folder)
    first.whole(1, 1.0)
    first.whole(2, 1.0)
    whole = bytes(folder.contents["00000001.journal"])
    folder.contents |= {
        "00000003.journal": bytearray(b"not a journal at all, but as long as one"),
        "00000004.journal": bytearray(),
        "00000005.journal": bytearray(whole),
        "00000006.journal": bytearray(whole[:-3]),
        "notes.txt": bytearray(b"mine"),
        "0000000g.journal": bytearray(b"mine too"),
    }
    again = Kept(folder)
    assert [again.read(number) for number in (3, 4, 5)] == [[], [], []]
    assert again.read(1) == [packet(1, 0), report(1)]
    assert again.read(6) == []
    assert again.counts.failures == {"damaged": 4}
    assert sorted(name for name in folder.contents if name.endswith(".damaged")) == [
        f"0000000{number}.damaged" for number in (3, 4, 5, 6)
    ]
    assert folder.contents["notes.txt"] == b"mine"
    assert folder.contents["0000000g.journal"] == b"mine too"
    again.whole(3, 2.0)
    assert again.read(3) == [packet(3, 0), report(3)]


def test_reading_cuts_a_torn_end_so_that_what_follows_is_whole():
    kept = Kept()
    kept.whole(7, 1.0)
    kept.folder.contents["00000007.journal"] += b"\x00\x30torn"
    again = Kept(kept.folder)
    again.read(7)
    again.archive.write(7, [packet(7, 1)], 2.0)
    journal = read_journal(bytes(kept.folder.contents["00000007.journal"]))
    assert journal.damages == 0
    assert journal.packets[-1].to_bytes() == packet(7, 1)


# ---- a real folder ----------------------------------------------------------------------------------


def test_a_real_folder(tmp_path: Path):
    path = tmp_path / "deep" / "store"
    folder = RealFolder(path)
    (path / "torn.journal.part").write_bytes(b"half")
    (path / "link").symlink_to("/etc/passwd")
    (path / "folder").mkdir()
    kept = Kept(folder, epoch_s=time.time())
    kept.whole(7, 1.0)
    assert set(folder.files()) == {"00000007.journal"}
    assert {entry.name for entry in path.iterdir()} == {"00000007.journal", "link", "folder", ".lock"}
    assert (path / "00000007.journal").stat().st_mode & 0o077 == 0
    with pytest.raises(InvalidInputError, match="another process"):
        RealFolder(path)
    kept.archive.close()
    again = Kept(RealFolder(path), epoch_s=time.time())
    assert again.read(7) == [packet(7, 0), report(7)]
    again.archive.close()


def test_no_folder(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidInputError, match="store"):
        RealFolder(tmp_path / "file")


def test_links_are_not_followed(tmp_path: Path):
    folder = RealFolder(tmp_path / "store")
    (tmp_path / "store" / "00000007.journal").symlink_to(tmp_path / "other")
    (tmp_path / "other").write_bytes(b"mine")
    with pytest.raises(StoreError):
        folder.append("00000007.journal", b"x")
    assert (tmp_path / "other").read_bytes() == b"mine"
    folder.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_really_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes go to a device that has no room, through the same calls."""
    folder = RealFolder(tmp_path)
    really_open = os.open

    def full(path, flags, mode=0o777):
        return really_open("/dev/full" if flags & os.O_WRONLY else path, flags & ~os.O_NOFOLLOW, mode)

    monkeypatch.setattr("receiver.folder.os.open", full)
    kept = Kept(folder)
    kept.archive.write(7, [packet(7, 0)], 1.0)
    assert kept.counts.failures["full"] == 1
    monkeypatch.undo()
    kept.archive.tick(2.0)
    assert kept.read(7) == [packet(7, 0)]
    kept.archive.close()


def test_kill_in_the_middle_of_writing(tmp_path: Path):
    """What a killed writer said it had written is there, and all that is there is whole."""
    rng = random.Random(6)
    for _ in range(8):
        said = killed_writer(tmp_path, rng.uniform(0.0, 0.05))
        folder = RealFolder(tmp_path)
        kept = Kept(folder, epoch_s=time.time())
        names = [name for name in folder.files() if name.endswith(".journal")]
        assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]
        for number in range(1, len(names) + 1):
            found = [data for data in kept.read(number) if data != report(number)]
            assert found == [packet(number, place, 300) for place in range(len(found))]
            assert len(found) >= said.get(number, 0)
        assert set(said) <= set(range(1, len(names) + 1))
        assert not kept.counts.failures
        kept.archive.close()


def killed_writer(path: Path, after_s: float) -> dict[int, int]:
    """Packets of each transmission that a child said it had written before it was killed."""
    command = [sys.executable, str(Path(__file__).with_name("store_fakes.py")), str(path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(after_s)
        child.send_signal(signal.SIGKILL)
        lines = [line.split() for line in child.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    assert child.returncode == -signal.SIGKILL
    return {int(number): int(count) for number, count in lines}
