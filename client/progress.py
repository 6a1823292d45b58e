"""Tells a person who waits what is going on; says nothing where nobody looks."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from shared.stubs.mmsc.v1 import transmitter_pb2


class Waiting:
    """A line on standard error with what is being waited for, and a bar once bytes are counted.

    Args:
        progress: where it is drawn.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID = progress.add_task("", total=None)

    def say(self, what: str) -> None:
        """Names the next thing that is waited for."""
        self._progress.update(self._task, description=what, total=None, completed=0)

    def on_event(self, event: transmitter_pb2.TransmitResponse) -> None:
        """Follows a transmission's events."""
        match event.WhichOneof("event"):
            case "relevance":
                self.say("planning")
            case "plan":
                sending = f"sending {event.plan.wire_bytes:,} bytes"
                self._progress.update(self._task, description=sending, total=event.plan.wire_bytes, completed=0)
            case "progress":
                self._progress.update(self._task, completed=event.progress.departed_bytes)
            case "delivered":
                self.say("fetching the picture")


@contextmanager
def waiting() -> Iterator[Waiting]:
    """Shows progress on standard error while the context lasts, if that is a terminal, and clears it after."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    progress = Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
        # Lines for a terminal go above the bar; what is piped elsewhere must get there.
        redirect_stdout=sys.stdout.isatty(),
    )
    with progress:
        yield Waiting(progress)
