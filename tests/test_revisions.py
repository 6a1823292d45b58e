"""Several revisions: any mix of their packets gives the picture of the set, and each patch counts once."""

import contextlib
import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from receiver_fakes import ID, Sent, feed, opened, picture, sent

from receiver.assembly import MAX_EARLY_BYTES, Arrival, Assembly
from receiver.header import MAX_SECTION_BYTES
from shared.arrays import UInt8Array
from shared.codec.ladder_order import sending_order
from shared.errors import PacketError, StreamError
from shared.feedback import Arrived
from shared.levels import RAW
from shared.packets import MAX_REVISIONS, PACKET_HEADER_BYTES, POSITIONS, Packet, PacketKind, StreamHeader
from shared.patches import PatchGrid, split
from shared.reports import ReportOutcome

GRID = PatchGrid(61, 45)
SKETCH = b"\x20\x10"


def levels(seed: int, share: float) -> UInt8Array:
    """A level map that announces about a share of the patches."""
    random = np.random.default_rng(seed)
    return (random.integers(1, RAW + 1, GRID.count) * (random.random(GRID.count) < share)).astype(np.uint8)


REVISIONS = [
    sent(levels=levels(1, 0.7), seed=1, sketch=SKETCH),
    sent(levels=levels(2, 0.4), seed=2, revision=1),
    sent(levels=levels(3, 0.3), seed=3, revision=2),
]
PACKETS = [data for whole in REVISIONS for data in whole.packets]


def positions(whole: Sent) -> list[range]:
    """The ordinals of each of a revision's PATCHES packets."""
    starts = [Packet.from_bytes(data).position for data in whole.patches]
    return [range(*ends) for ends in zip(starts, [*starts[1:], whole.expected], strict=True)]


def there(number: int, packets: set[bytes]) -> list[range]:
    """The ordinals of a revision that are among the packets."""
    whole = REVISIONS[number]
    return [place for place, data in zip(positions(whole), whole.patches, strict=True) if data in packets]


def expected_levels(packets: set[bytes]) -> UInt8Array:
    """The finest level at which each patch is among the packets; every header is."""
    finest = np.zeros(GRID.count, np.uint8)
    for number, whole in enumerate(REVISIONS):
        order = sending_order(whole.levels)
        for place in there(number, packets):
            numbers = order[place.start : place.stop]
            finest[numbers] = np.maximum(finest[numbers], whole.levels[numbers])
    return finest


def expected_picture(packets: set[bytes]) -> np.ndarray:
    """Patch by patch from the newest of the revisions that have it finest; nothing where none has it."""
    finest, assembly = expected_levels(packets), opened()
    feed(assembly, REVISIONS[0].header)
    shown = split(picture(assembly))
    for number, whole in enumerate(REVISIONS):
        patches, order = split(whole.picture), sending_order(whole.levels)
        for place in there(number, packets):
            for patch in order[place.start : place.stop]:
                if whole.levels[patch] == finest[patch]:
                    shown[patch] = patches[patch]
    return shown


# ---- what is shown --------------------------------------------------------------------------------


def test_all_of_all() -> None:
    assembly = opened()
    assert set(feed(assembly, PACKETS)) == {Arrival.ACCEPTED}
    announced = np.any([whole.levels > 0 for whole in REVISIONS], axis=0)
    assert assembly.outcome is ReportOutcome.COMPLETE
    assert assembly.expected_patches == assembly.received_patches == np.count_nonzero(announced)
    assert assembly.received_bytes == sum(map(len, PACKETS))
    assert sum(assembly.levels_planned) == GRID.count
    assert assembly.levels_planned[1:] == assembly.levels_received[1:]
    assert (split(picture(assembly)) == expected_picture(set(PACKETS))).all()


@given(st.sets(st.integers(0, len(PACKETS) - 1)), st.lists(st.sampled_from(PACKETS), max_size=20), st.randoms())
def test_any_mix_gives_the_picture_of_the_set(lost: set[int], again: list[bytes], random) -> None:
    packets = [data for at, data in enumerate(PACKETS) if at not in lost]
    mixed = packets + [data for data in again if data in packets]
    random.shuffle(mixed)
    assembly = opened()
    feed(assembly, mixed)
    headers = [data for whole in REVISIONS for data in whole.header]
    feed(assembly, headers)  # in the end all headers are there, each time by another way
    found, arrived = set(packets), assembly.snapshot()
    assert arrived is not None
    decoded = arrived.decode()
    assert (split(decoded.paint()) == expected_picture(found)).all()
    assert (decoded.levels == expected_levels(found)).all()
    assert decoded.read_patches == arrived.patches == assembly.received_patches
    in_order = opened()
    feed(in_order, [data for data in PACKETS if data in found or data in headers])
    assert in_order.report(0.0) == assembly.report(0.0)
    assert (in_order.levels_received, in_order.levels_planned) == (assembly.levels_received, assembly.levels_planned)
    assert (in_order.arrived, in_order.content_bytes) == (assembly.arrived, assembly.content_bytes)


@given(st.sets(st.integers(0, len(PACKETS) - 1)))
def test_what_is_told_is_true(lost: set[int]) -> None:
    packets = [data for at, data in enumerate(PACKETS) if at not in lost]
    assembly = opened()
    feed(assembly, packets)
    told = {state.revision: state for state in assembly.arrived}
    first_there = set(REVISIONS[0].header) <= set(packets)
    for number, whole in enumerate(REVISIONS):
        if not set(whole.packets) & set(packets):
            assert number not in told
            continue
        state, has_header = told[number], set(whole.header) <= set(packets)
        assert state.header is has_header
        ordinals = {at for start, stop in state.runs for at in range(start, stop)}
        if has_header and first_there:
            assert ordinals == {at for place in there(number, set(packets)) for at in place}
            assert state.known_below == POSITIONS
        else:
            assert (ordinals, state.known_below) == (set(), 0)


def test_patches_are_counted_once() -> None:
    """What two revisions announce is there when it has come in one of them."""
    everything = np.ones(GRID.count, np.uint8)
    first, second = sent(levels=everything), sent(levels=everything * 2, revision=1, seed=5)
    assembly = opened()
    feed(assembly, [*first.header, *first.patches[:2], *second.header])
    have = assembly.received_patches
    assert (assembly.expected_patches, assembly.outcome) == (GRID.count, ReportOutcome.RECEIVING)
    assert assembly.levels_planned == (0, have, GRID.count - have, 0, 0)
    feed(assembly, second.patches[:2])
    assert assembly.received_patches == have  # the same patches, of which half as many go in a packet
    feed(assembly, second.patches)
    assert assembly.outcome is ReportOutcome.COMPLETE
    assert assembly.levels_received == assembly.levels_planned == (0, 0, GRID.count, 0, 0)
    assert (picture(assembly) == second.picture).all()


def test_what_a_later_revision_skips_must_have_come_in_an_earlier_one() -> None:
    first = sent(levels=np.ones(GRID.count, np.uint8))
    half = np.where(np.arange(GRID.count) < GRID.count // 2, 3, 0).astype(np.uint8)
    second = sent(levels=half, revision=1)
    assembly = opened()
    feed(assembly, [*first.header, *first.patches[:-1], *second.packets])
    assert assembly.outcome is ReportOutcome.RECEIVING
    feed(assembly, first.patches[-1:])
    assert assembly.outcome is ReportOutcome.COMPLETE


def test_a_revision_that_announces_more_opens_a_complete_transmission_again() -> None:
    first = sent(levels=levels(1, 0.5))
    second = sent(levels=np.where(first.levels, 0, 1).astype(np.uint8), revision=1)
    assembly = opened()
    outcomes = []
    for packets in (first.packets, second.header, second.patches[:-1], second.patches[-1:]):
        feed(assembly, packets)
        outcomes.append(assembly.outcome.name)
    assert outcomes == ["COMPLETE", "RECEIVING", "RECEIVING", "COMPLETE"]


def test_a_finer_patch_that_comes_late_still_counts() -> None:
    fine, coarse = sent(levels=np.full(GRID.count, RAW, np.uint8)), np.ones(GRID.count, np.uint8)
    assembly = opened()
    feed(assembly, [*fine.header, *sent(levels=coarse, revision=1).packets, *fine.patches])
    assert (picture(assembly) == fine.picture).all()


# ---- headers --------------------------------------------------------------------------------------


def later_header(**changes: object) -> Packet:
    section = b"".join(data[PACKET_HEADER_BYTES:] for data in REVISIONS[1].header)
    header = dataclasses.replace(StreamHeader.from_bytes(section), **changes)  # type: ignore[arg-type]
    return Packet(PacketKind.HEADER, ID, 0, header.to_bytes(), 1)


@pytest.mark.parametrize(
    "changes",
    [{"sketch": b"x"}, {"codec": 2}, {"weights_hash": b"else"}, {"grid": PatchGrid(60, 45)}],
    ids=["sketch", "codec", "weights", "grid"],
)
@pytest.mark.parametrize("early", [False, True])
def test_a_header_that_does_not_agree_with_the_first_is_forgotten(changes: dict, early: bool) -> None:
    assembly = opened()
    if early:
        assembly.accept(later_header(**changes), 11.0)
        feed(assembly, REVISIONS[0].packets)
    else:
        feed(assembly, REVISIONS[0].packets)
        before = (assembly.version, assembly.received_bytes, assembly.arrived)
        with pytest.raises(StreamError):
            assembly.accept(later_header(**changes), 11.0)
        assert (assembly.version, assembly.received_bytes, assembly.arrived) == before
    assert assembly.outcome is ReportOutcome.COMPLETE
    assert len(assembly.arrived) == 1
    assert assembly.received_bytes == sum(map(len, REVISIONS[0].packets))
    feed(assembly, REVISIONS[1].packets)
    assert assembly.outcome is ReportOutcome.COMPLETE


def test_a_later_header_waits_for_the_first() -> None:
    assembly = opened()
    feed(assembly, REVISIONS[1].packets)
    assert assembly.header is None
    assert assembly.snapshot() is None
    assert assembly.arrived == (Arrived(1, True, known_below=0),)
    feed(assembly, REVISIONS[0].header)
    assert assembly.arrived == (Arrived(0, True), Arrived(1, True, ((0, REVISIONS[1].expected),)))


def test_a_transmission_without_its_first_header_fails() -> None:
    assembly = opened()
    feed(assembly, REVISIONS[1].packets + REVISIONS[0].patches)
    assembly.close()
    assert (assembly.outcome, assembly.expected_patches) == (ReportOutcome.FAILED, 0)


def test_all_revisions_may_be_used() -> None:
    assembly = opened()
    single = [np.eye(GRID.count, dtype=np.uint8)[number] for number in range(MAX_REVISIONS)]
    wholes = [sent(levels=single[number], revision=number, seed=number) for number in range(MAX_REVISIONS)]
    feed(assembly, [data for whole in reversed(wholes) for data in whole.packets])
    assert assembly.outcome is ReportOutcome.COMPLETE
    assert (assembly.expected_patches, assembly.headers) == (MAX_REVISIONS, MAX_REVISIONS)


# ---- forged packets and memory --------------------------------------------------------------------


def bombard(assembly: Assembly, packets: Iterable[Packet]) -> int:
    """The most memory that the assembly takes meanwhile."""
    most = 0
    for packet in packets:
        with contextlib.suppress(PacketError, StreamError):
            assembly.accept(packet, 11.0)
        most = max(most, assembly.stored_bytes)
    return most


def test_headers_that_never_end_share_one_bound() -> None:
    fragments = (
        Packet(PacketKind.HEADER, ID, MAX_SECTION_BYTES - 1_000 - number, bytes(100), number)
        for number in reversed(range(MAX_REVISIONS))
    )
    assert bombard(opened(), fragments) < 4 * MAX_SECTION_BYTES + 20_000


def test_early_patches_of_all_revisions_share_one_bound() -> None:
    packets = (Packet(PacketKind.PATCHES, ID, at, bytes(60_000), at % MAX_REVISIONS) for at in range(200))
    assert bombard(opened(), packets) <= MAX_EARLY_BYTES + 20_000


def test_maps_of_a_large_picture_cost_a_few_bytes_per_patch_each() -> None:
    size = (1024, 1024)
    count = PatchGrid(*size).count
    everything = np.ones(count, np.uint8)
    headers = [sent(size=size, levels=everything, revision=number, fragment_bytes=60_000).header for number in (0, 1)]
    assembly = opened()
    feed(assembly, [data for packets in headers for data in packets])
    assert assembly.stored_bytes < (4 + 2 * 6) * count


@given(
    st.lists(
        st.tuples(
            st.sampled_from([PacketKind.HEADER, PacketKind.PATCHES, PacketKind.REPAIR, PacketKind.POLL]),
            st.integers(0, 60),
            st.binary(max_size=80),
            st.integers(0, 3),
        ),
        max_size=12,
    ),
    st.integers(len(REVISIONS[0].header), len(PACKETS)),
)
def test_any_packets_are_survived(forged: Sequence[tuple[PacketKind, int, bytes, int]], before: int) -> None:
    assembly = opened()
    feed(assembly, PACKETS[:before])
    bombard(assembly, (Packet(kind, ID, at, body, revision) for kind, at, body, revision in forged))
    bombard(assembly, map(Packet.from_bytes, PACKETS))
    assert picture(assembly).shape == (GRID.height, GRID.width, 3)
    assert assembly.received_patches <= assembly.expected_patches
    assert all(
        received <= planned
        for received, planned in zip(assembly.levels_received[1:], assembly.levels_planned[1:], strict=True)
    )
