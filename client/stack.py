"""The three services on this machine, started together and stopped together.

```
transmitter ──packets──► channel emulator ──packets──► receiver        each a process of its own, on loopback
```
"""

import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final

from client.api import Client
from client.child import Child, OnLine
from client.requests import Link
from shared.errors import InvalidInputError
from shared.tls import Access

_ANY_PORT: Final = "127.0.0.1:0"


@dataclass(frozen=True)
class StackConfig:
    """Where the services listen and what the link is like at the start."""

    transmitter: str = _ANY_PORT
    """HOST:PORT of the transmitter; port 0 picks a free one, as for the others."""

    channel: str = _ANY_PORT
    """HOST:PORT of the channel emulator."""

    receiver: str = _ANY_PORT
    """HOST:PORT of the receiver."""

    link: Link = field(default_factory=Link)
    """The link at the start; what is None is left to the emulator."""

    arguments: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Further arguments of a service's command line, by its name: certificates, tokens, limits."""

    access: Access = field(default_factory=Access)
    """What a client of these services shows them."""

    start_timeout_s: float = 120.0
    """Seconds until all three must be ready; importing torch takes most of them on a busy machine."""

    grace_s: float = 8.0
    """Seconds from SIGTERM to SIGKILL, for each service."""


class LocalStack:
    """The three services; a context manager.

    Args:
        config: addresses, link and deadlines.
        on_line: told each line of the services' logs.

    Raises:
        UnavailableError: a service ended while it started; the message is the last line of its log.
        DeadlineError: they were not ready in time.
        InvalidInputError: an address cannot be listened on.
    """

    def __init__(self, config: StackConfig | None = None, on_line: OnLine | None = None) -> None:
        self._config = config or StackConfig()
        self._on_line = on_line
        self._ended = threading.Event()
        self._children: list[Child] = []
        self.transmitter = self.channel = self.receiver = ""
        try:
            self._start(time.monotonic() + self._config.start_timeout_s)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> "LocalStack":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def client(self, timeout_s: float = 60.0) -> Client:
        """A client of these services; the caller closes it."""
        return Client(self.transmitter, self.channel, self.receiver, timeout_s, self._config.access)

    @property
    def pids(self) -> dict[str, int]:
        """The services' process numbers by name."""
        return {child.name: child.pid for child in self._children}

    def check(self) -> None:
        """Raises UnavailableError, with the last line of its log, when a service has ended."""
        for child in self._children:
            if child.has_ended:
                raise child.death()

    def wait(self) -> None:
        """Waits until a service ends, and raises as `check` does."""
        self._ended.wait()
        # The output closes an instant before the process is gone.
        while True:
            self.check()
            time.sleep(0.01)

    def stop(self) -> None:
        """Stops the services one after the other, in the order in which packets flow.

        What the transmitter still has under way needs the other two until the end.
        """
        for child in self._children:
            child.ask_to_stop()
            child.stop(time.monotonic() + self._config.grace_s)

    def _start(self, until_s: float) -> None:
        """Starts all at once: the two that import torch take seconds, and need only each other's addresses."""
        config = self._config
        receiver, channel = _reserved(config.receiver, "receiver"), _reserved(config.channel, "channel")
        link = config.link.to_arguments()
        self._run("transmitter", "transmitter", ("--listen", config.transmitter, "--channel", channel))
        self._run("channel", "channel_emulator", ("--listen", channel, "--receiver", receiver, *link))
        self._run("receiver", "receiver", ("--listen", receiver))
        ready = {child.name: child.wait_ready(until_s) for child in self._children}
        self.transmitter, self.channel, self.receiver = (
            ready["transmitter"],
            ready["channel"],
            ready["receiver"],
        )

    def _run(self, name: str, module: str, arguments: Sequence[str]) -> None:
        arguments = (*arguments, "--metrics-listen", "", *self._config.arguments.get(name, ()))
        self._children.append(Child(name, module, arguments, ended=self._ended, on_line=self._on_line))


def _reserved(listen: str, name: str) -> str:
    """HOST:PORT with a free port in place of port 0, known before the service has started."""
    host, _, port = listen.rpartition(":")
    if port != "0":
        return listen
    try:
        with socket.socket() as probe:
            probe.bind((host, 0))
            return f"{host}:{probe.getsockname()[1]}"
    except OSError as error:
        raise InvalidInputError(name, f"cannot listen on {listen!r}: {error.strerror}") from error
