"""The three services at addresses that stay, each of which can be killed, held up, and started again."""

import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

from client.child import Child, OnLine
from evaluation.endurance.draws import SERVICES
from shared.errors import UnavailableError

_MODULES: Final = {"transmitter": "transmitter", "channel": "channel_emulator", "receiver": "receiver"}
_START_S: Final = 120.0
_GRACE_S: Final = 8.0
_PORTS: Final = range(20_000, 30_000)  # below those that the system gives to whoever connects


class Services:
    """Three processes; a context manager that stops them at its end.

    Args:
        arguments: further arguments of a service's command line, by its name.
        on_line: told each line of the services' logs.

    Raises:
        UnavailableError: a service ended while it started.
        DeadlineError: they were not ready in time.
    """

    def __init__(self, arguments: Mapping[str, Sequence[str]] | None = None, on_line: OnLine | None = None) -> None:
        self._arguments, self._on_line = arguments or {}, on_line
        self.addresses = dict(zip(SERVICES, _free_addresses(len(SERVICES)), strict=True))
        """HOST:PORT by name."""
        self._children: dict[str, Child] = {}
        try:
            self.start(SERVICES)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> "Services":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def pid(self, name: str) -> int:
        """The process's number as long as it is not started again."""
        return self._children[name].pid

    def spawn(self, names: Iterable[str]) -> None:
        """Starts services without waiting until they are ready."""
        for name in names:
            command = self._command(name)
            self._children[name] = Child(name, _MODULES[name], command, ended=threading.Event(), on_line=self._on_line)

    def await_ready(self, names: Iterable[str]) -> None:
        """Waits for services that were spawned; errors as at the start."""
        until_s = time.monotonic() + _START_S
        for name in names:
            self._children[name].wait_ready(until_s)

    def start(self, names: Sequence[str]) -> None:
        """Starts services, all at once, and waits until they are ready."""
        self.spawn(names)
        self.await_ready(names)

    def kill(self, names: Iterable[str]) -> None:
        """SIGKILL; they are gone when this returns."""
        for name in names:
            self.signal(name, signal.SIGKILL)
            self._children[name].stop(time.monotonic() + _GRACE_S)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Sends a signal to a service that should be running.

        Raises:
            UnavailableError: it has ended by itself.
        """
        child = self._children[name]
        if child.has_ended:
            raise child.death()
        os.kill(child.pid, number)

    def check(self) -> None:
        """Raises UnavailableError, with the last line of its log, when a service has ended by itself."""
        for child in self._children.values():
            if child.has_ended:
                raise child.death()

    def stop(self) -> None:
        """Stops the services, in the order in which packets flow."""
        until_s = time.monotonic() + _GRACE_S
        for child in self._children.values():
            with suppress(ProcessLookupError, UnavailableError):
                self.signal(child.name, signal.SIGCONT)
            child.ask_to_stop()
        for child in self._children.values():
            child.stop(until_s)

    def resident_bytes(self) -> dict[str, int]:
        """Memory of each service that is running (VmRSS), in bytes."""
        return {name: resident_bytes(child.pid) for name, child in self._children.items() if not child.has_ended}

    def _command(self, name: str) -> Sequence[str]:
        onwards = {"transmitter": ("--channel", "channel"), "channel": ("--receiver", "receiver")}
        command = ["--listen", self.addresses[name], "--metrics-listen", ""]
        if name in onwards:
            option, following = onwards[name]
            command += [option, self.addresses[following]]
        return (*command, *self._arguments.get(name, ()))


def resident_bytes(pid: int) -> int:
    """Memory of a running process (VmRSS), in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def _free_addresses(count: int) -> list[str]:
    """Addresses of ports that nobody is given by chance while their service is down."""
    found: list[str] = []
    ports = random.sample(_PORTS, len(_PORTS))
    while len(found) < count:
        port = ports.pop()
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            found.append(f"127.0.0.1:{port}")
    return found
