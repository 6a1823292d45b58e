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
        self._sent_bytes = 0
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
            case "replanned":
                total = self._sent_bytes + event.replanned.wire_bytes
                self._progress.update(self._task, description=replan_text(event.replanned), total=total)
            case "progress":
                self._sent_bytes = event.progress.sent_bytes
                self._progress.update(self._task, completed=event.progress.departed_bytes)
            case "delivered":
                self.say("fetching the picture")


def replan_text(replanned: transmitter_pb2.Replanned) -> str:
    """One line on a plan made anew."""
    less = replanned.reason == transmitter_pb2.REPLAN_REASON_LESS_ROOM
    why = "the link carries less" if less else "there is more room"
    return f"planned anew, {why}: {replanned.wire_bytes:,} bytes; {estimate_text(replanned.estimate)}"


def estimate_text(estimate: transmitter_pb2.LinkEstimate) -> str:
    """What the link seems to be like, for a person."""
    return f"link about {rate_text(estimate.rate_bps)}, {100 * estimate.loss_rate:.2g} % lost"


def rate_text(rate_bps: float) -> str:
    """A bit rate with its unit, to three digits."""
    for unit, size in (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)):
        if rate_bps >= size:
            return f"{rate_bps / size:.3g} {unit}"
    return f"{rate_bps:.3g} bit/s"


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
