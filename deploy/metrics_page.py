"""Prints the /metrics page of a service, fetched over HTTP: `python deploy/metrics_page.py channel | promtool ...`.

The channel emulator really runs and answers one RPC. The other two need weights and seconds to start, and their
pages depend on neither: their metrics are served without them.
"""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final
from urllib.request import urlopen

import click
import grpc
from prometheus_client import CollectorRegistry

from channel_emulator.config import ChannelConfig
from channel_emulator.server import channel_service
from receiver.metrics import ReceiverMetrics
from shared.service import running
from shared.stubs.mmsc.v1 import channel_pb2, channel_pb2_grpc
from shared.telemetry import new_registry, serve_metrics
from transmitter.metrics import TransmitterMetrics

_METRICS: Final[dict[str, Callable[[CollectorRegistry], object]]] = {
    "receiver": ReceiverMetrics,
    "transmitter": TransmitterMetrics,
}


def registry(service: str) -> CollectorRegistry:
    """The registry of the transmitter or the receiver, as it is when the service starts."""
    result = new_registry(service)
    _METRICS[service](result)
    return result


def page(service: str) -> str:
    """The text of a service's page: channel, receiver or transmitter."""
    if service == "channel":
        return asyncio.run(_channel_page())
    with _served(registry(service)) as address:
        return _fetched(address)


async def _channel_page() -> str:
    """The page of a running channel emulator that has answered one RPC."""
    config = ChannelConfig(listen="127.0.0.1:0", metrics_listen=_free_address())
    async with running(config, new_registry("channel"), channel_service(config)) as address:
        async with grpc.aio.insecure_channel(address) as channel:
            await channel_pb2_grpc.ChannelServiceStub(channel).GetLink(channel_pb2.GetLinkRequest())
        return await asyncio.to_thread(_fetched, config.metrics_listen)


@contextmanager
def _served(metrics: CollectorRegistry) -> Iterator[str]:
    address = _free_address()
    stop = serve_metrics(address, metrics)
    try:
        yield address
    finally:
        stop()


def _fetched(address: str) -> str:
    with urlopen(f"http://{address}/metrics", timeout=10) as response:
        text: str = response.read().decode()
    return text


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@click.command()
@click.argument("service", type=click.Choice(["channel", *_METRICS]))
def main(service: str) -> None:
    """Prints the /metrics page of SERVICE."""
    click.echo(page(service), nl=False)


if __name__ == "__main__":
    main()
