"""What a ledger's lines are: packets, copies of them, and what feedback says of them."""

from bisect import bisect_right
from dataclasses import dataclass, field
from enum import Enum
from operator import itemgetter
from typing import TypeAlias

from shared.feedback import Arrived
from shared.packets import PacketKind

Name: TypeAlias = tuple[PacketKind, int, int]
"""Kind, revision and position."""


class State(Enum):
    """How far a packet has come."""

    WAITING = "never handed over"
    FLYING = "handed over"
    LOST = "did not arrive, may be sent again"
    ARRIVED = "arrived"
    DROPPED = "given up"


@dataclass(slots=True, eq=False)
class Entry:
    """A packet of the header or with patches."""

    kind: PacketKind
    revision: int
    index: int
    """Which of its revision's HEADER or PATCHES packets."""
    position: int
    patches: int
    data: bytes
    refines: bool = False
    """Whether its patches can be shown, more coarsely, without it."""
    state: State = State.WAITING
    sends: int = 0
    flying: int = 0
    """Copies of which nothing is known."""
    kept: bool = True
    """Whether it is sent again if it gets lost: no later revision holds its patches."""

    @property
    def rank(self) -> tuple[bool, int, bool, int]:
        """Sending order: headers first, but for those of further scans, then what was planned earlier."""
        patches = self.kind is not PacketKind.HEADER
        return patches or self.refines, self.revision, patches, self.index

    @property
    def is_open(self) -> bool:
        """Whether it is to be sent, for the first time or again."""
        return self.state in (State.WAITING, State.LOST)

    def __lt__(self, other: "Entry") -> bool:
        return self.rank < other.rank


@dataclass(slots=True, eq=False)
class Handed:
    """One packet at the time it was handed over; a copy is another."""

    order: int
    name: Name
    size: int
    at_s: float
    end_bytes: int
    """Bytes handed over up to its end."""
    entry: Entry | None
    """None for POLL and REPAIR."""
    alone: bool
    """Whether no other packet had its name before."""
    passed_s: float | None = None
    """When it was first known that a later one had arrived."""


@dataclass
class Resolved:
    """What feedback has brought to light."""

    arrived: list[Handed] = field(default_factory=list)
    lost: list[Handed] = field(default_factory=list)
    newest: Handed | None = None
    """The packet that came last, if it was handed over later than the last newest one."""
    revived: int = 0
    """Packets that had been taken for lost, and have arrived."""


def shows(states: dict[int, Arrived], entry: Entry) -> bool:
    """Whether feedback tells that a packet arrived."""
    state = states.get(entry.revision)
    if state is None:
        return False
    if entry.kind is PacketKind.HEADER:
        return state.header
    place = bisect_right(state.runs, entry.position, key=itemgetter(0)) - 1
    return place >= 0 and entry.position + entry.patches <= state.runs[place][1]
