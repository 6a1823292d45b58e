"""What is compared: still files, blurred or not, and our own path, all within their budgets."""

import numpy as np
import pytest
from PIL import Image
from transmission_data import HEIGHT, WIDTH, photo_of, scene, tools_fixture  # noqa: F401 - a fixture

from evaluation.transmission.blur import blurred_background, kept_share
from evaluation.transmission.metrics import mean_squared_error
from evaluation.transmission.patches import PatchSender
from evaluation.transmission.stills import Files, StillSender, avif, jpeg, jxl, webp
from evaluation.transmission.systems import CODECS, DEFAULT_SYSTEMS, known, parse_systems
from shared.errors import InvalidInputError
from transmitter.relevance import Relevance

# ---- stills --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [jpeg(), webp(), avif(10), jxl()], ids=lambda form: form.name)
def test_the_search_finds_a_file_that_fits_and_the_next_does_not(form):
    files = Files(photo_of(("cat", "dog"), 0)[0], form)
    smallest, largest = (len(files.file(step)[0]) for step in (0, len(form.steps) - 1))
    assert files.best_within(smallest - 1) is None
    assert files.best_within(largest) == len(form.steps) - 1
    limit_bytes = (smallest + largest) // 2
    step = files.best_within(limit_bytes)
    assert len(files.file(step)[0]) <= limit_bytes < len(files.file(step + 1)[0])


def test_what_was_asked_before_changes_nothing():
    image = photo_of(("cat", "dog"), 0)[0]
    fresh, used = (StillSender(jpeg(), image, image, None) for _ in range(2))
    for limit_bytes in (1000, 1500, 3000, 5000):
        used.send(limit_bytes)
    one, other = fresh.send(2000), used.send(2000)
    assert (one.setting, one.wire_bytes) == (other.setting, other.wire_bytes)
    assert (one.picture == other.picture).all()


def test_small_budgets_are_met_by_a_smaller_photo():
    image = np.asarray(Image.fromarray(photo_of(("cat", "dog"), 0)[0]).resize((384, 256)))
    sender = StillSender(jpeg(), image, image, None)
    smallest = len(sender._at(1).files.file(0)[0])
    outcome = sender.send(smallest - 100)
    assert outcome.fits
    assert outcome.wire_bytes < smallest
    assert "x" in outcome.setting
    assert outcome.picture.shape == image.shape
    assert "x" not in sender.send(image.nbytes).setting


def test_what_cannot_fit_is_the_smallest_and_says_so():
    image = photo_of(("cat", "dog"), 0)[0]
    outcome = StillSender(jpeg(), image, image, None).send(50)
    assert not outcome.fits
    assert outcome.wire_bytes > 50
    assert outcome.picture.shape == image.shape


def test_lossless_files_are_exact_where_they_fit():
    image = photo_of(("cat", "dog"), 0)[0]
    for form in (webp(), jxl()):
        assert (StillSender(form, image, image, None).send(2 * image.nbytes).picture == image).all()


def test_blurring_keeps_a_masked_object_as_it_is():
    image, masks = photo_of(("cat", "dog"), 0)
    mask = masks["cat"]
    kept = kept_share(mask.astype(np.float32))
    assert (kept[mask] == 1).all()
    assert kept[:, 60:].max() == 0
    blurred = blurred_background(image, mask.astype(np.float32))
    assert (blurred[mask] == image[mask]).all()
    assert blurred[:8, 60:].std() < 0.5 * image[:8, 60:].std()


def test_a_guess_is_blurred_less_than_a_mask():
    image, masks = photo_of(("cat", "dog"), 0)
    mask = masks["cat"].astype(np.float32)
    certain, guess = (blurred_background(image, relevance)[:8, 60:] for relevance in (mask, 0.9 * mask))
    assert certain.std() < guess.std() < image[:8, 60:].std()


def test_of_two_blurs_the_object_gets_the_bytes(tools):
    photo, question = scene(tools)
    blur, plain = (CODECS[name].prepare for name in ("avif-blur", "avif"))
    oracle = Relevance(question.mask.astype(np.float32), present=True)
    errors = [
        mean_squared_error(photo.image, prepare(photo, oracle).send(1500).picture, question.mask)
        for prepare in (blur, plain)
    ]
    assert errors[0] < errors[1] / 2


def test_where_nothing_was_found_nothing_is_blurred(tools):
    photo, _ = scene(tools)
    nothing = Relevance(np.full((HEIGHT, WIDTH), 0.01, np.float32), present=False)
    one, other = (CODECS[name].prepare(photo, nothing).send(1500) for name in ("jpeg-blur", "jpeg"))
    assert (one.picture == other.picture).all()


# ---- our own path --------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["rate-distortion", "greedy", "vit-sc"])
def test_our_path_stays_within_the_budget(tools, strategy):
    photo, question = scene(tools)
    sender = PatchSender(photo, Relevance(question.mask.astype(np.float32), present=True), "ladder", strategy)
    outcome = sender.send(1000)
    assert outcome.fits
    assert 900 < outcome.wire_bytes <= 1000
    assert outcome.levels.shape == (HEIGHT // 8, WIDTH // 8)
    inside, outside = outcome.levels[2:5, 1:4].mean(), outcome.levels[:, 6:].mean()
    assert inside > outside


def test_our_path_is_exact_given_enough_bytes(tools):
    photo, question = scene(tools)
    relevance = Relevance(question.mask.astype(np.float32), present=True)
    outcome = PatchSender(photo, relevance, "ladder", "greedy").send(40_000)
    assert (outcome.picture == photo.image).all()


def test_where_the_headers_do_not_fit_nothing_is_sent(tools):
    photo, question = scene(tools)
    outcome = PatchSender(photo, Relevance(question.mask.astype(np.float32), present=True), "ladder", "greedy").send(20)
    assert (outcome.wire_bytes, outcome.fits) == (0, False)
    assert np.ptp(outcome.picture) == 0


@pytest.mark.parametrize("name", ["entropy", "entropy-1200"])
def test_the_entropy_codec_goes_the_same_way(tools, name):
    photo, question = scene(tools)
    sender = CODECS[name].prepare(photo, Relevance(question.mask.astype(np.float32), present=True))
    outcome = sender.send(1500)
    assert outcome.fits
    assert 1200 < outcome.wire_bytes <= 1500
    assert outcome.level_count == 8
    assert outcome.levels[2:5, 1:4].min() > outcome.levels[:, 6:].mean()
    packets = {"entropy": 2, "entropy-1200": 3}[name]
    assert outcome.setting == f"{packets} packets"


# ---- systems -------------------------------------------------------------------------------------


def test_names_of_systems():
    systems = parse_systems(" embedded:ladder, ladder,oracle:avif-blur,avif ,query-free:vit-sc")
    assert [system.name for system in systems] == ["ladder", "oracle:avif-blur", "avif", "query-free:vit-sc"]
    assert [system.extractor for system in systems] == ["embedded", None, None, "embedded"]
    assert len(parse_systems(DEFAULT_SYSTEMS)) == len(DEFAULT_SYSTEMS.split(","))
    assert all(name in known() for name in CODECS)


@pytest.mark.parametrize("text", ["oracle", "ladders", "nobody:ladder", ":ladder", "oracle:avif", "", ",,"])
def test_unknown_systems_are_refused(text):
    with pytest.raises(InvalidInputError, match="--systems"):
        parse_systems(text)
