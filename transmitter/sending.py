"""Drives one transmission over the channel: credit, feedback, the clock and new plans go in, packets come out.

```
            ┌── credit, feedback, report ◄── RelayStream ◄──┐
Sender ◄────┤                                              channel
  │  ▲      └── wake_s ◄── the clock                        ▲
  │  └── revise ◄── Replan, in a worker thread ◄── wanted   │
  └── give, never more than is granted ─────────────────────┘
```
All decisions are `transmitter.transport`'s; this is the edge where they meet asyncio and gRPC. A stream that breaks
is opened again, and the transmission goes on under its id.
"""

import asyncio
import contextlib
import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from shared.errors import BusyError, DeadlineError, StreamError
from shared.reports import ReportOutcome
from transmitter.course import Course, Ended, Event, Replanned
from transmitter.replanning import Revised
from transmitter.streams import RelayStream, batches
from transmitter.transport.contract import RevisionWanted
from transmitter.transport.sender import Sender

PROGRESS_S: Final = 0.1
"""Least time between two words on how far a transmission has come."""

LATE_S: Final = 20.0
"""So long after its deadline a transmission waits for the report; then what was heard until then must do."""

_LEAST_WAIT_S: Final = 0.001  # a timer in the past must not keep the event loop
_BACKOFF_S: Final = (0.1, 2.0)  # between two tries to open a stream: at first, at most
_MOST_EVENTS: Final = 64  # progress is left out while a client that reads slowly has so many to read

Work: TypeAlias = Callable[[Callable[[], Revised | None]], Awaitable[Revised | None]]
"""Has something computed in a worker thread."""

Open: TypeAlias = Callable[[Callable[[], None]], RelayStream]
"""Opens another stream of the same transmission; is given what to call when something comes."""


@dataclass(frozen=True)
class Patience:
    """How long a transmission is waited for."""

    stall_s: float
    """Seconds without any movement after which it is given up."""
    resume_s: float = 0.0
    """Seconds for which a stream that broke is opened again; 0: not at all."""


async def send(
    stream: RelayStream, again: Open, course: Course, work: Work, patience: Patience
) -> AsyncGenerator[Event, None]:
    """Carries out a transmission, yielding progress and, last, how it ended at the receiver.

    Sending does not wait for whoever reads the events.

    Args:
        stream: the first one; it may have been opened a while ago. It is closed at the end, as are all others.
        again: opens another one.
        course: of the transmission; whatever becomes of it, it can be gone on with.
        work: where new plans are made.
        patience: when to give up.

    Raises:
        UnavailableError: the channel or the receiver behind it went away, and did not come back.
        DeadlineError: nothing moved for `patience.stall_s`.
        StreamError: the stream ended, and nothing tells what arrived.
    """
    driver = _Driver(stream, again, course, work, patience)
    running = asyncio.create_task(driver.run())
    try:
        while (event := await driver.events.get()) is not None:
            yield event
        await running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class _Driver:
    """One transmission under way; see `send`."""

    def __init__(self, stream: RelayStream, again: Open, course: Course, work: Work, patience: Patience) -> None:
        self._stream, self._open, self._course, self._work, self._patience = stream, again, course, work, patience
        self._loop = asyncio.get_running_loop()
        self.events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._changed = asyncio.Event()
        stream.changed = self._changed.set
        self._planning: asyncio.Task[Revised | None] | None = None
        self._moved_s = self._loop.time()
        self._told_s = -math.inf
        self._finished, self._finished_s = False, math.inf
        self._departed_before = 0
        self._resume_until_s: float | None = None
        self._taken_up = course.sender is not None

    async def run(self) -> None:
        """Until the transmission has ended, one way or the other."""
        try:
            self.events.put_nowait(await self._ended())
        finally:
            self.events.put_nowait(None)
            await self._leave()

    async def _ended(self) -> Ended:
        while True:
            self._changed.clear()
            self._hear()
            if self._over:
                return self._outcome()
            if self._stream.ended:
                await self._go_on()
                continue
            if not (self._stream.granted and await self._turn(self._begun())):
                await self._wait()

    async def _leave(self) -> None:
        """Leaves the course such that it can be gone on with."""
        await self._stream.aclose()
        if self._planning is not None:
            self._planning.cancel()
            await asyncio.gather(self._planning, return_exceptions=True)
            if self._course.sender is not None:
                self._course.sender.revise(None, self._loop.time())

    # ---- one turn ----------------------------------------------------------------------------------

    def _begun(self) -> Sender:
        """The sender, which begins or goes on when the channel has answered."""
        sender = self._course.begun(self._loop.time())
        if self._taken_up:
            self._rejoin(sender)
        self._taken_up = False
        return sender

    def _rejoin(self, sender: Sender) -> None:
        self._finished, self._moved_s = False, self._loop.time()
        self._course.go_on(sender, self._moved_s)

    def _hear(self) -> None:
        sender = self._course.sender
        for feedback, at_s in self._stream.fetch():
            if sender is not None:
                sender.take(feedback, at_s)
                self._course.heard.take(feedback, at_s)
                self._resume_until_s = None

    async def _turn(self, sender: Sender) -> bool:
        """Does what there is to be done now; False if nothing was."""
        self._revise(sender)
        moved = await self._hand_over(sender)
        if not self._finished:
            self._course.estimate = sender.estimate
        self._want(sender)
        self._tell(sender)
        return moved

    def _revise(self, sender: Sender) -> None:
        if self._planning is None or not self._planning.done():
            return
        planning, self._planning = self._planning, None
        self._moved_s = self._loop.time()
        revised = planning.result()
        sender.revise(None if revised is None else revised.packed, self._moved_s)
        if revised is not None:
            self._course.replanner.keep(revised)
            self.events.put_nowait(Replanned(revised, sender.estimate))

    async def _hand_over(self, sender: Sender) -> bool:
        if self._finished:
            return False
        packets = sender.give(self._loop.time(), max(self._stream.room_bytes, 0))
        for message in batches(packets, self._course.message_bytes):
            self._moved_s = self._loop.time()
            await self._write(message)
        if sender.done and not self._finished:
            self._finished, self._finished_s = True, self._loop.time()
            await self._stream.finish()
        return bool(packets)

    async def _write(self, packets: list[bytes]) -> None:
        try:
            async with asyncio.timeout(self._patience.stall_s):
                await self._stream.write(packets)
        except TimeoutError as error:
            raise self._stalled() from error

    def _want(self, sender: Sender) -> None:
        if self._planning is not None or self._finished:
            return
        wanted = sender.wanted(self._loop.time())
        if wanted is not None:
            self._planning = asyncio.create_task(self._planned(wanted))
            self._planning.add_done_callback(lambda _: self._changed.set())

    async def _planned(self, wanted: RevisionWanted) -> Revised | None:
        return await self._work(partial(self._course.replanner.revised, wanted))

    def _tell(self, sender: Sender) -> None:
        now = self._loop.time()
        if now - self._told_s < PROGRESS_S or self.events.qsize() >= _MOST_EVENTS:
            return
        self._told_s = now
        departed_bytes = self._departed_before + self._stream.departed_bytes
        self.events.put_nowait(self._course.sent(sender, departed_bytes))

    async def _wait(self) -> None:
        """Until something comes, or it is time to do or to say something.

        Raises:
            DeadlineError: it has been too long.
        """
        now, give_up_s = self._loop.time(), self._give_up_s
        if now >= give_up_s:
            raise self._stalled()
        wake_s = self._late_s if now < self._late_s else math.inf
        if self._course.sender is not None and not self._finished:
            wake_s = min(wake_s, self._course.sender.wake_s)
        with contextlib.suppress(TimeoutError):
            until_s = max(min(wake_s, give_up_s), now + _LEAST_WAIT_S)
            async with asyncio.timeout_at(until_s if until_s < math.inf else None):
                await self._changed.wait()

    @property
    def _give_up_s(self) -> float:
        """When it has been too long, unless something comes."""
        if self._planning is not None:
            return math.inf
        moved_s = max(self._moved_s, self._stream.heard_s)
        course = self._course
        if course.closed_loop and course.sender is not None:
            # Packets that only ever leave are no progress.
            moved_s = min(moved_s, course.heard.heard_s)
        return moved_s + self._patience.stall_s

    @property
    def _late_s(self) -> float:
        """When nobody waits for the report any longer; infinity without a deadline."""
        return math.inf if self._course.deadline_s is None else self._course.deadline_s + LATE_S

    def _stalled(self) -> DeadlineError:
        return DeadlineError(f"nothing moved on the channel for {self._patience.stall_s:g} s")

    # ---- the end -----------------------------------------------------------------------------------

    @property
    def _over(self) -> bool:
        """Whether all is known that will be."""
        if self._stream.ended:
            return self._stream.failure is None or (self._finished and self._stream.report is not None)
        report, sender = self._stream.report, self._course.sender
        if sender is None or not self._finished:
            return False
        if report is None:
            return self._loop.time() >= self._late_s and self._course.heard_report() is not None
        if report.outcome is not ReportOutcome.COMPLETE:
            # A receiver that had lost patience may have said so too.
            return self._stream.report_s >= self._finished_s
        # One that was said before the last revision came may say COMPLETE too: it knows of fewer bytes.
        stats = sender.stats
        if stats.revisions == 1:
            return True
        return report.received_bytes >= stats.sent_bytes - stats.again_bytes - stats.repair_bytes - stats.poll_bytes

    def _outcome(self) -> Ended:
        """By the receiver's last report; where it was lost, by what feedback tells."""
        sender, report = self._course.sender, self._stream.report or self._course.heard_report()
        if sender is not None and not sender.stats.sent_bytes and self._course.deadline_s is not None:
            raise DeadlineError("the deadline passed before anything could be sent")
        if sender is None or report is None:
            raise StreamError("the channel closed without a report from the receiver")
        return self._course.ended(sender, report, self._stream.report_s)

    # ---- a stream that broke -----------------------------------------------------------------------

    async def _go_on(self) -> None:
        """Takes up the transmission on a new stream.

        Raises:
            MmscError: why the old one ended, or the last one that was tried.
        """
        error = self._stream.failure
        assert error is not None
        if not self._stream.broken:
            raise error
        # Until the receiver is heard again it is the same break, however often a stream opens.
        if self._resume_until_s is None:
            self._resume_until_s = self._loop.time() + self._patience.resume_s
        until_s = min(self._resume_until_s, self._course.deadline_s or math.inf)
        for usual_s in pauses():
            pause_s = max(usual_s, error.retry_s) if isinstance(error, BusyError) else usual_s
            if self._loop.time() + pause_s > until_s:
                raise error
            await asyncio.sleep(pause_s)
            if await self._reopened(until_s):
                break
            error = self._stream.failure or error
            if not (self._stream.broken or isinstance(error, BusyError)):
                raise error
        if (sender := self._course.sender) is None:
            return
        self._rejoin(sender)
        if sender.done:  # not even a question is left in the budget, and nobody would say anything unasked
            raise error

    async def _reopened(self, until_s: float) -> bool:
        """Whether another stream has the channel's answer."""
        self._departed_before += self._stream.departed_bytes
        await self._stream.aclose()
        self._stream = self._open(self._changed.set)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until_s):
                while not (self._stream.granted or self._stream.ended):
                    self._changed.clear()
                    await self._changed.wait()
        return self._stream.granted and not self._stream.ended


def pauses() -> Iterator[float]:
    """Seconds between tries, growing, each anywhere between half and all of it, so that not all come at once."""
    pause_s, most_s = _BACKOFF_S
    while True:
        yield random.uniform(pause_s / 2, pause_s)  # noqa: S311 - nobody gains by guessing it
        pause_s = min(2 * pause_s, most_s)
