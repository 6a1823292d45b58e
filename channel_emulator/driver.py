"""Runs the link model on the event loop's clock: one timer for all, and one port per stream."""

import asyncio
import math
from collections import deque
from collections.abc import Iterable
from typing import Final

from channel_emulator.bank import LinkBank
from channel_emulator.link import StreamAccount
from channel_emulator.settings import LinkSettings

TICK_S: Final = 0.001
"""Least time between two wake-ups for packets: on a fast link, those due within it leave in one message."""


class LinkPort:
    """What came out of the link for one stream."""

    def __init__(self, stream: int, account: StreamAccount, arrived: asyncio.Event | None = None) -> None:
        self.stream = stream
        self.account = account
        """Credit, bytes departed and bytes queued, as of the last event."""
        self.packets: deque[bytes] = deque()
        """What came out and was not fetched yet, in order."""
        self.packets_bytes = 0
        self.ended = False
        """Whether the end of the stream came out."""
        self.arrived = arrived or asyncio.Event()
        """Set when packets or the end came out."""
        self.changed = asyncio.Event()
        """Set when the account changed or the end came out."""

    def deliver(self, packet: bytes | None) -> None:
        """Takes what came out; None is the end."""
        if packet is None:
            self.ended = True
            self.changed.set()
        else:
            self.packets.append(packet)
            self.packets_bytes += len(packet)
        self.arrived.set()

    def fetch(self, limit_bytes: float = math.inf) -> list[bytes]:
        """Removes and returns packets that came out, up to a number of bytes, but one packet at least."""
        fetched: list[bytes] = []
        size = 0
        while self.packets and (not fetched or size + len(self.packets[0]) <= limit_bytes):
            fetched.append(self.packets.popleft())
            size += len(fetched[-1])
        self.packets_bytes -= size
        if not self.packets:
            self.arrived.clear()
        return fetched

    def update(self, account: StreamAccount) -> None:
        """Takes the stream's account as it now stands."""
        if account != self.account:
            self.account = account
            self.changed.set()


class LinkDriver:
    """Owns one direction of the channel and the timer that wakes for its next event.

    The timer may be late by as much as the loop is: departures follow the link's own virtual clock. Belongs to
    the event loop in which it was made.
    """

    def __init__(self, settings: LinkSettings, name: str = "forward") -> None:
        self._loop = asyncio.get_running_loop()
        self.link = LinkBank(settings, self._loop.time(), name)
        self._ports: dict[int, LinkPort] = {}
        self._opened = 0
        self._timer: asyncio.TimerHandle | None = None
        self._last_run_s = -math.inf

    def now_s(self) -> float:
        """The emulator's monotonic clock, in seconds."""
        return self._loop.time()

    def open(self, arrived: asyncio.Event | None = None) -> LinkPort:
        """Adds a stream.

        Args:
            arrived: set when something comes out, in place of an event of the port's own.
        """
        self._opened += 1
        self.link.open(self._opened, self.now_s())
        port = self._ports[self._opened] = LinkPort(self._opened, self.link.account(self._opened), arrived)
        return port

    def offer(self, port: LinkPort, packets: Iterable[bytes]) -> None:
        """Hands over packets; what exceeds the queue is dropped."""
        now = self.now_s()
        self.link.offer_all(port.stream, packets, now)
        # A link so fast that all of it has departed meanwhile need not wait for the timer.
        if self.link.all_departs_by(self.now_s()):
            self._run()
        else:
            port.update(self.link.account(port.stream))
            self._arm()

    def finish(self, port: LinkPort) -> None:
        """Ends a stream after what was handed over so far."""
        self.link.finish(port.stream, self.now_s())
        self._arm()

    def close(self, port: LinkPort) -> None:
        """Forgets a stream and discards what it has under way."""
        del self._ports[port.stream]
        self.link.close(port.stream, self.now_s())
        self._arm()

    def configure(self, settings: LinkSettings, *, restart_random: bool, restart_rate: bool) -> None:
        """Changes the settings from now on; see Link."""
        self.link.configure(settings, self.now_s(), restart_random=restart_random, restart_rate=restart_rate)
        self._run()

    def stop(self) -> None:
        """Stops the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _run(self) -> None:
        self._last_run_s = self.now_s()
        for delivery in self.link.poll(self._last_run_s):
            if port := self._ports.get(delivery.stream):
                port.deliver(delivery.packet)
        for stream, port in self._ports.items():
            port.update(self.link.account(stream))
        self._arm()

    def _arm(self) -> None:
        self.stop()
        at_s = max(self.link.next_event_s, self._last_run_s + TICK_S)
        if at_s < math.inf:
            self._timer = self._loop.call_at(at_s, self._run)
