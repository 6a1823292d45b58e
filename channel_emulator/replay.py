"""Traces of links: what a file holds, and the ones that are shipped.

Two formats, told apart by the first line that holds something: delivery opportunities as mahimahi writes them (one
whole number of milliseconds a line, each a chance to send 1,500 bytes), and tables `time_s,rate_bps` with or
without a heading, where a rate holds until the next row, and the last as long as the one before it. Lines that begin
with # are skipped in both.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from itertools import pairwise
from typing import Final

from channel_emulator.checks import check_range
from channel_emulator.rates import MAX_RATE_BPS, MIN_RATE_BPS, LoopedRate, OpportunityRate, Rate
from shared.errors import InvalidInputError

MAX_ROWS: Final = 1_000_000
MAX_TIME_S: Final = 1e6

LEAST_STEP_S: Final = 1e-6
"""Between two times of a table: less is lost beside the seconds of a clock."""

_HEADING: Final = "time_s,rate_bps"


@dataclass(frozen=True)
class Trace:
    """A link's capacity over time; one of the two is there."""

    name: str
    """For people."""

    opportunities_ms: tuple[int, ...] = ()
    """Times at which 1,500 bytes may pass, not falling; the last is the period."""

    points: tuple[tuple[float, float], ...] = ()
    """(seconds, bits per second), from 0 on, rising."""

    table_s: float = 0.0
    """Seconds that the points cover."""

    @property
    def period_s(self) -> float:
        """After how many seconds the trace begins again."""
        return self.opportunities_ms[-1] / 1_000 if self.opportunities_ms else self.table_s

    def rate(self, origin_s: float) -> Rate:
        """The trace from a time on, over and over."""
        if self.opportunities_ms:
            return OpportunityRate(self.opportunities_ms, origin_s)
        return LoopedRate(self.points, self.table_s, origin_s)


@dataclass(frozen=True)
class ShippedTrace:
    """A trace that comes with the emulator."""

    file: str
    propagation_s: float
    """One-way delay of such a link."""
    description: str


SHIPPED: Final[dict[str, ShippedTrace]] = {
    "drone": ShippedTrace("drone.csv", 0.002, "a drone flying away, 2 minutes"),
    "lte": ShippedTrace("lte.trace", 0.03, "a phone at the edge of a cell, with a handover, 30 seconds"),
    "satellite": ShippedTrace("satellite.csv", 0.27, "a geostationary link in a rain fade, 4 minutes"),
}
"""By name."""


@lru_cache(maxsize=len(SHIPPED))
def shipped_trace(name: str) -> Trace:
    """A shipped trace.

    Raises:
        InvalidInputError: `name` is none of theirs.
    """
    if name not in SHIPPED:
        raise InvalidInputError("name", f"{name!r} is no shipped trace; there are {', '.join(SHIPPED)}")
    content = files("channel_emulator.traces").joinpath(SHIPPED[name].file).read_text(encoding="utf-8")
    return parse_trace(name, content)


def parse_trace(name: str, content: str) -> Trace:
    """Reads the text of a trace file.

    Args:
        name: what to call it.
        content: either format.

    Raises:
        InvalidInputError: field `content`; says which line makes no sense.
    """
    lines = [(number, line.strip()) for number, line in enumerate(content.splitlines(), start=1)]
    rows = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not 0 < len(rows) <= MAX_ROWS:
        raise InvalidInputError("content", f"{len(rows):,} rows are not 1 to {MAX_ROWS:,}")
    if "," in rows[0][1]:
        return _table(name, rows[1:] if rows[0][1].replace(" ", "") == _HEADING else rows)
    return _opportunities(name, rows)


def _opportunities(name: str, rows: list[tuple[int, str]]) -> Trace:
    times_ms: list[int] = []
    for number, line in rows:
        if not line.isdecimal() or len(line) > 10 or int(line) > 1_000 * MAX_TIME_S:
            raise InvalidInputError("content", f"line {number}: {line[:40]!r} is no number of milliseconds")
        times_ms.append(int(line))
        if times_ms[-1] < max(times_ms[-2:]):
            raise InvalidInputError("content", f"line {number}: {line} comes after {times_ms[-2]}")
    if not times_ms[-1]:
        raise InvalidInputError("content", "the last opportunity is at 0 ms")
    return Trace(name, opportunities_ms=tuple(times_ms))


def _table(name: str, rows: list[tuple[int, str]]) -> Trace:
    points = [_point(number, line) for number, line in rows]
    check_points("content", points)
    if len(points) < 2:
        raise InvalidInputError("content", "one row says no length; two are needed")
    return Trace(name, points=tuple(points), table_s=2 * points[-1][0] - points[-2][0])


def _point(number: int, line: str) -> tuple[float, float]:
    try:
        time_s, rate_bps = map(float, line.split(","))
    except ValueError as error:
        raise InvalidInputError("content", f"line {number}: {line[:40]!r} is not time_s,rate_bps") from error
    return time_s, rate_bps


def check_points(field: str, points: list[tuple[float, float]]) -> None:
    """Refuses points that do not begin at 0 s, do not rise by LEAST_STEP_S, are out of range, or carry nothing.

    Raises:
        InvalidInputError: naming `field`.
    """
    if not points or points[0][0] != 0.0:
        raise InvalidInputError(field, "the first time is not 0")
    for time_s, rate_bps in points:
        check_range(field, time_s, 0.0, MAX_TIME_S)
        check_range(field, rate_bps, MIN_RATE_BPS if rate_bps else 0.0, MAX_RATE_BPS)
    for (earlier_s, _), (later_s, _) in pairwise(points):
        if later_s < earlier_s + LEAST_STEP_S:
            raise InvalidInputError(field, f"time {later_s:g} comes after {earlier_s:g}")
    if not any(rate_bps for _, rate_bps in points):
        raise InvalidInputError(field, "carries nothing at any time")
