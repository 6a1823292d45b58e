"""Trace files, and the traces that are shipped."""

from importlib.resources import files

import pytest

from channel_emulator.replay import SHIPPED, parse_trace, shipped_trace
from channel_emulator.traces import make_traces
from shared.errors import InvalidInputError


def test_opportunities_are_read():
    trace = parse_trace("mine", "# comment\n0\n5\n5\n\n20\n")
    assert (trace.opportunities_ms, trace.points, trace.period_s) == ((0, 5, 5, 20), (), 0.02)
    assert trace.rate(0.0).mean_bps == 4 * 12_000 / 0.02


@pytest.mark.parametrize("heading", ["", "time_s,rate_bps\n", "time_s, rate_bps\n"])
def test_tables_are_read_and_the_last_row_lasts_as_long_as_the_one_before(heading):
    trace = parse_trace("mine", heading + "0,1e6\n2,0\n3.5,2e6\n")
    assert (trace.points, trace.period_s) == (((0.0, 1e6), (2.0, 0.0), (3.5, 2e6)), 5.0)
    assert trace.rate(0.0).mean_bps == pytest.approx((2e6 + 3e6) / 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "rows"),
        ("# nothing\n", "rows"),
        ("5\nsix\n", "line 2: 'six'"),
        ("5\n-6\n", "line 2"),
        ("5\n4\n", "line 2: 4 comes after 5"),
        ("0\n0\n", "last opportunity"),
        ("9" * 5_000, "line 1"),
        ("²\n", "line 1"),
        ("time_s,rate_bps\n", "first time"),
        ("0,1\n1,2,3\n", "line 2"),
        ("0,1\n1,x\n", "line 2"),
        ("0,1\n", "one row"),
        ("1,1\n2,1\n", "first time"),
        ("0,1\n0,1\n", "comes after"),
        ("0,1\n1e-7,1\n", "comes after"),
        ("0,0\n1,0\n", "carries nothing"),
        ("0,1e-9\n1,5\n", "not in 1 to"),
        ("0,1\n1,nan\n", "nan"),
        ("0,1\ninf,1\n", "inf"),
        ("0,-1\n1,1\n", "-1"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_line(content, message):
    with pytest.raises(InvalidInputError) as caught:
        parse_trace("bad", content)
    assert caught.value.field == "content"
    assert message in caught.value.description


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_traces_are_those_that_the_project_generates(name):
    content = files("channel_emulator.traces").joinpath(SHIPPED[name].file).read_text()
    assert content == getattr(make_traces, name)()


@pytest.mark.parametrize(("name", "period_s"), [("drone", 120.0), ("lte", 30.0), ("satellite", 240.0)])
def test_shipped_traces_have_their_length_their_ups_and_their_downs(name, period_s):
    trace = shipped_trace(name)
    rate = trace.rate(0.0)
    seconds = [rate.carried_bits(second, second + 1) for second in range(int(period_s))]
    assert trace.period_s == pytest.approx(period_s, rel=0.01)
    assert max(seconds) > 3 * min(seconds)
    assert 1e6 < rate.mean_bps < 1e7


def test_the_drone_flies_away_and_the_satellite_has_an_outage():
    drone, satellite = shipped_trace("drone").rate(0.0), shipped_trace("satellite").rate(0.0)
    thirds = [drone.carried_bits(start_s, start_s + 40.0) for start_s in (0.0, 40.0, 80.0)]
    assert thirds == sorted(thirds, reverse=True)
    assert satellite.carried_bits(129.0, 132.0) == 0.0


def test_an_unknown_trace_is_told_with_those_there_are():
    with pytest.raises(InvalidInputError, match="drone, lte, satellite"):
        shipped_trace("../../etc/passwd")
