"""A codec whose bodies cannot be cut, through assembly and pictures: what arrives, twice, overlapping or unreadable."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from receiver.assembly import Arrival, Assembly
from receiver.contract import ArrivedPatches, DecodedPatches, Layout, Piece, by_number, overlaid
from receiver.ingest import StreamIngest
from receiver.metrics import ReceiverMetrics
from receiver.pictures import PictureMaker
from receiver.store import Store
from receiver.whole_bodies import whole_body
from shared.arrays import UInt8Array
from shared.codec.registry import CodecEntry
from shared.errors import PacketError, StreamError
from shared.packets import Packet, PacketKind, StreamHeader, max_sketch_bytes
from shared.patches import PatchGrid, join
from shared.reports import ReportOutcome

ID = 7
GRID = PatchGrid(64, 32)
LEVELS = np.repeat(np.array([7, 0, 3, 1], np.uint8), 8)
SENT = 24


class Runs:
    """Level maps are sent as they are; a body's third byte is how bright all its patches are, and 0 is no body."""

    entry = CodecEntry("runs", 99, "for tests", (0,) * 8)
    weights_hash = b"runs"

    def open(self, header: StreamHeader) -> UInt8Array:
        if len(header.level_map) != header.grid.count or max(header.level_map) > self.entry.exact:
            raise StreamError("no level map")
        return np.frombuffer(header.level_map, np.uint8)

    def pieces(self, layout: Layout, position: int, body: bytes) -> list[Piece]:
        return whole_body(layout, position, body, int.from_bytes(body[:2], "big") if len(body) > 2 else 0)

    def usable(self, layout: Layout, position: int, body: bytes) -> bytes:
        return b""

    def order(self, levels: UInt8Array, grid: PatchGrid) -> np.ndarray:
        return np.argsort(-levels.astype(int), kind="stable")[: np.count_nonzero(levels)]

    def merge(self, earlier: DecodedPatches, later: DecodedPatches) -> DecodedPatches:
        return overlaid(earlier, later, (later.levels > 0) & (later.levels >= earlier.levels))

    def decode(self, arrived: ArrivedPatches) -> DecodedPatches:
        planned = arrived.layout.levels
        order = self.order(planned, GRID)
        patches, levels = np.zeros((GRID.count, 8, 8, 3), np.uint8), np.zeros(GRID.count, np.uint8)
        for piece in arrived.pieces:
            if bright := piece.payload[2]:
                numbers = order[piece.place]
                patches[numbers], levels[numbers] = bright, planned[numbers]
        return DecodedPatches(self, arrived.header, patches, levels)

    def paint(self, decoded: DecodedPatches) -> UInt8Array:
        return join(decoded.patches, GRID)

    def warm_up(self) -> None:
        pass


CODECS = by_number(Runs())
HEADER = StreamHeader(99, b"runs", GRID, bytes(900), LEVELS.tobytes(), 0)


def body(position: int, patches: int, bright: int = 200) -> Packet:
    return Packet(PacketKind.PATCHES, ID, position, patches.to_bytes(2, "big") + bytes([bright, 1, 2, 3]))


def opened() -> Assembly:
    assembly = Assembly(ID, CODECS, now=0.0)
    assembly.accept(Packet(PacketKind.HEADER, ID, 0, HEADER.to_bytes()), 0.0)
    return assembly


def shown(assembly: Assembly) -> DecodedPatches:
    arrived = assembly.snapshot()
    assert arrived is not None
    return arrived.decode()


def test_levels_are_the_codecs_own() -> None:
    assembly = opened()
    assert assembly.codec is Runs.entry
    assert assembly.levels_planned == (8, 8, 0, 8, 0, 0, 0, 8)
    assert assembly.levels_received == (0,) * 8


def test_a_body_counts_at_every_level_that_it_spans() -> None:
    assembly = opened()
    assembly.accept(body(6, 12), 0.0)
    assert assembly.levels_received == (0, 2, 0, 8, 0, 0, 0, 2)
    assert assembly.content_bytes == 6


def test_the_same_run_again_is_a_duplicate_whatever_it_says() -> None:
    assembly = opened()
    assert assembly.accept(body(4, 6), 0.0) is Arrival.ACCEPTED
    assert assembly.accept(body(4, 6, bright=9), 0.0) is Arrival.DUPLICATE
    assert shown(assembly).patches.max() == 200


@pytest.mark.parametrize(("position", "patches"), [(4, 5), (4, 7), (5, 5), (5, 1), (0, 5), (3, 9), (0, 24)])
def test_a_body_that_overlaps_another_changes_nothing(position: int, patches: int) -> None:
    assembly = opened()
    assembly.accept(body(4, 6), 0.0)
    before = (assembly.version, assembly.received_bytes, assembly.levels_received, assembly.stored_bytes)
    with pytest.raises(PacketError, match="overlaps"):
        assembly.accept(body(position, patches), 0.0)
    assert (assembly.version, assembly.received_bytes, assembly.levels_received, assembly.stored_bytes) == before


@pytest.mark.parametrize(("position", "patches"), [(0, 0), (0, 25), (23, 2), (24, 1), (2**24 - 1, 1), (0, 65_535)])
def test_a_body_beyond_what_was_announced_is_refused(position: int, patches: int) -> None:
    with pytest.raises(PacketError):
        opened().accept(body(position, patches), 0.0)


@given(st.lists(st.tuples(st.integers(0, 30), st.binary(max_size=5)), max_size=8), st.booleans())
def test_any_bodies_are_survived(bodies: list[tuple[int, bytes]], early: bool) -> None:
    assembly = Assembly(ID, CODECS, now=0.0) if early else opened()
    for position, content in bodies:
        try:
            assembly.accept(Packet(PacketKind.PATCHES, ID, position, content), 0.0)
        except PacketError:
            continue
    if early:
        assembly.accept(Packet(PacketKind.HEADER, ID, 0, HEADER.to_bytes()), 0.0)
    decoded = shown(assembly)
    assert decoded.read_patches <= assembly.received_patches <= SENT


def test_a_header_that_the_codec_cannot_open_is_forgotten() -> None:
    assembly = Assembly(ID, CODECS, now=0.0)
    forged = StreamHeader(99, b"runs", GRID, b"", b"\x08" * GRID.count, 0)
    with pytest.raises(StreamError):
        assembly.accept(Packet(PacketKind.HEADER, ID, 0, forged.to_bytes()), 0.0)
    assert (assembly.header, assembly.codec) == (None, None)


def test_a_sketch_is_bounded_by_the_picture() -> None:
    assert StreamHeader.from_bytes(HEADER.to_bytes()) == HEADER
    long = StreamHeader(99, b"runs", GRID, bytes(max_sketch_bytes(GRID.count) + 1), b"", 0)
    with pytest.raises(StreamError, match="sketch"):
        StreamHeader.from_bytes(long.to_bytes())


async def test_what_cannot_be_read_counts_as_lost_and_takes_nothing_with_it() -> None:
    metrics = ReceiverMetrics(CollectorRegistry())
    store = Store(4, 10**6, 60.0, CODECS)
    ingest, maker = StreamIngest(store, metrics), PictureMaker(store, metrics, lambda: 0.0)
    sent = [Packet(PacketKind.HEADER, ID, 0, HEADER.to_bytes()), body(0, 10), body(10, 6, bright=0), body(16, 8)]
    entries: list[Any] = [ingest.take(packet.to_bytes(), 0.0) for packet in sent]
    assembly = entries[-1].assembly
    assert assembly.outcome is ReportOutcome.COMPLETE
    try:
        await maker.reconstruct_s(entries[-1])
    finally:
        await maker.close()
    report = assembly.report(0.0)
    assert (report.outcome, report.expected_patches, report.received_patches) == (ReportOutcome.PARTIAL, 24, 18)
    assert shown(assembly).level_counts == (0, 8, 0, 2, 0, 0, 0, 8)
