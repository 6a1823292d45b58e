"""One service as a child process: started, awaited until it is ready, and stopped without leaving anything."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import IO

from shared.errors import DeadlineError, UnavailableError

_KEPT_LINES = 20
_CLOSING_S = 2.0

OnLine = Callable[[str, str], None]
"""Told the service's name and a line of its log."""


class Child:
    """A running service.

    Args:
        name: the service's name, for messages.
        module: the Python module that runs it.
        arguments: its command line.
        ended: set when any child of a stack has ended.
        on_line: told each line of its log.
    """

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        *,
        ended: threading.Event,
        on_line: OnLine | None = None,
    ) -> None:
        self.name = name
        self._log: deque[str] = deque(maxlen=_KEPT_LINES)
        self._address = ""
        self._settled = threading.Event()
        self._ended, self._on_line = ended, on_line
        self._process = _spawn(module, arguments)
        readers = (self._read_output, self._read_log)
        self._threads = [threading.Thread(target=reader, daemon=True) for reader in readers]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def wait_ready(self, until_s: float) -> str:
        """Waits for the ready line.

        Args:
            until_s: `time.monotonic()` to wait until.

        Returns:
            HOST:PORT that the service listens on.

        Raises:
            UnavailableError: it ended instead; the message is the last line of its log.
            DeadlineError: it did neither.
        """
        if not self._settled.wait(max(until_s - time.monotonic(), 0)):
            raise DeadlineError(f"{self.name} was not ready in time")
        if not self._address:
            raise self.death()
        return self._address

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def death(self) -> UnavailableError:
        """Why the service ended, as far as its log tells."""
        self._join(_CLOSING_S)
        said = next((line for line in reversed(self._log) if line.strip()), "it said nothing")
        return UnavailableError(f"{self.name} ended with code {self._process.poll()}: {said.strip()}")

    def ask_to_stop(self) -> None:
        """Sends SIGTERM; returns at once."""
        if not self.has_ended:
            self._process.send_signal(signal.SIGTERM)

    def stop(self, until_s: float) -> None:
        """Waits for the process to end, and kills it when it has not by `until_s` (monotonic seconds)."""
        try:
            self._process.wait(max(until_s - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._join(_CLOSING_S)

    def _join(self, timeout_s: float) -> None:
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return
        for thread in self._threads:
            thread.join(timeout_s)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            _pipe(pipe).close()

    def _read_output(self) -> None:
        for line in _pipe(self._process.stdout):
            self._address = self._address or _ready_address(line)
            if self._address:
                self._settled.set()
        self._settled.set()
        self._ended.set()

    def _read_log(self) -> None:
        for line in _pipe(self._process.stderr):
            self._log.append(line)
            if self._on_line is not None:
                self._on_line(self.name, line.rstrip())


def _spawn(module: str, arguments: Sequence[str]) -> subprocess.Popen[str]:
    # -P: a directory called `shared` where the user happens to stand must not be taken for ours.
    command = [sys.executable, "-P", "-m", "client.supervised", module, *arguments]
    pipe = subprocess.PIPE
    # Its own process group: Ctrl-C reaches the parent alone, which then stops the services in order.
    return subprocess.Popen(  # noqa: S603 - no shell, and the program is this very interpreter
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, errors="replace", process_group=0
    )


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def _ready_address(line: str) -> str:
    """HOST:PORT of a ready line, empty for any other line."""
    try:
        ready = json.loads(line)
    except ValueError:
        return ""
    return str(ready.get("listen", "")) if isinstance(ready, dict) else ""
