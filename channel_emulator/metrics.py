"""Prometheus metrics of the link, read from its counters when they are asked for."""

from collections.abc import Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from channel_emulator.counters import LinkCounters
from channel_emulator.settings import LinkSettings


class Counted(Protocol):
    """A direction of the channel, or a link."""

    counters: LinkCounters

    @property
    def settings(self) -> LinkSettings:
        """The settings in force."""

    @property
    def streams(self) -> int:
        """How many streams are open."""


class LinkCollector(Collector):
    """Gives the counters of the forward direction, and of the backward one, to a registry.

    Runs in the thread that serves the page: it reads single numbers and changes nothing.
    """

    def __init__(self, link: Counted, backward: Counted | None = None) -> None:
        self._link, self._backward = link, backward

    def collect(self) -> Iterator[Metric]:
        """The metrics as they stand."""
        counters, settings = self._link.counters, self._link.settings
        yield _counter("accepted_bytes", "Bytes that entered a queue.", counters.accepted_bytes)
        yield _counter("delivered_bytes", "Bytes that came out of the link.", counters.delivered_bytes)
        yield _counter("lost_bytes", "Bytes lost on the link.", counters.lost_bytes)
        yield _counter("overflow_bytes", "Bytes dropped because the queue was full.", counters.overflow_bytes)
        yield _counter("discarded_bytes", "Accepted bytes of senders that went away.", counters.discarded_bytes)
        yield _counter("busy_seconds", "Time for which the link was busy.", counters.busy_s)
        yield _packets("packets", "Packets by what became of them.", counters)
        yield _impaired("impaired_packets", "Packets by what else was done to them.", counters)
        yield _gauge("queue_bytes", "Bytes that wait or are being sent.", counters.queued_bytes)
        yield _gauge("rate_bytes_per_second", "The link's rate setting, in base units.", settings.rate_bps / 8)
        yield _gauge("propagation_seconds", "The link's one-way delay setting.", settings.propagation_s)
        yield _gauge("streams", "Streams being relayed.", self._link.streams)
        if self._backward is not None:
            yield from self._back(self._backward.counters)

    def _back(self, counters: LinkCounters) -> Iterator[Metric]:
        yield _counter("backward_delivered_bytes", "Bytes of reports that came out.", counters.delivered_bytes)
        yield _packets("backward_packets", "Report packets by what became of them.", counters)
        yield _impaired("backward_impaired_packets", "Report packets by what else was done to them.", counters)


def _packets(name: str, description: str, counters: LinkCounters) -> Metric:
    packets = CounterMetricFamily(f"mmsc_channel_{name}", description, labels=["outcome"])
    packets.add_metric(["delivered"], counters.delivered_packets)
    packets.add_metric(["lost"], counters.lost_packets)
    packets.add_metric(["overflow"], counters.overflow_packets)
    return packets


def _impaired(name: str, description: str, counters: LinkCounters) -> Metric:
    packets = CounterMetricFamily(f"mmsc_channel_{name}", description, labels=["outcome"])
    packets.add_metric(["corrupted"], counters.corrupted_packets)
    packets.add_metric(["duplicated"], counters.duplicated_packets)
    packets.add_metric(["reordered"], counters.reordered_packets)
    return packets


def _counter(name: str, description: str, value: float) -> Metric:
    return CounterMetricFamily(f"mmsc_channel_{name}", description, value=value)


def _gauge(name: str, description: str, value: float) -> Metric:
    return GaugeMetricFamily(f"mmsc_channel_{name}", description, value=value)
