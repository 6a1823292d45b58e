"""The main path: from an uploaded picture and a query to the packets on the channel.

```
upload ─► read_picture ─► extractor ──────┐
              │                           ├─► plan ─► pack ─► channel
              └────────► codec.prepare ───┘      └──► Replanner, for what the link turns out to carry
```
Every stage is a plain function of arrays and bytes; clocks come in from outside, sockets stay in `server.py`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np

from shared.arrays import Float32Array, UInt8Array
from shared.codec.registry import codec_named
from shared.errors import BudgetTooSmallError, InvalidInputError
from shared.packets import DEFAULT_PACKET_BYTES, MAX_PACKET_BYTES, MIN_PACKET_BYTES
from shared.patches import PatchGrid
from shared.pictures import read_picture, read_relevance
from transmitter.budget import LARGEST_BYTES, Budget, checked_deadline_s
from transmitter.packing import pack_revision
from transmitter.planning import RATE_DISTORTION, STRATEGY_NAMES, Plan, PlanRequest, PreparedPicture, SenderCodec
from transmitter.relevance.contract import Relevance, RelevanceExtractor
from transmitter.relevance.registry import EXTRACTORS
from transmitter.replanning import Replanner
from transmitter.transport.contract import PackedRevision

MAX_QUERY_CHARACTERS = 2_000
"""What is read of a query; the rest is left unread."""


class FirstPlan(NamedTuple):
    """What the first plan may take."""

    budget_bytes: int
    packet_bytes: int
    """Largest packet."""
    scans: int = 1
    """In how many scans it may be sent."""


Allowance: TypeAlias = Callable[[int, int], FirstPlan]
"""Of the bytes that a transmission may take, what its first plan may; the second number is that of raw bytes."""

CLIENT_MAP = "client"
"""What the events call a relevance map that came with the request."""


@dataclass(frozen=True)
class Job:
    """One request, as plain values."""

    image: bytes
    """An encoded picture."""
    query: str
    budget: Budget
    transmission_id: int
    """0 to 2**32 - 1."""
    strategy: str = RATE_DISTORTION
    packet_bytes: int = DEFAULT_PACKET_BYTES
    extractor: str = ""
    """Empty means the default one."""
    relevance_png: bytes = b""
    """The client's own map; empty means that the extractor is asked."""
    codec: str = ""
    """Empty means the default one."""
    time_s: float | None = None
    """Seconds from the first byte sent to the deadline beside a budget in bytes; None: no such deadline."""
    open_loop: bool = False
    """The plan is sent as it is, whatever happens."""

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGY_NAMES:
            raise InvalidInputError("options.allocation", f"unknown strategy {self.strategy!r}")
        if not MIN_PACKET_BYTES <= self.packet_bytes <= MAX_PACKET_BYTES:
            limits = f"{MIN_PACKET_BYTES} to {MAX_PACKET_BYTES}"
            raise InvalidInputError("options.packet_bytes", f"{self.packet_bytes} is not in {limits}")
        if self.time_s is not None:
            checked_deadline_s(self.time_s, "options.deadline_s")
            if not self.budget.in_bytes:
                raise InvalidInputError("options.deadline_s", "the budget is a deadline already")

    @property
    def deadline_s(self) -> float | None:
        """Seconds from the first byte sent to the deadline, wherever it was given; None: there is none."""
        return self.time_s if self.budget.in_bytes else self.budget.amount


@dataclass(frozen=True)
class RelevanceStage:
    """The first thing that the sender can show."""

    extractor: str
    relevance: Relevance
    elapsed_s: float
    """Seconds since the job began."""


@dataclass(frozen=True, eq=False)
class PlanStage:
    """Everything that is ready to be sent."""

    plan: Plan
    budget_bytes: int
    """What was asked for; of a deadline, what the channel is said to carry by then."""
    limit_bytes: int
    """What may be sent at most."""
    packed: PackedRevision
    replanner: Replanner
    spread_by_content: bool
    """Whether relevance had no say, because nothing of what was asked was found (or the map is 0 everywhere)."""
    elapsed_s: float
    """Seconds since the job began."""

    @property
    def packets(self) -> list[bytes]:
        """Every packet of the plan, in the order of sending."""
        return self.packed.packets


@dataclass
class StageClock:
    """Adds up the seconds of each stage."""

    now: Callable[[], float]
    """A monotonic clock in seconds."""
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times what runs within."""
        start = self.now()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self.now() - start

    @property
    def total_s(self) -> float:
        """Seconds of all stages so far."""
        return sum(self.seconds.values())


@dataclass(frozen=True)
class Pipeline:
    """The stages' tools, shared by all jobs."""

    codecs: Mapping[str, SenderCodec]
    """By name; the first is the default."""
    extractors: Mapping[str, RelevanceExtractor]
    """By name; the first is the default."""

    def run(
        self, job: Job, rate_bps: float, clock: StageClock, allowance: Allowance | None = None
    ) -> Iterator[RelevanceStage | PlanStage]:
        """Runs one job, yielding what can be shown as soon as it is there.

        Args:
            job: the request.
            rate_bps: the channel's claimed rate, for budgets that are given as a deadline.
            clock: where the stages' times go.
            allowance: what the first plan may take; None: the whole budget, in packets as long as asked for.

        Raises:
            InvalidInputError: the picture, the map, the extractor, the codec or the budget is unusable.
        """
        codec = self.codec(job.codec)
        if job.strategy not in codec.strategies:
            reason = f"the {codec.entry.name} codec has no {job.strategy!r}, but {', '.join(codec.strategies)}"
            raise InvalidInputError("options.allocation", reason)
        with clock.stage("decode"):
            image = read_picture(job.image)
            budget_bytes = job.budget.wire_bytes(PatchGrid.of(image), rate_bps)
            limit_bytes = budget_bytes if job.budget.in_bytes else LARGEST_BYTES
        with clock.stage("relevance"):
            name, relevance = self.relevance(image, job)
        yield RelevanceStage(name, relevance, clock.total_s)
        with clock.stage("encode"):
            prepared = codec.prepare(image)
        with clock.stage("allocate"):
            guide = guiding_map(relevance)
            whole = FirstPlan(budget_bytes, job.packet_bytes)
            first = whole if allowance is None else allowance(limit_bytes, image.nbytes)
            plan = _first_plan(prepared, guide, job, first, budget_bytes)
        with clock.stage("pack"):
            packed = pack_revision(plan, job.transmission_id, 0)
        replanner = Replanner(prepared, guide, job.strategy, job.transmission_id, [plan], [packed])
        yield PlanStage(plan, budget_bytes, limit_bytes, packed, replanner, not guide.any(), clock.total_s)

    def relevance(self, image: UInt8Array, job: Job) -> tuple[str, Relevance]:
        """The relevance map of a job and the name of what made it.

        Raises:
            InvalidInputError: the extractor is not loaded, or the client's map does not fit the picture.
        """
        if job.relevance_png:
            return CLIENT_MAP, Relevance(read_relevance(job.relevance_png, PatchGrid.of(image)), present=True)
        extractor = self.extractor(job.extractor)
        return extractor.name, extractor(image, job.query[:MAX_QUERY_CHARACTERS])

    def codec(self, name: str, field: str = "options.codec") -> SenderCodec:
        """A loaded codec.

        Args:
            name: empty means the default one.
            field: the request's field, for the error.

        Raises:
            InvalidInputError: there is no such codec, or it is not loaded.
        """
        name = name or next(iter(self.codecs))
        if name not in self.codecs:
            raise InvalidInputError(field, f"{codec_named(name, field).name!r} is not loaded")
        return self.codecs[name]

    def extractor(self, name: str, field: str = "options.extractor") -> RelevanceExtractor:
        """A loaded extractor.

        Args:
            name: empty means the default one.
            field: the request's field, for the error.

        Raises:
            InvalidInputError: no such extractor is loaded.
        """
        name = name or next(iter(self.extractors))
        if name not in self.extractors:
            why = "is not loaded (MMSC_TRANSMITTER_EXTRACTORS says what is)" if name in EXTRACTORS else "is unknown"
            raise InvalidInputError(field, f"{name!r} {why}; loaded: {', '.join(self.extractors)}")
        return self.extractors[name]


def _first_plan(prepared: PreparedPicture, guide: Float32Array, job: Job, first: FirstPlan, budget_bytes: int) -> Plan:
    """A plan of so many bytes; where they do not hold even a header, of the whole budget."""

    def plan(size: int) -> Plan:
        return prepared.plan(guide, PlanRequest(size, first.packet_bytes, job.strategy, scans=first.scans))

    try:
        return plan(first.budget_bytes)
    except BudgetTooSmallError:
        if first.budget_bytes >= budget_bytes or job.deadline_s is not None:
            raise
    return plan(budget_bytes)


def guiding_map(relevance: Relevance) -> Float32Array:
    """(height, width) what a plan goes by: 0 everywhere where nothing was found, so that content alone decides."""
    return relevance.map if relevance.present else np.zeros_like(relevance.map)
