"""The receiver's own Prometheus series."""

from itertools import zip_longest
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from receiver.archive import EVICTIONS, FAILURES
from receiver.assembly import Assembly
from receiver.store import Entry
from shared.codec.registry import ALL_LEVELS, CODECS
from shared.levels import SKIPPED
from shared.packets import PacketKind
from shared.reports import ReportOutcome
from shared.telemetry import LATENCY_BUCKETS_S

PACKET_OUTCOMES: Final = ("accepted", "duplicate", "repair", "poll", "corrupt", "foreign", "refused")
"""Repair: of use in the place of others. Poll: a question. Refused: ours, but without room for its transmission."""

_ENDED: Final = (ReportOutcome.COMPLETE, ReportOutcome.PARTIAL, ReportOutcome.FAILED)
_STAGES: Final = ("decode", "restore", "png")


class ReceiverMetrics:
    """Counts what arrives and what becomes of it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"mmsc_receiver_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"mmsc_receiver_{name}", text, labels, registry=registry, buckets=LATENCY_BUCKETS_S)

        self._bytes = counter("received_bytes_total", "Bytes of all packets that came, whatever became of them.")
        self._packets = counter("packets_total", "Packets by what became of them.", "outcome")
        self._repaired = counter("repaired_packets_total", "Packets that did not come, made from repair packets.")
        self._feedback = counter("feedback_messages_total", "Messages to senders on what has arrived.")
        self._feedback_bytes = counter("feedback_bytes_total", "Bytes of these messages.")
        self._reports = counter("report_messages_total", "Reports sent, each several times.")
        labels = ("codec", "level")
        self._patches = counter("patches_total", "Patches by level and by what became of them.", *labels, "outcome")
        self._level_bytes = counter("received_level_bytes_total", "Bytes of the received patches.", *labels)
        self._transmissions = counter("transmissions_total", "Transmissions that ended.", "outcome")
        self._stages = histogram("stage_seconds", "Duration of a stage of a reconstruction.", "stage")
        self._span = histogram("first_to_last_byte_seconds", "From a transmission's first packet to its last.")
        self._stored = Gauge("mmsc_receiver_stored_bytes", "Memory of all transmissions held.", registry=registry)
        self._disk = Gauge("mmsc_receiver_store_bytes", "Room that the journals take on the disk.", registry=registry)
        self._files = Gauge("mmsc_receiver_store_files", "Journals on the disk.", registry=registry)
        self._waiting = Gauge("mmsc_receiver_store_waiting_bytes", "What the disk refused.", registry=registry)
        self._failures = counter("store_failures_total", "What the disk did not take or give, by why.", "outcome")
        self._evictions = counter("store_evictions_total", "Journals that were removed, by why.", "outcome")
        self._show_zeros()

    def _show_zeros(self) -> None:
        """Rates need a first value: a series that appears with its first event hides that event."""
        for outcome in PACKET_OUTCOMES:
            self._packets.labels(outcome)
        for ended in _ENDED:
            self._transmissions.labels(ended.name.lower())
        for stage in _STAGES:
            self._stages.labels(stage)
        for failure in FAILURES:
            self._failures.labels(failure)
        for eviction in EVICTIONS:
            self._evictions.labels(eviction)
        for codec in CODECS.values():
            self._patches.labels(codec.name, str(SKIPPED), "skipped")
            for level in range(SKIPPED + 1, codec.levels):
                self._patches.labels(codec.name, str(level), "received")
                self._patches.labels(codec.name, str(level), "lost")
            for label in codec.byte_labels:
                self._level_bytes.labels(codec.name, label)

    def count_packet(self, size_bytes: int, outcome: str) -> None:
        """Counts a packet; `outcome` is one of PACKET_OUTCOMES."""
        self._bytes.inc(size_bytes)
        self._packets.labels(outcome).inc()

    def count_repaired(self, packets: int) -> None:
        """Counts packets that were made from others."""
        self._repaired.inc(packets)

    def count_answer(self, kind: PacketKind, size_bytes: int) -> None:
        """Counts a packet that was sent back; `kind` is FEEDBACK or REPORT."""
        if kind is PacketKind.FEEDBACK:
            self._feedback.inc()
            self._feedback_bytes.inc(size_bytes)
        else:
            self._reports.inc()

    def count_patches(self, assembly: Assembly, levels_before: tuple[int, ...], bytes_before: int) -> None:
        """Counts what came since an assembly's `levels_received` and `content_bytes` were as given."""
        codec = assembly.codec
        if codec is None:
            return
        for level, (after, before) in enumerate(zip_longest(assembly.levels_received, levels_before, fillvalue=0)):
            if after > before:
                self._patches.labels(codec.name, str(level), "received").inc(after - before)
                if codec.sized:
                    self._level_bytes.labels(codec.name, str(level)).inc((after - before) * codec.patch_bytes[level])
        if not codec.sized:
            self._level_bytes.labels(codec.name, ALL_LEVELS).inc(assembly.content_bytes - bytes_before)

    def count_end(self, entry: Entry) -> None:
        """Counts a transmission that ended, once for each outcome that it comes to."""
        outcome = entry.assembly.outcome
        if outcome is entry.counted:
            return
        first_end, entry.counted = entry.counted is ReportOutcome.RECEIVING, outcome
        self._transmissions.labels(outcome.name.lower()).inc()
        self._span.observe(entry.assembly.last_s - entry.assembly.first_s)
        if first_end:
            self._count_absent(entry.assembly)

    def _count_absent(self, assembly: Assembly) -> None:
        if assembly.codec is None:
            return
        name = assembly.codec.name
        planned, received = assembly.levels_planned, assembly.levels_received
        self._patches.labels(name, str(SKIPPED), "skipped").inc(planned[SKIPPED])
        for level in range(SKIPPED + 1, assembly.codec.levels):
            self._patches.labels(name, str(level), "lost").inc(planned[level] - received[level])

    def observe_stage(self, stage: str, elapsed_s: float) -> None:
        """Records the duration of "decode", "restore" or "png"."""
        self._stages.labels(stage).observe(elapsed_s)

    def store_failed(self, outcome: str) -> None:
        """Counts something that the disk did not take or give; `outcome` is one of FAILURES."""
        self._failures.labels(outcome).inc()

    def store_evicted(self, outcome: str) -> None:
        """Counts a journal that was removed; `outcome` is one of EVICTIONS."""
        self._evictions.labels(outcome).inc()

    def show_disk(self, stored_bytes: int, files: int, waiting_bytes: int) -> None:
        """Sets the gauges of the disk."""
        self._disk.set(stored_bytes)
        self._files.set(files)
        self._waiting.set(waiting_bytes)

    def show_stored(self, stored_bytes: int) -> None:
        """Sets the memory gauge."""
        self._stored.set(stored_bytes)
