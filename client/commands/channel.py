"""`mmsc channel`: the emulated link."""

import json
from collections.abc import Iterator
from typing import Any

import click
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table

from client.api import Client
from client.link_changes import changes, impairment_options, rate_options, replay
from client.params import DURATION, access_options, address_option, link_options, stacked
from client.runs import plain
from shared.options import access_of, access_settings
from shared.stubs.mmsc.v1 import channel_pb2
from shared.tls import Access

_TIMEOUT_S = 10.0


@click.group()
def command() -> None:
    """Shows or changes the emulated link."""


_common = stacked(
    address_option("channel"),
    access_options(),
    click.option("--json", "as_json", is_flag=True, help="Prints one JSON object."),
)
_direction = click.option("--backward", is_flag=True, help="From the receiver to the sender instead.")


@command.command()
@_common
def show(channel: str, *, as_json: bool, **access: Any) -> None:
    """Shows the link's settings and counters, of both directions."""
    with Client(channel=channel, timeout_s=_TIMEOUT_S, access=access_of(access)) as client:
        _print(client.link(), as_json=as_json)


@command.command(name="set")
@link_options("Bit rate, like 64kbit or 8Mbit; with --fading what the link is said to carry.")
@rate_options()
@impairment_options()
@_direction
@_common
def set_(channel: str, *, backward: bool, as_json: bool, **values: Any) -> None:
    """Changes the link while it runs; what is left out keeps its value.

    Propagation and seed hold for both directions unless --backward sets them there.
    """
    access = access_settings(values)
    settings = changes(values)
    if not settings.ListFields():
        raise click.UsageError("nothing to set; give --rate, --propagation, --loss-rate, --fading or another option")
    _send(channel, access, settings, backward=backward, as_json=as_json)


@command.command(name="replay")
@click.argument("trace")
@click.option("--once/--loop", help="Goes on at the trace's mean rate after its end, or begins again.")
@click.option("--propagation", "propagation_s", type=DURATION, help="One-way delay; shipped traces bring their own.")
@_direction
@_common
def replay_(
    channel: str,
    trace: str,
    *,
    once: bool,
    propagation_s: float | None,
    backward: bool,
    as_json: bool,
    **access: Any,
) -> None:
    """Has the link follow TRACE from now on: drone, lte, satellite, or a file.

    A file holds mahimahi's delivery opportunities (a millisecond timestamp a line, 1,500 bytes each) or rows of
    time_s,rate_bps.
    """
    settings = channel_pb2.LinkSettings(model=channel_pb2.RateModel(trace=replay(trace, once=once)))
    if propagation_s is not None:
        settings.propagation_s = propagation_s
    _send(channel, access_of(access), settings, backward=backward, as_json=as_json)


def _send(channel: str, access: Access, settings: channel_pb2.LinkSettings, *, backward: bool, as_json: bool) -> None:
    request = channel_pb2.SetLinkRequest(**{"backward" if backward else "settings": settings})
    with Client(channel=channel, timeout_s=_TIMEOUT_S, access=access) as client:
        _print(client.change_link(request), as_json=as_json)


def _print(state: channel_pb2.LinkState, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({**_flat(state), "backward": _flat(state.backward)}))
        return
    table = Table(show_header=False, box=None)
    for name, value in (*_rows(state), *_rows(state.backward, "backward.")):
        table.add_row(name, value)
    Console().print(table)


def _flat(state: channel_pb2.LinkState) -> dict[str, Any]:
    """Settings and counters of one direction in one dictionary."""
    counters = {name: value for name, value in plain(state).items() if name not in {"settings", "backward"}}
    return {**plain(state.settings), **counters}


def _rows(state: channel_pb2.LinkState, prefix: str = "") -> Iterator[tuple[str, str]]:
    """What a person sees of one direction: plain values, and of what has parts those that were set."""
    for name, value in _flat(state).items():
        if not isinstance(value, dict):
            yield f"{prefix}{name}", _text(value)
    for field, value in state.settings.ListFields():
        if isinstance(value, Message):
            yield from _parts(f"{prefix}{field.name}", value)


def _parts(name: str, message: Message) -> Iterator[tuple[str, str]]:
    for field, value in message.ListFields():
        if isinstance(value, Message):
            yield from _parts(f"{name}.{field.name}", value)
        elif field.is_repeated:
            yield (
                f"{name}.{field.name}",
                ";".join(":".join(_text(number) for number in plain(item).values()) for item in value),
            )
        else:
            yield (
                f"{name}.{field.name}",
                field.enum_type.values_by_number[value].name if field.enum_type else _text(value),
            )


def _text(value: Any) -> str:
    if isinstance(value, bool | str):
        return str(value)
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.6f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
