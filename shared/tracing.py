"""Traces of a transmission through the services, where they are asked for.

```
client ─traceparent─► Transmit ─┬─ relevance
                                ├─ planning
                                ├─ sending
                                └─traceparent─► Relay ─traceparent─► Receive ─┬─ assembling
                                                                              └─ reconstructing
```

`shared.boundary` opens a span for each RPC, below the caller's if the call names one by W3C's `traceparent`; within
it, `span` opens one for a stage. Without a tracer all of this does nothing. The tracer itself is OpenTelemetry's
(`otel_tracer`), whose packages are the extra `tracing` and are imported only when traces are asked for.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Protocol, TypeAlias

from shared.errors import InvalidInputError

TRACEPARENT: Final = "traceparent"
"""The metadata key that names the caller's span, as in W3C's Trace Context."""

Attribute: TypeAlias = str | int | float | bool

_FLUSH_S: Final = 3.0
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Span(Protocol):
    """Something that takes time, and belongs to a trace."""

    @property
    def traceparent(self) -> str:
        """What names this span to another service."""

    def child(self, name: str) -> Span:
        """Begins a span below this one."""

    def set(self, **attributes: Attribute) -> None:
        """Says more about it."""

    def end(self, error: BaseException | None = None) -> None:
        """Ends it.

        Args:
            error: what went wrong, if anything did.
        """


class Tracer(Protocol):
    """Where spans begin and where they go."""

    def begin(self, name: str, traceparent: str) -> Span:
        """Begins a span below the one that a caller names; empty, or no traceparent: a trace of its own."""

    def close(self) -> None:
        """Hands over what has not left yet; returns within a few seconds."""


class _NoSpan:
    """Stands in for spans where there is no tracer."""

    traceparent = ""

    def child(self, name: str) -> Span:  # noqa: ARG002 - the protocol's
        """Nothing has no parts."""
        return self

    def set(self, **attributes: Attribute) -> None:
        """Forgets it."""

    def end(self, error: BaseException | None = None) -> None:
        """Nothing ends."""


_NO_SPAN: Final = _NoSpan()
# Set by `rpc_span` alone, which runs once in the task of each RPC: nothing has to be put back in the same context,
# which an asynchronous generator that is closed from outside could not promise.
_RPC: ContextVar[Span] = ContextVar("rpc_span", default=_NO_SPAN)


@contextmanager
def rpc_span(tracer: Tracer | None, method: str, metadata: Mapping[str, Any]) -> Iterator[None]:
    """The span of an RPC that this service answers; stages and calls to others find it.

    Args:
        tracer: None traces nothing.
        method: full name of the RPC, like `/mmsc.v1.TransmitterService/Transmit`.
        metadata: of the call.
    """
    if tracer is None:
        yield
        return
    began = tracer.begin(method.lstrip("/"), str(metadata.get(TRACEPARENT, "")))
    _RPC.set(began)
    with _ending(began):
        yield


@contextmanager
def span(name: str, **attributes: Attribute) -> Iterator[Span]:
    """A span for a stage of the RPC that is being answered.

    Args:
        name: of the stage.
        attributes: what is known of it at its beginning; nothing that belongs to a person.

    Yields:
        The span, for what is known later.
    """
    began = _RPC.get().child(name)
    began.set(**attributes)
    with _ending(began):
        yield began


@contextmanager
def _ending(began: Span) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        began.end(error)
        raise
    began.end()


def outgoing() -> tuple[tuple[str, str], ...]:
    """The metadata of a call to another service, so that its span stands below that of the RPC being answered."""
    traceparent = _RPC.get().traceparent
    return ((TRACEPARENT, traceparent),) if traceparent else ()


# ---- OpenTelemetry ---------------------------------------------------------------------------------


def tracer_for(service: str, endpoint: str, environment: Mapping[str, str] = os.environ) -> Tracer | None:
    """The tracer that was asked for, by an endpoint or by OpenTelemetry's own environment variables.

    Args:
        service: name of the service.
        endpoint: http://HOST:PORT or https://HOST:PORT of an OTLP collector that speaks gRPC; empty: as the
            environment says.
        environment: OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_TRACES_ENDPOINT ask for traces;
            OTEL_SDK_DISABLED=true and OTEL_TRACES_EXPORTER=none do not want them.

    Returns:
        None where nobody asked.

    Raises:
        InvalidInputError: the endpoint is none, or OpenTelemetry is not installed.
    """
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise InvalidInputError("otlp", f"{endpoint!r} is not http://HOST:PORT or https://HOST:PORT")
    unwanted = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    unwanted = unwanted or environment.get("OTEL_TRACES_EXPORTER", "") == "none"
    asked = endpoint or any(environment.get(name) for name in _ENDPOINTS)
    if unwanted or not asked:
        return None
    return otel_tracer(environment.get("OTEL_SERVICE_NAME", f"mmsc-{service}"), endpoint)


def otel_tracer(service: str, endpoint: str) -> Tracer:
    """A tracer that sends its spans to an OTLP collector over gRPC, in batches and in the background.

    Args:
        service: OpenTelemetry's service.name.
        endpoint: of the collector; empty: as OTEL_EXPORTER_OTLP_ENDPOINT says.

    Raises:
        InvalidInputError: OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - optional
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        reason = "traces were asked for, but OpenTelemetry is not installed: pip install 'mmsc[tracing]'"
        raise InvalidInputError("otlp", reason) from error
    provider = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint or None)))
    return OtelTracer(provider.get_tracer("mmsc"), provider.shutdown)


class OtelTracer:
    """Spans of OpenTelemetry.

    Args:
        tracer: an `opentelemetry.trace.Tracer`.
        shutdown: sends what is left; may take as long as the collector is away.
    """

    def __init__(self, tracer: Any, shutdown: Callable[[], None]) -> None:
        from opentelemetry.trace import SpanKind  # noqa: PLC0415 - optional
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._tracer, self._shutdown = tracer, shutdown
        self._server, self._propagator = SpanKind.SERVER, TraceContextTextMapPropagator()

    def begin(self, name: str, traceparent: str) -> Span:
        """See `Tracer`."""
        context = self._propagator.extract({TRACEPARENT: traceparent} if traceparent else {})
        return _OtelSpan(self._tracer, self._tracer.start_span(name, context=context, kind=self._server))

    def close(self) -> None:
        """See `Tracer`."""
        # A collector that is away must not keep the service from ending.
        thread = threading.Thread(target=self._shutdown, daemon=True)
        thread.start()
        thread.join(_FLUSH_S)


class _OtelSpan:
    def __init__(self, tracer: Any, began: Any) -> None:
        self._tracer, self._span = tracer, began

    @property
    def traceparent(self) -> str:
        """Version 00, as `TraceContextTextMapPropagator` writes it."""
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    def child(self, name: str) -> Span:
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415 - optional

        return _OtelSpan(self._tracer, self._tracer.start_span(name, context=set_span_in_context(self._span)))

    def set(self, **attributes: Attribute) -> None:
        for name, value in attributes.items():
            self._span.set_attribute(f"mmsc.{name}", value)

    def end(self, error: BaseException | None = None) -> None:
        if error is not None:
            from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 - optional

            # Its message may hold what a client sent.
            self._span.set_status(Status(StatusCode.ERROR, type(error).__name__))
        self._span.end()
