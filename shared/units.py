"""Rates and durations as people write them: `64kbit`, `8 Mbit/s`, `20ms`, or a plain number in base units."""

import math
import re
from collections.abc import Mapping
from typing import Final

from shared.errors import InvalidInputError

_NUMBER: Final = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([a-z/µ]*)")

# Prefixes are decimal, as everywhere in links. "Mb" and "MB" are left out: people read them in two ways.
_RATE_UNITS: Final[Mapping[str, float]] = {
    "": 1.0,
    **{
        prefix + unit: factor
        for prefix, factor in (("", 1.0), ("k", 1e3), ("m", 1e6), ("g", 1e9))
        for unit in ("bit", "bit/s", "bps")
    },
}

_DURATION_UNITS: Final[Mapping[str, float]] = {"": 1.0, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}


def parse_rate_bps(text: str, field: str = "rate") -> float:
    """Reads a bit rate.

    Args:
        text: a number, plain (bits per second) or with `bit`, `kbit`, `Mbit`, `Gbit`, also with `/s` or as `kbps`;
            in any case.
        field: what an error names.

    Returns:
        Bits per second, finite and above 0.

    Raises:
        InvalidInputError: it is no rate, or not above 0.
    """
    rate_bps = _parse(text, _RATE_UNITS, field, "a rate like 64kbit, 8Mbit or 1000000")
    if rate_bps <= 0:
        raise InvalidInputError(field, f"{text!r} is not above 0")
    return rate_bps


def parse_duration_s(text: str, field: str = "duration") -> float:
    """Reads a duration.

    Args:
        text: a number, plain (seconds) or with `us`, `ms`, `s` or `min`; in any case.
        field: what an error names.

    Returns:
        Seconds, finite and 0 or above.

    Raises:
        InvalidInputError: it is no duration, or negative.
    """
    duration_s = _parse(text, _DURATION_UNITS, field, "a duration like 20ms or 0.02")
    if duration_s < 0:
        raise InvalidInputError(field, f"{text!r} is negative")
    return duration_s


def _parse(text: str, units: Mapping[str, float], field: str, wanted: str) -> float:
    match = _NUMBER.fullmatch(text.strip().lower())
    if match is None or match[2] not in units:
        raise InvalidInputError(field, f"{text!r} is not {wanted}")
    value = float(match[1]) * units[match[2]]
    if not math.isfinite(value):
        raise InvalidInputError(field, f"{text!r} is too large")
    return value
