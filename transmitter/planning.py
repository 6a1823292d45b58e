"""Plans, and what a codec's sending half must offer to make them; pipeline, packets and events know no more.

```
picture ─► SenderCodec.prepare ─► PreparedPicture ─┐
relevance, PlanRequest ────────────────────────────┴─► plan ─► Plan: header, levels, bodies ─► pack ─► packets
```
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from shared.arrays import BoolArray, Float32Array, Int64Array, UInt8Array
from shared.codec.registry import CodecEntry, codec_numbered
from shared.errors import InvalidInputError
from shared.packets import PACKET_HEADER_BYTES, SCAN_TABLE, SECTION_HEADER_BYTES, StreamHeader
from shared.patches import PatchGrid

RATE_DISTORTION: Final = "rate-distortion"
"""The strategy that every codec has: the most relevance-weighted reduction of error."""

STRATEGY_NAMES: Final = (RATE_DISTORTION, "greedy", "vit-sc")
"""How a budget may be spread over the patches; which of them a codec has, it says itself."""


@dataclass(frozen=True)
class PlanRequest:
    """What a plan is made for."""

    budget_bytes: int
    """Bytes that may cross the channel, everything counted."""
    packet_bytes: int
    """Largest packet, its header of PACKET_HEADER_BYTES included."""
    strategy: str = RATE_DISTORTION
    """One of the codec's strategies."""
    frame_bytes: int = 0
    """What a container puts before each packet; counts against the budget."""
    scans: int = 1
    """In how many scans the patches may be sent, each making finer what the one before brought; from 1. A codec that
    knows no scans sends one."""
    enough: float = 0.991
    """Part of the budget from which on nothing fuller is looked for; above 0, below 1."""


@dataclass(frozen=True)
class Body:
    """What one PATCHES packet carries."""

    position: int
    """Ordinal of its first patch in sending order."""
    patches: int
    """How many it holds, at least 1."""
    content: bytes
    """At most `packet_bytes - PACKET_HEADER_BYTES`."""


@dataclass(frozen=True)
class Plan:
    """What will cross the channel."""

    header: StreamHeader
    levels: UInt8Array
    """(patches,) in raster order."""
    bodies: tuple[Body, ...]
    """In the order of sending."""
    packet_bytes: int
    """Largest packet."""
    frame_bytes: int = 0
    """What a container puts before each packet."""
    scans: tuple[tuple[Body, ...], ...] = ()
    """Bodies of the second scan, the third ...: each goes on where the one at its position in the scan before ends."""

    @property
    def codec(self) -> CodecEntry:
        """The codec that the header names."""
        return codec_numbered(self.header.codec)

    @property
    def level_counts(self) -> Int64Array:
        """(levels,) patches at each level."""
        return np.bincount(self.levels, minlength=self.codec.levels)

    @property
    def content_bytes(self) -> int:
        """Bytes of the patches alone."""
        return sum(len(body.content) for scan in (self.bodies, *self.scans) for body in scan)

    @property
    def wire_bytes(self) -> int:
        """Every byte that the plan puts on the channel."""
        first = wire_bytes(len(self.header.to_bytes()), [len(body.content) for body in self.bodies], self)
        return first + sum(wire_bytes(SECTION_HEADER_BYTES, _sizes(scan), self) for scan in self.scans)

    @property
    def scan_header(self) -> StreamHeader:
        """That of each further scan."""
        return StreamHeader(self.header.codec, self.header.weights_hash, self.header.grid, b"", b"", SCAN_TABLE)


def _sizes(bodies: Collection[Body]) -> list[int]:
    return [len(body.content) for body in bodies]


class Packaging(Protocol):
    """What says how much a packet takes beyond its content: a plan, or the request for one."""

    @property
    def packet_bytes(self) -> int:
        """Largest packet."""
        ...

    @property
    def frame_bytes(self) -> int:
        """What a container puts before each packet."""
        ...


def wire_bytes(header_section_bytes: int, body_bytes: Collection[int], packaging: Packaging) -> int:
    """Bytes on the channel of a header section and of bodies, with what goes around them.

    Args:
        header_section_bytes: of `StreamHeader.to_bytes`.
        body_bytes: of each body.
        packaging: how they are packed.
    """
    header_packets = -(-header_section_bytes // (packaging.packet_bytes - PACKET_HEADER_BYTES))
    around = (header_packets + len(body_bytes)) * (PACKET_HEADER_BYTES + packaging.frame_bytes)
    return header_section_bytes + sum(body_bytes) + around


@dataclass(frozen=True, eq=False)
class Earlier:
    """An earlier revision of a transmission, and what has become of it."""

    plan: Plan
    served: BoolArray
    """(patches that the plan sends,) in the order of sending: whether each is there, or on its way."""
    missing_scans: Int64Array | int = 0
    """(patches that the plan sends,) how many of the further scans of each are neither there nor on their way."""

    def numbers(self, order: Int64Array) -> Int64Array:
        """Numbers of the patches that are served.

        Args:
            order: (patches that the plan sends,) their numbers in the order of sending.

        Raises:
            InvalidInputError: `served` says nothing of some of them, or something of others.
        """
        if self.served.shape != order.shape:
            raise InvalidInputError("earlier", f"{self.served.size} of {order.size} patches are accounted for")
        return order[self.served]


def check_earlier(earlier: Sequence[Earlier], codec: CodecEntry, grid: PatchGrid) -> None:
    """Raises InvalidInputError unless there are earlier revisions and all are of this codec and grid."""
    headers = [revision.plan.header for revision in earlier]
    if not headers or any((header.codec, header.grid) != (codec.number, grid) for header in headers):
        raise InvalidInputError("earlier", "a revision follows a first plan of the same picture and codec")


def worth_sending(revision: Plan) -> bool:
    """Whether a revision brings at least as many bytes of patches as it takes to say whose they are."""
    return 2 * revision.content_bytes >= revision.wire_bytes


def earlier_plans(plans: Sequence[Plan], served: Sequence[BoolArray]) -> list[Earlier]:
    """Brings together plans and what is served of each of their scans.

    Args:
        plans: so far, the first one first.
        served: for every revision, scans among them, (expected,) in the order of sending; see `RevisionWanted`.

    Raises:
        ValueError: there are more or fewer scans than the plans have.
    """
    if len(served) != sum(1 + len(plan.scans) for plan in plans):
        raise ValueError("served tells of more or fewer scans than there are")
    rest = iter(served)
    return [_earlier(plan, next(rest), [next(rest) for _ in plan.scans]) for plan in plans]


def _earlier(plan: Plan, served: BoolArray, scans: Sequence[BoolArray]) -> Earlier:
    missing = np.zeros(len(served), np.int64)
    for bodies, there in zip(plan.scans, scans, strict=True):
        for body in bodies:
            place = slice(body.position, body.position + body.patches)
            missing[place] += ~there[place]
    return Earlier(plan, served, missing)


class PreparedPicture(Protocol):
    """A picture on its way through a codec, with all that its plans share computed; for one thread at a time."""

    def plan(self, relevance: Float32Array, request: PlanRequest) -> Plan:
        """Makes the most of a budget.

        Args:
            relevance: (height, width), 0 to 1; 0 everywhere lets content alone decide.
            request: budget, packets and strategy.

        Returns:
            A plan with `wire_bytes <= request.budget_bytes`.

        Raises:
            BudgetTooSmallError: not even the stream header fits.
        """
        ...

    def replan(self, relevance: Float32Array, request: PlanRequest, earlier: Sequence[Earlier]) -> Plan | None:
        """Makes the most of a budget when some of a picture is there already.

        Args:
            relevance: as it was for the first plan.
            request: budget, packets and strategy; the budget is for this revision alone.
            earlier: every revision of the transmission so far, the first plan first.

        Returns:
            A plan with `wire_bytes <= request.budget_bytes` that skips what is good enough as it is. Its header has
            no sketch: that of the first plan counts. None where nothing is worth sending in that budget.

        Raises:
            InvalidInputError: `earlier` is not of this picture.
        """
        ...


class SenderCodec(Protocol):
    """The sending half of a codec."""

    @property
    def entry(self) -> CodecEntry:
        """Its name, number and levels."""
        ...

    @property
    def weights_hash(self) -> bytes:
        """4 bytes that the stream header carries: they differ where what the receiver must have differs."""
        ...

    @property
    def strategies(self) -> Collection[str]:
        """Those of STRATEGY_NAMES that it has."""
        ...

    def prepare(self, image: UInt8Array) -> PreparedPicture:
        """Computes what all plans of a picture, (height, width, 3) RGB, have in common."""
        ...

    def plan_exactly(self, image: UInt8Array, *, packet_bytes: int, frame_bytes: int = 0) -> Plan:
        """Puts every patch of a picture, (height, width, 3) RGB, at the exact level, whatever bytes that takes."""
        ...
