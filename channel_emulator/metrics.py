"""Prometheus metrics of the link, read from its counters when they are asked for."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from channel_emulator.link import Link


class LinkCollector(Collector):
    """Gives the link's counters to a registry.

    Runs in the thread that serves the page: it reads single numbers and changes nothing.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    def collect(self) -> Iterator[Metric]:
        """The metrics as they stand."""
        counters, settings = self._link.counters, self._link.settings
        yield _counter("accepted_bytes", "Bytes that entered a queue.", counters.accepted_bytes)
        yield _counter("delivered_bytes", "Bytes that came out of the link.", counters.delivered_bytes)
        yield _counter("lost_bytes", "Bytes lost on the link.", counters.lost_bytes)
        yield _counter("overflow_bytes", "Bytes dropped because the queue was full.", counters.overflow_bytes)
        yield _counter("discarded_bytes", "Accepted bytes of senders that went away.", counters.discarded_bytes)
        yield _counter("busy_seconds", "Time for which the link was busy.", counters.busy_s)
        packets = CounterMetricFamily("mmsc_channel_packets", "Packets by what became of them.", labels=["outcome"])
        packets.add_metric(["delivered"], counters.delivered_packets)
        packets.add_metric(["lost"], counters.lost_packets)
        packets.add_metric(["overflow"], counters.overflow_packets)
        yield packets
        yield _gauge("queue_bytes", "Bytes that wait or are being sent.", counters.queued_bytes)
        yield _gauge("rate_bytes_per_second", "The link's rate setting, in base units.", settings.rate_bps / 8)
        yield _gauge("propagation_seconds", "The link's one-way delay setting.", settings.propagation_s)
        yield _gauge("streams", "Streams being relayed.", self._link.streams)


def _counter(name: str, description: str, value: float) -> Metric:
    return CounterMetricFamily(f"mmsc_channel_{name}", description, value=value)


def _gauge(name: str, description: str, value: float) -> Metric:
    return GaugeMetricFamily(f"mmsc_channel_{name}", description, value=value)
