"""The command line options that all services have, and what they mean to a `ServiceConfig`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from shared.limits import BURST_S, RpcLimits
from shared.tls import Access, ServerTls

_F = TypeVar("_F", bound=Callable[..., Any])

_FILE: Final = click.Path(dir_okay=False, path_type=Path)

_ACCESS: Final = (
    click.option("--ca", type=_FILE, help="PEM: CAs of the service that is called; none: no TLS."),
    click.option("--cert", type=_FILE, help="PEM: the own certificate, shown to the service that is called."),
    click.option("--key", type=_FILE, help="PEM: its private key."),
    click.option("--token-file", type=_FILE, help="Its first token goes with every call."),
)


def service_options(limits: RpcLimits) -> Callable[[_F], _F]:
    """The options of how a service is called; `service_settings` takes them.

    Args:
        limits: the service's defaults.
    """
    burst = f"New calls per second of one peer, {BURST_S:g} s of them at once; 0: no limit."
    return _stacked(
        click.option("--tls-cert", type=_FILE, help="PEM: the service's certificate and those above it; none: no TLS."),
        click.option("--tls-key", type=_FILE, help="PEM: its private key."),
        click.option("--tls-client-ca", type=_FILE, help="PEM: callers must have a certificate of it (mutual TLS)."),
        click.option("--tokens", type=_FILE, help="Tokens of which callers must bring one; a line each: TOKEN [NAME]."),
        click.option("--max-rpcs", type=click.IntRange(1), default=limits.total, help="Calls at once."),
        click.option(
            "--peer-rpcs",
            type=click.IntRange(0),
            default=limits.per_peer,
            help="Calls at once of one peer; 0: no own limit.",
        ),
        click.option("--peer-rate", type=click.FloatRange(0), default=limits.per_peer_rate, help=burst),
        click.option("--otlp", default="", metavar="URL", help="http://HOST:PORT of an OTLP collector, for traces."),
    )


def access_options(function: _F) -> _F:
    """The options of how a service calls the next one; `access_settings` takes them."""
    return _stacked(*_ACCESS)(function)


def _stacked(*options: Callable[[Any], Any]) -> Callable[[_F], _F]:
    def decorate(function: _F) -> _F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def service_settings(values: dict[str, Any]) -> dict[str, Any]:
    """Takes what `service_options` gave out of a command's values.

    Args:
        values: the command's values; those taken are removed.

    Returns:
        Fields of `ServiceConfig`.

    Raises:
        InvalidInputError: they do not go together.
    """
    return {
        "tls": ServerTls(values.pop("tls_cert"), values.pop("tls_key"), values.pop("tls_client_ca")),
        "tokens": values.pop("tokens"),
        "limits": RpcLimits(values.pop("max_rpcs"), values.pop("peer_rpcs"), values.pop("peer_rate")),
        "otlp": values.pop("otlp"),
    }


def access_settings(values: dict[str, Any]) -> Access:
    """Takes what `access_options` gave out of a command's values; see `service_settings`."""
    return access_of({name: values.pop(name) for name in ("ca", "cert", "key", "token_file")})


def access_of(values: Mapping[str, Any]) -> Access:
    """The same of values that stay where they are.

    Raises:
        InvalidInputError: they do not go together.
    """
    return Access(values["ca"], values["cert"], values["key"], values["token_file"])
