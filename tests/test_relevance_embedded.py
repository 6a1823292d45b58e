"""The embedded extractor with the shipped weights: any picture, any text, and what it finds in real photos."""

from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from shared.errors import InvalidInputError
from transmitter.relevance import load_embedded
from transmitter.relevance.looks import FAR_SIDE, NEAR_SIDE, look, score, to_input
from transmitter.relevance.weights import load


@pytest.fixture(scope="module")
def extractor():
    return load_embedded()


@pytest.fixture(scope="module")
def answer(extractor):
    """Answers on scikit-image's sample photos; each is computed once."""

    @lru_cache
    def ask(photo, query):
        return extractor(getattr(data, photo)(), query)

    return ask


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (8, 4000), (4000, 8), (7, 9), (333, 251), (40, 481), (900, 600)])
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


@settings(max_examples=15, deadline=None)
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
    ("size", "shape"),
    [
        ((320, 480), (384, 576)),
        ((480, 640), (448, 576)),
        ((1, 1), (32, 32)),
        ((8, 4000), (32, 576)),
        ((96, 64), (128, 96)),
    ],
)
def test_network_sees_multiples_of_32(size, shape):
    assert to_input(np.zeros((*size, 3), np.uint8), NEAR_SIDE).shape[2:] == shape


CAT = (slice(80, 250), slice(120, 330))
CORNER = (slice(0, 60), slice(380, None))


def test_cat_fills_the_cat(answer):
    found = answer("chelsea", "cat")
    assert found.present
    assert found.map[CAT].mean() > 0.6
    assert found.map[CORNER].mean() < 0.4 * found.map[CAT].mean()


@pytest.mark.parametrize("query", ["car", "pizza", "airplane"])
def test_other_things_score_lower_than_the_cat(answer, query):
    assert answer("chelsea", query).map.mean() < 0.3 * answer("chelsea", "cat").map.mean()


def test_absent_object_gives_a_low_flat_map(answer):
    found = answer("chelsea", "airplane")
    assert not found.present
    assert found.map.max() < 0.05


def test_absent_object_beside_a_present_one_adds_next_to_nothing(answer):
    alone, together = answer("chelsea", "cat"), answer("chelsea", "cat and airplane")
    assert together.present
    assert np.abs(together.map - alone.map).max() < 0.05


def test_many_queries_at_once_answer_like_each_alone(extractor):
    image = data.coffee()
    for query, found in zip(("cup", "", "dog"), extractor.many(image, ("cup", "", "dog")), strict=True):
        alone = extractor(image, query)
        assert found.present == alone.present
        assert np.allclose(found.map, alone.map, atol=1e-6)


def test_cup_and_spoon_are_told_apart(answer):
    cup, spoon = answer("coffee", "cup of coffee").map, answer("coffee", "spoon").map
    on_cup, on_spoon = (slice(90, 220), slice(240, 400)), (slice(235, 330), slice(330, 390))
    assert cup[on_cup].mean() > 0.5
    assert cup[on_cup].mean() > 2 * cup[:60, :80].mean()
    assert cup[on_cup].mean() > cup[on_spoon].mean()
    assert spoon[on_spoon].mean() > 2 * spoon[on_cup].mean()


def test_two_objects_cover_at_least_each(answer):
    assert (answer("coffee", "cup and spoon").map >= answer("coffee", "cup").map - 1e-5).all()


def test_empty_query_finds_what_is_salient(answer):
    found = answer("chelsea", "")
    assert found.present
    assert found.map[CAT].mean() > 2 * found.map[CORNER].mean()


@pytest.mark.parametrize("query", ["The CAT", "cats", "Where is the cat?"])
def test_articles_plurals_and_questions_change_little(answer, query):
    assert np.abs(answer("chelsea", query).map - answer("chelsea", "cat").map).mean() < 0.1


def test_a_mirrored_picture_gets_about_the_mirrored_scores():
    """The far look is mirrored on the way in and turned back on the way out; were it not, it would blur both."""
    model = load()
    image = np.asarray(data.chelsea())[:288, :448]
    phrases = model.tower.encode(("cat",))
    with torch.inference_mode():
        straight, turned = (
            score(model.network, look(model.network, each, torch.device("cpu")), phrases)[0]
            for each in (image, np.ascontiguousarray(image[:, ::-1]))
        )
    alike, crossed = (_correlation(straight, other) for other in (turned.flip(1), turned))
    assert alike > 0.97 > crossed


def test_both_looks_at_once_see_the_same_as_one_after_the_other():
    """With one thread torch leaves the other cores idle, and the far look takes one of them."""
    model, image = load(), data.chelsea()[:160, 100:340]
    network, threads = model.network, torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with torch.inference_mode():
            found = look(network, image, torch.device("cpu"))
            near, far = network(to_input(image, NEAR_SIDE)), network(to_input(image[:, ::-1].copy(), FAR_SIDE))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found.near, near)
    assert torch.equal(found.far, far)


def test_the_far_look_has_a_part_in_the_scores():
    model = load()
    image = np.asarray(data.chelsea())[:288, :448]
    phrases = model.tower.encode(("cat",))
    with torch.inference_mode():
        looks = look(model.network, image, torch.device("cpu"))
        both, near = score(model.network, looks, phrases), model.network.logits(looks.near, phrases)[0]
    assert looks.far.shape[2] < looks.near.shape[2]
    assert both.shape == near.shape
    assert not torch.equal(both, near)


def _correlation(one, other):
    return float(torch.corrcoef(torch.stack([one.ravel(), other.ravel()]))[0, 1])
