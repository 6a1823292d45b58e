"""What a SetLink request changes, and what it is told."""

import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from channel_emulator.bank import LinkBank
from channel_emulator.config import ChannelConfig
from channel_emulator.fading import Fading, FadingKind
from channel_emulator.impairments import Blackouts, GilbertElliott, Impairments
from channel_emulator.messages import Change, changed, changes, settings_message, state_message
from channel_emulator.settings import LinkSettings, Schedule
from shared.errors import InvalidInputError
from shared.stubs.mmsc.v1 import channel_pb2

START = LinkSettings()
SCHEDULE = {"schedule": {"points": [{"time_s": 0, "rate_bps": 8e3}, {"time_s": 2, "rate_bps": 0}], "period_s": 4}}


def after(settings: LinkSettings = START, **fields: Any) -> LinkSettings:
    return changed(settings, channel_pb2.LinkSettings(**fields))


def both(**fields: Any) -> tuple[Change, Change]:
    config = ChannelConfig()
    return changes(config.link, config.backward, channel_pb2.SetLinkRequest(**fields))


def test_what_is_left_out_keeps_its_value():
    first = after(loss_rate=0.2, impairments={"loss_rate": 0.1, "jitter_s": 0.5}, model=SCHEDULE)
    second = after(first, impairments={"jitter_s": 0.0, "duplicate_rate": 0.3}, per_stream=True)
    assert second.impairments == Impairments(loss_rate=0.1, duplicate_rate=0.3)
    assert (second.loss_rate, second.model, second.per_stream) == (0.2, first.model, True)


def test_a_rate_alone_ends_the_model_and_with_a_model_it_is_what_the_link_claims():
    assert after(model=SCHEDULE).rate_bps == 4e3
    claimed = after(model=SCHEDULE, rate_bps=9e9)
    assert (claimed.rate_bps, claimed.model) == (9e9, Schedule(((0.0, 8e3), (2.0, 0.0)), 4.0))
    assert after(claimed, rate_bps=5e5).model is None
    assert after(claimed, model={"constant": {}}).model is None
    assert after(claimed, loss_rate=0.1).model == claimed.model


def test_a_queue_is_measured_as_it_was_last_set():
    in_time = after(queue_s=0.2)
    assert (in_time.queue_s, in_time.queue_bytes) == (0.2, 1_500)
    assert after(in_time, queue_bytes=9_000).queue_s == 0.0
    assert after(in_time, queue_s=0.0).queue_bytes == 1_500
    with_both = after(queue_s=0.2, queue_bytes=9_000)
    assert (with_both.queue_s, with_both.queue_bytes) == (0.2, 9_000)


def test_a_shipped_trace_brings_its_delay_and_its_mean():
    replay = {"trace": {"name": "satellite"}}
    there, back = both(settings={"model": replay})
    assert (there.settings.propagation_s, back.settings.propagation_s) == (0.27, 0.27)
    assert there.settings.rate_bps == pytest.approx(8.0e6, rel=0.01)
    assert (there.restart_rate, there.restart_random, back.restart_rate) == (True, False, False)
    assert after(model=replay, propagation_s=0.1).propagation_s == 0.1
    own = {"trace": {"name": "satellite", "content": "0,1e6\n1,1e6\n", "once": True}}
    assert after(model=own).propagation_s == START.propagation_s
    assert after(model=own).model.once


def test_delay_and_seed_hold_both_ways_unless_they_are_said_twice():
    there, back = both(settings={"propagation_s": 0.3, "seed": 7})
    assert (back.settings.propagation_s, back.settings.seed, back.restart_random) == (0.3, 7, True)
    there, back = both(settings={"propagation_s": 0.3, "seed": 7}, backward={"propagation_s": 0.0, "seed": 8})
    assert (there.settings.propagation_s, back.settings.propagation_s) == (0.3, 0.0)
    assert (there.settings.seed, back.settings.seed) == (7, 8)
    there, back = both(backward={"loss_rate": 0.5, "rate_bps": 1e4})
    assert there.settings == START
    assert (back.settings.loss_rate, back.settings.rate_bps) == (0.5, 1e4)


def test_what_is_told_sets_the_same_again():
    settings = LinkSettings(
        burst_bytes=3_000,
        queue_s=0.5,
        per_stream=True,
        model=Fading(FadingKind.RICIAN, 12.0, 2e6, 3.0, 0.02, 4.0, 5.0),
        impairments=Impairments(0.1, GilbertElliott(0.1, 0.2, 0.3, 0.4), 0.01, 5, 1e-6, 0.2, 0.3, 0.4, 0.5),
        stream_impairments=Impairments(blackouts=Blackouts(((1.0, 2.0), (3.0, 4.0)), 9.0)),
    )
    assert changed(START, settings_message(settings)) == settings


def test_an_empty_part_ends_it():
    rough = after(
        impairments={
            "gilbert_elliott": {"good_to_bad": 0.5, "bad_loss_rate": 1},
            "blackouts": {"intervals": [{"begin_s": 0, "end_s": 1}]},
        }
    )
    assert rough.impairments.blackouts.cover(0.5)
    assert after(rough, impairments={"gilbert_elliott": {}, "blackouts": {}}).impairments == Impairments()


def test_a_bank_tells_what_its_links_do():
    bank = LinkBank(LinkSettings(model=Schedule(((0.0, 8e3), (2.0, 0.0)), 4.0)), 0.0)
    assert [bank.rate_bps(at_s) for at_s in (1.0, 3.0)] == [8e3, 0.0]
    assert bank.mean_rate_bps == 4e3


odd = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 1e-9, 1e9, math.inf, -math.inf, math.nan]), st.floats())
rate_points = st.lists(st.builds(channel_pb2.RatePoint, time_s=odd, rate_bps=odd), max_size=3)
models = st.one_of(
    st.builds(
        lambda points, period_s: {"schedule": channel_pb2.RateSchedule(points=points, period_s=period_s)},
        rate_points,
        odd,
    ),
    st.builds(
        lambda text, once: {"trace": {"content": text, "once": once}}, st.text("0123456789.,\n#-e"), st.booleans()
    ),
    st.builds(
        lambda kind, *rest: {
            "fading": dict(
                zip(("kind", "mean_snr_db", "bandwidth_hz", "coherence_s", "threshold_db"), (kind, *rest), strict=True)
            )
        },
        st.integers(0, 4),
        *[odd] * 4,
    ),
)
impairments = st.dictionaries(
    st.sampled_from(["loss_rate", "burst_rate", "bit_error_rate", "jitter_s", "reorder_s", "duplicate_rate"]), odd
)


def schedule(*points: tuple[float, float], period_s: float = 0.0) -> dict[str, Any]:
    points_given = [channel_pb2.RatePoint(time_s=time_s, rate_bps=rate_bps) for time_s, rate_bps in points]
    return {"schedule": channel_pb2.RateSchedule(points=points_given, period_s=period_s)}


@settings(max_examples=150)
@given(model=models, rate_bps=odd, queue_s=odd, wrong=impairments)
@example(model=schedule((0.0, 1e-187), period_s=1e-187), rate_bps=0.0, queue_s=0.0, wrong={})
@example(model=schedule((0.0, 1e-187), (1e-187, 1e6)), rate_bps=0.0, queue_s=0.0, wrong={})
@example(model=schedule((0.0, 1.0), (1e-6, 1.0), period_s=2e-6), rate_bps=0.0, queue_s=0.0, wrong={})
def test_whatever_is_asked_for_is_refused_by_name_or_carried_out(model, rate_bps, queue_s, wrong):
    for fields in ({"model": model}, {"queue_s": queue_s, "rate_bps": rate_bps}, {"impairments": wrong}):
        try:
            there, _ = both(settings=fields)
        except InvalidInputError as error:
            assert error.field.startswith("settings.")
            continue
        bank = LinkBank(there.settings, 5.0)
        bank.open(1, 5.0)
        bank.offer(1, bytes(1_000), 5.0)
        bank.poll(6.0)
        state_message(bank, 6.0)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("settings.queue_s", {"settings": {"queue_s": -1.0}}),
        ("backward.rate_bps", {"backward": {"rate_bps": 0.0}}),
        ("settings.model", {"settings": {"model": {}}}),
        ("settings.model.schedule.points", {"settings": {"model": {"schedule": {}}}}),
        ("settings.model.trace.name", {"settings": {"model": {"trace": {"name": "metro"}}}}),
        ("settings.model.trace.content", {"settings": {"model": {"trace": {"content": "x"}}}}),
        ("settings.model.fading.kind", {"settings": {"model": {"fading": {}}}}),
        ("settings.model.fading.mean_snr_db", {"settings": {"model": {"fading": {"kind": 2, "mean_snr_db": 1e3}}}}),
        ("backward.impairments.jitter_s", {"backward": {"impairments": {"jitter_s": -1}}}),
        (
            "settings.stream_impairments.gilbert_elliott.bad_to_good",
            {"settings": {"stream_impairments": {"gilbert_elliott": {"bad_to_good": 2}}}},
        ),
        (
            "settings.impairments.blackouts.intervals",
            {"settings": {"impairments": {"blackouts": {"intervals": [{"begin_s": 2, "end_s": 1}]}}}},
        ),
    ],
)
def test_what_is_wrong_is_named_by_its_path(path, fields):
    with pytest.raises(InvalidInputError) as caught:
        both(**fields)
    assert caught.value.field == path
