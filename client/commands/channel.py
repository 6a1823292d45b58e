"""`mmsc channel`: the emulated link."""

import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from client.api import Client
from client.params import address_option, link_of, link_options, stacked
from client.runs import plain
from shared.stubs.mmsc.v1 import channel_pb2

_TIMEOUT_S = 10.0


@click.group()
def command() -> None:
    """Shows or changes the emulated link."""


_common = stacked(
    address_option("channel"),
    click.option("--json", "as_json", is_flag=True, help="Prints one JSON object."),
)


@command.command()
@_common
def show(channel: str, *, as_json: bool) -> None:
    """Shows the link's settings and counters."""
    with Client(channel=channel, timeout_s=_TIMEOUT_S) as client:
        _print(client.link(), as_json=as_json)


@command.command(name="set")
@link_options("Bit rate, like 64kbit or 8Mbit.")
@_common
def set_(channel: str, *, as_json: bool, **values: Any) -> None:
    """Changes the link while it runs; what is left out keeps its value."""
    link = link_of(values)
    if all(value is None for value in vars(link).values()):
        raise click.UsageError("nothing to set; give --rate, --propagation, --queue-bytes, --loss-rate or --seed")
    with Client(channel=channel, timeout_s=_TIMEOUT_S) as client:
        _print(client.set_link(link), as_json=as_json)


def _print(state: channel_pb2.LinkState, *, as_json: bool) -> None:
    settings = plain(state.settings)
    counters = {name: value for name, value in plain(state).items() if name != "settings"}
    if as_json:
        click.echo(json.dumps({**settings, **counters}))
        return
    table = Table(show_header=False, box=None)
    for name, value in {**settings, **counters}.items():
        table.add_row(name, _number(value))
    Console().print(table)


def _number(value: float) -> str:
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.6f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
