"""The links that transmissions are measured on, and what a link of theirs would have delivered at best."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from channel_emulator.impairments import GilbertElliott, Impairments
from channel_emulator.rates import Rate
from channel_emulator.replay import SHIPPED, Trace, shipped_trace
from channel_emulator.settings import LinkSettings, Replay

_STEP_S: Final = 0.02
"""How finely a trace of delivery opportunities is shared out; the blocks of the shipped one are as long."""


@dataclass(frozen=True)
class TraceScenario:
    """Transmissions with a deadline on a share of a shipped trace."""

    trace: str
    """A key of SHIPPED."""
    deadline_s: float
    share: float
    """Of the link's rate; a photo of the paper's size would be over in no time on all of it."""

    @property
    def settings(self) -> LinkSettings:
        """The link; it is said to carry what it does in the long run."""
        trace = shared_trace(shipped_trace(self.trace), self.share)
        mean_bps = trace.rate(0.0).mean_bps
        return LinkSettings(mean_bps, SHIPPED[self.trace].propagation_s, model=Replay(trace))


TRACE_SCENARIOS: Final = (
    TraceScenario("lte", 0.5, 1 / 20),
    TraceScenario("lte", 1.0, 1 / 40),
    TraceScenario("lte", 2.0, 1 / 40),
    TraceScenario("lte", 4.0, 1 / 80),
    TraceScenario("satellite", 1.0, 1 / 100),
    TraceScenario("satellite", 2.0, 1 / 100),
    TraceScenario("satellite", 4.0, 1 / 200),
    TraceScenario("drone", 0.5, 1 / 8),
    TraceScenario("drone", 1.0, 1 / 10),
    TraceScenario("drone", 2.0, 1 / 20),
    TraceScenario("drone", 4.0, 1 / 40),
)
"""Half of them could carry more than 2 to 5 % of a raw photo of 480x320, half less."""

LEAST_PERCENT: Final = 0.5
"""Of raw: where a link could not even bring so much by the deadline, a transmission is counted apart."""

TRACES: Final = tuple(dict.fromkeys(scenario.trace for scenario in TRACE_SCENARIOS))
"""Names of the traces."""


def shared_trace(trace: Trace, share: float) -> Trace:
    """A part of every rate of a trace; delivery opportunities become the mean rates of steps of 20 ms."""
    if trace.points:
        points = tuple((at_s, rate_bps * share) for at_s, rate_bps in trace.points)
        return replace(trace, name=f"{trace.name} x {share:g}", points=points)
    rate, steps = trace.rate(0.0), round(trace.period_s / _STEP_S)
    points = tuple((step * _STEP_S, share * _step_bps(rate, step)) for step in range(steps))
    return Trace(f"{trace.name} x {share:g}", points=points, table_s=steps * _STEP_S)


def _step_bps(rate: Rate, step: int) -> float:
    return rate.carried_bits(step * _STEP_S, (step + 1) * _STEP_S) / _STEP_S


@dataclass(frozen=True)
class LossCase:
    """How packets get lost."""

    name: str
    rate: float
    """Share of the packets, 0 to 1."""
    burst_packets: float = 0.0
    """Mean length of a row of them; 0: each by itself."""

    @property
    def impairments(self) -> Impairments:
        """As the link takes them: by itself, or a bad state in which everything is lost."""
        if not self.burst_packets or not self.rate:
            return Impairments(loss_rate=self.rate)
        bad_to_good = 1 / self.burst_packets
        good_to_bad = bad_to_good * self.rate / (1 - self.rate)
        return Impairments(gilbert_elliott=GilbertElliott(good_to_bad, bad_to_good, 0.0, 1.0))


LOSS_CASES: Final = (
    LossCase("none", 0.0),
    *(LossCase(f"{rate:.0%}", rate) for rate in (0.01, 0.05, 0.1, 0.2)),
    *(LossCase(f"{rate:.0%}, bursts of 6", rate, 6.0) for rate in (0.01, 0.05, 0.1, 0.2)),
)
"""Single losses, and the same in bursts of six packets in the mean."""

LOSS_BARS_DB: Final = {0.01: 0.5, 0.05: 1.0, 0.1: 2.0, 0.2: 4.0}
"""By the share of packets lost: how much the region that counts may lose against no loss."""


def starts(trace: Trace, count: int, seed: int) -> list[float]:
    """Times in a trace, evenly over all of it but for a random shift of all.

    Args:
        trace: in which they lie.
        count: how many.
        seed: of the shift.
    """
    shift = float(np.random.default_rng(seed).random())
    return [(place + shift) / count * trace.period_s for place in range(count)]
