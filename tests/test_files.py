"""Pictures as files, without weights: sizes to the byte, exactness, and what cut or damaged files show."""

import itertools

import numpy as np
import pytest
from fakes import MeanCodec, mean_sender
from hypothesis import given, settings
from hypothesis import strategies as st
from receiver_fakes import FakeRestorer

from client.files import decode_file, encode_exactly, encode_within, stream_header
from receiver.ladder_receiver import LadderReceiver
from shared.codec.identity import stream_weights_hash
from shared.codec.ladder_order import sending_order
from shared.container import FILE_ID, FRAME_BYTES, read_frames, write_frames
from shared.errors import BudgetTooSmallError, StreamError
from shared.level_map import decode_level_map, encode_level_map
from shared.levels import LEVEL_BYTES, RAW
from shared.packets import LADDER_CODEC, PACKET_HEADER_BYTES, Packet, PacketKind, StreamHeader
from shared.patches import PatchGrid
from transmitter.pipeline import StageClock

_HEAD = FRAME_BYTES + PACKET_HEADER_BYTES


def _clock():
    ticks = itertools.count()
    return StageClock(lambda: float(next(ticks)))


def _picture(width, height, seed=0, noise=40):
    """Smooth colours under noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([x * 3, y * 3, x + y], axis=2) + random.integers(0, 60, 3)
    return np.clip(smooth + random.normal(0, noise, smooth.shape), 0, 255).astype(np.uint8)


def _within(image, limit_bytes, relevance=None, clock=None):
    if relevance is None:
        relevance = np.random.default_rng(1).random(image.shape[:2]).astype(np.float32)
    return encode_within(image, relevance, mean_sender(), limit_bytes=limit_bytes, clock=clock or _clock())


def _exactly(image):
    return encode_exactly(image, mean_sender(), clock=_clock())


def _decoded(data):
    return decode_file(read_frames(data), LadderReceiver(MeanCodec(), FakeRestorer()), _clock())


_IMAGE = _picture(80, 64)
_FILE = _within(_IMAGE, 3000)
_LARGE = _exactly(_picture(240, 200))
_SECTION = len(_FILE.plan.header.to_bytes())
_FIRST_PATCH = 2 * _HEAD + _SECTION
"""Where the first patch of _FILE stands."""


_sides = st.integers(1, 70)


@settings(deadline=None)
@given(_sides, _sides, st.integers(0, 99), st.sampled_from([0, 40]), st.integers(1, 9_000))
def test_a_file_is_never_too_large_and_never_wastes_a_hundredth(width, height, seed, noise, limit_bytes):
    image = _picture(width, height, seed, noise)
    try:
        file = _within(image, limit_bytes)
    except BudgetTooSmallError:
        assert limit_bytes <= _HEAD + 40
        return
    assert len(file.data) == file.plan.wire_bytes <= limit_bytes
    if (file.plan.levels < RAW).any():
        assert len(file.data) >= 0.99 * limit_bytes


@pytest.mark.parametrize("limit_bytes", [64_990, 65_000, 65_010, 65_100, 100_000, 130_000, 130_040])
def test_sizes_hold_where_one_packet_becomes_two(limit_bytes):
    file = _within(_picture(400, 300), limit_bytes)
    assert 0.999 * limit_bytes <= len(file.data) <= limit_bytes


def test_a_size_below_the_header_is_refused_with_the_least_that_works():
    with pytest.raises(BudgetTooSmallError, match="20 bytes, where the headers alone take") as caught:
        _within(_IMAGE, 20)
    least = int(caught.value.description.split()[-1])
    assert len(_within(_IMAGE, least).data) == least
    with pytest.raises(BudgetTooSmallError):
        _within(_IMAGE, least - 1)


@settings(deadline=None)
@given(_sides, _sides, st.integers(0, 99))
def test_lossless_is_exact(width, height, seed):
    image = _picture(width, height, seed)
    decoded = _decoded(_exactly(image).data)
    assert np.array_equal(decoded.picture, image)
    assert decoded.complete
    assert decoded.levels_read == (0, 0, 0, 0, PatchGrid.of(image).count)


def test_the_stages_are_timed_by_the_given_clock():
    clock = _clock()
    file = _within(_IMAGE, 3000, clock=clock)
    decode_file(read_frames(file.data), LadderReceiver(MeanCodec(), FakeRestorer()), clock)
    assert set(clock.seconds) == {"encode", "allocate", "pack", "assemble", "decode", "restore"}


def test_the_bytes_go_where_the_relevance_is():
    importance = np.zeros((8, 10), np.float32)
    importance[2:5, 3:7] = 1
    file = _within(_IMAGE, 3000, importance.repeat(8, axis=0).repeat(8, axis=1))
    header = _decoded(file.data).header
    levels = decode_level_map(header.level_map, header.level_map_table, header.grid).reshape(8, 10)
    assert (levels[2:5, 3:7] == RAW).all()
    assert levels[importance == 0].mean() < 1


def test_a_whole_file_shows_what_the_plan_says():
    decoded = _decoded(_FILE.data)
    assert decoded.complete
    assert decoded.levels_planned == tuple(_FILE.plan.level_counts)
    assert decoded.levels_read == (0, *_FILE.plan.level_counts[1:])


@settings(deadline=None)
@given(st.integers(0, len(_FILE.data) - 1))
def test_a_beginning_shows_every_patch_that_it_holds(length):
    data = _FILE.data[:length]
    if length < _HEAD + _SECTION:
        with pytest.raises(StreamError):
            _decoded(data)
        return
    decoded = _decoded(data)
    ends = _FIRST_PATCH + np.cumsum(np.asarray(LEVEL_BYTES)[np.sort(_FILE.plan.levels)[::-1]])
    assert decoded.read_patches == int((ends[: decoded.expected_patches] <= length).sum())
    assert decoded.cut
    assert not decoded.complete
    assert decoded.damages == 0


@pytest.mark.parametrize("length", [90_000, 64_000, 65_030, 66_000, 119_000, 120_000])
def test_what_a_beginning_of_several_packets_shows_is_exact(length):
    whole = _decoded(_LARGE.data).picture
    decoded = _decoded(_LARGE.data[:length])
    rows = decoded.read_patches // 30
    assert decoded.read_patches >= (length - 200) // 192
    assert np.array_equal(decoded.picture[: rows * 8], whole[: rows * 8])


def test_damage_to_one_packet_leaves_the_others():
    data = bytearray(_LARGE.data)
    data[30_000] ^= 4
    decoded = _decoded(bytes(data))
    assert (decoded.damages, decoded.cut, decoded.complete) == (1, False, False)
    assert 0 < decoded.read_patches < decoded.expected_patches
    assert np.array_equal(decoded.picture[-8:], _decoded(_LARGE.data).picture[-8:])


def test_the_end_of_a_file_that_is_damaged_as_well_is_not_guessed_at():
    data = bytearray(_LARGE.data[:90_000])
    data[30_000] ^= 4
    decoded = _decoded(bytes(data))
    assert (decoded.damages, decoded.cut, decoded.read_patches) == (1, True, 0)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, len(_FILE.data) - 1), st.integers(1, 255)), min_size=1, max_size=5),
    st.integers(1, len(_FILE.data)),
)
def test_flipped_bytes_give_a_picture_or_a_typed_error(flips, length):
    data = bytearray(_FILE.data[:length])
    for place, change in flips:
        if place < length:
            data[place] ^= change
    try:
        decoded = _decoded(bytes(data))
    except StreamError:
        return
    assert decoded.picture.shape == _IMAGE.shape
    if bytes(data) != _FILE.data:
        assert not decoded.complete or bytes(data[:_FIRST_PATCH]) == _FILE.data[:_FIRST_PATCH]


def _section(grid, level_map, table):
    return StreamHeader(LADDER_CODEC, stream_weights_hash(MeanCodec()), grid, b"abc", level_map, table).to_bytes()


_grids = st.builds(PatchGrid, _sides, _sides)
_bodies = st.binary(max_size=300)
_positions = st.integers(0, 60) | st.integers(0, 2**24 - 1)


@settings(deadline=None, max_examples=200)
@given(
    _grids,
    st.one_of(st.binary(max_size=20), st.none()),
    st.integers(0, 12),
    st.lists(
        st.tuples(st.sampled_from(PacketKind), st.integers(0, 60) | st.integers(0, 2**24 - 1), _bodies), max_size=4
    ),
)
def test_forged_files_with_sound_checksums_give_a_picture_or_a_typed_error(grid, level_map, table, rest):
    if level_map is None:
        levels = np.random.default_rng(0).integers(0, RAW + 1, grid.count).astype(np.uint8)
        table, level_map = encode_level_map(levels, grid)
    packets = [Packet(PacketKind.HEADER, FILE_ID, 0, _section(grid, level_map, table))]
    packets += [Packet(kind, FILE_ID, position, body) for kind, position, body in rest]
    data = write_frames(packet.to_bytes() for packet in packets)
    try:
        decoded = _decoded(data)
    except StreamError:
        return
    assert decoded.picture.shape == (grid.height, grid.width, 3)
    assert decoded.read_patches <= decoded.expected_patches <= grid.count


def test_a_section_of_garbage_is_a_typed_error():
    data = write_frames([Packet(PacketKind.HEADER, FILE_ID, 0, b"\xff" * 60).to_bytes()])
    with pytest.raises(StreamError):
        stream_header(read_frames(data))


def test_other_weights_are_refused():
    other = MeanCodec()
    other.weights_hash = b"else"
    with pytest.raises(StreamError, match="not known here"):
        decode_file(read_frames(_FILE.data), LadderReceiver(other, FakeRestorer()), _clock())


def test_the_order_of_a_file_is_that_of_sending():
    contents = read_frames(_FILE.data)
    body = b"".join(packet.body for packet in contents.packets if packet.kind is PacketKind.PATCHES)
    encoded = MeanCodec().encode(_tiles(_IMAGE))
    order = sending_order(_FILE.plan.levels)
    assert body == b"".join(encoded.payloads[_FILE.plan.levels[n]][n].tobytes() for n in order)


def _tiles(image):
    from shared.patches import split

    return split(image)
