"""One stream into the receiver: reads its packets, has pictures made, and answers with feedback and reports.

```
requests ─► StreamIngest ─► complete, or ended ─► PictureMaker ─► report ─┐
                 │  ▲                                                     ▼
                 │  └──────────────────────────── timer ◄── what is due next and when
                 └─► answers, of each kind and transmission the newest alone
```
"""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from google.protobuf.message import DecodeError

from receiver.ingest import MAX_OPEN, StreamIngest
from receiver.metrics import ReceiverMetrics
from receiver.pictures import PictureMaker
from receiver.recorder import Recorder
from receiver.store import Entry, Store
from shared.errors import InvalidInputError, UnavailableError
from shared.packets import PacketKind
from shared.reports import ReportOutcome
from shared.stubs.mmsc.v1 import receiver_pb2
from shared.tracing import span

_TURN: Final = 256  # packets after which other streams get their turn
_NAME_BYTES: Final = 5  # a packet begins with its kind and its transmission


class Receiving:
    """One stream, as long as it lives.

    Args:
        store: the transmissions.
        maker: makes their pictures.
        recorder: keeps them over a restart.
        metrics: counts.
        clock: gives seconds, monotonic.
        recall: takes a transmission back from the disk into the store.
        announce: called when something has changed.
    """

    def __init__(
        self,
        store: Store,
        maker: PictureMaker,
        recorder: Recorder,
        metrics: ReceiverMetrics,
        clock: Callable[[], float],
        *,
        recall: Callable[[int], Awaitable[Entry | None]],
        announce: Callable[[], None],
    ) -> None:
        self._store, self._maker, self._recorder, self._metrics, self._clock = store, maker, recorder, metrics, clock
        self._recall, self._announce = recall, announce
        self._ingest = StreamIngest(store, metrics, recorder.take, recorder.knows)
        self._slots = asyncio.Semaphore(MAX_OPEN)
        self._answers = Answers()
        self._timer: asyncio.TimerHandle | None = None

    async def answers(self, requests: AsyncIterator[receiver_pb2.ReceiveRequest]) -> AsyncGenerator[list[bytes], None]:
        """Takes everything, and yields the packets to be sent back.

        Raises:
            InvalidInputError: a message of the stream could not be read; after all that came before it is answered.
        """
        reader = asyncio.create_task(self._read(requests))
        try:
            while packets := await self._answers.take():
                for packet in packets:
                    self._metrics.count_answer(PacketKind(packet[0] & 0x0F), len(packet))
                yield packets
            await reader
        finally:
            reader.cancel()
            self._stop_timer()
            for entry in self._ingest.end():
                self._recorder.end(entry.assembly.report(0.0))
            self._announce()

    # ---- what comes ----------------------------------------------------------------------------

    async def _read(self, requests: AsyncIterator[receiver_pb2.ReceiveRequest]) -> None:
        """Reads to the end while pictures are made and reported, and has the last word."""
        unreadable: DecodeError | None = None
        try:
            async with asyncio.TaskGroup() as group:
                with span("assembling"):
                    try:
                        async for request in requests:
                            async for complete in self._take(request.packets):
                                await self._slots.acquire()
                                group.create_task(self._report(complete))
                    except DecodeError as error:  # what came before it is reported first
                        unreadable = error
                for entry in self._ingest.end():
                    group.create_task(self._report(entry))
                self._announce()
            await self._last_words()
            if unreadable is not None:
                raise InvalidInputError("packets", "a message of the stream cannot be read") from unreadable
        finally:
            self._stop_timer()
            self._answers.close()

    async def _take(self, packets: Sequence[bytes]) -> AsyncIterator[Entry]:
        for number, data in enumerate(packets, 1):
            known = self._recorder.wanted(data)
            if known is not None and self._store.get(known) is None:
                with suppress(UnavailableError):  # the packet is refused and counted for the same reason
                    await self._recall(known)
            entry = self._ingest.take(data, self._clock())
            if entry is not None:
                yield entry
            if entry is not None or number % _TURN == 0:
                self._say()
                await asyncio.sleep(0)
        self._say()
        self._announce()

    async def _report(self, entry: Entry) -> None:
        # The transmitter need not wait for the PNG, which only a viewer of the picture wants.
        with span("reconstructing", transmission=f"{entry.assembly.transmission_id:08x}") as traced:
            try:
                reconstruct_s = await self._maker.reconstruct_s(entry)
            finally:
                if entry.ended:
                    self._recorder.end(entry.assembly.report(0.0))
            traced.set(outcome=entry.assembly.outcome.name, received_bytes=entry.assembly.received_bytes)
        self._slots.release()
        self._announce()
        report = entry.assembly.report(reconstruct_s)
        if report.outcome is not ReportOutcome.RECEIVING:  # or else it was opened again, and ends another time
            self._ingest.reported(report, self._clock())
            self._say()

    # ---- what is answered ----------------------------------------------------------------------

    def _say(self) -> None:
        """Answers what is due, and sees to it that what is due next is answered in time."""
        for packet in self._ingest.say(self._clock()):
            self._answers.put(packet)
        self._stop_timer()
        wait_s = self._ingest.wake_s - self._clock()
        if wait_s < math.inf:
            self._timer = asyncio.get_running_loop().call_later(max(wait_s, 0.0), self._say)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _last_words(self) -> None:
        """Waits until every report has been sent as often as it is to be."""
        while (at_s := self._ingest.last_word_s) < math.inf:
            await asyncio.sleep(max(at_s - self._clock(), 0.0))
            self._say()


class Answers:
    """What waits to be sent: of each kind and transmission the newest, so that a peer that does not read costs little.

    A packet of feedback says all that those before it said, and so does a report.
    """

    def __init__(self) -> None:
        self._waiting: dict[bytes, bytes] = {}
        self._changed = asyncio.Event()
        self._closed = False

    def put(self, packet: bytes) -> None:
        """Adds a packet, in the place of an older one of its kind and transmission."""
        self._waiting[packet[:_NAME_BYTES]] = packet
        self._changed.set()

    def close(self) -> None:
        """Nothing more will be added."""
        self._closed = True
        self._changed.set()

    async def take(self) -> list[bytes]:
        """Waits for packets; none if there will be no more."""
        while not self._waiting and not self._closed:
            self._changed.clear()
            await self._changed.wait()
        packets, self._waiting = list(self._waiting.values()), {}
        return packets
