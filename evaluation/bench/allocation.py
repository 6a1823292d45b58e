"""`python -m evaluation.bench.allocation`: how long it takes to share a budget out, and how that grows."""

import time

import numpy as np

from evaluation.bench.checks import Check, write
from shared.arrays import Float32Array
from transmitter.ladder.allocation import rate_distortion

_SMALL, _LARGE = 2_400, 32_400
_REPEATS = 15


def _milliseconds(patches: int) -> float:
    """The fastest of a few runs over budgets from 1 to 50 percent of raw, each the slowest budget of its run."""
    random = np.random.default_rng(patches)
    importance = random.random(patches).astype(np.float32)
    start = random.gamma(1, 20_000, patches)[:, None]
    errors = (start * [1, 0.1, 0.04, 0.01, 0] * random.uniform(0.5, 1.5, (patches, 5))).astype(np.float32)
    return min(
        max(_once(importance, errors, patches * 192 * percent // 100) for percent in (1, 5, 50))
        for _ in range(_REPEATS)
    )


def _once(importance: Float32Array, errors: Float32Array, content_bytes: int) -> float:
    start_s = time.perf_counter()
    rate_distortion(importance, errors).levels_within(content_bytes)
    return 1e3 * (time.perf_counter() - start_s)


def main() -> None:
    """Measures, prints and writes out/bench/allocation.json."""
    small, large = _milliseconds(_SMALL), _milliseconds(_LARGE)
    growth = (large / small) / (_LARGE * np.log2(_LARGE) / (_SMALL * np.log2(_SMALL)))
    write(
        "allocation",
        [
            Check(f"allocation, {_SMALL} patches", small, "ms", "<= 2", small <= 2),
            Check(f"allocation, {_LARGE} patches", large, "ms", "<= 30", large <= 30),
            Check("growth over P log P", float(growth), "ratio", "<= 1.5", bool(growth <= 1.5)),
        ],
    )


if __name__ == "__main__":
    main()
