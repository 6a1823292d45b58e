"""Places and rates: who gets in, who waits how long, and that nothing grows with the number of peers."""

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import limits
from shared.errors import InvalidInputError
from shared.limits import Admission, Limit, LimitError, RpcLimits, TokenBucket
from shared.net import is_loopback, peer_host


def refused(admission, peer, now_s=0.0):
    with pytest.raises(LimitError) as caught, admission.admitted(peer, now_s):
        pass
    return caught.value


def test_places_are_taken_and_given_back():
    admission = Admission(RpcLimits(total=2))
    with admission.admitted("a", 0), admission.admitted("b", 0):
        assert admission.active == 2
        assert refused(admission, "c").limit is Limit.TOTAL
    with admission.admitted("c", 0):
        assert admission.active == 1
    assert admission.active == 0


def test_a_place_is_given_back_when_the_call_fails():
    admission = Admission(RpcLimits(total=1))
    with pytest.raises(KeyError), admission.admitted("a", 0):
        raise KeyError
    assert admission.active == 0


def test_one_peer_cannot_take_the_places_of_others():
    admission = Admission(RpcLimits(total=10, per_peer=2))
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(admission.admitted("a", 0))
        error = refused(admission, "a")
        assert error.limit is Limit.PER_PEER
        assert error.retry_s > 0
        stack.enter_context(admission.admitted("b", 0))


def test_a_peer_has_its_own_rate_with_a_burst():
    admission = Admission(RpcLimits(per_peer_rate=2.0))
    for _ in range(4):  # 2 per second, 2 seconds' worth at once
        with admission.admitted("a", 10.0):
            pass
    error = refused(admission, "a", 10.0)
    assert (error.limit, error.retry_s) == (Limit.PER_PEER_RATE, pytest.approx(0.5))
    with admission.admitted("b", 10.0), admission.admitted("a", 10.0 + error.retry_s):
        pass


def test_a_call_kept_out_for_want_of_a_place_costs_nothing_of_the_rate():
    admission = Admission(RpcLimits(total=1, per_peer_rate=0.5))
    with admission.admitted("a", 0.0):
        for _ in range(5):
            assert refused(admission, "b").limit is Limit.TOTAL
    with admission.admitted("b", 0.0):
        pass


@given(st.lists(st.floats(0, 0.3), max_size=200), st.floats(0.5, 20), st.floats(1, 5))
def test_a_bucket_never_lets_more_pass_than_its_rate_and_burst(gaps, rate, burst):
    bucket, now_s, passed = TokenBucket(rate, burst, 0.0), 0.0, 0
    for gap in gaps:
        now_s += gap
        wait_s = bucket.take(now_s)
        passed += wait_s == 0
        assert 0 <= wait_s <= 1 / rate
    assert passed <= burst + rate * now_s + 1e-6


def test_peers_without_number_take_bounded_memory(monkeypatch):
    monkeypatch.setattr(limits, "MAX_PEERS", 10)
    admission = Admission(RpcLimits(per_peer_rate=1.0))
    for number in range(1000):
        with admission.admitted(str(number), 0.0):
            pass
    assert len(admission._buckets) == 10
    assert not admission._running


@pytest.mark.parametrize(
    "wrong", [{"total": 0}, {"per_peer": -1}, {"per_peer_rate": -1.0}, {"per_peer_rate": float("nan")}]
)
def test_limits_out_of_range_are_refused(wrong):
    with pytest.raises(InvalidInputError):
        RpcLimits(**wrong)


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:192.0.2.7:4711", "192.0.2.7"),
        ("ipv6:%5B2001:db8:1:2:3::9%5D:4711", "2001:db8:1:2::/64"),
        ("ipv6:[::1]:4711", "::/64"),
        ("ipv6:%5B::ffff:192.0.2.7%5D:4711", "192.0.2.7"),
        ("unix:", "unix:"),
        ("strange", "strange"),
    ],
)
def test_a_peer_is_its_host_without_the_port(peer, host):
    assert peer_host(peer) == host


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.8.9.1:1", "localhost:1", "[::1]:1", "unix:/run/mmsc"])
def test_addresses_of_this_machine(address):
    assert is_loopback(address)


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "192.0.2.7:1", "receiver:1", "nonsense", ":1"])
def test_addresses_of_elsewhere(address):
    assert not is_loopback(address)
