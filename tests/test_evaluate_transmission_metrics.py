"""Metrics of a transmission by hand, and the CLIP score of a small model."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import structural_similarity
from transmission_data import HEIGHT, PATIENT, SETTINGS, find_by_colour, make_tiny_clip, photo_of, scene, tools_of

from evaluation.transmission.clip import ClipScorer
from evaluation.transmission.measure import budget_bytes
from evaluation.transmission.metrics import CAP_DB, mean_squared_error, measure, psnr_db, relevance_l1, ssim
from shared.errors import InvalidInputError


@pytest.fixture
def extractor(monkeypatch):
    return find_by_colour(monkeypatch)


@pytest.fixture
def tools(extractor):
    return tools_of()


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    return make_tiny_clip(tmp_path_factory.mktemp("clip"))


# ---- metrics -------------------------------------------------------------------------------------


def test_masked_mse_looks_under_the_mask_only(tools):
    photo, question = scene(tools)
    received = photo.image.copy()
    received[~question.mask] = 0
    exact = measure(photo, question, received)
    assert (exact.masked_mse, exact.masked_psnr_db) == (0, CAP_DB)
    assert exact.psnr_db < 15
    received = photo.image.astype(int)
    received[question.mask] += np.where(received[question.mask] > 128, -3, 3)
    found = measure(photo, question, received.astype(np.uint8))
    assert found.masked_mse == pytest.approx(9)
    assert found.masked_psnr_db == pytest.approx(10 * math.log10(255**2 / 9))
    share = question.mask.mean()
    assert found.psnr_db == pytest.approx(10 * math.log10(255**2 / (9 * share)))
    assert found.to_json()["exact"] is False


def test_weights_weigh_the_error():
    original, received = np.zeros((1, 2, 3), np.uint8), np.zeros((1, 2, 3), np.uint8)
    received[0, 0], received[0, 1] = 2, 4
    assert mean_squared_error(original, received) == 10
    assert mean_squared_error(original, received, np.array([[0.75, 0.25]], np.float32)) == 7


def test_the_same_picture_counts_as_the_cap(tools):
    photo, question = scene(tools)
    found = measure(photo, question, photo.image).to_json()
    assert found["psnr_db"] == found["masked_psnr_db"] == CAP_DB == 100
    assert found["ssim"] == 1
    assert found["exact"] is found["masked_exact"] is True
    assert found["relevance_l1"] is found["clip_score"] is None
    assert psnr_db(1e-12) == CAP_DB


def test_ssim_is_scikit_images_where_its_window_fits():
    one, other = photo_of(("cat",), 0)[0], photo_of(("cat",), 1)[0]
    assert ssim(one, other) == pytest.approx(structural_similarity(one, other, channel_axis=2, data_range=255))
    assert ssim(one[:5, :9], one[:5, :9]) == 1
    assert ssim(one[:2], other[:2]) is None


def test_relevance_l1_is_the_judges_mean_difference(extractor):
    photo, question = scene(tools_of(replace(SETTINGS, judge="embedded")))
    received = photo.image.copy()
    lost = question.mask & (np.arange(HEIGHT) < 20)[:, None]
    received[lost] = 110
    before = extractor(photo.image, "cat").map
    expected = 0.9 * (before[lost] > 0).sum() / before.size
    assert relevance_l1(photo, "cat", received) == pytest.approx(expected, rel=1e-5)
    assert relevance_l1(photo, "cat", photo.image) == 0


# ---- report and figures --------------------------------------------------------------------------


def test_budgets_are_the_transmitters():
    assert budget_bytes(np.zeros((320, 480, 3), np.uint8), 2) == 9216


# ---- CLIP ----------------------------------------------------------------------------------------


@PATIENT
def test_the_clip_score_is_a_cosine_of_the_models_features(tiny_clip):
    scorer = ClipScorer.load("tiny", tiny_clip)
    image = photo_of(("cat",), 0)[0]
    found = scorer.score(image, "a cat")
    assert -1 <= found <= 1
    assert found == ClipScorer.load("tiny", tiny_clip).score(image, "a cat")
    assert found != scorer.score(image, "an aeroplane over the sea")
    with torch.inference_mode():
        seen = scorer.model.encode_image(scorer.preprocess(Image.fromarray(image))[None])[0]
        read = scorer.model.encode_text(scorer.tokenize(["a cat"]))[0]
    assert found == pytest.approx(float(seen @ read / seen.norm() / read.norm()), abs=1e-5)


@PATIENT
def test_clip_weights_that_do_not_fit_are_refused(tiny_clip, tmp_path):
    with pytest.raises(InvalidInputError, match="--clip-model"):
        ClipScorer.load("no-such-model", tiny_clip)
    with pytest.raises(InvalidInputError, match="--clip-weights"):
        ClipScorer.load("tiny", tmp_path / "absent.pt")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    with pytest.raises(InvalidInputError, match="does not load"):
        ClipScorer.load("tiny", tmp_path / "junk.pt")
