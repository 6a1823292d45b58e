"""What `mmsc channel set` takes beyond rate, delay, queue, loss and seed: the options, and the message they make."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from google.protobuf.descriptor import FieldDescriptor

from client.params import DURATION, stacked
from shared.errors import InvalidInputError
from shared.stubs.mmsc.v1 import channel_pb2
from shared.units import parse_duration_s, parse_rate_bps

_F = TypeVar("_F", bound=Callable[..., Any])

MAX_TRACE_BYTES: Final = 3_500_000
"""Largest trace file that fits in a message."""

_FADING: Final = {
    "awgn": channel_pb2.FADING_KIND_AWGN,
    "rayleigh": channel_pb2.FADING_KIND_RAYLEIGH,
    "rician": channel_pb2.FADING_KIND_RICIAN,
}
_PART: Final = click.FloatRange(0, 1)


class _Parts(click.ParamType[tuple[Any, ...]]):
    """Values with a separator between them, each read by its own function.

    Args:
        name: what the help shows.
        readers: one per value.
        separator: between the values.
        least: how many must be there; the others are left out.
    """

    def __init__(self, name: str, *readers: Callable[[str], Any], separator: str = ",", least: int = 0) -> None:
        self.name, self._readers, self._separator = name, readers, separator
        self._least = least or len(readers)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """Reads the text; what is a tuple already stays one."""
        if isinstance(value, tuple):
            return value
        parts = str(value).split(self._separator)
        if not self._least <= len(parts) <= len(self._readers):
            self.fail(f"{value!r} is not {self.name}", param, ctx)
        try:
            return tuple(read(part) for read, part in zip(self._readers, parts, strict=False))
        except (InvalidInputError, ValueError) as error:
            reason = error.description if isinstance(error, InvalidInputError) else f"{value!r} is not {self.name}"
            self.fail(reason, param, ctx)


def _outage_or_rate_bps(text: str) -> float:
    return 0.0 if text.strip() == "0" else parse_rate_bps(text)


def _count(text: str) -> int:
    if not text.strip().isdecimal() or int(text) >= 2**32:  # what the message holds
        raise ValueError
    return int(text)


_POINT: Final = _Parts("TIME:RATE", parse_duration_s, _outage_or_rate_bps, separator=":")
_CHAIN: Final = _Parts("TO_BAD,TO_GOOD[,LOSS_BAD[,LOSS_GOOD]]", float, float, float, float, least=2)
_CHAIN_FIELDS: Final = ("good_to_bad", "bad_to_good", "bad_loss_rate", "good_loss_rate")
_BURST: Final = _Parts("RATE,PACKETS", float, _count)
_HOLD: Final = _Parts("RATE,TIME", float, parse_duration_s)
_INTERVAL: Final = _Parts("BEGIN-END", parse_duration_s, parse_duration_s, separator="-")


def rate_options() -> Callable[[_F], _F]:
    """How the rate varies, and the queue."""
    return stacked(
        click.option("--burst-bytes", type=click.IntRange(0, 2**30), help="Token bucket: what an idle link saves up."),
        click.option("--queue-time", "queue_s", type=DURATION, help="Queue as time on the link, like 200ms."),
        click.option("--per-stream/--shared", default=None, help="Each new stream has a link of its own, or a part."),
        click.option("--point", "points", type=_POINT, multiple=True, help="Of a schedule, like 10s:64kbit; again."),
        click.option("--period", "period_s", type=DURATION, help="After which time the schedule begins again."),
        click.option("--fading", type=click.Choice(tuple(_FADING)), help="The rate follows from SNR and fading."),
        click.option("--snr-db", "mean_snr_db", type=float, help="Mean Es/N0.  [default: 20]"),
        click.option("--bandwidth-hz", type=float, help="Of the channel.  [default: 1e6]"),
        click.option("--gap-db", type=float, help="SNR gap to capacity.  [default: 0]"),
        click.option("--coherence", "coherence_s", type=DURATION, help="Length of a fading block.  [default: 10ms]"),
        click.option("--k-factor", type=float, help="Rician K, linear."),
        click.option("--threshold-db", type=float, help="A block below this SNR is an outage."),
    )


def impairment_options() -> Callable[[_F], _F]:
    """What goes wrong with packets."""
    return stacked(
        click.option("--gilbert-elliott", type=_CHAIN, help="Losses that cluster; LOSS_BAD 1 and LOSS_GOOD 0."),
        click.option("--burst-loss", type=_BURST, help="Losses of so many packets in a row."),
        click.option("--bit-error-rate", type=click.FloatRange(0, 0.5), help="Probability that a bit is flipped."),
        click.option("--duplicate-rate", type=_PART, help="Share of packets that arrive twice."),
        click.option("--reorder", type=_HOLD, help="Share of packets held back, and for how long."),
        click.option("--jitter", "jitter_s", type=DURATION, help="Packets are late by up to this."),
        click.option("--blackout", "blackouts", type=_INTERVAL, multiple=True, help="Link cut, like 2s-2.5s; again."),
        click.option("--blackout-period", "blackout_period_s", type=DURATION, help="They come again after this."),
        click.option("--clean", is_flag=True, help="Ends what goes wrong first."),
        click.option("--each-stream", is_flag=True, help="Goes wrong for each stream by itself, not for the link."),
    )


def changes(values: dict[str, Any]) -> channel_pb2.LinkSettings:
    """The message that the options make; what was not given is left out.

    Args:
        values: what `link_options`, `rate_options` and `impairment_options` gave; with `each_stream`, the loss rate
            is an impairment of the streams too.

    Raises:
        click.UsageError: options that need another one stand alone.
    """
    names = ("rate_bps", "propagation_s", "queue_bytes", "seed", "burst_bytes", "queue_s", "per_stream")
    loss = {} if values["each_stream"] else _given(values, "loss_rate")
    settings = channel_pb2.LinkSettings(**_given(values, *names), **loss)
    _add_model(settings, values)
    scope = settings.stream_impairments if values["each_stream"] else settings.impairments
    _add_impairments(scope, values)
    if values["clean"] and not values["each_stream"] and not settings.HasField("loss_rate"):
        settings.loss_rate = 0.0
    return settings


def _given(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: values[name] for name in names if values[name] is not None}


def _add_model(settings: channel_pb2.LinkSettings, values: dict[str, Any]) -> None:
    details = _given(values, "mean_snr_db", "bandwidth_hz", "gap_db", "coherence_s", "k_factor", "threshold_db")
    if values["fading"]:
        settings.model.fading.CopyFrom(channel_pb2.Fading(kind=_FADING[values["fading"]], **details))
    elif details:
        raise click.UsageError("SNR, bandwidth and the like need --fading")
    if values["points"] and values["fading"]:
        raise click.UsageError("--point and --fading exclude each other")
    for time_s, rate_bps in values["points"]:
        settings.model.schedule.points.add(time_s=time_s, rate_bps=rate_bps)
    if values["period_s"] is not None:
        if not values["points"]:
            raise click.UsageError("--period needs --point")
        settings.model.schedule.period_s = values["period_s"]


_CLEAN: Final = tuple(
    field.name for field in channel_pb2.Impairments.DESCRIPTOR.fields if field.type != FieldDescriptor.TYPE_MESSAGE
)


def _add_impairments(message: channel_pb2.Impairments, values: dict[str, Any]) -> None:
    if values["clean"]:
        for name in _CLEAN:
            setattr(message, name, 0)
        message.gilbert_elliott.SetInParent()
        message.blackouts.SetInParent()
    given = _given(values, "bit_error_rate", "duplicate_rate", "jitter_s")
    if values["each_stream"]:
        given |= _given(values, "loss_rate")
    if values["burst_loss"]:
        given["burst_rate"], given["burst_packets"] = values["burst_loss"]
    if values["reorder"]:
        given["reorder_rate"], given["reorder_s"] = values["reorder"]
    for name, value in given.items():
        setattr(message, name, value)
    _add_structures(message, values)


def _add_structures(message: channel_pb2.Impairments, values: dict[str, Any]) -> None:
    if values["gilbert_elliott"]:
        given = dict(zip(_CHAIN_FIELDS, values["gilbert_elliott"], strict=False))
        message.gilbert_elliott.CopyFrom(channel_pb2.GilbertElliott(**{"bad_loss_rate": 1.0, **given}))
    for begin_s, end_s in values["blackouts"]:
        message.blackouts.intervals.add(begin_s=begin_s, end_s=end_s)
    if values["blackout_period_s"] is not None:
        if not values["blackouts"]:
            raise click.UsageError("--blackout-period needs --blackout")
        message.blackouts.period_s = values["blackout_period_s"]


def replay(trace: str, *, once: bool) -> channel_pb2.TraceReplay:
    """The replay of a shipped trace, or of a file if there is one of that name.

    Raises:
        InvalidInputError: the file is no text, or too large.
    """
    path = Path(trace)
    if not path.is_file():
        return channel_pb2.TraceReplay(name=trace, once=once)
    if path.stat().st_size > MAX_TRACE_BYTES:
        raise InvalidInputError("trace", f"{trace} is larger than {MAX_TRACE_BYTES:,} bytes")
    try:
        return channel_pb2.TraceReplay(name=path.name, content=path.read_text(encoding="utf-8") or "\n", once=once)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError("trace", f"{trace} cannot be read as text") from error
