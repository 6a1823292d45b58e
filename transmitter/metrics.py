"""What the transmitter tells Prometheus."""

from collections.abc import Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from shared.codec.registry import ALL_LEVELS, CODECS
from shared.telemetry import LATENCY_BUCKETS_S
from transmitter.planning import Plan
from transmitter.replanning import Reason
from transmitter.transport.contract import LinkEstimate, SenderStats

OUTCOMES: Final = ("delivered", "refused", "failed", "cancelled")
"""How a transmission can end; refused: the request was at fault."""


DEADLINES: Final = ("met", "missed")
"""How a transmission with a deadline can end."""

_ERROR_BUCKETS: Final = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)


class TransportMetrics:
    """What was lost on the way, what was done about it, and how well the link was known."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"mmsc_transmitter_{name}_total", text, labels, registry=registry)

        self._sent_bytes = counter("sent_bytes", "Bytes handed to the channel, everything counted.")
        self._sent_packets = counter("sent_packets", "Packets handed to the channel, copies counted one by one.")
        self._again_bytes = counter("again_bytes", "Bytes of packets sent once more, because they were lost.")
        self._repair_bytes = counter("repair_bytes", "Bytes of repairs, and of copies sent before a loss was known.")
        self._poll_bytes = counter("poll_bytes", "Bytes of packets that ask the receiver what has arrived.")
        self._lost_packets = counter("lost_packets", "Packets that turned out not to have arrived.")
        self._dropped_patches = counter("dropped_patches", "Patches planned and given up.")
        self._feedback = counter("feedback_messages", "Messages from the receiver on what has arrived.")
        self.replans = counter("replans", "Plans made anew on the way.", "reason")
        self.resumptions = counter("resumptions", "Streams that broke and were taken up again.")
        self.deadlines = counter("deadlines", "Transmissions with a deadline that ended.", "outcome")
        self._estimated_rate = Gauge(
            "mmsc_transmitter_estimated_rate_bytes_per_second",
            "What the link was last believed to carry.",
            registry=registry,
        )
        self._received_rate = Gauge(
            "mmsc_transmitter_received_rate_bytes_per_second",
            "What arrived per second in the last transmission that ended, by the receiver's own count.",
            registry=registry,
        )
        self._estimated_loss = Gauge(
            "mmsc_transmitter_estimated_loss_ratio", "Share of packets believed to get lost.", registry=registry
        )
        self._rate_error = Histogram(
            "mmsc_transmitter_rate_error_ratio",
            "How far the rate that was believed in the end was off what arrived per second, over the latter.",
            registry=registry,
            buckets=_ERROR_BUCKETS,
        )
        for reason in Reason:
            self.replans.labels(reason.value)
        for outcome in DEADLINES:
            self.deadlines.labels(outcome)

    def believes(self, link: LinkEstimate) -> None:
        """Shows what is believed of the link now."""
        self._estimated_rate.set(link.rate_bps / 8)
        self._estimated_loss.set(link.loss_rate)

    def sent(self, before: SenderStats, after: SenderStats) -> None:
        """Counts what was sent between two states of a sender."""
        for name in ("sent_bytes", "sent_packets", "again_bytes", "repair_bytes", "poll_bytes", "dropped_patches"):
            getattr(self, f"_{name}").inc(max(getattr(after, name) - getattr(before, name), 0))
        # What was thought lost may arrive after all.
        self._lost_packets.inc(max(after.lost_packets - before.lost_packets, 0))

    def heard(self, messages: int, link: LinkEstimate, received_bps: float | None) -> None:
        """Takes what the receiver said in one transmission that has ended.

        Args:
            messages: how many came.
            link: what was believed of it in the end.
            received_bps: bits per second that arrived; None where that was not measured.
        """
        self._feedback.inc(messages)
        if received_bps:
            self._received_rate.set(received_bps / 8)
            self._rate_error.observe(abs(link.rate_bps - received_bps) / received_bps)


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
        self.transport = TransportMetrics(registry)
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
