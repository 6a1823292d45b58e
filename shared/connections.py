"""A service's connection to the next one: gRPC's channel, and what goes with each call."""

from collections.abc import Sequence
from typing import Any, Final

import grpc

from shared.tls import Access
from shared.tracing import outgoing

RECONNECT_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # how long one attempt may take: the other side may be busy
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
"""Of every connection: a service that comes back is found soon, however long it was away (gRPC's own default backs
off to two minutes, in which calls fail at once although it is there)."""


class Connection:
    """Where a service's packets go; a context manager as gRPC's channel is.

    Args:
        address: HOST:PORT of the service.
        access: certificates and token.
        options: of gRPC's channel.

    Raises:
        InvalidInputError: a file cannot be used, or the token would cross a network in the clear.
    """

    def __init__(self, address: str, access: Access, options: Sequence[tuple[str, Any]] = ()) -> None:
        credentials = access.credentials()
        self._own = access.metadata(address)
        all_options = (*RECONNECT_OPTIONS, *options, *access.options())
        self.channel = (
            grpc.aio.insecure_channel(address, options=all_options)
            if credentials is None
            else grpc.aio.secure_channel(address, credentials, options=all_options)
        )
        """For stubs."""

    async def __aenter__(self) -> "Connection":
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.channel.close()

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with a call that is made now: the token, and the trace of the RPC being answered."""
        return (*self._own, *outgoing())
