"""What a system must offer to be measured; the measuring knows no more than this."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from shared.arrays import UInt8Array
from transmitter.relevance import Relevance

if TYPE_CHECKING:
    from evaluation.transmission.photo import Photo


@dataclass(frozen=True)
class Outcome:
    """What one system made of one photo within one budget."""

    picture: UInt8Array
    """(height, width, 3) RGB as the receiver shows it."""

    wire_bytes: int
    """Every byte that crosses the channel, or of the file."""

    fits: bool
    """False where the system has nothing as small as the budget; `picture` is then its smallest."""

    setting: str
    """What the search settled on, in words."""

    encode_s: float
    """Seconds that coding took as far as the budget does not matter for it, or of the one file that was chosen."""

    plan_s: float | None = None
    """Seconds of allocation, coding to the budget, and packing; none where nothing is planned."""

    levels: UInt8Array | None = None
    """(rows, columns) level of each patch; none where there are no levels."""

    level_count: int = 0
    """How many levels the codec has, skipped and exact included."""


class Sender(Protocol):
    """A system, prepared for one photo and one relevance map."""

    def send(self, budget_bytes: int) -> Outcome:
        """What arrives when at most so many bytes may be spent.

        The same budget gives the same picture, whatever was asked before.
        """
        ...


@dataclass(frozen=True)
class Codec:
    """One way to spend bytes, as the part of a system's name after the colon says."""

    name: str
    """As in `--systems`."""

    prepare: "Callable[[Photo, Relevance], Sender]"
    """Gets the photo and what is relevant in it; a codec that looks at the photo alone ignores the latter."""

    uses_relevance: bool
    """Whether the name may say where the relevance comes from."""
