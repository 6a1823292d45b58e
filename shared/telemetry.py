"""Prometheus metrics that every service has: the build, the process, and the page that serves them all.

What `shared.boundary` counts of RPCs is named as go-grpc-middleware names it, so that existing dashboards fit.
"""

from collections.abc import Callable
from importlib.metadata import version

from prometheus_client import CollectorRegistry, GCCollector, Info, ProcessCollector, start_http_server

from shared.errors import InvalidInputError

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
