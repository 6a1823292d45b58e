"""The link's settings as messages: what a request changes, and what the state says."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from google.protobuf.message import Message

from channel_emulator.bank import LinkBank
from channel_emulator.checks import naming
from channel_emulator.fading import Fading, FadingKind
from channel_emulator.impairments import Blackouts, GilbertElliott, Impairments
from channel_emulator.rates import MAX_RATE_BPS, MIN_RATE_BPS
from channel_emulator.replay import SHIPPED, parse_trace, shipped_trace
from channel_emulator.settings import (
    MIN_QUEUE_BYTES,
    LinkSettings,
    RateModel,
    Replay,
    Schedule,
)
from shared.errors import InvalidInputError
from shared.stubs.mmsc.v1 import channel_pb2

_KINDS: Final = {
    channel_pb2.FADING_KIND_AWGN: FadingKind.AWGN,
    channel_pb2.FADING_KIND_RAYLEIGH: FadingKind.RAYLEIGH,
    channel_pb2.FADING_KIND_RICIAN: FadingKind.RICIAN,
}

_ALWAYS_TOLD: Final = ("rate_bps", "propagation_s", "queue_bytes", "loss_rate", "seed")
_COUNTERS: Final = (
    "queued_bytes",
    "accepted_bytes",
    "delivered_bytes",
    "overflow_bytes",
    "lost_bytes",
    "delivered_packets",
    "lost_packets",
    "overflow_packets",
    "discarded_bytes",
    "corrupted_packets",
    "duplicated_packets",
    "reordered_packets",
)


class Change(NamedTuple):
    """What a request makes of one direction."""

    settings: LinkSettings
    restart_random: bool
    """Whether everything random begins again."""
    restart_rate: bool
    """Whether the model of the rate begins again."""


def changes(
    forward: LinkSettings, backward: LinkSettings, request: channel_pb2.SetLinkRequest
) -> tuple[Change, Change]:
    """What a request makes of both directions.

    Raises:
        InvalidInputError: a value is out of range; the error names it by its path, like
            `settings.impairments.loss_rate`.
    """
    there = _change("settings", forward, request.settings)
    back = channel_pb2.LinkSettings()
    back.CopyFrom(request.backward)
    for name in ("propagation_s", "seed"):
        changed = request.settings.HasField(name) or getattr(there.settings, name) != getattr(forward, name)
        if changed and not back.HasField(name):
            setattr(back, name, getattr(there.settings, name))
    return there, _change("backward", backward, back)


def _change(path: str, settings: LinkSettings, message: channel_pb2.LinkSettings) -> Change:
    with naming(path):
        return Change(changed(settings, message), message.HasField("seed"), message.HasField("model"))


def changed(settings: LinkSettings, message: channel_pb2.LinkSettings) -> LinkSettings:
    """The settings with what the message says.

    Raises:
        InvalidInputError: a value is out of range; the error names it.
    """
    given = _fields(message)
    if "queue_s" in given and "queue_bytes" not in given:
        given["queue_bytes"] = MIN_QUEUE_BYTES if given["queue_s"] else settings.queue_bytes
    elif "queue_bytes" in given:
        given.setdefault("queue_s", 0.0)
    for name in ("impairments", "stream_impairments"):
        if name in given:
            with naming(name):
                given[name] = _impairments(getattr(settings, name), given[name])
    model = given.pop("model", None)
    if model is None:
        if "rate_bps" in given:
            given["model"] = None
        return replace(settings, **given)
    return _with_model(replace(settings, **given), model, given)


def _with_model(settings: LinkSettings, message: channel_pb2.RateModel, given: Mapping[str, Any]) -> LinkSettings:
    """The settings with a model, and what follows from it for what the request leaves open."""
    kind = message.WhichOneof("model")
    if kind is None:
        raise InvalidInputError("model", "none is given")
    with naming(f"model.{kind}"):
        model = _model(message, kind)
    settings = replace(settings, model=model)
    if model is not None and "rate_bps" not in given:
        mean_bps = settings.rate("", 0.0).mean_bps
        settings = replace(settings, rate_bps=min(max(mean_bps, MIN_RATE_BPS), MAX_RATE_BPS))
    shipped = SHIPPED.get(message.trace.name) if not message.trace.content else None
    if shipped and "propagation_s" not in given:
        settings = replace(settings, propagation_s=shipped.propagation_s)
    return settings


def _model(message: channel_pb2.RateModel, kind: str) -> RateModel | None:
    match kind:
        case "schedule":
            points = tuple((point.time_s, point.rate_bps) for point in message.schedule.points)
            return Schedule(points, message.schedule.period_s)
        case "trace":
            trace = message.trace
            source = parse_trace(trace.name, trace.content) if trace.content else shipped_trace(trace.name)
            return Replay(source, trace.once)
        case "fading":
            return _fading(message.fading)
        case _:
            return None


def _fading(message: channel_pb2.Fading) -> Fading:
    given = _fields(message)
    if message.kind not in _KINDS:
        raise InvalidInputError("kind", f"{message.kind} is no kind of fading")
    return Fading(**{**given, "kind": _KINDS[message.kind]})


def _impairments(settings: Impairments, message: channel_pb2.Impairments) -> Impairments:
    given = _fields(message)
    if "gilbert_elliott" in given:
        with naming("gilbert_elliott"):
            given["gilbert_elliott"] = GilbertElliott(**_fields(message.gilbert_elliott))
    if "blackouts" in given:
        intervals = tuple((interval.begin_s, interval.end_s) for interval in message.blackouts.intervals)
        with naming("blackouts"):
            given["blackouts"] = Blackouts(intervals, message.blackouts.period_s)
    return replace(settings, **given)


def _fields(message: Message) -> dict[str, Any]:
    return {field.name: value for field, value in message.ListFields()}


def state_message(bank: LinkBank, now: float) -> channel_pb2.LinkState:
    """One direction's settings and counters."""
    busy_s = bank.busy_s(now)
    return channel_pb2.LinkState(
        settings=settings_message(bank.settings),
        now_s=now,
        streams=bank.streams,
        busy_s=busy_s,
        current_rate_bps=bank.rate_bps(now),
        mean_rate_bps=bank.mean_rate_bps,
        **{name: getattr(bank.counters, name) for name in _COUNTERS},
    )


def settings_message(settings: LinkSettings) -> channel_pb2.LinkSettings:
    """The settings; options that are off are left out."""
    message = channel_pb2.LinkSettings(**{name: getattr(settings, name) for name in _ALWAYS_TOLD})
    for name in ("burst_bytes", "queue_s", "per_stream"):
        if value := getattr(settings, name):
            setattr(message, name, value)
    if settings.model is not None:
        message.model.CopyFrom(_model_message(settings.model))
    for name in ("impairments", "stream_impairments"):
        if (value := getattr(settings, name)) != Impairments():
            getattr(message, name).CopyFrom(_impairments_message(value))
    return message


def _model_message(model: RateModel) -> channel_pb2.RateModel:
    if isinstance(model, Schedule):
        points = [channel_pb2.RatePoint(time_s=time_s, rate_bps=rate_bps) for time_s, rate_bps in model.points]
        return channel_pb2.RateModel(schedule=channel_pb2.RateSchedule(points=points, period_s=model.period_s))
    if isinstance(model, Replay):
        return channel_pb2.RateModel(trace=channel_pb2.TraceReplay(name=model.trace.name, once=model.once))
    kind = next(number for number, kind in _KINDS.items() if kind is model.kind)
    return channel_pb2.RateModel(fading=channel_pb2.Fading(**{**vars(model), "kind": kind}))


def _impairments_message(settings: Impairments) -> channel_pb2.Impairments:
    message = channel_pb2.Impairments()
    for name, value in vars(settings).items():
        if isinstance(value, GilbertElliott):
            if value != GilbertElliott():
                message.gilbert_elliott.CopyFrom(channel_pb2.GilbertElliott(**vars(value)))
        elif isinstance(value, Blackouts):
            for begin_s, end_s in value.intervals_s:
                message.blackouts.intervals.add(begin_s=begin_s, end_s=end_s)
                message.blackouts.period_s = value.period_s
        elif value:
            setattr(message, name, value)
    return message
