"""Transmissions on disk: a journal for each, within limits of bytes and of age.

```
packets ─► write ─► journal (grows)      finish ─► report, brought to the disk      read ─► packets again
                      ▲                                                                      (after a restart)
           tick: brings to the disk, tries again what failed, drops what is too old
```
Only the packets are kept, not the picture: it follows from them, and they take a twentieth of its room. Nothing here
raises for what the disk refuses: it is counted, what was refused waits in memory for another try, within a limit,
and the receiver goes on. One thread at a time may use an archive; `knows` alone may be asked by any.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from receiver.folder import Folder
from receiver.journal import START_BYTES, Journal, journal_start, read_journal, record
from shared.errors import StoreError, StreamError

BLOCK_BYTES: Final = 4_096
"""A file takes whole blocks of the disk, and counts as such."""

MAX_WAITING_BYTES: Final = 16 * 1024 * 1024
"""Memory for what the disk refused."""

FAILURES: Final = ("full", "limit", "io", "damaged", "behind")
"""No room on the disk; none within the limit; another error; no journal where one should be; not kept up with."""

EVICTIONS: Final = ("bytes", "age")
"""Why a journal was removed."""

_JOURNAL: Final = ".journal"
_DAMAGED: Final = ".damaged"
_OURS: Final = re.compile(rf"[0-9a-f]{{8}}(?:\{_JOURNAL}|\{_DAMAGED})")


class Events(Protocol):
    """Told what happens; may be called from another thread than the event loop's."""

    def store_failed(self, outcome: str) -> None:
        """One of FAILURES."""
        ...

    def store_evicted(self, outcome: str) -> None:
        """One of EVICTIONS."""
        ...

    def show_disk(self, stored_bytes: int, files: int, waiting_bytes: int) -> None:
        """How much there is, in files and in memory that waits for the disk."""
        ...


@dataclass(frozen=True)
class Limits:
    """How much is kept, and for how long."""

    store_bytes: int
    """Of all files, in whole blocks."""
    age_s: float
    """Seconds since a transmission's last packet."""


@dataclass
class _Kept:
    """A file."""

    size_bytes: int
    last_s: float
    begun_s: float
    open: bool = False
    """Whether more is awaited; such a file is not removed to make room."""
    dirty: bool = False
    """Whether something of it may not be on the disk yet."""

    @property
    def charged_bytes(self) -> int:
        return -(-self.size_bytes // BLOCK_BYTES) * BLOCK_BYTES


class Archive:
    """The journals of a folder.

    Args:
        folder: leftovers in it are removed, foreign files left alone.
        limits: kept from the start on.
        events: told what happens.
        now_s: seconds of a monotonic clock; ages are counted by it while this runs, so that a clock that is set
            ages nothing.
        epoch_s: seconds of the epoch at the same moment; tells how old the files are that are there already.

    Raises:
        StoreError: the folder cannot be listed.
    """

    def __init__(self, folder: Folder, limits: Limits, events: Events, *, now_s: float, epoch_s: float) -> None:
        self._folder, self._limits, self._events = folder, limits, events
        self._epoch_s = epoch_s - now_s
        self._waiting: dict[int, list[bytes]] = {}
        self._files: dict[str, _Kept] = {}
        for name, info in folder.files().items():
            if _OURS.fullmatch(name):
                # A file from the future was written before a clock was set back: it is as good as new.
                last_s = now_s - max(epoch_s - info.modified_s, 0.0)
                self._files[name] = _Kept(info.size_bytes, last_s, last_s)
        self._stored_bytes = sum(kept.charged_bytes for kept in self._files.values())
        self._drop_old(now_s)
        self._make_room(0, "")
        self._show()

    # ---- what is there -------------------------------------------------------------------------

    @property
    def stored_bytes(self) -> int:
        """Of all files, in whole blocks."""
        return self._stored_bytes

    @property
    def files(self) -> int:
        """How many there are."""
        return len(self._files)

    @property
    def waiting_bytes(self) -> int:
        """Memory of what the disk refused."""
        return sum(len(packet) for packets in self._waiting.values() for packet in packets)

    def knows(self, transmission_id: int) -> bool:
        """Whether there is something to read of a transmission."""
        return _name(transmission_id) in self._files

    def newest(self, count: int) -> list[int]:
        """The transmissions whose last packets came latest, the latest first; at most so many."""
        journals = [(kept.last_s, name) for name, kept in self._files.items() if name.endswith(_JOURNAL)]
        return [int(name.removesuffix(_JOURNAL), 16) for _, name in sorted(journals, reverse=True)[:count]]

    def last_s(self, transmission_id: int) -> float:
        """When the last packet of a known transmission came, by the monotonic clock."""
        return self._files[_name(transmission_id)].last_s

    def read(self, transmission_id: int) -> Journal | None:
        """What is there of a transmission; None if nothing, or nothing that makes sense, which is set aside."""
        name = _name(transmission_id)
        if name not in self._files:
            return None
        try:
            journal = read_journal(self._folder.read(name))
        except StoreError as error:
            self._events.store_failed(error.outcome)
            return None
        except StreamError:
            self._set_aside(name)
            return None
        if journal.transmission_id != transmission_id:
            self._set_aside(name)
            return None
        self._cut(name, journal.sound_bytes)
        return journal

    # ---- what comes ----------------------------------------------------------------------------

    def write(self, transmission_id: int, packets: Sequence[bytes], now_s: float) -> None:
        """Adds packets to a transmission's journal; what the disk refuses waits for another try.

        Args:
            transmission_id: 0 to 2**32 - 1.
            packets: of that transmission, as they crossed the channel.
            now_s: of the monotonic clock.
        """
        wanted = [*self._waiting.pop(transmission_id, ()), *packets]
        try:
            self._append(transmission_id, b"".join(map(record, wanted)), now_s, opens=bool(packets))
        except StoreError as error:
            self._events.store_failed(error.outcome)
            if error.outcome != "limit":
                self._wait(transmission_id, wanted)

    def finish(self, transmission_id: int, report: bytes, now_s: float) -> None:
        """Ends a journal with a REPORT packet and brings it to the disk; more may follow all the same."""
        if not self.knows(transmission_id) and transmission_id not in self._waiting:
            return
        self.write(transmission_id, [report], now_s)
        kept = self._files.get(_name(transmission_id))
        if kept is not None:
            kept.open = False
            self._sync(_name(transmission_id), kept)

    def tick(self, now_s: float) -> None:
        """To be called about once per second: tries again, brings to the disk, drops what is too old."""
        for transmission_id in list(self._waiting):
            self.write(transmission_id, (), now_s)
        for name, kept in self._files.items():
            self._sync(name, kept)
        self._drop_old(now_s)
        self._show()

    def count_behind(self) -> None:
        """Something was not handed over because the disk did not keep up."""
        self._events.store_failed("behind")

    def close(self) -> None:
        """Brings everything to the disk and lets the folder go."""
        for name, kept in self._files.items():
            self._sync(name, kept)
        self._folder.close()

    def _show(self) -> None:
        self._events.show_disk(self.stored_bytes, self.files, self.waiting_bytes)

    # ---- files ---------------------------------------------------------------------------------

    def _append(self, transmission_id: int, content: bytes, now_s: float, *, opens: bool) -> None:
        name = _name(transmission_id)
        kept = self._files.get(name) or _Kept(0, now_s, now_s)
        added = len(content) if kept.size_bytes else len(content) + START_BYTES
        more = _blocks(kept.size_bytes + added) - kept.charged_bytes
        if not self._make_room(more, name):
            raise StoreError("no room within the limit", "limit")
        if not kept.size_bytes:
            self._folder.create(name, journal_start(transmission_id, now_s + self._epoch_s) + content)
            self._files[name] = kept
        else:
            self._grow(name, kept, content)
        kept.size_bytes += added
        kept.last_s, kept.open, kept.dirty = now_s, kept.open or opens, kept.size_bytes > added
        self._stored_bytes += more

    def _grow(self, name: str, kept: _Kept, content: bytes) -> None:
        try:
            self._folder.append(name, content)
        except StoreError:
            with suppress(StoreError):  # a reader finds its way over what stays there
                self._folder.cut(name, kept.size_bytes)
            raise

    def _cut(self, name: str, sound_bytes: int) -> None:
        kept = self._files[name]
        if sound_bytes >= kept.size_bytes:
            return
        try:
            self._folder.cut(name, sound_bytes)
        except StoreError as error:
            self._events.store_failed(error.outcome)
            return
        self._stored_bytes += _blocks(sound_bytes) - kept.charged_bytes
        kept.size_bytes = sound_bytes

    def _sync(self, name: str, kept: _Kept) -> None:
        if not kept.dirty:
            return
        try:
            self._folder.sync(name)
            kept.dirty = False
        except StoreError as error:
            self._events.store_failed(error.outcome)

    def _wait(self, transmission_id: int, packets: list[bytes]) -> None:
        self._waiting[transmission_id] = packets
        while self._waiting and self.waiting_bytes > MAX_WAITING_BYTES:
            self._waiting.pop(next(iter(self._waiting)))
            self.count_behind()

    def _set_aside(self, name: str) -> None:
        """Keeps what makes no sense for whoever wants to look, within the same limits."""
        self._events.store_failed("damaged")
        other = name.removesuffix(_JOURNAL) + _DAMAGED
        try:
            self._folder.rename(name, other)
        except StoreError as error:
            self._events.store_failed(error.outcome)
            return
        self._forget(other)
        self._files[other] = self._files.pop(name)

    # ---- limits --------------------------------------------------------------------------------

    def _drop_old(self, now_s: float) -> None:
        limit_s = now_s - self._limits.age_s
        for name in [name for name, kept in self._files.items() if kept.last_s < limit_s and not kept.open]:
            self._remove(name, "age")

    def _make_room(self, more_bytes: int, keep: str) -> bool:
        """Removes the files that ended longest ago until there is room; whether there is."""
        room_bytes = self._limits.store_bytes - more_bytes
        if self._stored_bytes <= room_bytes:
            return True
        closed = sorted((kept.last_s, name) for name, kept in self._files.items() if not kept.open and name != keep)
        for _, name in closed:
            self._remove(name, "bytes")
            if self._stored_bytes <= room_bytes:
                return True
        return False

    def _remove(self, name: str, why: str) -> None:
        try:
            self._folder.remove(name)
        except StoreError as error:
            self._events.store_failed(error.outcome)
            return
        self._events.store_evicted(why)
        self._forget(name)

    def _forget(self, name: str) -> None:
        if name in self._files:
            self._stored_bytes -= self._files.pop(name).charged_bytes


def _name(transmission_id: int) -> str:
    return f"{transmission_id:08x}{_JOURNAL}"


def _blocks(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES
