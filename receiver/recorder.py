"""Between the event loop and the archive: hands packets over in batches, and takes transmissions back from the disk.

```
packets accepted ─► take ─┐                     one thread                     ┌─► Assembly, as it was
reports          ─► end  ─┴─► batch ─► Archive.write, finish     Archive.read ─┘
```
Nothing waits for the disk. While one batch is written the next gathers; when more gathers than the limit allows, it
is left out and counted: the transmission goes on, and a later reader finds holes, as if packets had been lost.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Final

from receiver.archive import MAX_WAITING_BYTES, Archive, Events, Limits
from receiver.assembly import Assembly
from receiver.contract import ReceiverCodecs
from receiver.folder import RealFolder
from shared.errors import InvalidInputError, PacketError, StoreError, StreamError
from shared.packets import Packet, PacketKind
from shared.reports import Report

_TICK_S: Final = 1.0
_ID: Final = slice(1, 5)  # where a packet has its transmission's number

_Step = tuple[int, bytes, bool]
"""Of a transmission, a packet, and whether it is the report that ends it."""


class Recorder:
    """Writes what arrives to the disk; to be used from one event loop.

    Args:
        archive: where to; None keeps nothing.
        codecs: those at hand.
        clock: gives seconds, monotonic.
    """

    def __init__(self, archive: Archive | None, codecs: ReceiverCodecs, clock: Callable[[], float]) -> None:
        self._archive, self._codecs, self._clock = archive, codecs, clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recorder")
        self._gathered: list[_Step] = []
        self._gathered_bytes = 0
        self._unwritten = Counter[int]()  # steps of each transmission that are not written yet
        self._writing: asyncio.Future[None] | None = None
        self._recalls: dict[int, asyncio.Future[Assembly | None]] = {}

    def take(self, transmission_id: int, packet: bytes) -> None:
        """Adds an accepted packet to its transmission's journal."""
        self._hand_over((transmission_id, packet, False))

    def end(self, report: Report) -> None:
        """Notes how a transmission ended, and that nothing more is awaited."""
        self._hand_over((report.transmission_id, report.to_packet(), True))

    def knows(self, transmission_id: int) -> bool:
        """Whether the disk has something of a transmission, or will when it is read."""
        if self._archive is None:
            return False
        return transmission_id in self._unwritten or self._archive.knows(transmission_id)

    def wanted(self, packet: bytes) -> int | None:
        """The transmission that bytes from the channel seem to belong to, if the disk has something of it."""
        if self._archive is None or len(packet) < _ID.stop:
            return None
        number = int.from_bytes(packet[_ID], "big")
        return number if self.knows(number) else None

    async def recall(self, transmission_id: int) -> Assembly | None:
        """Takes a transmission back from the disk; None if there is nothing to be made of."""
        running = self._recalls.get(transmission_id)
        if running is None:
            self._submit()  # what was taken so far is written before it is read
            loop = asyncio.get_running_loop()
            running = loop.run_in_executor(self._thread, self._read, transmission_id)
            self._recalls[transmission_id] = running
            running.add_done_callback(lambda _: self._recalls.pop(transmission_id))
        return await asyncio.shield(running)

    def newest(self, count: int) -> list[int]:
        """The transmissions on the disk whose packets came last, the latest first; to be asked before anything comes.

        Args:
            count: at most so many.
        """
        return [] if self._archive is None else self._archive.newest(count)

    async def run(self) -> None:
        """Looks after the disk for as long as the service runs."""
        while self._archive is not None:
            await asyncio.sleep(_TICK_S)
            self._submit()
            await asyncio.get_running_loop().run_in_executor(self._thread, self._archive.tick, self._clock())

    async def close(self) -> None:
        """Writes what is left, brings it to the disk, and lets the folder go."""
        self._submit()
        if self._archive is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._archive.close)
        self._thread.shutdown()

    # ---- handing over --------------------------------------------------------------------------

    def _hand_over(self, step: _Step) -> None:
        if self._archive is None:
            return
        if self._gathered_bytes + len(step[1]) > MAX_WAITING_BYTES:
            self._archive.count_behind()
            return
        self._gathered.append(step)
        self._unwritten[step[0]] += 1
        self._gathered_bytes += len(step[1])
        if self._writing is None:
            self._submit()

    def _submit(self) -> None:
        if self._archive is None or not self._gathered:
            return
        steps, self._gathered, self._gathered_bytes = self._gathered, [], 0
        self._writing = asyncio.get_running_loop().run_in_executor(self._thread, self._write, steps)
        self._writing.add_done_callback(partial(self._written, steps))

    def _written(self, steps: Sequence[_Step], done: "asyncio.Future[None]") -> None:
        self._unwritten -= Counter(number for number, *_ in steps)
        if self._writing is done:
            self._writing = None
            self._submit()

    # ---- in the thread -------------------------------------------------------------------------

    def _write(self, steps: Sequence[_Step]) -> None:
        assert self._archive is not None
        now_s = self._clock()
        by_number = sorted(steps, key=lambda step: step[0])  # each transmission's own order stays
        for (number, ends), group in groupby(by_number, key=lambda step: (step[0], step[2])):
            packets = [packet for _, packet, _ in group]
            if ends:
                self._archive.finish(number, packets[-1], now_s)
            else:
                self._archive.write(number, packets, now_s)

    def _read(self, transmission_id: int) -> Assembly | None:
        assert self._archive is not None
        journal = self._archive.read(transmission_id)
        if journal is None:
            return None
        return replayed(transmission_id, journal.packets, self._codecs, self._archive.last_s(transmission_id))


def replayed(transmission_id: int, packets: Iterable[Packet], codecs: ReceiverCodecs, at_s: float) -> Assembly:
    """What an assembly was when its packets had arrived; ended, but open to more.

    Args:
        transmission_id: 0 to 2**32 - 1.
        packets: as they were accepted, reports among them.
        codecs: those at hand; if the stream's is not among them any more, its header cannot be read.
        at_s: when they came.
    """
    assembly, report = Assembly(transmission_id, codecs, at_s), None
    for packet in packets:
        with suppress(PacketError, StreamError):  # as when it came
            if packet.kind is PacketKind.REPORT:
                report = Report.from_packet(packet)
            else:
                assembly.accept(packet, at_s)
    assembly.close()
    if report is not None and report.received_bytes == assembly.received_bytes:
        # What the codec could make nothing of is known again without decoding anything.
        assembly.unreadable_patches = max(assembly.received_patches - report.received_patches, 0)
    return assembly


def open_archive(path: str, limits: Limits, events: Events, *, now_s: float, epoch_s: float) -> Archive | None:
    """The archive of a folder; None for an empty path.

    Raises:
        InvalidInputError: the folder cannot be used; names the field "store".
    """
    if not path:
        return None
    folder = RealFolder(Path(path))
    try:
        return Archive(folder, limits, events, now_s=now_s, epoch_s=epoch_s)
    except StoreError as error:
        folder.close()
        raise InvalidInputError("store", f"{path} {error}") from error
