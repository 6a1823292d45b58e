"""Who may come in: tokens, limits and the end of the service, asked before a call's first message is read.

```
call ─► draining? ─► token? ─► limits? ─► the service
           │            │         │
      UNAVAILABLE  UNAUTHENTICATED  RESOURCE_EXHAUSTED with RetryInfo         all counted by reason
```

Health alone needs no token and has places of its own: whoever restarts a service that does not answer has none of
our tokens, and must not take a busy service for a dead one. It tells nothing but that the service serves.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Final, TypeAlias

import grpc
from grpc_health.v1 import health
from prometheus_client import CollectorRegistry, Counter

from shared.auth import AUTHORIZATION, TokenCheck
from shared.errors import UnauthenticatedError, UnavailableError
from shared.limits import Admission, Limit, LimitError, RpcLimits
from shared.net import peer_host

HEALTH_RPCS: Final = 64
"""Health calls at once, in addition to the service's own limit; those that watch stay open."""

REASONS: Final = ("draining", "unauthenticated", *(limit.value for limit in Limit))
"""Why a call is refused."""

_Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
_HEALTH: Final = f"/{health.SERVICE_NAME}/"


class Gate:
    """Lets calls in, or refuses them with one of `shared.errors`.

    Args:
        registry: counts the refusals.
        limits: how many calls may run.
        tokens: None lets callers in without one.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        limits: RpcLimits | None = None,
        tokens: TokenCheck | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._calls, self._health = Admission(limits or RpcLimits()), Admission(RpcLimits(HEALTH_RPCS))
        self._tokens, self._clock = tokens, clock
        self._draining = False
        self._left = asyncio.Event()
        self._refused = Counter("mmsc_rpc_refused_total", "RPCs refused at the door.", ("reason",), registry=registry)
        for reason in REASONS:
            self._refused.labels(reason)

    @contextmanager
    def admitted(self, method: str, metadata: Mapping[str, Any], context: _Context) -> Iterator[None]:
        """Holds a place for a call while the context lasts.

        Args:
            method: full name of the RPC.
            metadata: of the call.
            context: tells who calls.

        Raises:
            UnavailableError: the service is about to end.
            UnauthenticatedError: the call has no token that is known.
            LimitError: there is no place.
        """
        with ExitStack() as stack:
            stack.callback(self._left.set)
            with self._counted():
                stack.enter_context(self._place(method, metadata, context))
            yield

    def close(self) -> None:
        """From now on lets in nothing but questions about health."""
        self._draining = True

    async def empty(self) -> None:
        """Waits until no call is in; questions about health do not matter."""
        while self._calls.active:
            self._left.clear()
            await self._left.wait()

    def _place(self, method: str, metadata: Mapping[str, Any], context: _Context) -> AbstractContextManager[None]:
        if method.startswith(_HEALTH):
            return self._health.admitted("", self._clock())
        if self._draining:
            raise UnavailableError("the service is shutting down")
        name = self._tokens.name_of(metadata.get(AUTHORIZATION)) if self._tokens else ""
        return self._calls.admitted(name or _proven(context) or peer_host(context.peer()), self._clock())

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except UnavailableError:
            self._refused.labels("draining").inc()
            raise
        except UnauthenticatedError:
            self._refused.labels("unauthenticated").inc()
            raise
        except LimitError as error:
            self._refused.labels(error.limit.value).inc()
            raise


def _proven(context: _Context) -> str:
    """The first name in the caller's certificate; empty without one."""
    identities = list(context.peer_identities() or ())
    return f"certificate of {identities[0].decode('utf-8', 'replace')}" if identities else ""
