"""The MAFT+ extractor: any picture, any query, one answer."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from maft_plus_small import SMALL_LARGE, small_model
from PIL import Image

from shared.errors import InvalidInputError, WeightsError
from transmitter.relevance import EXTRACTORS, load_extractor
from transmitter.relevance.maft_plus import checkpoint
from transmitter.relevance.maft_plus.classification import pool_masks, pool_masks_or_strongest
from transmitter.relevance.maft_plus.extractor import (
    CACHED_PICTURES,
    MaftPlusExtractor,
    Settings,
    parse_settings,
)
from transmitter.relevance.maft_plus.model import normalise_and_pad
from transmitter.relevance.maft_plus.relevance import CONVENTIONS, mask_weights, spread_sum, stretched
from transmitter.relevance.prompts import PhraseEncoder

_CONFIG = replace(SMALL_LARGE, vocab_size=49_408)
"""With CLIP's own vocabulary, so that any query can be asked."""


def _fresh(**settings):
    return MaftPlusExtractor(small_model(_CONFIG), Settings(**settings))


_extractor = lru_cache(_fresh)
"""One for all tests that do not mind what it remembers."""


@pytest.fixture
def extractor():
    return _extractor()


def _photo(height=70, width=100, seed=0):
    blocks = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC))


# ---- the contract ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (31, 33), (70, 100), (64, 96)])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_any_size_gets_a_map_of_its_own_between_0_and_1(size, convention):
    found = _extractor(convention=convention)(_photo(*size), "cat")
    assert (found.map.shape, found.map.dtype) == (size, np.float32)
    assert 0 <= found.map.min() <= found.map.max() <= 1


@pytest.mark.parametrize("query", ["", " \n", "cat, dog", "{}", "猫", "cat " * 900, "\x00\ud800"])
def test_any_query_gets_a_map(extractor, query):
    found = extractor(_photo(), query)
    assert np.isfinite(found.map).all()
    assert found.present or query.strip()


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)],
)
def test_what_is_no_picture_is_refused(extractor, image):
    with pytest.raises(InvalidInputError, match="image"):
        extractor(image, "cat")
    with pytest.raises(InvalidInputError, match="image"):
        extractor.batch([_photo(), image], ["cat"])


def test_the_picture_is_not_changed_and_need_not_be_contiguous(extractor):
    photo = _photo(70, 100)
    kept, turned = photo.copy(), np.ascontiguousarray(photo[:, ::-1])
    expected = extractor(turned, "cat")
    assert np.array_equal(extractor(photo[:, ::-1], "cat").map, expected.map)
    assert np.array_equal(photo, kept)


# ---- what is computed -----------------------------------------------------------------------------


def test_the_raw_reading_is_equation_7_of_the_whole_model():
    photo = _photo(64, 96)
    found = _extractor(convention="raw")(photo, "cat, dog")
    model, reader = small_model(_CONFIG), _extractor()
    with torch.no_grad():
        text = PhraseEncoder(lambda prompts: model.backbone.encode_text(reader._tokenize(prompts)))(("cat, dog",))
        output = model(
            normalise_and_pad([torch.from_numpy(photo.copy()).permute(2, 0, 1)]), model.vocabulary(text, (1,))
        )
        weights = mask_weights(output.texts[:, :1], output.vectors, "raw")
        expected = stretched(spread_sum(weights, output.predictions[-1].mask_logits, (64, 96)))[0, 0]
    assert np.allclose(found.map, expected.numpy(), atol=1e-4)


def test_padding_is_cut_off_and_not_stretched_over_the_picture():
    extractor, photo = _extractor(), _photo(64, 96)
    padded = np.zeros((70, 100, 3), np.uint8)
    padded[:64, :96] = photo
    seen = extractor._look([padded])
    assert seen.masks.shape[2:] == (24, 32)
    assert extractor(padded, "cat").map.shape == (70, 100)


def test_several_queries_are_answered_as_each_alone_from_one_look(monkeypatch):
    extractor, photo = _fresh(), _photo()
    queries = ("cat", "", "dog, cat", "object")
    alone = [_fresh()(photo, query) for query in queries]
    looks = []
    look = extractor._network.look
    monkeypatch.setattr(extractor._network, "look", lambda images: looks.append(1) or look(images))
    together = extractor.many(photo, queries)
    again = [extractor(photo, query) for query in queries]
    for one, two, three in zip(alone, together, again, strict=True):
        assert np.allclose(one.map, two.map, atol=1e-5)
        assert np.array_equal(two.map, three.map) or np.allclose(two.map, three.map, atol=1e-5)
        assert one.present == two.present == three.present
    assert len(looks) == 1
    assert not np.allclose(together[0].map, together[2].map, atol=1e-6)
    assert extractor.many(photo, ()) == []


def test_only_the_last_pictures_are_remembered(extractor):
    for seed in range(CACHED_PICTURES + 3):
        extractor(_photo(32, 32, seed), "cat")
    assert len(extractor._seen) == CACHED_PICTURES


def test_pictures_of_one_size_are_answered_in_a_batch_as_each_alone(extractor):
    photos = [_photo(64, 96, seed) for seed in range(3)]
    together = extractor.batch(photos, ("cat", "dog"))
    for photo, answers in zip(photos, together, strict=True):
        for answer, alone in zip(answers, extractor.many(photo, ("cat", "dog")), strict=True):
            assert np.allclose(answer.map, alone.map, atol=1e-4)
    mixed = extractor.batch([_photo(40, 50), _photo(64, 96)], ("cat",))
    assert [answers[0].map.shape for answers in mixed] == [(40, 50), (64, 96)]
    assert extractor.batch([], ("cat",)) == []
    assert extractor.batch(photos, ()) == [[], [], []]


def test_small_objects_have_the_vector_of_where_they_are():
    maps = torch.arange(2 * 2 * 3, dtype=torch.float32).reshape(1, 2, 2, 3)
    logits = torch.full((1, 3, 16, 24), -5.0)
    logits[0, 0, 9, 18] = 3.0
    logits[0, 2, :8] = 4.0
    pooled = pool_masks_or_strongest(maps, logits)
    assert torch.equal(pool_masks(maps, logits)[0, 0], torch.zeros(2))
    assert torch.equal(pooled[0, 0], maps[0, :, 1, 2])
    assert torch.equal(pooled[0, 2], pool_masks(maps, logits)[0, 2])


# ---- input sizes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("short_side", "size", "expected"),
    [
        (None, (320, 480), (320, 480)),
        (800, (320, 480), (800, 1200)),
        (800, (427, 640), (800, 1199)),
        (800, (640, 480), (1067, 800)),
        (800, (300, 3000), (133, 1333)),
        (None, (2000, 3000), (889, 1333)),
        (None, (1, 16_000), (1, 1333)),
        (800, (1, 1), (800, 800)),
    ],
)
def test_pictures_are_scaled_as_the_original_does(short_side, size, expected):
    assert Settings(short_side=short_side).input_size(*size) == expected


def test_a_scaled_picture_has_a_map_of_its_own_size():
    found = _extractor(short_side=96)(_photo(40, 52), "cat")
    assert found.map.shape == (40, 52)
    assert not np.allclose(found.map, _extractor()(_photo(40, 52), "cat").map, atol=1e-4)


# ---- options and weights --------------------------------------------------------------------------


def test_options_are_those_that_the_registry_tells():
    values = {"convention": "cosine", "short-side": "800", "precision": "bf16", "variant": "base"}
    assert list(values) == list(EXTRACTORS["maft-plus"].options)
    assert parse_settings(values) == (Settings("cosine", 800, "bf16"), "base")
    assert parse_settings({}) == parse_settings({"short-side": "native"}) == (Settings(), "")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"convention": "softmax"}, "convention"),
        ({"short-side": "31"}, "short-side"),
        ({"short-side": "1e3"}, "short-side"),
        ({"short-side": "99999"}, "short-side"),
        ({"precision": "int8"}, "precision"),
        ({"variant": "huge"}, "variant"),
        ({"size": "3"}, "option"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, field):
    with pytest.raises(InvalidInputError) as caught:
        load_extractor("maft-plus", options=options)
    assert caught.value.field == field


def test_without_weights_it_is_said_what_to_do():
    with pytest.raises(WeightsError) as caught:
        load_extractor("maft-plus")
    for words in ("maftp_l.pth", "MMSC_TRANSMITTER_MAFT_WEIGHTS", "--weights", "mmsc weights list"):
        assert words in str(caught.value)


def test_weights_and_options_reach_the_extractor(tmp_path):
    checkpoint.write(tmp_path / "m.safetensors", small_model(_CONFIG).state_dict(), _CONFIG, {})
    loaded = load_extractor("maft-plus", weights=tmp_path / "m.safetensors", options={"convention": "raw"})
    assert loaded.name == "maft-plus"
    assert np.allclose(loaded(_photo(), "cat").map, _extractor(convention="raw")(_photo(), "cat").map, atol=1e-5)
    with pytest.raises(WeightsError, match="holds the custom variant, not large"):
        load_extractor("maft-plus", weights=tmp_path / "m.safetensors", options={"variant": "large"})


def test_numbers_that_are_not_finite_are_an_error_and_no_map():
    model = small_model(_CONFIG)
    model.cdt.cross_atten.norm.weight[0] = torch.nan
    with pytest.raises(WeightsError, match="no finite numbers come out in fp32"):
        MaftPlusExtractor(model)(_photo(), "cat")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_gives_nearly_the_same_map(extractor, precision):
    found = _extractor(precision=precision)(_photo(), "cat")
    assert np.abs(found.map - extractor(_photo(), "cat").map).mean() < 0.1
