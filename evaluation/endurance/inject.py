"""Does to running services what a fault says, and mends it."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from evaluation.endurance.calls import set_link
from evaluation.endurance.clock import JumpingClock
from evaluation.endurance.disk import Disk
from evaluation.endurance.draws import Fault, Round
from evaluation.endurance.services import Services
from shared.stubs.mmsc.v1 import channel_pb2

_LARGEST_S: Final = 10 * 365 * 86_400


def good_link(drawn: Round) -> channel_pb2.LinkSettings:
    """The round's link with nothing wrong."""
    settings = channel_pb2.LinkSettings(
        rate_bps=drawn.rate_bps,
        propagation_s=drawn.propagation_s,
        queue_bytes=drawn.queue_bytes,
        seed=drawn.number,
    )
    settings.impairments.CopyFrom(_impairments())
    return settings


def _impairments(loss_rate: float = 0.0, bit_error_rate: float = 0.0) -> channel_pb2.Impairments:
    blackouts = channel_pb2.Blackouts()
    return channel_pb2.Impairments(loss_rate=loss_rate, bit_error_rate=bit_error_rate, blackouts=blackouts)


class Injector:
    """Strikes services.

    Args:
        services: those that run.
        disk: of the receiver.
        clock: the services' wall clock; None where it cannot be set.
    """

    def __init__(self, services: Services, disk: Disk, clock: JumpingClock | None) -> None:
        self._services, self._disk, self._clock = services, disk, clock

    @contextmanager
    def struck(self, drawn: Round) -> Iterator[None]:
        """The fault lasts as long as the context; after it, everything is ready again."""
        match drawn.fault.kind:
            case "stall":
                strike = self._stalled(drawn.fault)
            case "cut link" | "corrupt packets" | "lose packets":
                strike = self._bad_link(drawn)
            case "full disk":
                strike = self._full_disk(drawn.fault)
            case "full disk, kill receiver":
                strike = self._full_disk_and_killed(drawn)
            case "clock jump":
                strike = self._jumped(drawn.fault)
            case _:
                strike = self._killed(drawn)
        with strike:
            yield

    @contextmanager
    def _killed(self, drawn: Round) -> Iterator[None]:
        names = drawn.fault.services
        self._services.kill(names)
        try:
            yield
        finally:
            self._services.start(names)
            if "channel" in names:
                self._set(good_link(drawn))

    @contextmanager
    def _stalled(self, fault: Fault) -> Iterator[None]:
        for name in fault.services:
            self._services.signal(name, signal.SIGSTOP)
        try:
            yield
        finally:
            for name in fault.services:
                self._services.signal(name, signal.SIGCONT)

    @contextmanager
    def _bad_link(self, drawn: Round) -> Iterator[None]:
        settings = good_link(drawn)
        settings.ClearField("seed")
        match drawn.fault.kind:
            case "cut link":
                forever = channel_pb2.Blackouts(intervals=[channel_pb2.Interval(begin_s=0, end_s=3_600)])
                settings.impairments.blackouts.CopyFrom(forever)
            case "corrupt packets":
                settings.impairments.CopyFrom(_impairments(bit_error_rate=drawn.fault.amount))
            case _:
                settings.impairments.CopyFrom(_impairments(loss_rate=drawn.fault.amount))
        self._set(settings)
        try:
            yield
        finally:
            self._set(good_link(drawn))

    @contextmanager
    def _full_disk(self, fault: Fault) -> Iterator[None]:
        self._disk.fill(self._services.pid("receiver"), int(fault.amount))
        try:
            yield
        finally:
            self._disk.free(self._services.pid("receiver"))

    @contextmanager
    def _full_disk_and_killed(self, drawn: Round) -> Iterator[None]:
        with self._full_disk(drawn.fault):
            with self._killed(drawn):
                yield
            time.sleep(drawn.fault.hold_s)

    @contextmanager
    def _jumped(self, fault: Fault) -> Iterator[None]:
        """Jumps, jumps back, and stays somewhere else: nobody sets a clock right to the second."""
        assert self._clock is not None
        before_s = self._clock.offset_s
        self._clock.set_to(_within(before_s + int(fault.amount)))
        yield
        self._clock.set_to(_within(before_s - int(fault.amount) // 2))

    def _set(self, settings: channel_pb2.LinkSettings) -> None:
        set_link(self._services.addresses["channel"], settings)


def _within(offset_s: int) -> int:
    return max(min(offset_s, _LARGEST_S), -_LARGEST_S)
