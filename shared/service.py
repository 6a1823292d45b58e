"""The life of a service process: listen, be healthy, drain at SIGTERM.

```
python -m receiver ──► running() ── TLS, health, reflection, metrics, RPC boundary
                          │
                          ├── prints one JSON line when it is ready
                          └── SIGTERM / SIGINT: NOT_SERVING ─► new calls refused ─► running ones end, within grace_s
                                                                                                 └─► exit 0
```
"""

import asyncio
import gc
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from shared.auth import TokenCheck, read_tokens
from shared.boundary import RpcBoundary
from shared.errors import InvalidInputError
from shared.gate import Gate
from shared.heap import keep_trimmed
from shared.limits import RpcLimits
from shared.net import is_loopback
from shared.telemetry import serve_metrics
from shared.tls import ServerTls
from shared.tracing import Tracer

# Without these a sender runs megabytes ahead of a slow reader, and a throttled hop goes unnoticed. A window smaller
# than a batch of packets (64 KiB) would cost each batch a round trip more.
LINK_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 131_072),
)
"""Channel options of both ends of a hop that packets cross."""

MAX_UPLOAD_BYTES = 32 * 1024 * 1024
"""Largest picture that may be uploaded, encoded."""

MAX_PICTURE_MESSAGE_BYTES = 64 * 1024 * 1024
"""Largest message that holds a lossless picture of 16 megapixels."""

# A peer that vanished without a word gives its places back after these 80 s instead of two hours.
_KEEPALIVE_OPTIONS: Final = (("grpc.keepalive_time_ms", 60_000), ("grpc.keepalive_timeout_ms", 20_000))

_FAREWELL_S: Final = 0.5
"""Seconds in which the last answers leave when the calls have ended; only who watches the health takes them all."""


@dataclass(frozen=True)
class ServiceConfig:
    """What every service is told when it starts."""

    listen: str
    """HOST:PORT of the gRPC server; port 0 picks a free one."""

    metrics_listen: str = ""
    """HOST:PORT of the Prometheus page; empty serves none."""

    grace_s: float = 5.0
    """Seconds that running RPCs may take to end after SIGTERM."""

    tls: ServerTls = field(default_factory=ServerTls)
    """The service's certificate, and whose certificates callers must have."""

    tokens: Path | None = None
    """File of the tokens that callers may bring, see `shared.auth`; None asks for none."""

    limits: RpcLimits = field(default_factory=RpcLimits)
    """RPCs at once and per second; the excess is refused with RESOURCE_EXHAUSTED."""

    otlp: str = ""
    """http://HOST:PORT of an OTLP collector for traces; empty: as OTEL_EXPORTER_OTLP_ENDPOINT says, if it does."""


Register = Callable[[grpc.aio.Server, CollectorRegistry], AbstractAsyncContextManager[Sequence[str]]]
"""Adds a servicer to the server while the context lasts; gives the full names of its gRPC services."""


@asynccontextmanager
async def running(
    config: ServiceConfig,
    registry: CollectorRegistry,
    register: Register,
    options: Sequence[tuple[str, int]] = (),
    tracer: Tracer | None = None,
) -> AsyncIterator[str]:
    """Runs a service while the context lasts, and drains it at the end.

    Args:
        config: where to listen and for how long to drain.
        registry: holds the service's metrics.
        register: adds the servicers.
        options: further gRPC server options.
        tracer: where traces of the RPCs go; closed at the end.

    Yields:
        The HOST:PORT that it listens on.

    Raises:
        InvalidInputError: the address cannot be listened on, or a file of certificates or tokens cannot be used.
    """
    tokens = TokenCheck(read_tokens(config.tokens, "tokens")) if config.tokens else None
    gate = Gate(registry, config.limits, tokens)
    server = grpc.aio.server(
        interceptors=[RpcBoundary(registry, gate, tracer)],
        options=(*options, *_KEEPALIVE_OPTIONS, ("grpc.so_reuseport", 0)),
    )
    async with register(server, registry) as services:
        health_servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
        names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        address = _bind(server, config.listen, config.tls.credentials())
        stop_metrics = serve_metrics(config.metrics_listen, registry) if config.metrics_listen else None
        await server.start()
        for service in ("", *services):
            await health_servicer.set(service, health_pb2.HealthCheckResponse.SERVING)
        try:
            yield address
        finally:
            await health_servicer.enter_graceful_shutdown()
            gate.close()
            # Not server.stop, which would close the door to the question how we are.
            with suppress(TimeoutError):
                async with asyncio.timeout(config.grace_s):
                    await gate.empty()
            await server.stop(min(config.grace_s, _FAREWELL_S))
            if stop_metrics is not None:
                stop_metrics()
            if tracer is not None:
                await asyncio.to_thread(tracer.close)


def _bind(server: grpc.aio.Server, listen: str, credentials: grpc.ServerCredentials | None) -> str:
    host, _, _port = listen.rpartition(":")
    try:
        if credentials is not None:
            return f"{host}:{server.add_secure_port(listen, credentials)}"
        port = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise InvalidInputError("listen", f"cannot listen on {listen!r}") from error
    if not is_loopback(listen):
        print(f"warning: listening on {listen} without TLS; anybody on the way reads and writes", file=sys.stderr)
    return f"{host}:{port}"


async def serve_until_signal(
    context: AbstractAsyncContextManager[str], name: str, runs: Mapping[str, Any] | None = None
) -> None:
    """Runs a service until SIGTERM or SIGINT, printing one JSON line when it is ready.

    Args:
        context: as from `running`.
        name: of the service, for the line.
        runs: what else the line tells of what was loaded, as JSON has it.
    """
    # Threads that compute give way to the event loop sooner than Python's 5 ms, so that packets do not wait for them.
    sys.setswitchinterval(0.0005)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with context as address:
        # What is there now stays: the collector need not walk through a numerical library in the midst of a packet.
        gc.collect()
        gc.freeze()
        print(json.dumps({"service": name, "listen": address, **(runs or {})}), flush=True)
        trimming = asyncio.create_task(keep_trimmed())
        await stopped.wait()
        trimming.cancel()
