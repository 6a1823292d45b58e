"""Relevance from plain CLIPs: from scores to maps, and its options."""

import numpy as np
import open_clip
import pytest
import torch
from open_clip_small import TAG, extractor_of, picture, tiny, tiny_architectures, vit_clip_fixture  # noqa: F401 - fixtures

from shared.errors import InvalidInputError, WeightsError
from transmitter.relevance.clip_text import encode_text, logit_scale
from transmitter.relevance.open_clip_dense import dense, extractor
from transmitter.relevance.open_clip_dense.extractor import OpenClipExtractor, Settings, parse_settings
from transmitter.relevance.open_clip_dense.weights import DEFAULT_MODEL, ModelChoice, is_plain
from transmitter.relevance.prompts import CONTRASTS, TEMPLATES

# ---- from scores to maps -------------------------------------------------------------------------


@pytest.fixture
def planted(vit_clip, monkeypatch):
    """An extractor whose cells and phrases have known cosines: 4 columns that fit cat, dog, nothing and contrasts."""
    found = extractor_of(vit_clip, refine=False)
    axes = {"cat": 0, "dog": 1, "unicorn": 2, "main subject": 0, **dict.fromkeys(CONTRASTS, 3)}
    cells = torch.eye(4)[:, None, :].repeat(1, 2, 1)
    cells[:, :, 2] = 0
    monkeypatch.setattr(found, "features", lambda _: cells)
    monkeypatch.setattr(found, "_phrases", lambda phrases: torch.eye(4)[[axes[phrase] for phrase in phrases]])
    return lambda query: found(np.zeros((2, 4, 3), np.uint8), query)


def test_a_phrase_is_found_where_it_fits_better_than_what_fits_anything(planted):
    found = planted("the cat")
    assert found.present
    assert found.map[0, 0] > 0.9
    np.testing.assert_allclose(found.map[:, 1:3], 0.5, atol=1e-6)
    assert found.map[0, 3] < 0.1


@pytest.mark.parametrize("query", ["cat and dog", "dog, cat", "a dog or the cat"])
def test_of_several_phrases_the_best_counts(planted, query):
    np.testing.assert_array_equal(planted(query).map, np.maximum(planted("cat").map, planted("dog").map))


def test_what_is_not_there_is_low_and_adds_nothing(planted, vit_clip, monkeypatch):
    scale = float(logit_scale(vit_clip))
    assert scale > 5
    sought = extractor_of(vit_clip, refine=False)
    cells = torch.zeros(2, 2, 4)
    cells[1] = 1  # only contrasts fit, everywhere
    monkeypatch.setattr(sought, "features", lambda _: cells)
    monkeypatch.setattr(
        sought, "_phrases", lambda phrases: torch.eye(2)[[int(phrase in CONTRASTS) for phrase in phrases]]
    )
    found = sought(np.zeros((2, 4, 3), np.uint8), "unicorn")
    assert not found.present
    assert found.map.max() < 1 / (1 + np.exp(scale)) + 1e-6


def test_the_empty_query_asks_for_the_main_subject_and_is_always_present(planted):
    for query in ("", " ", "?!"):
        found = planted(query)
        assert found.present
        assert found.map[0, 0] == found.map.max() > 0.9


def test_pictures_need_not_be_writable(vit_clip):
    image = picture()
    image.flags.writeable = False
    np.testing.assert_array_equal(
        extractor_of(vit_clip)(image, "cat").map, extractor_of(vit_clip)(picture(), "cat").map
    )


def test_one_look_serves_all_queries(vit_clip, monkeypatch):
    found = extractor_of(vit_clip)
    looks = []
    head = found._head
    monkeypatch.setattr(found, "_head", lambda pixels: looks.append(1) or head(pixels))
    queries = ["cat", "dog and cat", ""]
    together = found.many(picture(), queries)
    for query, expected in zip(queries, together, strict=True):
        alone = found(picture(), query)
        np.testing.assert_allclose(alone.map, expected.map, atol=1e-5)
        assert alone.present == expected.present
    assert len(looks) == 1
    assert found.many(picture(), []) == []
    for seed in range(1, extractor.CACHED_PICTURES + 1):
        found(picture(seed=seed), "cat")
    assert len(looks) == 1 + extractor.CACHED_PICTURES
    found(picture(), "cat")
    assert len(looks) == 2 + extractor.CACHED_PICTURES
    # The same bytes in another shape are another picture.
    found(picture().reshape(64, 40, 3), "cat")
    assert len(looks) == 3 + extractor.CACHED_PICTURES


def test_prompts_cut_at_their_end_have_the_same_features(vit_clip):
    tokens = open_clip.tokenize([template.format("cup of coffee") for template in TEMPLATES])
    expected = vit_clip.encode_text(tokens)
    torch.testing.assert_close(encode_text(vit_clip, tokens), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encode_text(vit_clip, tokens, trim=False), expected, atol=1e-5, rtol=1e-5)


def test_weights_that_give_no_numbers_are_told():
    clip = tiny("tiny-vit")
    clip.visual.proj.fill_(torch.inf)
    with pytest.raises(WeightsError, match="no finite numbers"):
        extractor_of(clip)(picture(), "cat")


# ---- options -------------------------------------------------------------------------------------


def test_options_are_read():
    found = parse_settings(
        {"model": "tiny-vit/good", "short-side": "72", "neighbourhood": "2.5", "refine": "no", "precision": "fp16"}
    )
    assert found == Settings(ModelChoice("tiny-vit", "good"), 72, 2.5, refine=False, precision=torch.float16)
    assert str(found.model) == "tiny-vit/good"
    assert (found.model.mean, found.model.deviation) == (TAG["mean"], TAG["std"])
    assert str(parse_settings({}).model) == DEFAULT_MODEL


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("model", "", "ARCH or ARCH/TAG.*ViT-B-16"),
        ("model", "tiny-vit/", "ARCH or ARCH/TAG"),
        ("model", "hf-hub:someone/tiny", "ARCH or ARCH/TAG"),
        ("model", "/tmp/weights.pt", "ARCH or ARCH/TAG"),
        ("model", "tiny-vit/bad", "tiny-vit has no tag 'bad'; it has: good, nowhere"),
        ("model", "RN50/openai", "not of RN50"),
        ("model", "ViT-B-16-SigLIP/webli", "not of ViT-B-16-SigLIP"),
        ("model", "coca_ViT-B-32", "not of coca_ViT-B-32"),
        ("short-side", "big", "'big' is not a number of pixels"),
        ("neighbourhood", "0", "'0' is not a number of patches above 0"),
        ("neighbourhood", "nan", "'nan' is not"),
        ("refine", "maybe", "'maybe' is not yes or no"),
        ("precision", "int8", "'int8' is not one of fp32, bf16, fp16"),
    ],
)
def test_options_that_make_no_sense_are_refused(name, value, said):
    with pytest.raises(InvalidInputError, match=said) as caught:
        parse_settings({name: value})
    assert caught.value.field == name


@pytest.mark.parametrize("pixels", ["7", "0", "-3", "5000"])
def test_the_short_side_is_one_patch_at_least(vit_clip, pixels):
    settings = parse_settings({"model": "tiny-vit", "short-side": pixels})
    with pytest.raises(InvalidInputError, match=f"{pixels} is not 8 to 2048 pixels"):
        OpenClipExtractor(vit_clip, settings)


def test_every_plain_architecture_has_a_dense_head():
    names = [name for name in open_clip.list_models() if is_plain(open_clip.get_model_config(name))]
    assert {"ViT-B-16", "ViT-L-14-336-quickgelu", "ViT-H-14", "convnext_base_w_320", "convnext_large_d_320"} <= {*names}
    with torch.device("meta"):
        for name in ("ViT-S-32", "ViT-M-16-alt", "convnext_tiny"):
            clip = open_clip.CLIP(**open_clip.get_model_config(name))
            assert dense.dense_head(clip.visual).stride in {16, 32}
