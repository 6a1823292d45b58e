"""`python -m shared.health HOST:PORT`: asks a service how it is; exit code 0 when it serves, 1 if not, 2 if misused.

This is what the containers' health checks run. It speaks the standard gRPC health protocol, so that it also asks
services that are not ours.
"""

import sys
from pathlib import Path
from typing import Any, Final, cast

import click
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shared.errors import InvalidInputError
from shared.tls import Access

_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_FILE: Final = click.Path(dir_okay=False, path_type=Path)


def probe(address: str, service: str = "", timeout_s: float = 3.0, access: Access | None = None) -> str:
    """Asks once.

    Args:
        address: HOST:PORT of a gRPC server.
        service: full name of a gRPC service; empty asks for the server as a whole.
        timeout_s: seconds within which it must answer, above 0.
        access: certificates, where it speaks TLS; health needs no token.

    Returns:
        What is wrong, in one line; empty when it serves.

    Raises:
        InvalidInputError: a file of `access` cannot be used.
    """
    request = health_pb2.HealthCheckRequest(service=service)
    with _connected(address, access or Access()) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            response = stub.Check(request, timeout=timeout_s)
        except grpc.RpcError as error:
            return _line(error)
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
    return "" if response.status == _SERVING else _words(status)


def _connected(address: str, access: Access) -> grpc.Channel:
    credentials = access.credentials()
    if credentials is None:
        return grpc.insecure_channel(address)
    return grpc.secure_channel(address, credentials, options=access.options())


def _line(error: grpc.RpcError) -> str:
    """The status and its message: the errors of blocking calls have them, though their type does not say so."""
    call = cast(grpc.Call, error)
    return f"{_words(call.code().name)}: {(call.details() or 'no details').splitlines()[0]}"


def _words(constant: str) -> str:
    return constant.lower().replace("_", " ")


@click.command(context_settings={"show_default": True})
@click.argument("address")
@click.option("--service", default="", help="Full name of a gRPC service; empty asks for the server as a whole.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0, min_open=True), default=3.0, help="Seconds.")
@click.option("--ca", type=_FILE, help="PEM: CAs of the service; none: no TLS.")
@click.option("--cert", type=_FILE, help="PEM: the own certificate, for mutual TLS.")
@click.option("--key", type=_FILE, help="PEM: its private key.")
@click.option("--server-name", default="", help="Name that the service's certificate has.  [default: ADDRESS's host]")
def main(address: str, service: str, timeout_s: float, **access: Any) -> None:
    """Tells whether the gRPC server at ADDRESS (HOST:PORT) serves: exit code 0 if so, else 1."""
    try:
        wrong = probe(address, service, timeout_s, Access(**access))
    except InvalidInputError as error:
        raise click.UsageError(str(error)) from error
    if wrong:
        click.echo(f"{address}: {wrong}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main(prog_name="shared.health")
