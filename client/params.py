"""What several commands take: units, addresses, the link's options."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from client.api import DEFAULT_CHANNEL, DEFAULT_RECEIVER, DEFAULT_TRANSMITTER, Link
from client.requests import MAX_BUDGET_BYTES
from shared.errors import InvalidInputError
from shared.units import parse_duration_s, parse_rate_bps

_F = TypeVar("_F", bound=Callable[..., Any])


class _Unit(click.ParamType[float]):
    """A number with a unit, read by one of `shared.units`."""

    def __init__(self, name: str, parse: Callable[[str], float]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Reads the text; what is a number already stays one."""
        if isinstance(value, float):
            return value
        try:
            return self._parse(str(value))
        except InvalidInputError as error:
            self.fail(error.description, param, ctx)


RATE = _Unit("rate", parse_rate_bps)
"""Bits per second, as 64kbit or 8Mbit."""

DURATION = _Unit("duration", parse_duration_s)
"""Seconds, as 20ms or 1.5s."""

SIZE = click.IntRange(1, MAX_BUDGET_BYTES)
"""Bytes."""


def stacked(*options: Callable[[_F], _F]) -> Callable[[_F], _F]:
    """Several click options as one decorator, in the order in which the help shows them."""

    def decorate(function: _F) -> _F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def link_options(rate_help: str) -> Callable[[_F], _F]:
    """The options of a link; they arrive as the fields of `Link`."""
    return stacked(
        click.option("--rate", "rate_bps", type=RATE, help=rate_help),
        click.option("--propagation", "propagation_s", type=DURATION, help="One-way delay, like 20ms."),
        click.option("--queue-bytes", type=SIZE, help="Bytes that may wait for the link."),
        click.option("--loss-rate", type=click.FloatRange(0, 1), help="Share of packets lost, 0 to 1."),
        click.option("--seed", type=click.IntRange(min=0, max=2**64 - 1), help="Seeds the losses."),
    )


def address_option(service: str) -> Callable[[_F], _F]:
    """The address of a service, also from MMSC_TRANSMITTER and the like."""
    defaults = {"transmitter": DEFAULT_TRANSMITTER, "channel": DEFAULT_CHANNEL, "receiver": DEFAULT_RECEIVER}
    return click.option(
        f"--{service}",
        default=defaults[service],
        envvar=f"MMSC_{service.upper()}",
        metavar="HOST:PORT",
        callback=checked_address,
        show_default=True,
    )


def access_options() -> Callable[[_F], _F]:
    """What services that want certificates or tokens are shown; `access_of` takes them."""
    file = click.Path(dir_okay=False, path_type=Path)

    def option(flag: str, text: str) -> Callable[[_F], _F]:
        name = flag.removeprefix("--").replace("-", "_")
        return click.option(flag, type=file, envvar=f"MMSC_{name.upper()}", metavar="FILE", help=text)

    return stacked(
        option("--ca", "PEM: CAs of the services; without it there is no TLS."),
        option("--cert", "PEM: your own certificate, for mutual TLS."),
        option("--key", "PEM: its private key."),
        option("--token-file", "Its first token goes with every call."),
    )


def checked_address(_context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """A click callback: passes HOST:PORT and None, refuses anything else."""
    if value is None:
        return None
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise click.BadParameter(f"{value!r} is not HOST:PORT", param=parameter)
    return value


def link_of(values: dict[str, Any]) -> Link:
    """The `Link` of what `link_options` gave."""
    return Link(**{name: values.get(name) for name in vars(Link())})
