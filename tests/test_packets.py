"""The wire format: what is written is read, what is damaged is refused."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.codec.ladder_order import packet_runs, sending_order, stream_bytes
from shared.errors import PacketError, StreamError
from shared.levels import LEVEL_BYTES
from shared.packets import (
    MAX_REVISIONS,
    PACKET_HEADER_BYTES,
    POSITIONS,
    SECTION_HEADER_BYTES,
    Packet,
    PacketKind,
    StreamHeader,
    section_bytes,
)
from shared.patches import PatchGrid
from shared.reports import Report, ReportOutcome

packets = st.builds(
    Packet,
    st.sampled_from(PacketKind),
    st.integers(0, 2**32 - 1),
    st.integers(0, POSITIONS - 1),
    st.binary(max_size=300),
    st.integers(0, MAX_REVISIONS - 1),
)
headers = st.builds(
    StreamHeader,
    st.just(1),
    st.binary(min_size=4, max_size=4),
    st.builds(PatchGrid, st.integers(1, 4000), st.integers(1, 4000)),
    st.binary(max_size=255),
    st.binary(max_size=60),
    st.integers(0, 255),
)


@given(packets)
def test_a_packet_is_read_as_it_was_written(packet):
    data = packet.to_bytes()
    assert len(data) == PACKET_HEADER_BYTES + len(packet.body)
    assert Packet.from_bytes(data) == packet


def test_the_bytes_on_the_wire_stay_what_they_were():
    packet = Packet(PacketKind.PATCHES, 0x01020304, 0x050607, b"abc")
    assert packet.to_bytes().hex() == "1101020304050607" + "45cd9108" + "616263"


@given(packets, st.data())
def test_any_flipped_bit_is_noticed(packet, data):
    damaged = bytearray(packet.to_bytes())
    bit = data.draw(st.integers(0, 8 * len(damaged) - 1))
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(PacketError):
        Packet.from_bytes(bytes(damaged))


@given(st.binary(max_size=100))
def test_garbage_is_no_packet(data):
    with pytest.raises(PacketError):
        Packet.from_bytes(data)


@given(packets, st.integers(1, 20))
def test_a_truncated_packet_is_refused(packet, cut):
    with pytest.raises(PacketError):
        Packet.from_bytes(packet.to_bytes()[:-cut])


@given(headers)
def test_a_header_section_is_read_as_it_was_written(header):
    section = header.to_bytes()
    assert section_bytes(section) == len(section)
    assert StreamHeader.from_bytes(section) == header


@given(headers, st.integers(1, 30))
def test_a_truncated_header_section_is_refused(header, cut):
    with pytest.raises(StreamError):
        StreamHeader.from_bytes(header.to_bytes()[:-cut])


@pytest.mark.parametrize(("width", "height"), [(0, 10), (65_535, 65_535)])
def test_a_header_of_an_impossible_picture_is_refused(width, height):
    section = struct.pack(">B4sHHHBHB", 1, b"abcd", width, height, 0, 0, 0, 0)
    with pytest.raises(StreamError, match="impossible"):
        StreamHeader.from_bytes(section)


def test_a_level_map_larger_than_the_picture_is_refused():
    section = struct.pack(">B4sHHHBHB", 1, b"abcd", 8, 8, 0, 1, 0, 0) + bytes(65_536)
    with pytest.raises(StreamError, match="level map"):
        StreamHeader.from_bytes(section)


def test_sending_order_is_by_level_then_raster():
    assert sending_order(np.array([1, 0, 4, 1, 2, 4], np.uint8)).tolist() == [2, 5, 4, 0, 3]


@given(st.lists(st.integers(0, 60), min_size=5, max_size=5), st.integers(256, 2000))
def test_packets_are_filled_as_far_as_whole_patches_go(counts, packet_bytes):
    runs = packet_runs(np.array(counts), packet_bytes)
    sizes = [LEVEL_BYTES[level] for level in (4, 3, 2, 1) for _ in range(counts[level])]
    capacity = packet_bytes - PACKET_HEADER_BYTES
    assert sum(runs) == len(sizes)
    for run in runs:
        assert 0 < sum(sizes[:run]) <= capacity
        assert len(sizes) == run or sum(sizes[: run + 1]) > capacity
        sizes = sizes[run:]


def test_stream_bytes_counts_every_header():
    section = SECTION_HEADER_BYTES + 500
    total = stream_bytes(section, np.array([0, 40, 0, 0, 2]), 256)
    body = 256 - PACKET_HEADER_BYTES
    header_packets = -(-section // body)
    # 192 and 4 x 12, 192 and 4 x 12, then 32 x 12 at 20 to a packet.
    assert total == section + 2 * 192 + 40 * 12 + (header_packets + 4) * PACKET_HEADER_BYTES


def test_a_report_is_read_as_it_was_written():
    report = Report(7, ReportOutcome.PARTIAL, 12_345, 100, 90, 0.25)
    assert Report.from_packet(Packet.from_bytes(report.to_packet())) == report


@pytest.mark.parametrize("body", [b"", b"short", b"\xff" + bytes(20), bytes(22)])
def test_what_is_no_report_is_refused(body):
    with pytest.raises(PacketError):
        Report.from_packet(Packet(PacketKind.REPORT, 1, 0, body))
