"""`python -m evaluation.bench.end_to_end`: what the chain costs beyond compute, the link's time and propagation."""

import statistics

from client.api import Budget, Client, Link
from client.stack import LocalStack, StackConfig
from evaluation.bench.checks import Check, write
from evaluation.bench.photos import coffee_480x320
from shared.pictures import png_bytes

_PROPAGATION_S = 0.02
_CASES = (("64 kbit/s, 4 kB", 64e3, 4_000), ("1 Mbit/s, 9 kB", 1e6, 9_216), ("8 Mbit/s, 46 kB", 8e6, 46_080))
_REPEATS = 15


def _overheads_ms(client: Client, rate_bps: float, budget_bytes: int) -> list[float]:
    client.set_link(Link(rate_bps=rate_bps))
    image = png_bytes(coffee_480x320())
    runs = [client.transmit(image, "cup of coffee", Budget(wire_bytes=budget_bytes)) for _ in range(_REPEATS)]
    return [1e3 * run.delivered.stages.overhead_s for run in runs]


def main() -> None:
    """Measures, prints and writes out/bench/end-to-end.json."""
    checks = []
    with LocalStack(StackConfig(link=Link(propagation_s=_PROPAGATION_S))) as stack, stack.client() as client:
        _overheads_ms(client, 8e6, 5_000)
        for name, rate_bps, budget_bytes in _CASES:
            overhead_ms = statistics.median(_overheads_ms(client, rate_bps, budget_bytes))
            title = f"end-to-end less compute, bytes/rate and propagation: {name}"
            checks.append(Check(title, overhead_ms, "ms", "<= 15", overhead_ms <= 15))
    write("end-to-end", checks)


if __name__ == "__main__":
    main()
