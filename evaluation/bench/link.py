"""`python -m evaluation.bench.link`: does the emulated link behave as it says, and what does it cost?

Three processes: a sender (this one), the emulator, and a receiver that stamps arrivals; Linux's own token bucket
beside them where the machine lets us have a network namespace. Everything that is timed includes the wake-ups of
this machine, which should have two cores to spare: the load that it began with is told. On a shared machine
`chrt --rr 1 make bench-link` (root) keeps other processes out of the figures.
"""

import asyncio
import os

from evaluation.bench.checks import Check, write
from evaluation.bench.link_fading import fading_checks
from evaluation.bench.link_processes import bench
from evaluation.bench.link_rates import cost_checks, delivery_checks, rate_checks


async def _emulator_checks() -> list[Check]:
    with bench() as running:
        return [*await rate_checks(running), *await delivery_checks(running), *await cost_checks(running)]


def main() -> None:
    """Measures, prints and writes out/bench/link.json."""
    load = Check("load average when it began", os.getloadavg()[0], "", "", True)
    write("link", [load, *fading_checks(), *asyncio.run(_emulator_checks())])


if __name__ == "__main__":
    main()
