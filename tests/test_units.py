"""Rates and durations as people write them."""

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidInputError
from shared.units import parse_duration_s, parse_rate_bps


@pytest.mark.parametrize(
    ("text", "rate_bps"),
    [
        ("64kbit", 64e3),
        ("1Mbit", 1e6),
        ("8mbit", 8e6),
        ("8 Mbit/s", 8e6),
        ("2.5Gbps", 2.5e9),
        (".5kbps", 500.0),
        ("1000000", 1e6),
        ("1e6", 1e6),
        (" 9600 bit ", 9600.0),
    ],
)
def test_rates(text, rate_bps):
    assert parse_rate_bps(text) == rate_bps


@pytest.mark.parametrize(
    ("text", "duration_s"),
    [("20ms", 0.02), ("0.02", 0.02), ("0", 0.0), ("1.5s", 1.5), ("250 us", 0.00025), ("250µs", 0.00025), ("2min", 120)],
)
def test_durations(text, duration_s):
    assert parse_duration_s(text) == pytest.approx(duration_s, rel=1e-12)


@pytest.mark.parametrize(
    "text", ["", "fast", "0", "-1kbit", "nan", "inf", "1e999", "64kb", "1MB", "1 2", "0x10", "kbit"]
)
def test_what_is_no_rate_is_refused(text):
    with pytest.raises(InvalidInputError) as caught:
        parse_rate_bps(text, "link.rate")
    assert caught.value.field == "link.rate"


@pytest.mark.parametrize("text", ["", "soon", "-1", "nan", "inf", "1e999", "20kbit", "1h", "-0.5ms"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(InvalidInputError) as caught:
        parse_duration_s(text)
    assert caught.value.field == "duration"


@given(st.floats(min_value=1e-3, max_value=1e12))
def test_a_number_that_python_prints_is_read_back(value):
    assert parse_rate_bps(repr(value)) == value
    assert parse_duration_s(repr(value)) == value


@given(st.text(max_size=12) | st.text("0123456789.+-e kmgbits/puµn", max_size=12))
def test_any_text_gives_a_finite_number_or_a_typed_error(text):
    for parse in (parse_rate_bps, parse_duration_s):
        with contextlib.suppress(InvalidInputError):
            assert 0 <= parse(text) < math.inf
