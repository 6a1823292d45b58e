"""The edge of every RPC: who may call, what is counted and traced, and what a failure looks like outside."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, aclosing, contextmanager, nullcontext
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from prometheus_client import CollectorRegistry, Counter, Histogram

from shared.errors import DeadlineError, InvalidInputError, MmscError
from shared.gate import Gate
from shared.rpc_errors import Ending, abort
from shared.telemetry import LATENCY_BUCKETS_S
from shared.tracing import Tracer, rpc_span

UPLOAD_TIMEOUT_S: Final = 120.0
"""Seconds within which the one message of a unary request must have come: 32 MiB at 2.2 Mbit/s."""

_OWN_SERVICES: Final = "/mmsc."

_Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
_Labels: TypeAlias = tuple[str, str, str]


class _RpcSeries:
    """The three series of a gRPC server."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("grpc_type", "grpc_service", "grpc_method")
        self.started = Counter("grpc_server_started_total", "RPCs started.", labels, registry=registry)
        self.handled = Counter("grpc_server_handled_total", "RPCs ended.", (*labels, "grpc_code"), registry=registry)
        self.seconds = Histogram(
            "grpc_server_handling_seconds",
            "Duration of an RPC.",
            labels,
            registry=registry,
            buckets=LATENCY_BUCKETS_S,
        )


class RpcBoundary(grpc.aio.ServerInterceptor):
    """Stands around the handler of every RPC, health's and reflection's too.

    A request of one message is read here, after the gate has let the call in: whoever may not call cannot make the
    service hold a picture either.

    Args:
        registry: counts our own services' RPCs and all refusals.
        gate: who may come in; the default limits where None.
        tracer: None traces nothing.
    """

    def __init__(self, registry: CollectorRegistry, gate: Gate | None = None, tracer: Tracer | None = None) -> None:
        self._series = _RpcSeries(registry)
        self._gate, self._tracer = gate or Gate(registry), tracer

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps a handler."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None
        call = self._around(handler, str(handler_call_details.method))
        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else (grpc.stream_unary_rpc_method_handler)
        )
        return make(call, handler.request_deserializer, handler.response_serializer)

    def _around(self, handler: Any, method: str) -> Any:
        own = method.startswith(_OWN_SERVICES)
        labels = _labels(handler, method)

        # Not a generator: one that waits in its `yield` would not hear that the client has gone.
        async def call(requests: Any, context: _Context) -> Any:
            metadata = dict(context.invocation_metadata() or ())
            observed: AbstractContextManager[None] = _observed(self._series, labels, context) if own else nullcontext()
            with observed:
                answer = await attempted(metadata, requests, context)
                if isinstance(answer, Ending):
                    await abort(context, answer)
                return answer

        async def attempted(metadata: dict[str, Any], requests: Any, context: _Context) -> Any:
            try:
                with self._gate.admitted(method, metadata, context), self._traced(own, method, metadata):
                    return await _answer(handler, requests, context)
            except MmscError as error:
                return Ending.of(error)
            except DecodeError:
                return Ending.of(InvalidInputError("request", "is no message of this RPC"))

        return call

    def _traced(self, own: bool, method: str, metadata: dict[str, Any]) -> AbstractContextManager[None]:
        return rpc_span(self._tracer if own else None, method, metadata)


async def _answer(handler: Any, requests: Any, context: _Context) -> Any:
    """Has the service answer; the response if it is a single one, else they are written."""
    method = handler.stream_stream or handler.stream_unary or handler.unary_stream or handler.unary_unary
    request = requests if handler.request_streaming else await _only(context)
    answer = method(request, context)
    # Some that stream, like health's Watch, write by themselves.
    if inspect.isawaitable(answer):
        return await answer
    async with aclosing(answer) as responses:
        async for response in responses:
            await context.write(response)
    return None


async def _only(context: _Context) -> Any:
    """The one message of a request.

    Raises:
        DeadlineError: it did not come in time.
        InvalidInputError: it did not come at all.
    """
    try:
        async with asyncio.timeout(UPLOAD_TIMEOUT_S):
            request = await context.read()
    except TimeoutError as error:
        raise DeadlineError(f"the request did not come within {UPLOAD_TIMEOUT_S:g} s") from error
    if request is grpc.aio.EOF:
        raise InvalidInputError("request", "is missing")
    return request


@contextmanager
def _observed(series: _RpcSeries, labels: _Labels, context: _Context) -> Iterator[None]:
    """Counts and times one RPC, whichever way it ends."""
    start_s = time.monotonic()
    series.started.labels(*labels).inc()
    # What gRPC will make of an exception it was not told about.
    code = "Unknown"
    try:
        yield
        code = _code(context)
    except asyncio.CancelledError:
        code = "Canceled"
        raise
    except grpc.aio.AbortError:
        code = _code(context)
        raise
    finally:
        series.seconds.labels(*labels).observe(time.monotonic() - start_s)
        series.handled.labels(*labels, code).inc()


def _code(context: _Context) -> str:
    code = context.code()
    name = code.name if isinstance(code, grpc.StatusCode) else "OK"
    return "OK" if name == "OK" else name.title().replace("_", "")


def _labels(handler: Any, method: str) -> _Labels:
    sides = ("client_" if handler.request_streaming else "", "server_" if handler.response_streaming else "")
    kind = {"client_server_": "bidi_stream", "client_": "client_stream", "server_": "server_stream"}
    service, _, name = method.lstrip("/").partition("/")
    return kind.get("".join(sides), "unary"), service, name
