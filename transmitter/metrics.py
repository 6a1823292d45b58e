"""What the transmitter tells Prometheus."""

from collections.abc import Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from shared.codec.registry import ALL_LEVELS, CODECS
from shared.telemetry import LATENCY_BUCKETS_S
from transmitter.planning import Plan

OUTCOMES: Final = ("delivered", "refused", "failed", "cancelled")
"""How a transmission can end; refused: the request was at fault."""


class TransmitterMetrics:
    """Counters of plans, bytes and time; bit rates follow as `8 * rate(..._bytes_total)`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.stage_seconds = Histogram(
            "mmsc_transmitter_stage_seconds",
            "Duration of one stage of a transmission.",
            ("stage",),
            registry=registry,
            buckets=LATENCY_BUCKETS_S,
        )
        self.end_to_end_seconds = Histogram(
            "mmsc_transmitter_end_to_end_seconds",
            "From a request's arrival to the receiver's report.",
            registry=registry,
            buckets=LATENCY_BUCKETS_S,
        )
        self.transmissions = Counter(
            "mmsc_transmitter_transmissions_total", "Transmissions ended.", ("outcome",), registry=registry
        )
        self.active = Gauge("mmsc_transmitter_active_transmissions", "Transmissions under way.", registry=registry)
        self._level_bytes = Counter(
            "mmsc_transmitter_level_bytes_total",
            "Patch bytes planned, by level where patches of one level have one size.",
            ("codec", "level"),
            registry=registry,
        )
        self._patches = Counter(
            "mmsc_transmitter_patches_total", "Patches planned, by level.", ("codec", "level"), registry=registry
        )
        self._overhead_bytes = Counter(
            "mmsc_transmitter_overhead_bytes_total", "Bytes planned besides patches.", registry=registry
        )
        self._budget_bytes = Counter("mmsc_transmitter_budget_bytes_total", "Bytes allowed.", registry=registry)
        self._relevance = Info("mmsc_transmitter_relevance", "Relevance extractors loaded.", registry=registry)
        self._show_zeros()

    def _show_zeros(self) -> None:
        """Rates need a first value: a series that appears with its first event hides that event."""
        for outcome in OUTCOMES:
            self.transmissions.labels(outcome)
        for codec in CODECS.values():
            for level in range(codec.levels):
                self._patches.labels(codec.name, str(level))
            for label in codec.byte_labels:
                self._level_bytes.labels(codec.name, label)

    def runs(self, extractors: Sequence[str], device: str) -> None:
        """Says which relevance extractors are loaded, the first of them the default, and where they compute."""
        settings = {"default": extractors[0], "loaded": ",".join(extractors), "device": device}
        self._relevance.info(settings)

    def planned(self, plan: Plan, budget_bytes: int) -> None:
        """Counts a plan that is about to be sent."""
        codec = plan.codec
        for level, count in enumerate(plan.level_counts.tolist()):
            self._patches.labels(codec.name, str(level)).inc(count)
            if codec.sized:
                self._level_bytes.labels(codec.name, str(level)).inc(count * codec.patch_bytes[level])
        if not codec.sized:
            self._level_bytes.labels(codec.name, ALL_LEVELS).inc(plan.content_bytes)
        self._overhead_bytes.inc(plan.wire_bytes - plan.content_bytes)
        self._budget_bytes.inc(budget_bytes)
