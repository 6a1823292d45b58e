"""`python -m channel_emulator.traces.make_traces`: writes the shipped traces again, byte for byte the same.

They are models, not measurements:

- lte: a phone at the edge of a cell, 30 s. Shadowing of 5 dB that moves over seconds, Rayleigh blocks of 20 ms,
  a handover of 0.4 s without rate. Delivery opportunities of 1,500 bytes, one millisecond timestamp a line.
- satellite: a geostationary link, 240 s. Adaptive coding and modulation steps down through a rain fade of about a
  minute, with 3 s of outage at its deepest. Rate in bits per second, each second.
- drone: one that flies away at 15 m/s from 30 m on, 120 s. Log-distance path loss with exponent 2.4, Rician
  fading with K = 10, a bank turn each 30 s that costs 8 dB. Rate each half second.
"""

import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

SEED: Final = 20_261
"""Seeds all three."""

_OPPORTUNITY_BITS: Final = 12_000
_MODCODS_MBPS: Final = (0.0, 1.2, 2.4, 4.0, 6.0, 8.0, 10.0)


def _numbers(name: str) -> random.Random:
    return random.Random(f"{SEED}/{name}")  # noqa: S311 - a simulation must repeat


def _shannon_bps(bandwidth_hz: float, snr_db: float) -> float:
    return bandwidth_hz * math.log2(1.0 + 10.0 ** (snr_db / 10.0))


def _normal(numbers: random.Random) -> float:
    """Box and Muller's, on the one method of Random that stays the same for ever."""
    radius = math.sqrt(-2.0 * math.log1p(-numbers.random()))
    return radius * math.cos(2.0 * math.pi * numbers.random())


def _lte_rates_bps(numbers: random.Random) -> Iterator[float]:
    """One rate per millisecond."""
    shadow_db, fade = 0.0, 1.0
    for at_ms in range(30_000):
        if at_ms % 20 == 0:
            shadow_db = 0.99 * shadow_db + 5.0 * math.sqrt(1 - 0.99**2) * _normal(numbers)
            fade = -math.log1p(-numbers.random())
        handover = 17_200 <= at_ms < 17_600
        yield 0.0 if handover else _shannon_bps(1.4e6, 6.0 + shadow_db + 10.0 * math.log10(max(fade, 1e-3)))


def lte() -> str:
    """Opportunities wherever another 12,000 bits have come together."""
    lines, bits = [], 0.0
    for at_ms, rate_bps in enumerate(_lte_rates_bps(_numbers("lte")), start=1):
        bits += rate_bps / 1_000
        while bits >= _OPPORTUNITY_BITS:
            lines.append(str(at_ms))
            bits -= _OPPORTUNITY_BITS
    return "\n".join(lines) + "\n"


def satellite() -> str:
    """The modulation and coding that the sky allows."""
    numbers, wobble = _numbers("satellite"), 0.0
    rows = []
    for at_s in range(240):
        wobble = 0.9 * wobble + 0.25 * _normal(numbers)
        rain_db = 14.5 * math.exp(-(((at_s - 130) / 28) ** 2))
        level = math.floor(6.9 - 0.45 * rain_db + 0.5 * wobble)
        outage = 129 <= at_s < 132
        rows.append((at_s, 0.0 if outage else 1e6 * _MODCODS_MBPS[min(max(level, 1), 6)]))
    return _csv(rows)


def drone() -> str:
    """The further, the slower."""
    numbers, k = _numbers("drone"), 10.0
    rows = []
    for step in range(240):
        at_s = step / 2
        path_db = 24.0 * math.log10((30.0 + 15.0 * at_s) / 30.0)
        turn_db = 8.0 if at_s % 30 >= 28 else 0.0
        scatter = -math.log1p(-numbers.random())
        cross = 2.0 * math.sqrt(k * scatter) * math.cos(2.0 * math.pi * numbers.random())
        gain_db = 10.0 * math.log10(max((k + cross + scatter) / (k + 1.0), 1e-3))
        rows.append((at_s, _shannon_bps(2e6, 34.0 - path_db - turn_db + gain_db)))
    return _csv(rows)


def _csv(rows: Sequence[tuple[float, float]]) -> str:
    lines = [f"{at_s:g},{rate_bps:.0f}" for at_s, rate_bps in rows]
    return "\n".join(["time_s,rate_bps", *lines]) + "\n"


def main() -> None:
    """Writes the files beside this module."""
    folder = Path(__file__).parent
    (folder / "lte.trace").write_text(lte())
    (folder / "satellite.csv").write_text(satellite())
    (folder / "drone.csv").write_text(drone())


if __name__ == "__main__":
    main()
