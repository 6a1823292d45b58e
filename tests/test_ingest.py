"""How one stream's packets are sorted, counted, told and answered."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from receiver_fakes import ID, Sent, sent, store

from receiver.ingest import MAX_HEARD, MAX_OPEN, StreamIngest
from receiver.metrics import PACKET_OUTCOMES, ReceiverMetrics
from receiver.store import Entry, Store
from shared.feedback import Feedback
from shared.levels import LEVEL_BYTES
from shared.packets import SECTION_HEADER_BYTES, Packet, PacketKind
from shared.reports import Report, ReportOutcome

SENT = sent()
OTHER = sent(0x12345678, seed=1)


class Stream:
    """One stream into a store of its own, and the metrics."""

    def __init__(self, kept: Store | None = None) -> None:
        self.registry = CollectorRegistry()
        self.store = kept or store()
        self.metrics = ReceiverMetrics(self.registry)
        self.ingest = StreamIngest(self.store, self.metrics)

    def feed(self, packets: list[bytes], now: float = 1.0) -> list[Entry]:
        return [entry for data in packets if (entry := self.ingest.take(data, now))]

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"mmsc_receiver_{name}", labels) or 0.0

    def packets(self) -> dict[str, int]:
        counts = {name: int(self.value("packets_total", outcome=name)) for name in PACKET_OUTCOMES}
        return {name: count for name, count in counts.items() if count}


@pytest.fixture
def stream() -> Iterator[Stream]:
    return Stream()


def test_complete_is_told_once(stream: Stream) -> None:
    (entry,) = stream.feed(SENT.packets + SENT.packets)
    assert entry is stream.store.get(ID)
    assert stream.ingest.end() == []
    assert stream.packets() == {"accepted": len(SENT.packets), "duplicate": len(SENT.packets)}


def test_complete_elsewhere_is_told_here_too(stream: Stream) -> None:
    stream.feed(SENT.packets)
    again = StreamIngest(stream.store, stream.metrics)
    assert again.take(SENT.packets[3], 2.0) is stream.store.get(ID)
    assert stream.value("transmissions_total", outcome="complete") == 1


def test_a_duplicate_of_a_forgotten_transmission_is_not_reported_again() -> None:
    stream = Stream(store(max_transmissions=1))
    (entry,) = stream.feed(SENT.packets)
    stream.feed(OTHER.packets)
    assert stream.store.get(ID) is None
    stream.feed(SENT.packets[:1])
    assert stream.ingest.end() == []
    assert entry.assembly.outcome is ReportOutcome.COMPLETE


def test_another_picture_under_a_complete_ones_number_is_not_told_complete(stream: Stream) -> None:
    stream.feed(SENT.packets)
    impostor = StreamIngest(stream.store, stream.metrics)
    header = sent(ID, size=(30, 30), seed=5).header
    assert [impostor.take(data, 2.0) for data in header] == [None] * len(header)
    assert impostor.end() == []
    assert stream.packets() == {"accepted": len(SENT.packets), "foreign": len(header)}


@given(st.randoms())
def test_interleaved_transmissions(random) -> None:
    stream = Stream()
    mixed = SENT.packets + OTHER.packets
    random.shuffle(mixed)
    done = stream.feed(mixed)
    assert {entry.assembly.transmission_id for entry in done} == {ID, 0x12345678}
    assert all(entry.assembly.received_patches == entry.assembly.expected_patches for entry in done)


def test_end_closes_what_is_open(stream: Stream) -> None:
    stream.feed(SENT.packets[:-1] + OTHER.packets[1:])
    ended = stream.ingest.end()
    assert [entry.assembly.outcome for entry in ended] == [ReportOutcome.PARTIAL, ReportOutcome.FAILED]
    assert stream.ingest.end() == []
    assert stream.value("transmissions_total", outcome="partial") == 1
    assert stream.value("transmissions_total", outcome="failed") == 1


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_garbage_is_counted_and_dropped(garbage: list[bytes]) -> None:
    stream = Stream()
    assert stream.feed(garbage) == []
    assert stream.packets() == ({"corrupt": len(garbage)} if garbage else {})
    assert stream.store.newest_first() == []
    assert stream.value("received_bytes_total") == sum(map(len, garbage))


@given(st.data())
def test_damage_never_reaches_a_picture(data: st.DataObject) -> None:
    stream = Stream()
    victim = data.draw(st.integers(0, len(SENT.packets) - 1))
    packet = bytearray(SENT.packets[victim])
    place = data.draw(st.integers(0, len(packet) - 1))
    packet[place] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(packet) - 1))
    for damaged in (bytes(packet), SENT.packets[victim][:cut]):
        assert stream.ingest.take(damaged, 1.0) is None
    assert stream.packets() == {"corrupt": 2}
    assert len(stream.feed(SENT.packets)) == 1


def test_foreign_packets(stream: Stream) -> None:
    report = Report(ID, ReportOutcome.COMPLETE, 0, 0, 0, 0.0).to_packet()
    misplaced = Packet(PacketKind.PATCHES, ID, 10_000, bytes(12)).to_bytes()
    foreign = Packet(PacketKind.HEADER, 7, 0, bytes(SECTION_HEADER_BYTES)).to_bytes()
    stream.feed([*SENT.packets[:-1], report, misplaced, foreign])
    assert stream.packets() == {"accepted": len(SENT.packets) - 1, "foreign": 3}
    assert stream.store.get(7) is not None
    assert {entry.assembly.outcome for entry in stream.ingest.end()} == {ReportOutcome.PARTIAL, ReportOutcome.FAILED}


def test_one_stream_may_not_open_everything() -> None:
    stream = Stream(store(max_transmissions=100))
    starts = [Packet(PacketKind.HEADER, number, 0, b"\x01").to_bytes() for number in range(MAX_OPEN + 5)]
    stream.feed(starts)
    assert stream.packets() == {"accepted": MAX_OPEN, "refused": 5}
    assert len(stream.store.newest_first()) == MAX_OPEN


def test_levels_are_counted(stream: Stream) -> None:
    stream.feed(SENT.packets[:-1])
    stream.ingest.end()
    planned = np.bincount(SENT.levels, minlength=len(LEVEL_BYTES))
    assert stream.value("patches_total", codec="ladder", level="0", outcome="skipped") == planned[0]

    def patches(outcome: str) -> list[float]:
        return [
            stream.value("patches_total", codec="ladder", level=str(level), outcome=outcome) for level in range(1, 5)
        ]

    received, lost = patches("received"), patches("lost")
    assert sum(lost) > 0
    assert (np.add(received, lost) == planned[1:]).all()
    for level in range(1, 5):
        wire = stream.value("received_level_bytes_total", codec="ladder", level=str(level))
        assert wire == received[level - 1] * LEVEL_BYTES[level]


def test_span_from_first_to_last_byte(stream: Stream) -> None:
    stream.feed(SENT.packets[:1], now=1.0)
    stream.feed(SENT.packets[1:], now=3.5)
    assert stream.value("first_to_last_byte_seconds_sum") == 2.5


def test_sent_fixture_has_every_level() -> None:
    assert isinstance(SENT, Sent)
    assert set(SENT.levels.tolist()) == set(range(len(LEVEL_BYTES)))


# ---- what is opened again, asked, and answered ----------------------------------------------------

LEVELS = np.where(np.arange(SENT.grid.count) % 3, 2, 0).astype(np.uint8)
FIRST = sent(levels=LEVELS)
MORE = sent(levels=np.where(LEVELS, 0, 1).astype(np.uint8), revision=1)
POLL = Packet(PacketKind.POLL, ID, 0, b"").to_bytes()


def messages(said: list[bytes]) -> list[Feedback]:
    packets = map(Packet.from_bytes, said)
    return [Feedback.from_packet(packet) for packet in packets if packet.kind is PacketKind.FEEDBACK]


def test_a_revision_that_announces_more_is_told_complete_again(stream: Stream) -> None:
    (first,) = stream.feed(FIRST.packets)
    assert stream.feed(MORE.packets[:-1]) == []
    (second,) = stream.feed(MORE.packets[-1:])
    assert first is second
    assert stream.feed(FIRST.packets + MORE.packets) == []
    assert stream.ingest.end() == []
    assert stream.value("transmissions_total", outcome="complete") == 1


def test_a_revision_that_is_cut_off_ends_what_was_complete(stream: Stream) -> None:
    stream.feed(FIRST.packets + MORE.packets[:-1])
    (entry,) = stream.ingest.end()
    assert entry.assembly.outcome is ReportOutcome.PARTIAL
    assert stream.value("transmissions_total", outcome="partial") == 1


def test_a_revision_on_another_stream_opens_a_complete_one_there_too(stream: Stream) -> None:
    stream.feed(FIRST.packets)
    again = StreamIngest(stream.store, stream.metrics)
    told = [entry for data in MORE.packets if (entry := again.take(data, 2.0))]
    # Its first packet, the whole header, opens the transmission again; before, nobody had told it on this stream.
    assert told[-1].assembly.received_patches == FIRST.expected + MORE.expected
    assert again.end() == []


def test_questions_open_nothing_and_keep_nothing(stream: Stream) -> None:
    kept: list[bytes] = []
    ingest = StreamIngest(stream.store, stream.metrics, lambda _, data: kept.append(data))
    assert ingest.take(POLL, 1.0) is None
    assert stream.store.newest_first() == []
    (told,) = messages(ingest.say(1.0))
    assert told.revisions == ()
    for data in [*FIRST.packets[:-1], POLL]:
        ingest.take(data, 2.0)
    assert kept == FIRST.packets[:-1]
    assert messages(ingest.say(2.0))[0].revisions[0].header
    assert ingest.wake_s > 2.0


def test_a_question_keeps_its_transmission_from_falling_silent(stream: Stream) -> None:
    stream.feed(FIRST.packets[:-1], now=1.0)
    stream.ingest.take(POLL, 60.0)
    assert stream.store.expire(62.0) == []
    assert len(stream.store.expire(121.0)) == 1


def test_nothing_is_answered_of_what_is_on_the_disk_alone(stream: Stream) -> None:
    ingest = StreamIngest(stream.store, stream.metrics, stored=lambda number: number == ID)
    ingest.take(POLL, 1.0)
    assert ingest.wake_s == math.inf
    assert stream.packets() == {"refused": 1}


def test_what_was_forgotten_is_not_told_to_be_lost() -> None:
    stream = Stream(store(max_transmissions=1))
    stream.feed([*SENT.packets, *OTHER.packets])
    said = [message for now in (1.0, 1.2, 1.4, 9.0) for message in messages(stream.ingest.say(now))]
    assert {message.transmission_id for message in said} == {0x12345678}


def test_packets_of_others_are_not_answered(stream: Stream) -> None:
    stream.feed(SENT.packets)
    impostor = StreamIngest(stream.store, stream.metrics)
    for data in sent(ID, size=(30, 30), seed=5).header:
        impostor.take(data, 2.0)
    assert impostor.wake_s == math.inf


def test_few_are_remembered_of_many_that_are_asked_about(stream: Stream) -> None:
    stream.feed(FIRST.packets[:-1])
    for number in range(10 * MAX_HEARD):
        stream.ingest.take(Packet(PacketKind.POLL, number, 0, b"").to_bytes(), 1.0)
    said = messages(stream.ingest.say(1.0))
    assert len(said) == MAX_HEARD
    assert said[0].transmission_id == ID  # what is open stays
    assert len(stream.ingest.end()) == 1


def test_a_report_is_said_to_whom_it_concerns(stream: Stream) -> None:
    (entry,) = stream.feed(FIRST.packets)
    report = entry.assembly.report(0.1)
    stream.ingest.reported(report, 1.0)
    assert stream.ingest.last_word_s == 1.0
    assert report.to_packet() in stream.ingest.say(1.0)
    assert stream.ingest.say(1.1) == [report.to_packet()]
    assert stream.ingest.say(1.2) == [report.to_packet()]
    assert stream.ingest.last_word_s == stream.ingest.wake_s == math.inf


def test_every_series_begins_at_zero(stream: Stream) -> None:
    for outcome in PACKET_OUTCOMES:
        assert stream.registry.get_sample_value("mmsc_receiver_packets_total", {"outcome": outcome}) == 0
    for name in ("repaired_packets", "feedback_messages", "feedback_bytes", "report_messages"):
        assert stream.registry.get_sample_value(f"mmsc_receiver_{name}_total") == 0
