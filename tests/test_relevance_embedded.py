"""The embedded extractor with the shipped weights: any picture, any text, and what it finds in real photos."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from shared.errors import InvalidInputError
from transmitter.relevance import load_embedded
from transmitter.relevance.embedded import to_input


@pytest.fixture(scope="module")
def extractor():
    return load_embedded()


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (8, 4000), (4000, 8), (7, 9), (333, 251), (40, 481), (1200, 900)])
@pytest.mark.parametrize("query", ["", "cat"])
def test_map_has_the_size_of_the_picture(extractor, size, query):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    answer = extractor(image, query)
    assert answer.map.shape == size
    assert answer.map.dtype == np.float32
    assert 0 <= answer.map.min() <= answer.map.max() <= 1
    assert not query or isinstance(answer.present, bool)


def test_largest_picture_is_taken(extractor):
    answer = extractor(np.zeros((4096, 4096, 3), np.uint8), "cat")
    assert answer.map.shape == (4096, 4096)


@settings(max_examples=25, deadline=None)
@given(query=st.text(max_size=200))
def test_any_text_gives_a_map(extractor, noise, query):
    answer = extractor(noise, query)
    assert np.isfinite(answer.map).all()
    assert 0 <= answer.map.min() <= answer.map.max() <= 1


@pytest.mark.parametrize("query", ["x" * 10_000, "the cat " * 1250, "猫と犬", "🐈", "\0", "''''", "кошка", "1234"])
def test_odd_text_gives_a_map(extractor, noise, query):
    assert extractor(noise, query).map.shape == (32, 32)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((4097, 4096, 3), np.uint8),
    ],
)
def test_unusable_pictures_are_refused(extractor, image):
    with pytest.raises(InvalidInputError, match="image"):
        extractor(image, "cat")


def test_same_input_gives_the_same_map(extractor):
    image = data.coffee()
    assert np.array_equal(extractor(image, "cup").map, extractor(image, "cup").map)


@pytest.mark.parametrize(
    ("size", "shape"), [((320, 480), (320, 480)), ((480, 640), (352, 480)), ((1, 1), (32, 32)), ((8, 4000), (32, 480))]
)
def test_network_sees_multiples_of_32(size, shape):
    assert to_input(np.zeros((*size, 3), np.uint8)).shape[2:] == shape


def test_cat_fills_the_cat(extractor):
    answer = extractor(data.chelsea(), "cat")
    face, corner = answer.map[80:250, 120:330].mean(), answer.map[:60, 380:].mean()
    assert answer.present
    assert face > 0.6
    assert corner < 0.4 * face


def test_other_animals_score_lower_than_the_cat(extractor):
    photo = data.chelsea()
    cat = extractor(photo, "cat").map.mean()
    for query in ("car", "pizza", "airplane", "toilet"):
        assert extractor(photo, query).map.mean() < 0.5 * cat


def test_absent_object_gives_a_low_flat_map(extractor):
    answer = extractor(data.chelsea(), "airplane")
    assert not answer.present
    assert answer.map.min() == answer.map.max() < 0.3


def test_cup_and_spoon_are_told_apart(extractor):
    photo = data.coffee()
    cup, spoon = extractor(photo, "cup of coffee").map, extractor(photo, "spoon").map
    on_cup, on_spoon = (slice(90, 220), slice(240, 400)), (slice(225, 345), slice(440, 560))
    assert cup[on_cup].mean() > 0.5
    assert cup[on_cup].mean() > 2 * cup[:60, :80].mean()
    assert cup[on_cup].mean() / cup[on_spoon].mean() > spoon[on_cup].mean() / spoon[on_spoon].mean()


def test_two_objects_cover_at_least_each(extractor):
    photo = data.coffee()
    both, cup = extractor(photo, "cup and spoon").map, extractor(photo, "cup").map
    assert (both >= cup - 1e-6).all()


def test_empty_query_finds_what_is_salient(extractor):
    answer = extractor(data.chelsea(), "")
    assert answer.present
    assert answer.map[80:250, 120:330].mean() > answer.map[:60, 380:].mean()


def test_articles_plurals_and_case_change_little(extractor):
    photo = data.chelsea()
    plain = extractor(photo, "cat").map
    for query in ("The CAT", "cats", "Where is the cat?"):
        assert np.abs(extractor(photo, query).map - plain).mean() < 0.1
