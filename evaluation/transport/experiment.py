"""What is measured: sessions of a few transmissions each, as plain tasks that several processes share.

```
Task (photo, link, wish, starts, seeds) ── run_task ──► Row per transmission ──► report.py
```
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, TypeAlias

from channel_emulator.replay import shipped_trace
from channel_emulator.settings import LinkSettings
from evaluation.transport.scenarios import LOSS_CASES, TRACE_SCENARIOS, TRACES, starts
from evaluation.transport.trials import Session, Subject, Trial, Wish
from shared.packets import DEFAULT_PACKET_BYTES

RATES: Final = ((64e3, 2.0), (1e6, 5.0), (8e6, 5.0), (8e6, 20.0))
"""Bits per second, and budgets in percent of raw, of which the time of delivery is measured."""

LOSS_BUDGETS: Final = (2.0, 5.0)
"""Percent of raw."""

LOSS_LINK: Final = LinkSettings(1e6, 0.03)
"""The link that loses."""

DEADLINES: Final = 4
"""Transmissions of a session with deadlines."""

_PAUSE_S: Final = 2.0
_CASES: Final = (*TRACES, *(case.name for case in LOSS_CASES))

SYNTHETIC: Final = -1
"""Number of the photo that is none."""

UNLIMITED_BYTES: Final = 1 << 24
"""A budget that no deadline leaves time for."""


Subjects: TypeAlias = Mapping[int, Subject]
"""What is sent, by its number."""


@dataclass(frozen=True)
class Row:
    """One transmission."""

    kind: str
    """`rate`, `deadline` or `loss`."""
    case: str
    """Which link."""
    place: int
    """Among the links."""
    photo: str
    synthetic: bool
    """Whether it is none."""
    closed_loop: bool
    number: int
    """In its session: before the first, nothing is known of the link."""
    start_s: float
    seed: int
    budget_bytes: int
    deadline_s: float | None
    packet_bytes: int
    pictured: bool
    """Whether there was a picture at the deadline, or in the end."""
    met: bool
    """And nothing on the link after the deadline."""
    late_bytes: int
    hung: bool
    first_bytes: int
    """Of the first plan."""
    sent_bytes: int
    arrived_bytes: int
    """By the deadline, or in the end."""
    deliverable_bytes: int
    """That the link would have brought by the deadline, or the budget."""
    deliverable_percent: float
    """Of the raw photo."""
    masked_db: float
    """At the deadline, or in the end."""
    oracle_db: float | None
    """Of one plan for the deliverable bytes that all arrives; None where its header does not fit, or nobody asked."""
    last_arrival_s: float
    revisions: int
    again_bytes: int
    repair_bytes: int
    lost_packets: int
    feedback_bytes: int
    delivery_ratio: float
    """Time until all was there, less the propagation, over what the bytes sent take at the claimed rate."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Task:
    """A session: transmissions of one photo, one after another."""

    kind: str
    case: str
    photo: int
    """Its number, or SYNTHETIC."""
    link: LinkSettings
    wish: Wish
    starts_s: tuple[float, ...]
    """When they begin; each knows what those before it learnt."""
    seed: int


def run_task(task: Task, photo: Subject) -> list[Row]:
    """Runs a session and looks at its pictures."""
    session = Session(photo, task.link)
    return [
        _row(task, photo, number, session.transmit(task.wish, start_s, task.seed + number))
        for number, start_s in enumerate(task.starts_s)
    ]


def _row(task: Task, photo: Subject, number: int, trial: Trial) -> Row:
    wish, outcome, stats = trial.wish, trial.outcome, trial.stats
    reachable = wish.budget_bytes if wish.deadline_s is None else trial.deliverable_bytes
    return Row(
        kind=task.kind,
        case=task.case,
        place=_CASES.index(task.case) if task.case in _CASES else 0,
        photo=photo.name,
        synthetic=task.photo == SYNTHETIC,
        closed_loop=wish.closed_loop,
        number=number,
        start_s=trial.start_s,
        seed=task.seed + number,
        budget_bytes=wish.budget_bytes,
        deadline_s=wish.deadline_s,
        packet_bytes=wish.packet_bytes,
        pictured=trial.pictured,
        met=trial.met,
        late_bytes=trial.late_bytes,
        hung=outcome.hung,
        first_bytes=trial.first_bytes,
        sent_bytes=outcome.sent_bytes,
        arrived_bytes=trial.arrived_bytes,
        deliverable_bytes=reachable,
        deliverable_percent=100 * reachable / photo.raw_bytes,
        masked_db=photo.shown_db(trial.arrived),
        oracle_db=None if task.kind == "rate" else photo.oracle_db(reachable, wish.packet_bytes),
        last_arrival_s=outcome.last_arrival_s,
        revisions=stats.revisions,
        again_bytes=stats.again_bytes,
        repair_bytes=stats.repair_bytes,
        lost_packets=stats.lost_packets,
        feedback_bytes=sum(size for _, size in outcome.feedback),
        delivery_ratio=trial.delivery_ratio,
    )


def _seed(*names: object) -> int:
    """The same for the same names, whatever else is measured."""
    return zlib.crc32("/".join(map(str, names)).encode())


def _percent(photo: Subject, percent: float) -> int:
    return int(photo.raw_bytes * percent / 100)


def rate_tasks(photos: Subjects) -> Iterator[Task]:
    """At constant rates, of one photo: the second of each session knows its link."""
    number, photo = next(iter(photos.items()))
    for rate_bps, percent in RATES:
        link = LinkSettings(rate_bps, 0.02)
        case = f"{rate_bps / 1e3:g} kbit/s, {percent:g} %"
        wish = Wish(_percent(photo, percent))
        for closed in (True, False):
            yield Task("rate", case, number, link, replace(wish, closed_loop=closed), (0.0, 60.0, 120.0), 0)


def deadline_tasks(photos: Subjects, sessions: int, traces: Sequence[str] = ()) -> Iterator[Task]:
    """Under the shipped traces, with and without feedback at the same times.

    Args:
        photos: what is sent.
        sessions: per deadline and photo, spread over the whole trace; each of DEADLINES transmissions.
        traces: which; empty means all.
    """
    for scenario in TRACE_SCENARIOS:
        if traces and scenario.trace not in traces:
            continue
        link, deadline_s = scenario.settings, scenario.deadline_s
        for number, photo in photos.items():
            seed = _seed(scenario.trace, deadline_s, photo.name)
            for start_s in starts(shipped_trace(scenario.trace), sessions, seed):
                begins = tuple(start_s + place * (deadline_s + _PAUSE_S) for place in range(DEADLINES))
                for closed in (True, False):
                    wish = Wish(UNLIMITED_BYTES, deadline_s, closed)
                    yield Task("deadline", scenario.trace, number, link, wish, begins, seed)


def loss_tasks(photos: Subjects, sessions: int, packet_bytes: int = DEFAULT_PACKET_BYTES) -> Iterator[Task]:
    """Losses, with and without feedback.

    Args:
        photos: what is sent.
        sessions: per case, budget and photo; each of three transmissions.
        packet_bytes: largest packet.
    """
    for case in LOSS_CASES:
        link = replace(LOSS_LINK, impairments=case.impairments)
        for percent in LOSS_BUDGETS:
            for number, photo in photos.items():
                for session in range(sessions if case.rate else 1):
                    seed = _seed(case.name, percent, photo.name, session)
                    for closed in (True, False):
                        wish = Wish(_percent(photo, percent), None, closed, packet_bytes)
                        yield Task("loss", case.name, number, link, wish, (0.0, 30.0, 60.0), seed)
