"""One transmission put together: any order, twice, damaged, forged, with holes."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from receiver_fakes import ID, FakeCodec, Sent, feed, opened, picture, receivers, sent

from receiver.assembly import MAX_EARLY_BYTES, Arrival
from receiver.header import MAX_SECTION_BYTES, HeaderSection
from shared.codec.ladder_order import sending_order
from shared.errors import PacketError, StreamError
from shared.levels import LEVEL_BYTES, RAW
from shared.packets import PACKET_HEADER_BYTES, SECTION_HEADER_BYTES, Packet, PacketKind, StreamHeader
from shared.patches import PatchGrid, split
from shared.reports import ReportOutcome

SENT = sent()


def header_of(whole: Sent) -> StreamHeader:
    return StreamHeader.from_bytes(b"".join(data[PACKET_HEADER_BYTES:] for data in whole.header))


def header_packet(header: StreamHeader) -> Packet:
    return Packet(PacketKind.HEADER, ID, 0, header.to_bytes())


def test_in_order() -> None:
    assembly = opened()
    assert assembly.outcome is ReportOutcome.RECEIVING
    assert assembly.snapshot() is None
    assert set(feed(assembly, SENT.packets)) == {Arrival.ACCEPTED}
    assert assembly.outcome is ReportOutcome.COMPLETE
    assert assembly.received_bytes == sum(map(len, SENT.packets))
    assert assembly.received_patches == assembly.expected_patches == SENT.expected
    assert assembly.levels_received == (0, *assembly.levels_planned[1:])
    assert assembly.levels_planned == tuple(np.bincount(SENT.levels, minlength=5))
    assert (picture(assembly) == SENT.picture).all()


@given(st.permutations(SENT.packets), st.lists(st.sampled_from(SENT.packets), max_size=20), st.randoms())
def test_order_and_duplicates_do_not_matter(packets: list[bytes], again: list[bytes], random) -> None:
    mixed = packets + again
    random.shuffle(mixed)
    assembly = opened()
    arrivals = feed(assembly, mixed)
    assert arrivals.count(Arrival.DUPLICATE) == len(again)
    assert assembly.outcome is ReportOutcome.COMPLETE
    assert assembly.received_bytes == sum(map(len, SENT.packets))
    assert (picture(assembly) == SENT.picture).all()


@given(st.sets(st.integers(0, len(SENT.patches) - 1)))
def test_lost_packets_leave_the_background(lost: set[int]) -> None:
    assembly = opened()
    feed(assembly, SENT.header + [data for i, data in enumerate(SENT.patches) if i not in lost])
    assembly.close()
    whole = opened()
    feed(whole, SENT.packets)
    shown, arrived = split(picture(assembly)), assembly.snapshot()
    assert arrived is not None
    missing = (arrived.decode().levels == 0) & (SENT.levels != 0)
    assert missing.sum() == assembly.expected_patches - assembly.received_patches
    assert assembly.outcome is (ReportOutcome.PARTIAL if lost else ReportOutcome.COMPLETE)
    assert (shown[~missing] == split(picture(whole))[~missing]).all()
    assert (shown[missing] == 128).all()


def test_every_prefix_decodes() -> None:
    assembly = opened()
    feed(assembly, SENT.header)
    counts = []
    for data in SENT.patches:
        counts.append(assembly.received_patches)
        assert picture(assembly).shape == SENT.picture.shape
        feed(assembly, [data])
    assert counts == sorted(set(counts))


def test_header_lost() -> None:
    assembly = opened()
    feed(assembly, SENT.patches + SENT.header[:-1])
    assembly.close()
    assert assembly.outcome is ReportOutcome.FAILED
    assert assembly.expected_patches == 0
    assert assembly.report(0.0).received_bytes == sum(map(len, SENT.patches + SENT.header[:-1]))
    assert assembly.snapshot() is None


def test_a_late_packet_opens_the_transmission_again() -> None:
    assembly = opened()
    feed(assembly, SENT.packets[:-1])
    assembly.close()
    assert assembly.outcome is ReportOutcome.PARTIAL
    feed(assembly, SENT.packets[:1])
    assert assembly.outcome is ReportOutcome.PARTIAL  # nothing new
    feed(assembly, SENT.packets[-1:])
    assert assembly.outcome is ReportOutcome.COMPLETE


def test_nothing_to_send_is_complete_with_the_header() -> None:
    whole = sent(levels=np.zeros(PatchGrid(61, 45).count, np.uint8), sketch=b"\x20\x10")
    assembly = opened()
    feed(assembly, whole.header)
    assert assembly.outcome is ReportOutcome.COMPLETE
    assert picture(assembly).shape == (45, 61, 3)
    with pytest.raises(PacketError):
        assembly.accept(Packet(PacketKind.PATCHES, ID, 0, bytes(12)), 11.0)


def test_clock() -> None:
    assembly = opened()
    feed(assembly, SENT.header, now=12.0)
    feed(assembly, SENT.header, now=13.0)
    assert (assembly.first_s, assembly.last_s) == (10.0, 12.0)


# ---- forged and misplaced packets -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "size"),
    [
        (0, 0),
        (0, LEVEL_BYTES[RAW] - 1),
        (0, LEVEL_BYTES[RAW] + 1),
        (SENT.expected, 12),
        (SENT.expected - 1, 24),
        (2**24 - 1, 192),
        (0, 60_000),
    ],
)
def test_misplaced_patches_change_nothing(position: int, size: int) -> None:
    assembly = opened()
    feed(assembly, SENT.packets[:-2])
    before = (assembly.version, assembly.received_bytes, assembly.levels_received, assembly.stored_bytes)
    with pytest.raises(PacketError):
        assembly.accept(Packet(PacketKind.PATCHES, ID, position, bytes(size)), 11.0)
    assert (assembly.version, assembly.received_bytes, assembly.levels_received, assembly.stored_bytes) == before


def test_misplaced_patches_before_the_header_are_dropped_by_it() -> None:
    assembly = opened()
    forged = Packet(PacketKind.PATCHES, ID, SENT.expected, bytes(12)).to_bytes()
    feed(assembly, [forged, *SENT.patches, *SENT.header])
    assert assembly.outcome is ReportOutcome.COMPLETE
    assert assembly.received_bytes == sum(map(len, SENT.packets))
    assert (picture(assembly) == SENT.picture).all()


def test_reports_have_no_place() -> None:
    with pytest.raises(PacketError):
        opened().accept(Packet(PacketKind.REPORT, ID, 0, b""), 11.0)


def test_overlapping_packets_fill_only_what_is_missing() -> None:
    whole = sent(levels=np.full(PatchGrid(61, 45).count, 1, np.uint8), packet_bytes=500)
    assembly = opened()
    feed(assembly, [*whole.header, whole.patches[0]])
    have = assembly.received_patches
    over = Packet(PacketKind.PATCHES, ID, have - 1, b"\xee" * 12 + b"\x11" * 12)
    assert assembly.accept(over, 11.0) is Arrival.ACCEPTED
    assert assembly.received_patches == have + 1
    numbers = sending_order(whole.levels)
    shown = split(picture(assembly))
    assert (shown[numbers[have]] == 0x11).all()
    # The last column's and row's patches are padded, so only the corner that is surely shown is compared.
    assert (shown[numbers[have - 1], 0, 0] == split(whole.picture)[numbers[have - 1], 0, 0]).all()


@given(st.integers(0, 2**24 - 1), st.binary(max_size=400), st.booleans())
def test_any_patches_are_survived(position: int, body: bytes, early: bool) -> None:
    forged = Packet(PacketKind.PATCHES, ID, position % (2 * SENT.expected) if position % 2 else position, body)
    assembly = opened()
    feed(assembly, [] if early else SENT.packets)
    before = assembly.received_patches
    try:
        assert assembly.accept(forged, 11.0) in Arrival
    except PacketError:
        assert assembly.received_patches == before
    feed(assembly, SENT.packets)
    assert assembly.outcome is ReportOutcome.COMPLETE
    assert picture(assembly).shape == SENT.picture.shape


@given(st.integers(0, 2**24 - 1), st.binary(max_size=400))
def test_any_fragment_is_survived(position: int, body: bytes) -> None:
    assembly = opened()
    feed(assembly, SENT.header)
    with pytest.raises(PacketError):
        assembly.accept(Packet(PacketKind.HEADER, ID, position + 1_000, body), 11.0)
    assert assembly.header == header_of(SENT)


@given(st.binary(min_size=SECTION_HEADER_BYTES, max_size=300))
def test_any_section_is_decoded_or_forgotten(section: bytes) -> None:
    assembly = opened()
    try:
        assembly.accept(Packet(PacketKind.HEADER, ID, 0, section), 11.0)
    except StreamError:
        assert (assembly.header, assembly.received_bytes) == (None, 0)
        feed(assembly, SENT.packets)
        assert assembly.outcome is ReportOutcome.COMPLETE


@given(st.binary(max_size=200), st.integers(1, 2_000), st.integers(1, 2_000))
def test_any_level_map_is_decoded_or_forgotten(level_map: bytes, width: int, height: int) -> None:
    header = dataclasses.replace(header_of(SENT), grid=PatchGrid(width, height), level_map=level_map)
    assembly = opened()
    try:
        assembly.accept(header_packet(header), 11.0)
    except StreamError:
        assert assembly.header is None
    else:
        assert assembly.header == header
        assert assembly.expected_patches <= header.grid.count


@pytest.mark.parametrize(
    "change",
    [{"codec": 9}, {"weights_hash": b"else"}, {"level_map_table": 255}],
    ids=["codec", "weights", "table"],
)
def test_foreign_header_is_forgotten(change: dict) -> None:
    assembly = opened()
    with pytest.raises(StreamError):
        assembly.accept(header_packet(dataclasses.replace(header_of(SENT), **change)), 11.0)
    assert assembly.header is None
    feed(assembly, SENT.packets)
    assert (picture(assembly) == SENT.picture).all()


def test_first_whole_header_wins() -> None:
    other = header_packet(dataclasses.replace(header_of(SENT), sketch=b"\x7f\x7f"))
    assembly = opened()
    feed(assembly, SENT.header)
    with pytest.raises(PacketError):
        assembly.accept(other, 11.0)
    feed(assembly, SENT.patches)
    assert (picture(assembly) == SENT.picture).all()


def test_contradicting_fragment_is_dropped() -> None:
    other = header_packet(dataclasses.replace(header_of(SENT), sketch=b"\x7f\x7f"))
    assembly = opened()
    feed(assembly, SENT.header[:1])
    with pytest.raises(PacketError):
        assembly.accept(other, 11.0)
    feed(assembly, SENT.header[1:] + SENT.patches)
    assert (picture(assembly) == SENT.picture).all()


def test_fragments_may_overlap() -> None:
    section = header_of(SENT).to_bytes()
    gathered = HeaderSection()
    assert gathered.add(0, section[:30])
    assert gathered.add(10, section[10:])
    assert not gathered.add(5, section[5:9])
    assert gathered.whole() == section


def test_section_beyond_any_picture() -> None:
    gathered = HeaderSection()
    with pytest.raises(PacketError):
        gathered.add(MAX_SECTION_BYTES - 1, b"ab")
    huge = bytearray(header_of(SENT).to_bytes()[:SECTION_HEADER_BYTES])
    huge[-4:-1] = b"\xff\xff\xff"
    gathered.add(0, bytes(huge))
    with pytest.raises(StreamError):
        gathered.whole()


# ---- memory ---------------------------------------------------------------------------------------


def test_early_patches_are_bounded() -> None:
    assembly = opened()
    position = 0
    with pytest.raises(PacketError, match="before the header"):  # noqa: PT012 - which packet is the last does not matter
        for position in range(1_000):
            assembly.accept(Packet(PacketKind.PATCHES, ID, position, bytes(60_000)), 11.0)
    assert position == MAX_EARLY_BYTES // (60_000 + PACKET_HEADER_BYTES + 200)
    assert assembly.stored_bytes <= MAX_EARLY_BYTES + 1_000


def test_a_promise_of_a_huge_picture_takes_no_picture_of_memory() -> None:
    grid = PatchGrid(4096, 4096)
    whole = sent(size=(4096, 4096), levels=np.full(grid.count, 0, np.uint8))
    header = header_of(whole)
    opened().accept(header_packet(header), 11.0)  # loads the tables
    tracemalloc.start()
    assembly = opened()
    assembly.accept(header_packet(header), 11.0)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 30 * grid.count < grid.raw_bytes
    assert assembly.stored_bytes < 2 * grid.count


def test_stored_bytes_cover_what_is_kept() -> None:
    assembly = opened()
    feed(assembly, SENT.patches)
    early = assembly.stored_bytes
    feed(assembly, SENT.header)
    payload = sum(LEVEL_BYTES[level] for level in SENT.levels)
    assert early > payload
    assert assembly.stored_bytes > payload


# ---- pictures -------------------------------------------------------------------------------------


def test_snapshot_stays_as_it_is() -> None:
    assembly = opened()
    feed(assembly, SENT.header)
    arrived = assembly.snapshot()
    feed(assembly, SENT.patches)
    assert arrived is not None
    assert arrived.version < assembly.version
    assert not arrived.decode().levels.any()


def test_level_picture() -> None:
    assembly = opened()
    feed(assembly, SENT.packets)
    arrived = assembly.snapshot()
    assert arrived is not None
    shown = arrived.decode().level_picture
    assert (shown == SENT.levels.reshape(SENT.grid.rows, SENT.grid.columns)).all()


def test_one_call_of_the_codec_per_level() -> None:
    codec = FakeCodec()
    assembly = opened(codec)
    feed(assembly, SENT.packets)
    arrived = assembly.snapshot()
    assert arrived is not None
    arrived.decode()
    assert codec.calls == len(set(SENT.levels.tolist()) - {0})


def test_warm_up_uses_every_level() -> None:
    codec = FakeCodec()
    (ladder,) = receivers(codec).values()
    ladder.warm_up()
    assert codec.calls == RAW
