"""The link with everything on: models of the rate, impairments, queues in time, links of one's own."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channel_emulator.bank import LinkBank
from channel_emulator.delay import DelayLine
from channel_emulator.fading import Fading
from channel_emulator.impairments import Blackouts, GilbertElliott, Impairments
from channel_emulator.link import Delivery, Link
from channel_emulator.replay import Trace
from channel_emulator.settings import LinkSettings, Replay, Schedule
from shared.errors import InvalidInputError

END_S = 1e5
PLAIN = LinkSettings(rate_bps=8_000.0, propagation_s=0.5, queue_bytes=100_000)
"""A byte takes a millisecond."""

ROUGH = Impairments(
    loss_rate=0.1,
    gilbert_elliott=GilbertElliott(0.1, 0.3, bad_loss_rate=0.5),
    burst_rate=0.02,
    burst_packets=2,
    bit_error_rate=1e-4,
    duplicate_rate=0.2,
    reorder_rate=0.2,
    reorder_s=1.0,
    jitter_s=0.3,
    blackouts=Blackouts(((3.0, 3.5),), period_s=20.0),
)
rates = st.sampled_from(
    [
        None,
        Schedule(((0.0, 64e3), (2.0, 0.0), (2.5, 1e6)), period_s=5.0),
        Replay(Trace("t", opportunities_ms=(4, 9, 9, 30, 120))),
        Replay(Trace("t", points=((0.0, 1e5), (1.0, 3e5)), table_s=2.0), once=True),
        Fading(mean_snr_db=5.0, bandwidth_hz=2e4, threshold_db=2.0),
    ]
)
link_settings = st.builds(
    LinkSettings,
    rate_bps=st.just(64e3),
    queue_bytes=st.sampled_from([1_500, 20_000]),
    loss_rate=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 2**64 - 1),
    burst_bytes=st.sampled_from([0, 3_000]),
    queue_s=st.sampled_from([0.0, 0.5]),
    per_stream=st.booleans(),
    model=rates,
    impairments=st.sampled_from([Impairments(), ROUGH]),
    stream_impairments=st.sampled_from([Impairments(), ROUGH]),
)
traffic = st.lists(
    st.tuples(st.sampled_from([0.0, 0.0, 0.02, 0.7]), st.integers(0, 2), st.integers(1, 1_500)), max_size=40
)
poll_gaps = st.lists(st.floats(0.0, 1.0), max_size=10)


def play(config: LinkSettings, offers: list, polls: list[float]) -> tuple[LinkBank, list[Delivery]]:
    """Plays traffic on three streams to its end, with polls in between."""
    bank, deliveries, now = LinkBank(config, 0.0), [], 0.0
    for stream in range(3):
        bank.open(stream, 0.0)
    times = [sum(polls[: n + 1]) for n in range(len(polls))]
    for gap_s, stream, size in offers:
        for time in (time for time in times if now <= time < now + gap_s):
            deliveries += bank.poll(time)
        now += gap_s
        bank.offer(stream, bytes([size % 256]) * size, now)
    for stream in range(3):
        bank.finish(stream, now)
    return bank, deliveries + bank.poll(END_S)


def by_stream(deliveries: list[Delivery]) -> list[list[Delivery]]:
    return [[delivery for delivery in deliveries if delivery.stream == stream] for stream in range(3)]


@settings(max_examples=50)
@given(config=link_settings, offers=traffic, polls=poll_gaps)
def test_a_replay_is_bit_identical_however_late_and_seldom_it_is_asked(config, offers, polls):
    _, often = play(config, offers, polls)
    _, once = play(config, offers, [])
    assert by_stream(often) == by_stream(once)


@settings(max_examples=50)
@given(config=link_settings, offers=traffic)
def test_every_byte_is_accounted_for_and_every_stream_ends_once_after_its_packets(config, offers):
    bank, deliveries = play(config, offers, [])
    counters = bank.counters
    assert counters.accepted_bytes + counters.duplicated_bytes == counters.delivered_bytes + counters.lost_bytes
    assert counters.accepted_bytes + counters.overflow_bytes == sum(size for _, _, size in offers)
    assert counters.queued_bytes == 0
    for stream in by_stream(deliveries):
        assert [delivery.packet for delivery in stream].count(None) == 1
        assert stream[-1].packet is None
        assert [delivery.due_s for delivery in stream] == sorted(delivery.due_s for delivery in stream)


def offered(config: LinkSettings, sizes: list[int], at_s: float = 0.0) -> Link:
    link = Link(config)
    link.open(0)
    for number, size in enumerate(sizes):
        link.offer(0, bytes([number % 256]) * size, at_s)
    return link


def test_a_schedule_stalls_the_queue_and_goes_on():
    link = offered(replace(PLAIN, model=Schedule(((0.0, 8e3), (1.5, 0.0), (4.0, 16e3)))), [1_000, 1_000, 1_000])
    assert [d.due_s for d in link.poll(END_S)] == pytest.approx([1.5, 4.75, 5.25])


def test_a_schedule_begins_when_it_is_set_and_again_with_the_seed():
    config = replace(PLAIN, model=Schedule(((0.0, 8e3), (1.0, 8e5))), propagation_s=0.0)
    link = Link(PLAIN)
    link.open(0)
    link.configure(config, 100.0)
    link.offer(0, bytes(1_100), 100.0)
    assert [d.due_s for d in link.poll(200.0)] == pytest.approx([101.001])
    link.configure(config, 300.0, restart_random=True)
    link.offer(0, bytes(1_000), 300.0)
    assert [d.due_s for d in link.poll(400.0)] == pytest.approx([301.0])
    link.configure(config, 500.0, restart_rate=True)
    link.offer(0, bytes(1_000), 500.0)
    assert [d.due_s for d in link.poll(600.0)] == pytest.approx([501.0])
    link.configure(replace(config, loss_rate=0.0, queue_bytes=50_000), 700.0)  # something else
    link.offer(0, bytes(1_000), 700.0)
    assert [d.due_s for d in link.poll(800.0)] == pytest.approx([700.01])


def test_once_goes_on_at_the_nominal_rate():
    trace = Trace("t", opportunities_ms=(100,))
    link = offered(replace(PLAIN, model=Replay(trace, once=True), propagation_s=0.0), [1_500, 1_500])
    assert [d.due_s for d in link.poll(END_S)] == pytest.approx([0.1, 1.6])


def test_a_bucket_passes_a_burst_at_once():
    link = offered(replace(PLAIN, burst_bytes=2_000, propagation_s=0.0), [1_000, 1_000, 500])
    assert [d.due_s for d in link.poll(END_S)] == pytest.approx([0.0, 0.0, 0.5])


def test_a_queue_in_time_holds_what_the_link_will_carry():
    config = replace(PLAIN, queue_bytes=1_500, queue_s=3.0, model=Schedule(((0.0, 8e3), (2.0, 0.0), (4.0, 80e3))))
    link = Link(config)
    link.open(0)
    assert link.account(0).credit_bytes == 2_000  # of the next three seconds, the last is an outage
    assert [link.offer(0, bytes(500), 0.0) for _ in range(5)] == [True] * 4 + [False]
    link.poll(2.5)
    assert link.offer(0, bytes(1_400), 2.5)  # 1.5 s at 10 bytes a millisecond are ahead
    assert link.account(0).credit_bytes == 2_000 + 500 + 15_000


def test_an_outage_leaves_room_for_a_packet():
    link = Link(replace(PLAIN, queue_bytes=1_500, queue_s=0.1, model=Schedule(((0.0, 0.0), (60.0, 8e3)))))
    link.open(0)
    assert link.account(0).credit_bytes == 1_500


def test_each_stream_has_a_link_of_its_own():
    bank = LinkBank(replace(PLAIN, per_stream=True, model=Schedule(((0.0, 8e3), (1.0, 8e5)))), 0.0)
    bank.open(1, 0.0)
    bank.open(2, 50.0)
    assert bank.offer(1, bytes(1_000), 50.0)
    assert bank.offer(2, bytes(1_000), 50.0)
    due = {delivery.stream: delivery.due_s for delivery in bank.poll(END_S)}
    assert due == pytest.approx({1: 50.51, 2: 51.5})
    assert bank.busy_s(END_S) == pytest.approx(1.01)
    assert bank.streams == 2
    bank.close(1, END_S)
    assert bank.streams == 1


def test_streams_stay_on_the_link_on_which_they_were_opened():
    bank = LinkBank(PLAIN, 0.0)
    bank.open(1, 0.0)
    bank.configure(replace(PLAIN, per_stream=True), 0.0)
    bank.open(2, 0.0)
    for stream in (1, 2):
        bank.offer(stream, bytes(1_000), 0.0)
    assert [delivery.due_s for delivery in bank.poll(END_S)] == [1.5, 1.5]


def fates(bank: LinkBank, stream: int, start_s: float) -> list[bytes | None]:
    for number in range(100):
        bank.offer(stream, bytes([number]) * 10, start_s)
    return [delivery.packet for delivery in bank.poll(start_s + 50.0) if delivery.stream == stream]


@pytest.mark.parametrize("per_stream", [False, True])
def test_streams_lose_independently_and_the_seed_repeats_it(per_stream):
    lossy = Impairments(loss_rate=0.5)
    bank = LinkBank(replace(PLAIN, per_stream=per_stream, stream_impairments=lossy), 0.0)
    bank.open(1, 0.0)
    bank.open(2, 0.0)
    first, second = fates(bank, 1, 0.0), fates(bank, 2, 100.0)
    assert first != second
    if not per_stream:  # a link of one's own begins with its stream
        bank.configure(bank.settings, 200.0, restart_random=True)
        assert (fates(bank, 1, 200.0), fates(bank, 2, 300.0)) == (first, second)
    for stream in (1, 2):
        bank.close(stream, 400.0)
    bank.configure(bank.settings, 400.0, restart_random=True)
    bank.open(3, 400.0)
    bank.open(4, 400.0)
    assert (fates(bank, 3, 400.0), fates(bank, 4, 500.0)) == (first, second)


def test_a_blackout_of_the_link_takes_every_stream_with_it():
    bank = LinkBank(replace(PLAIN, impairments=Impairments(blackouts=Blackouts(((0.0, 5.0),)))), 0.0)
    for stream in (1, 2):
        bank.open(stream, 0.0)
        bank.offer(stream, bytes(1_500), 0.0)
        bank.offer(stream, bytes(1_500), 0.0)
    assert [delivery.due_s for delivery in bank.poll(END_S)] == [6.5]  # of those at 1.5, 3, 4.5 and 6 s
    assert bank.counters.lost_packets == 3


def test_directions_have_random_sequences_of_their_own():
    lossy = replace(PLAIN, loss_rate=0.5, impairments=Impairments(loss_rate=0.1))
    survivors = []
    for name in ("forward", "backward"):
        bank = LinkBank(lossy, 0.0, name)
        bank.open(1, 0.0)
        survivors.append(fates(bank, 1, 0.0))
    assert survivors[0] != survivors[1]


def test_what_is_held_back_is_overtaken_and_jitter_alone_keeps_the_order():
    rough = Impairments(reorder_rate=0.3, reorder_s=0.05, jitter_s=0.02)
    orders = []
    for impairments in (rough, replace(rough, reorder_rate=0.0)):
        link = offered(replace(PLAIN, impairments=impairments), [10] * 100)
        orders.append([delivery.packet[0] for delivery in link.poll(END_S)])
        assert sorted(orders[-1]) == list(range(100))
    assert orders[0] != list(range(100)) == orders[1]


def test_closing_a_stream_discards_what_is_held_back_too():
    link = offered(replace(PLAIN, impairments=Impairments(reorder_rate=1.0, reorder_s=5.0)), [100, 100])
    link.open(1)
    link.offer(1, bytes(100), 0.0)
    link.poll(0.35)
    link.close(0, 0.4)
    assert link.counters.discarded_bytes == 200
    assert [delivery.stream for delivery in link.poll(END_S)] == [1]


def test_impairments_are_counted():
    link = offered(
        replace(PLAIN, impairments=Impairments(duplicate_rate=1.0, bit_error_rate=0.5, reorder_rate=1.0)), [100] * 10
    )
    assert len(link.poll(END_S)) == 20
    counters = link.counters
    assert (counters.corrupted_packets, counters.duplicated_packets, counters.duplicated_bytes) == (10, 10, 1_000)
    assert counters.reordered_packets == 0  # held back for no time


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.sampled_from([0.0, 0.4])), max_size=20))
def test_a_delay_line_gives_out_in_the_order_of_time(steps):
    line: DelayLine[int] = DelayLine()
    now, out, due = 0.0, [], {}
    for number, (gap_s, delay_s, held_s) in enumerate(steps):
        now += gap_s
        out += line.take(now)
        due[number] = line.put(number, now + delay_s, held_s)
    line.put_after(-1, now, max(due.values(), default=0.0))
    out += line.take(math.inf)
    assert out[-1][1] == -1
    assert {number: due_s for due_s, number in out[:-1]} == due
    assert [due_s for due_s, _ in out] == sorted(due_s for due_s, _ in out)
    unheld = [number for _, number in out[:-1] if not steps[number][2]]
    assert unheld == sorted(unheld)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("burst_bytes", lambda: LinkSettings(burst_bytes=-1)),
        ("queue_s", lambda: LinkSettings(queue_s=math.nan)),
        ("points", lambda: Schedule(())),
        ("points", lambda: Schedule(((1.0, 5.0),))),
        ("points", lambda: Schedule(((0.0, 5.0), (0.0, 6.0)))),
        ("points", lambda: Schedule(((0.0, 0.0), (1.0, 0.0)))),
        ("points", lambda: Schedule(((0.0, -1.0),))),
        ("period_s", lambda: Schedule(((0.0, 5.0), (2.0, 6.0)), period_s=2.0)),
        ("period_s", lambda: Schedule(((0.0, 5.0),), period_s=-1.0)),
    ],
)
def test_impossible_settings_are_refused_by_name(name, make):
    with pytest.raises(InvalidInputError) as caught:
        make()
    assert caught.value.field == name
