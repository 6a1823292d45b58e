"""The words that the transport, the planner and the edge share.

```
Plan ─► pack_revision ─► PackedRevision ─► Sender.give ─► channel
                              ▲                │ ▲
          planner ◄─── RevisionWanted ◄────────┘ └──── Feedback ◄─ channel
```
"""

from dataclasses import dataclass, field
from typing import Final

from shared.arrays import BoolArray

USUAL_REPLAN_S: Final = 0.2
"""What a new plan takes of a photo of the paper's size."""


@dataclass(frozen=True)
class PatchesPacket:
    """A PATCHES packet that can be sent any number of times."""

    position: int
    """Ordinal of its first patch in the revision's sending order."""
    patches: int
    """How many it holds, at least 1."""
    data: bytes
    """As it crosses the channel."""


@dataclass(frozen=True)
class PackedRevision:
    """A plan as packets."""

    number: int
    """0 for the first plan, then rising by one, below `shared.packets.MAX_REVISIONS`."""
    header: tuple[bytes, ...]
    """HEADER packets as they cross the channel, at least one."""
    patches: tuple[PatchesPacket, ...]
    """In the order of sending, most important first; their ordinals rise, in a first scan without a gap."""
    scans: tuple["PackedRevision", ...] = ()
    """The further scans of the same plan, as revisions of their own, numbered on from this one."""

    @property
    def expected(self) -> int:
        """Patches that the revision announces."""
        return self.patches[-1].position + self.patches[-1].patches if self.patches else 0

    @property
    def wire_bytes(self) -> int:
        """Bytes of all packets, each sent once, without the further scans."""
        return sum(map(len, self.header)) + sum(len(packet.data) for packet in self.patches)

    @property
    def packets(self) -> list[bytes]:
        """All packets, in the order of sending, scan after scan."""
        scans = (self, *self.scans)
        return [data for scan in scans for data in (*scan.header, *(packet.data for packet in scan.patches))]

    @property
    def whole_bytes(self) -> int:
        """Bytes of all packets of all scans, each sent once."""
        return sum(scan.wire_bytes for scan in (self, *self.scans))


@dataclass(frozen=True, eq=False)
class RevisionWanted:
    """A new plan is wanted for what is neither there nor on its way."""

    number: int
    """What the new revision is to be called."""
    budget_bytes: int
    """What it may take in all, each packet sent once."""
    packet_bytes: int
    """Largest packet."""
    served: tuple[BoolArray, ...]
    """For every revision so far, scans among them, (its expected patches,) in sending order: those that are there or on
    their way."""
    scans: int = 1
    """In how many scans it is to be sent."""
    hurried: bool = False
    """Whether it should come soon rather than use every byte."""


@dataclass(frozen=True)
class LinkEstimate:
    """What is believed of a link before, while and after it is used."""

    rate_bps: float
    """Bits per second that the link is going to carry, 1 or more."""
    rate_spread: float
    """Standard deviation of the rate over its mean, 0 or more."""
    loss_rate: float
    """Share of the packets that do not arrive, 0 to 1: the expected value."""
    loss_at_most: float
    """A share that is exceeded in one case of ten, given how many packets were seen, 0 to 1."""
    burst_packets: float
    """Mean length of a row of lost packets, 1 or more."""
    round_trip_s: float
    """Seconds from handing a packet over to hearing of its arrival, without the queue; what was least of late."""


@dataclass(frozen=True)
class SenderSettings:
    """What a transmission may take."""

    budget_bytes: int
    """Every byte handed to the channel counts; with a deadline this may be more than the link carries by then."""
    deadline_s: float | None = None
    """When sending ends and the picture must be there, on the clock of `now`; None: whenever the budget is used."""
    closed_loop: bool = True
    """False: sends the first plan as it is, whatever happens; for comparison."""
    packet_bytes: int = 1_200
    """Largest packet."""
    replan_s: float = USUAL_REPLAN_S
    """Seconds that a new plan is expected to take."""


@dataclass
class SenderStats:
    """What a transmission took."""

    sent_bytes: int = 0
    """Everything handed to the channel."""
    sent_packets: int = 0
    again_bytes: int = 0
    """Of that, packets sent once more."""
    repair_bytes: int = 0
    """Of that, REPAIR packets, and copies sent before anything was known to be lost."""
    poll_bytes: int = 0
    lost_packets: int = 0
    """Packets that were found not to have arrived, copies counted one by one."""
    revisions: int = 1
    """Plans made, the first among them."""
    dropped_patches: int = 0
    """Patches that were announced and given up, because time or bytes ran out."""
    estimate: LinkEstimate | None = None
    """The last one."""
    rates_bps: list[tuple[float, float]] = field(default_factory=list)
    """(now, estimated rate) whenever the estimate changed by more than a twentieth."""
