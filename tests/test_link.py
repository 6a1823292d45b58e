"""The link model: what it promises, for any traffic and any times of asking."""

import math
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channel_emulator.delay import DelayLine
from channel_emulator.link import QUANTUM_BYTES, Delivery, Link
from channel_emulator.settings import LinkSettings
from shared.errors import InvalidInputError

END_S = 1e7
"""Long after everything has arrived."""

PLAIN = LinkSettings(rate_bps=8_000.0, propagation_s=0.5, queue_bytes=100_000)
"""A byte takes a millisecond."""


@dataclass(frozen=True)
class Offer:
    """One packet of some traffic."""

    gap_s: float
    stream: int
    size: int


offers = st.lists(
    st.builds(
        Offer,
        gap_s=st.sampled_from([0.0, 0.0, 0.001, 0.3, 2.0]),
        stream=st.integers(0, 2),
        size=st.integers(1, 2_000),
    ),
    max_size=40,
)
link_settings = st.builds(
    LinkSettings,
    rate_bps=st.sampled_from([64e3, 1e6, 50e6, 12_345.6]),
    propagation_s=st.sampled_from([0.0, 0.02, 1.0]),
    queue_bytes=st.integers(1_500, 20_000),
    loss_rate=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 2**64 - 1),
)
poll_gaps = st.lists(st.floats(0.0, 3.0), max_size=20)


def packet(number: int, size: int) -> bytes:
    """A packet that can be told from others when it is at least 2 bytes long."""
    return (number.to_bytes(2, "big") * size)[:size]


@dataclass
class Run:
    """What some traffic led to."""

    link: Link
    accepted: list[tuple[int, bytes]]
    deliveries: list[Delivery]


def run(config: LinkSettings, traffic: list[Offer], polls: list[float]) -> Run:
    """Plays traffic on streams 0 to 2, with polls in between, to its end."""
    link, accepted, deliveries = Link(config), [], []
    for stream in range(3):
        link.open(stream)
    poll_times = [sum(polls[: n + 1]) for n in range(len(polls))]
    now = 0.0
    for number, offer in enumerate(traffic):
        arrival = now + offer.gap_s
        for time in (time for time in poll_times if now <= time < arrival):
            deliveries += link.poll(time)
        now = arrival
        data = packet(number, offer.size)
        if link.offer(offer.stream, data, now):
            accepted.append((offer.stream, data))
    for stream in range(3):
        link.finish(stream, now)
    return Run(link, accepted, deliveries + link.poll(END_S))


@given(config=link_settings, traffic=offers, polls=poll_gaps)
def test_a_stream_is_never_reordered_and_ends_once_at_its_end(config, traffic, polls):
    result = run(config, traffic, polls)
    for stream in range(3):
        came = [delivery.packet for delivery in result.deliveries if delivery.stream == stream]
        sent = iter(data for number, data in result.accepted if number == stream)
        assert came.count(None) == 1
        assert came[-1] is None
        assert all(data in sent for data in came[:-1])  # a subsequence: `in` consumes the iterator


@given(config=link_settings, traffic=offers, polls=poll_gaps)
def test_every_byte_is_accounted_for(config, traffic, polls):
    result = run(config, traffic, polls)
    counters = result.link.counters
    offered = sum(offer.size for offer in traffic)
    accepted = sum(len(data) for _, data in result.accepted)
    delivered = [delivery.packet for delivery in result.deliveries if delivery.packet is not None]
    assert counters.accepted_bytes == accepted
    assert counters.overflow_bytes == offered - accepted
    assert counters.delivered_bytes == sum(map(len, delivered))
    assert counters.delivered_packets == len(delivered)
    assert counters.lost_bytes == accepted - counters.delivered_bytes
    assert counters.lost_packets == len(result.accepted) - len(delivered)
    assert counters.overflow_packets == len(traffic) - len(result.accepted)
    assert counters.queued_bytes == 0
    if config.loss_rate in {0.0, 1.0}:
        assert counters.lost_bytes == config.loss_rate * accepted


@given(config=link_settings, traffic=offers, now=st.floats(0.0, 5.0))
def test_bytes_under_way_are_neither_lost_nor_counted_twice(config, traffic, now):
    link = Link(replace(config, loss_rate=0.0))
    link.open(0)
    accepted = sum(offer.size for offer in traffic if link.offer(0, packet(0, offer.size), 0.0))
    delivered = sum(len(delivery.packet) for delivery in link.poll(now))
    account = link.account(0)
    assert account.queued_bytes == link.counters.queued_bytes
    assert account.departed_bytes + account.queued_bytes == accepted
    assert delivered == link.counters.delivered_bytes <= account.departed_bytes
    link.close(0, now)
    assert delivered + link.counters.discarded_bytes == accepted
    assert link.poll(END_S) == []


@given(config=link_settings, traffic=offers, polls=poll_gaps, other_polls=poll_gaps)
def test_late_and_rare_polls_change_nothing(config, traffic, polls, other_polls):
    assert run(config, traffic, polls).deliveries == run(config, traffic, other_polls).deliveries
    assert run(config, traffic, polls).deliveries == run(config, traffic, []).deliveries


@given(config=link_settings, traffic=offers)
def test_departures_follow_the_formula(config, traffic):
    """departure = max(arrival, previous departure) + 8 L / rate, on one stream without loss."""
    link = Link(replace(config, loss_rate=0.0))
    link.open(0)
    now, departure, expected = 0.0, 0.0, []
    for offer in traffic:
        now += offer.gap_s
        if link.offer(0, packet(0, offer.size), now):
            departure = max(now, departure) + 8 * offer.size / config.rate_bps
            expected.append(departure + config.propagation_s)
    assert [delivery.due_s for delivery in link.poll(END_S)] == expected


@given(config=link_settings, traffic=offers)
def test_the_queue_bound_holds_and_the_credit_says_what_fits(config, traffic):
    link = Link(config)
    link.open(0)
    now, handed_over, credit = 0.0, 0, config.queue_bytes
    for offer in traffic:
        now += offer.gap_s
        link.poll(now)
        account = link.account(0)
        assert account.credit_bytes >= credit
        credit = account.credit_bytes
        fits = handed_over + offer.size <= credit
        assert link.offer(0, packet(0, offer.size), now) == fits
        handed_over += offer.size
        assert link.account(0).queued_bytes <= config.queue_bytes
    link.poll(END_S)
    assert link.account(0).credit_bytes == config.queue_bytes + handed_over


@given(
    sizes=st.lists(st.integers(1, 2_000), min_size=1, max_size=30),
    changes=st.lists(st.tuples(st.floats(0.0, 0.4), st.sampled_from([8e3, 64e3, 1e6])), max_size=6),
)
def test_a_rate_change_holds_from_now_on(sizes, changes):
    """While the link is never idle, the bits sent are the integral of the rate."""
    link = Link(replace(PLAIN, propagation_s=0.0))
    link.open(0)
    for size in sizes:
        assert link.offer(0, packet(0, size), 0.0)
    now, rate_bps, pieces = 0.0, PLAIN.rate_bps, []
    for gap_s, new_bps in changes:
        pieces.append((now, now + gap_s, rate_bps))
        now, rate_bps = now + gap_s, new_bps
        link.configure(replace(link.settings, rate_bps=rate_bps), now)
    pieces.append((now, math.inf, rate_bps))
    sent_bits = 0
    for delivery in link.poll(END_S):
        sent_bits += 8 * len(delivery.packet)
        due_s = delivery.due_s
        integral = sum((min(end, due_s) - start) * rate for start, end, rate in pieces if start < due_s)
        assert integral == pytest.approx(sent_bits, rel=1e-9)


@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)), max_size=20))
def test_a_delay_line_never_overtakes(steps):
    line: DelayLine[int] = DelayLine()
    now, out = 0.0, []
    for number, (gap_s, delay_s) in enumerate(steps):
        now += gap_s
        out += line.take(now)
        line.put(number, now + delay_s)
    out += line.take(END_S)
    assert [number for _, number in out] == list(range(len(steps)))
    assert [due_s for due_s, _ in out] == sorted(due_s for due_s, _ in out)


@settings(max_examples=30)
@given(
    first=st.lists(st.integers(1, 3_000), min_size=40, max_size=60),
    second=st.lists(st.integers(1, 3_000), min_size=40, max_size=60),
    now=st.floats(0.0, 30.0),
)
def test_streams_that_wait_share_the_link_by_bytes(first, second, now):
    link = Link(replace(PLAIN, queue_bytes=10**6))
    for stream, sizes in enumerate((first, second)):
        link.open(stream)
        for size in sizes:
            link.offer(stream, packet(0, size), 0.0)
    link.poll(now)
    one, two = link.account(0), link.account(1)
    if min(one.queued_bytes, two.queued_bytes) > 3_000:  # both still wait
        assert abs(one.departed_bytes - two.departed_bytes) <= QUANTUM_BYTES + 2 * 3_000


def test_a_greedy_stream_does_not_delay_a_small_one():
    link = Link(PLAIN)
    link.open(0)
    link.open(1)
    for _ in range(90):
        link.offer(0, packet(0, 1_000), 0.0)
    link.offer(1, packet(1, 1_000), 0.0)
    (small,) = [delivery for delivery in link.poll(END_S) if delivery.stream == 1]
    assert small.due_s <= 4 * 1.0 + PLAIN.propagation_s


def test_the_same_seed_loses_the_same_packets_and_another_seed_others():
    def fates(seed: int) -> list[Delivery]:
        return run(replace(PLAIN, loss_rate=0.5, seed=seed), [Offer(0.0, 0, 100)] * 64, []).deliveries

    assert fates(7) == fates(7)
    assert fates(7) != fates(8)


def test_setting_the_seed_restarts_the_losses():
    link = Link(replace(PLAIN, loss_rate=0.5, seed=3, propagation_s=0.0))
    link.open(0)

    def survivors(start_s: float) -> list[bytes | None]:
        for number in range(64):
            link.offer(0, packet(number, 10), start_s)
        return [delivery.packet for delivery in link.poll(start_s + 10)]

    first = survivors(0.0)
    assert survivors(20.0) != first
    link.configure(link.settings, 40.0, restart_random=True)
    assert survivors(40.0) == first


def test_the_fate_of_a_packet_does_not_depend_on_the_rate_of_loss():
    traffic = [Offer(0.0, 0, 100)] * 64
    few = {d.packet for d in run(replace(PLAIN, loss_rate=0.2), traffic, []).deliveries}
    many = {d.packet for d in run(replace(PLAIN, loss_rate=0.6), traffic, []).deliveries}
    assert many < few


def test_lost_packets_take_their_time_on_the_link():
    link = Link(replace(PLAIN, loss_rate=1.0))
    link.open(0)
    link.offer(0, packet(0, 1_000), 0.0)
    link.offer(0, packet(1, 1_000), 0.0)
    assert link.busy_s(1.5) == pytest.approx(1.5)
    assert link.next_event_s == pytest.approx(2.0)
    assert link.poll(END_S) == []
    assert link.busy_s(END_S) == pytest.approx(2.0)


def test_the_end_travels_like_a_packet():
    link = Link(PLAIN)
    link.open(0)
    link.open(1)
    link.offer(0, packet(0, 1_000), 0.0)
    link.finish(0, 0.1)
    link.finish(1, 0.1)
    link.finish(1, 0.2)  # once is enough
    assert link.poll(END_S) == [
        Delivery(1, None, 0.1 + 0.5),
        Delivery(0, packet(0, 1_000), 1.5),
        Delivery(0, None, 1.5),
    ]
    with pytest.raises(ValueError, match="end"):
        link.offer(0, b"late", END_S)


def test_closing_a_stream_frees_the_link_and_leaves_the_others_alone():
    link = Link(PLAIN)
    link.open(0)
    link.open(1)
    link.offer(0, packet(0, 1_000), 0.0)
    link.offer(0, packet(0, 1_000), 0.0)
    link.offer(1, packet(1, 1_000), 0.0)
    link.poll(1.2)  # stream 0's first packet is in flight, another of the three in service
    link.close(0, 1.25)
    (delivery,) = link.poll(END_S)
    assert (delivery.stream, delivery.packet) == (1, packet(1, 1_000))
    assert link.counters.discarded_bytes == 2_000
    assert link.counters.queued_bytes == 0
    assert link.streams == 1


def test_a_smaller_propagation_does_not_reorder():
    link = Link(PLAIN)
    link.open(0)
    link.offer(0, packet(1, 100), 0.0)
    link.offer(0, packet(2, 100), 0.0)
    link.configure(replace(PLAIN, propagation_s=0.0), 0.15)  # the first is in flight until 0.6
    assert [(d.packet, d.due_s) for d in link.poll(END_S)] == [(packet(1, 100), 0.6), (packet(2, 100), 0.6)]


def test_a_smaller_queue_keeps_the_credit_it_gave():
    link = Link(replace(PLAIN, queue_bytes=4_000))
    link.open(0)
    link.configure(replace(PLAIN, queue_bytes=2_000), 0.0)
    assert link.account(0).credit_bytes == 4_000
    assert all(link.offer(0, packet(0, 1_000), 0.0) for _ in range(4))
    link.poll(2.0)
    assert link.account(0).credit_bytes == 4_000
    link.poll(3.0)
    assert link.account(0).credit_bytes == 5_000


def test_a_larger_queue_gives_credit_at_once():
    link = Link(PLAIN)
    link.open(0)
    link.configure(replace(PLAIN, queue_bytes=150_000), 1.0)
    assert link.account(0).credit_bytes == 150_000


def test_nothing_happens_on_an_idle_link():
    link = Link(PLAIN)
    link.open(0)
    assert link.next_event_s == math.inf
    assert link.poll(END_S) == []
    assert link.busy_s(END_S) == 0.0


def test_what_came_out_but_was_not_fetched_is_an_event():
    link = Link(PLAIN)
    link.open(0)
    link.offer(0, packet(0, 1_000), 0.0)
    link.busy_s(2.0)
    assert link.next_event_s == pytest.approx(1.5)
    assert len(link.poll(2.0)) == 1


def test_misuse_is_told():
    link = Link(PLAIN)
    link.open(0)
    with pytest.raises(ValueError, match="open"):
        link.open(0)
    with pytest.raises(ValueError, match="empty"):
        link.offer(0, b"", 0.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("rate_bps", value) for value in (0.0, -1.0, math.nan, math.inf, 2e12)],
        *[("propagation_s", value) for value in (-0.1, math.nan, math.inf)],
        *[("queue_bytes", value) for value in (0, 1_499, 2**30 + 1)],
        *[("loss_rate", value) for value in (-0.1, 1.1, math.nan)],
        *[("seed", value) for value in (-1, 2**64)],
    ],
)
def test_impossible_settings_are_refused_by_name(name, value):
    with pytest.raises(InvalidInputError) as caught:
        replace(PLAIN, **{name: value})
    assert caught.value.field == name
