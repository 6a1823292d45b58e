"""A folder in memory that can run full and lose power, and a child process that writes journals until it is killed."""

import sys
import time
from collections import Counter
from pathlib import Path

from receiver.archive import Archive, Limits
from receiver.folder import FileInfo, RealFolder
from shared.errors import StoreError
from shared.packets import Packet, PacketKind

NO_LIMITS = Limits(10**9, 10**9)


class Counts:
    """Counts what an archive tells."""

    def __init__(self) -> None:
        self.failures, self.evictions = Counter[str](), Counter[str]()
        self.shown = (0, 0, 0)

    def store_failed(self, outcome: str) -> None:
        self.failures[outcome] += 1

    def store_evicted(self, outcome: str) -> None:
        self.evictions[outcome] += 1

    def show_disk(self, stored_bytes: int, files: int, waiting_bytes: int) -> None:
        self.shown = (stored_bytes, files, waiting_bytes)


class FakeFolder:
    """Implements `receiver.folder.Folder`; a write that does not fit leaves what fitted, as a disk does."""

    def __init__(self, room_bytes: int = 10**9) -> None:
        self.room_bytes = room_bytes
        self.broken = False
        self.contents: dict[str, bytearray] = {}
        self.modified_s: dict[str, float] = {}
        self.synced: dict[str, int] = {}
        self.closed = False

    def files(self):
        return {name: FileInfo(len(data), self.modified_s.get(name, 0.0)) for name, data in self.contents.items()}

    def create(self, name, content):
        self._check(len(content))
        self.contents[name] = bytearray(content)
        self.synced[name] = len(content)

    def append(self, name, content):
        room = self.room_bytes - sum(map(len, self.contents.values()))
        self.contents[name] += content[: max(room, 0)]
        if len(content) > room:
            raise StoreError("no space", "full")
        self._check(0)

    def cut(self, name, size_bytes):
        self._check(0)
        del self.contents[name][size_bytes:]

    def sync(self, name):
        self._check(0)
        self.synced[name] = len(self.contents[name])

    def read(self, name):
        self._check(0)
        return bytes(self.contents[name])

    def rename(self, name, other):
        self.contents[other] = self.contents.pop(name)

    def remove(self, name):
        self.contents.pop(name, None)

    def close(self):
        self.closed = True

    def _check(self, more_bytes):
        if self.broken:
            raise StoreError("input/output error", "io")
        if sum(map(len, self.contents.values())) + more_bytes > self.room_bytes:
            raise StoreError("no space", "full")


def packet(number: int, place: int, size: int = 40) -> bytes:
    """A packet that follows from its transmission and place alone."""
    body = bytes((number * 31 + place * 7 + at) % 256 for at in range(size))
    return Packet(PacketKind.PATCHES, number, place, body).to_bytes()


def write_forever(path: str) -> None:
    """Writes one transmission after another, and says so after each batch is written."""
    archive = Archive(RealFolder(Path(path)), NO_LIMITS, Counts(), now_s=time.monotonic(), epoch_s=time.time())
    number = archive.files
    print("ready", flush=True)
    while True:
        number += 1
        for start in range(0, 60, 3):
            places = range(start, start + 3)
            archive.write(number, [packet(number, place, 300) for place in places], time.monotonic())
            print(number, start + 3, flush=True)
        archive.finish(number, Packet(PacketKind.REPORT, number, 0, b"").to_bytes(), time.monotonic())


if __name__ == "__main__":
    write_forever(sys.argv[1])
