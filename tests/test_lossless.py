"""The top level gives patches back exactly, in fewer bytes where neighbours help, on every machine alike."""

import hashlib
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from skimage.data import astronaut

from shared.codec.entropy.lossless import (
    LosslessCoder,
    load_lossless,
    save_lossless,
    shipped_lossless,
)
from shared.codec.entropy.lossless_canvas import Canvas, stages, to_patches, to_planes
from shared.codec.entropy.lossless_layout import batches
from shared.codec.entropy.lossless_steps import steps
from shared.codec.entropy.symbols import SymbolReader, SymbolTables, SymbolWriter
from shared.errors import InvalidInputError, StreamError, WeightsError
from shared.patches import split
from shared.weights import default_path
from tests.programs import output_by_threads

GOLDEN = Path(__file__).parent / "expected" / "lossless_decode.json"


def _photo(height=80, width=104):
    """Shaded shapes with a little noise, as whole-number arithmetic gives them on every machine."""
    y, x = np.mgrid[:height, :width]
    disc = ((y - 40) ** 2 + (x - 50) ** 2 < 900) * 60
    noise = (np.arange(height * width).reshape(height, width) * 2_654_435_761 % 4_294_967_296 >> 29) - 4
    return (
        np.stack([x + disc + noise, 90 + y // 2 + disc + noise, 200 - x - y // 3 + noise], -1)
        .clip(0, 255)
        .astype(np.uint8)
    )


def _places(image):
    columns = image.shape[1] // 8
    return np.divmod(np.arange(len(split(image))), columns)


def _coded(patches, rows, columns):
    writer = SymbolWriter()
    shipped_lossless().encode(patches, rows, columns, writer)
    return writer.to_bytes()


def _comes_back(patches, rows, columns):
    data = _coded(patches, rows, columns)
    np.testing.assert_array_equal(shipped_lossless().decode(rows, columns, SymbolReader(data)), patches)
    return data


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from(["noise", "extremes", "flat"]))
def test_any_patches_at_any_places_come_back(seed, count, content):
    random = np.random.default_rng(seed)
    rows, columns = np.divmod(random.choice(400, count, replace=False), 20)
    samples = {"noise": 256, "extremes": 2, "flat": 1}[content]
    patches = random.integers(0, samples, (count, 8, 8, 3)) * (255 if content == "extremes" else 1)
    _comes_back(patches.astype(np.uint8), rows, columns)


def test_a_photo_comes_back_in_fewer_bytes():
    image = _photo()
    assert len(_comes_back(split(image), *_places(image))) < 0.55 * image.size


@pytest.mark.parametrize("shape", [(8, 8), (8, 240), (240, 8)])
def test_a_lone_patch_row_or_column_comes_back(shape):
    image = _photo(*shape)
    _comes_back(split(image), *_places(image))


def test_patches_far_from_each_other_come_back():
    patches = split(_photo())[:5]
    _comes_back(patches, np.array([0, 3, 200, 201, 511]), np.array([511, 3, 9, 8, 0]))


def test_the_order_of_patches_is_the_callers():
    image = _photo()
    rows, columns = _places(image)
    shuffled = np.random.default_rng(0).permutation(len(rows))
    _comes_back(split(image)[shuffled], rows[shuffled], columns[shuffled])


def test_only_the_places_relative_to_each_other_count():
    image = _photo(40, 40)
    rows, columns = _places(image)
    assert _coded(split(image), rows, columns) == _coded(split(image), rows + 1_000, columns + 77)


def test_no_patch_takes_no_bytes():
    none = np.zeros(0, np.int64)
    assert _comes_back(np.zeros((0, 8, 8, 3), np.uint8), none, none) == b""
    assert shipped_lossless().code_bits(np.zeros((0, 8, 8, 3), np.uint8), none, none).shape == (0,)


def test_announced_bits_are_what_coding_takes():
    image = _photo()
    bits = shipped_lossless().code_bits(split(image), *_places(image))
    assert bits.shape == (len(split(image)),)
    assert len(_coded(split(image), *_places(image))) * 8 == pytest.approx(bits.sum(), rel=2e-3)


def test_free_pixels_cost_little_and_the_others_are_exact():
    coder, patches, places = shipped_lossless(), split(_photo()), _places(_photo())
    free = np.tile(np.arange(8) > 3, (len(patches), 8, 1))
    writer = SymbolWriter()
    coder.encode_together(patches, *places, np.zeros(len(patches), np.int64), [writer], free=free)
    data = writer.to_bytes()
    assert len(data) < 0.9 * len(_coded(patches, *places))
    assert coder.code_bits(patches, *places, free).sum() == pytest.approx(8 * len(data), rel=2e-3)
    np.testing.assert_array_equal(coder.decode(*places, SymbolReader(data))[~free], patches[~free])


def test_neighbours_save_bits():
    image = _photo()
    rows, columns = _places(image)
    together = shipped_lossless().code_bits(split(image), rows, columns).sum()
    apart = shipped_lossless().code_bits(split(image), 3 * rows, 3 * columns).sum()
    assert together < 0.9 * apart


def test_contexts_hold_nothing_but_what_is_known():
    patches = split(_photo(24, 24))
    full, blank = (Canvas(*np.divmod(np.arange(9), 3)) for _ in range(2))
    full.planes[:] = np.random.default_rng(0).integers(-255, 256, full.planes.shape)
    truth = to_planes(patches)
    for first, second in zip(steps(full), steps(blank), strict=True):
        for channel in range(3):
            for one, other in zip(first.contexts(channel), second.contexts(channel), strict=True):
                np.testing.assert_array_equal(one.features, other.features)
                np.testing.assert_array_equal(one.reference, other.reference)
            values = truth[channel][list(first.positions)][:, first.patches].ravel()
            first.place(channel, values)
            second.place(channel, values)


def test_features_stay_within_the_networks_limit():
    patches = (np.random.default_rng(0).integers(0, 2, (64, 8, 8, 3)) * 255).astype(np.uint8)
    truth = to_planes(patches)
    for step in steps(Canvas(*np.divmod(np.arange(64), 8))):
        for channel in range(3):
            for context in step.contexts(channel):
                assert np.abs(context.features).max() <= 2_047
                assert (context.features == np.rint(context.features)).all()
            step.place(channel, truth[channel][list(step.positions)][:, step.patches].ravel())


def test_every_pixel_is_coded_once():
    assert sorted(p for stage in stages() for p in stage.positions) == list(range(64))


def test_planes_come_back_as_patches():
    patches = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    np.testing.assert_array_equal(to_patches(to_planes(patches)), patches)


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=400))
def test_garbage_is_patches_or_an_error(data):
    rows, columns = np.divmod(np.arange(12), 4)
    try:
        patches = shipped_lossless().decode(rows, columns, SymbolReader(data))
    except StreamError:
        return
    assert patches.shape == (12, 8, 8, 3)
    assert patches.dtype == np.uint8


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_damaged_byte_is_patches_or_an_error(position, flip):
    image = _photo(24, 32)
    data = bytearray(_coded(split(image), *_places(image)))
    data[position % len(data)] ^= flip
    with suppress(StreamError):
        assert shipped_lossless().decode(*_places(image), SymbolReader(bytes(data))).shape == (12, 8, 8, 3)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [([0, 0], [1, 1]), ([-1, 0], [0, 0]), ([0], [0, 1]), ([0, 1 << 40], [0, 0]), ([0, 9_000], [9_000, 0])],
)
def test_places_that_are_none_are_refused(rows, columns):
    with pytest.raises(InvalidInputError, match="rows"):
        shipped_lossless().decode(np.array(rows), np.array(columns), SymbolReader(b""))


def test_patches_and_places_that_differ_in_number_are_refused():
    with pytest.raises(InvalidInputError, match="patches"):
        shipped_lossless().encode(np.zeros((2, 8, 8, 3), np.uint8), np.zeros(1), np.zeros(1), SymbolWriter())


def test_golden_bytes_decode():
    golden = json.loads(GOLDEN.read_text())
    assert shipped_lossless().weights_hash.hex() == golden["weights_hash"], f"new weights: renew {GOLDEN}"
    rows, columns = np.divmod(np.array(golden["places"]), golden["columns"])
    patches = shipped_lossless().decode(rows, columns, SymbolReader(bytes.fromhex(golden["data"])))
    assert hashlib.sha256(patches.tobytes()).hexdigest() == golden["sha256"]


_PROGRAM = """
import hashlib
from tests.test_lossless import _coded, _photo, _places, split
image = _photo(64, 64)
print(hashlib.sha256(_coded(split(image), *_places(image))).hexdigest())
"""


def test_threads_do_not_change_the_bytes():
    assert len(output_by_threads(_PROGRAM).split()) == 1


def test_a_saved_coder_loads_as_the_same(tmp_path):
    save_lossless(tmp_path / "copy.safetensors", shipped_lossless(), {"seed": "1"})
    again = load_lossless(tmp_path / "copy.safetensors")
    image = _photo(32, 32)
    data = _coded(split(image), *_places(image))
    np.testing.assert_array_equal(again.decode(*_places(image), SymbolReader(data)), split(image))
    assert len(again.weights_hash) == 4


def test_absent_damaged_or_foreign_weights_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="nowhere"):
        load_lossless(tmp_path / "nowhere.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(default_path("lossless.safetensors").read_bytes()[:5_000])
    with pytest.raises(WeightsError, match="cut"):
        load_lossless(tmp_path / "cut.safetensors")
    with pytest.raises(WeightsError, match="format"):
        load_lossless(default_path("ladder.safetensors"))
    save_file({"x": np.zeros(1)}, tmp_path / "empty.safetensors", {"mmsc_format": "mmsc-lossless-1"})
    with pytest.raises(WeightsError, match="empty"):
        load_lossless(tmp_path / "empty.safetensors")


def test_parts_that_do_not_fit_are_refused():
    coder = shipped_lossless()
    with pytest.raises(WeightsError, match="networks"):
        LosslessCoder(coder.networks[1:], coder.tables)
    with pytest.raises(WeightsError, match="tables"):
        replace(coder, tables=SymbolTables(coder.tables.frequencies[1:]))


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.booleans())
def test_packets_coded_together_are_those_coded_alone(seed, count, scattered):
    """Whatever their shapes, and wherever they lie: side by side, or woven into each other."""
    random, image = np.random.default_rng(seed), astronaut()[:96, 96:256]
    rows, columns = _places(image)
    packets = random.integers(0, count, len(rows)) if scattered else np.arange(len(rows)) * count // len(rows)
    order = np.argsort(packets, kind="stable")
    packets = np.unique(packets[order], return_inverse=True)[1]
    patches, rows, columns = split(image)[order], rows[order] + 5, columns[order] + 3
    writers = [SymbolWriter() for _ in range(packets.max() + 1)]
    shipped_lossless().encode_together(patches, rows, columns, packets, writers)
    strings = [writer.to_bytes() for writer in writers]
    for number, string in enumerate(strings):
        alone, own = SymbolWriter(), packets == number
        shipped_lossless().encode(patches[own], rows[own], columns[own], alone)
        assert string == alone.to_bytes()
    readers = [SymbolReader(string) for string in strings]
    found, damaged = shipped_lossless().decode_together(rows, columns, packets, readers)
    assert not damaged
    np.testing.assert_array_equal(found, patches)


def test_damage_of_one_packet_leaves_those_decoded_with_it_alone():
    image = astronaut()[:64, 96:224]
    rows, columns = _places(image)
    packets, patches = np.arange(len(rows)) // 32, split(image)
    writers = [SymbolWriter() for _ in range(4)]
    shipped_lossless().encode_together(patches, rows, columns, packets, writers)
    strings = [writer.to_bytes() for writer in writers]
    strings[1] = bytes(255 - byte for byte in strings[1])
    readers = [SymbolReader(string) for string in strings]
    found, damaged = shipped_lossless().decode_together(rows, columns, packets, readers)
    assert damaged <= {1}
    assert not np.array_equal(found[packets == 1], patches[packets == 1])
    np.testing.assert_array_equal(found[packets != 1], patches[packets != 1])


def test_packets_far_apart_are_coded_in_several_canvases():
    """Of 200 x 200 cells each there is memory for but one at a time."""
    corners = np.array([[0, 0], [0, 199], [199, 0], [199, 199]])
    rows, columns = np.concatenate([corners, corners + 1]).T
    packets, patches = np.repeat([0, 1], 4), split(astronaut()[:8, :64])
    writers = [SymbolWriter(), SymbolWriter()]
    assert len(list(batches(rows, columns, packets))) == 2
    shipped_lossless().encode_together(patches, rows, columns, packets, writers)
    readers = [SymbolReader(writer.to_bytes()) for writer in writers]
    found, _ = shipped_lossless().decode_together(rows, columns, packets, readers)
    np.testing.assert_array_equal(found, patches)
