"""Prometheus metrics that every service has: gRPC series, build info, and the page that serves them.

Series are named as go-grpc-middleware names them, so that existing dashboards fit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from importlib.metadata import version
from typing import Any, TypeAlias

import grpc
from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    Info,
    ProcessCollector,
    start_http_server,
)

from shared.errors import InvalidInputError, MmscError
from shared.rpc_errors import abort

_Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

_OWN_SERVICES = "/mmsc."

LATENCY_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the buckets of every duration, in seconds."""


def new_registry(service: str) -> CollectorRegistry:
    """A registry with process, garbage collector and build information."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    build = Info("mmsc_build", "Version of the running service.", registry=registry)
    build.info({"version": version("mmsc"), "service": service})
    return registry


def serve_metrics(listen: str, registry: CollectorRegistry) -> Callable[[], None]:
    """Serves /metrics on HOST:PORT until the returned function is called.

    Raises:
        InvalidInputError: the address cannot be listened on.
    """
    host, _, port = listen.rpartition(":")
    try:
        server, thread = start_http_server(int(port), addr=host, registry=registry)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidInputError("metrics_listen", f"cannot listen on {listen!r}") from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop


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
    """The edge of every RPC: counts and times it, and turns our errors into gRPC statuses."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._series = _RpcSeries(registry)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the handlers of our own services; health and reflection are written in other styles."""
        handler: Any = await continuation(handler_call_details)
        method_name = str(handler_call_details.method)
        if handler is None or not method_name.startswith(_OWN_SERVICES):
            return handler  # type: ignore[no-any-return]
        labels = _labels(handler, method_name)
        if handler.response_streaming:
            method = handler.stream_stream or handler.unary_stream
            wrapped: Any = self._streaming(method, labels)
        else:
            wrapped = self._unary(handler.stream_unary or handler.unary_unary, labels)
        return _rebuilt(handler, wrapped)

    def _unary(self, method: Any, labels: tuple[str, str, str]) -> Any:
        async def call(request: Any, context: _Context) -> Any:
            with _observed(self._series, labels, context):
                try:
                    return await method(request, context)
                except MmscError as error:
                    await abort(context, error)

        return call

    def _streaming(self, method: Any, labels: tuple[str, str, str]) -> Any:
        # Not a generator: one that waits in its `yield` would not hear that the client has gone.
        async def call(request: Any, context: _Context) -> None:
            with _observed(self._series, labels, context):
                try:
                    async with aclosing(method(request, context)) as responses:
                        async for response in responses:
                            await context.write(response)
                except MmscError as error:
                    await abort(context, error)

        return call


@contextmanager
def _observed(series: _RpcSeries, labels: tuple[str, str, str], context: _Context) -> Iterator[None]:
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


def _labels(handler: Any, method: str) -> tuple[str, str, str]:
    sides = ("client_" if handler.request_streaming else "", "server_" if handler.response_streaming else "")
    kind = {"client_server_": "bidi_stream", "client_": "client_stream", "server_": "server_stream"}
    service, _, name = method.lstrip("/").partition("/")
    return kind.get("".join(sides), "unary"), service, name


def _rebuilt(handler: Any, method: Any) -> grpc.RpcMethodHandler[Any, Any]:
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return make(method, handler.request_deserializer, handler.response_serializer)
