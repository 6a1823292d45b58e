"""Quality, the AVIF yardstick and the figure of a run."""

import math

import numpy as np
import pytest
import skimage.data
from client_fakes import Script, photo, services
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from client.api import Budget, Client, Options
from client.avif import encode_within, yardstick
from client.figures import DPI, WIDTH_IN, _byte_rows, draw_run, overlay
from client.quality import measure
from client.runs import LOST_COLOUR, Question, carry_out, level_colours, paint_levels, to_json
from shared.pictures import png_bytes
from shared.stubs.mmsc.v1 import common_pb2


def run_of(image, script=None, query="the square"):
    with services(script or Script()) as address, Client(address, address, address) as client:
        question = Question("sample.png", png_bytes(image), query, Budget(wire_bytes=5000), Options())
        return carry_out(client, question)


def test_psnr_is_scikit_images():
    original = skimage.data.coffee()[:300]
    other = np.clip(original.astype(int) + np.random.default_rng(0).integers(-9, 9, original.shape), 0, 255)
    other = other.astype(np.uint8)
    found = measure(original, other, np.ones(original.shape[:2], np.float32))
    assert found.psnr_db == pytest.approx(peak_signal_noise_ratio(original, other), abs=1e-4)
    assert found.masked_psnr_db == pytest.approx(found.psnr_db, abs=1e-4)


def test_relevance_weights_the_error():
    original, relevance = photo(), np.zeros((80, 120), np.float32)
    other = original.copy()
    other[:, 60:] = 255 - other[:, 60:]
    relevance[:, :60] = 1
    found = measure(original, other, relevance)
    assert math.isinf(found.masked_psnr_db)
    assert found.to_json()["masked_psnr_db"] is None
    assert found.to_json()["masked_exact"] is True
    assert found.to_json()["exact"] is False
    relevance[:, :60], relevance[:, 60:] = 0, 0.5
    assert measure(original, other, relevance).masked_psnr_db < found.psnr_db


def test_a_map_of_zeros_weights_nothing():
    original, other = photo(), 255 - photo()
    found = measure(original, other, np.zeros((80, 120), np.float32))
    assert found.masked_psnr_db == pytest.approx(found.psnr_db)


def test_avif_takes_the_best_quality_that_fits():
    original = skimage.data.coffee()[::3, ::3]
    small, large = encode_within(original, 2_000), encode_within(original, 6_000)
    assert small.fits
    assert large.fits
    assert len(small.data) <= 2_000 < len(large.data) <= 6_000
    whole = np.ones(original.shape[:2], np.float32)
    assert measure(original, large.decode(), whole).psnr_db > measure(original, small.decode(), whole).psnr_db + 2
    assert len(encode_within(original, len(large.data) - 1).data) < len(large.data)


def test_avif_that_cannot_be_so_small_says_so():
    found = encode_within(photo(), 100)
    assert not found.fits
    assert len(found.data) > 100


def test_levels_are_painted_and_losses_stand_out():
    run = run_of(photo(), Script(lost_rows=2, outcome=common_pb2.OUTCOME_PARTIAL))
    painted = paint_levels(run)
    assert painted.shape == photo().shape
    assert tuple(painted[0, 0]) == tuple(bytes.fromhex(level_colours(5)[0][1:]))
    assert tuple(painted[8, 60]) == tuple(bytes.fromhex(LOST_COLOUR[1:]))
    assert tuple(painted[16, 60]) == tuple(bytes.fromhex(level_colours(5)[2][1:]))


def test_the_last_plan_is_what_is_painted_and_accounted_for(tmp_path):
    run = run_of(photo(), Script(replanned=True))
    painted = paint_levels(run)
    assert tuple(painted[72, 60]) == tuple(bytes.fromhex(level_colours(5)[1][1:]))
    rows = {label: size for label, size, _ in _byte_rows(run)}
    sent = run.transmission.delivered
    assert rows["2 plans, as sent"] == sent.wire_bytes - 40 - 30 - 12
    assert (rows["sent again"], rows["repairs, copies"], rows["questions"]) == (40, 30, 12)
    assert rows[f"level 1: {(run.levels == 1).sum()} patches"] is None
    draw_run(run, yardstick(run), tmp_path / "figure.png")


def test_every_number_of_levels_has_colours_of_its_own():
    assert level_colours(5) == ("#20203a", "#3b528b", "#21918c", "#5ec962", "#fde725")
    for levels in range(2, 20):
        colours = level_colours(levels)
        assert len({*colours, LOST_COLOUR}) == levels + 1
        assert colours[-1] == "#fde725"


def test_levels_without_a_size_share_one_row_of_bytes(tmp_path):
    run = run_of(photo())
    plan = run.transmission.plan
    for count in plan.levels:
        count.patch_bytes = 0
    plan.content_bytes = plan.wire_bytes - 60
    labels = [(label, size) for label, size, _ in _byte_rows(run)]
    assert labels[4:] == [
        (f"level 4: {plan.levels[4].patches:,} patches", None),
        ("patches", plan.wire_bytes - 60),
        ("level map", 40),
        ("headers, sketch", 20),
    ]
    draw_run(run, yardstick(run), tmp_path / "figure.png")


def test_the_overlay_is_grey_where_nothing_matters():
    relevance = np.zeros((80, 120), np.float32)
    relevance[:, 60:] = 1
    found = overlay(photo(), relevance).astype(int)
    assert np.ptp(found[:, :60], axis=2).max() < 16
    assert np.ptp(found[:, 60:], axis=2).min() > 30


@pytest.mark.parametrize(
    ("image", "query", "lost_rows"),
    [
        (photo(120, 80), "the square", 0),
        (photo(40, 400), "$x_1^ {unbalanced", 3),
        (photo(400, 40), "猫 " * 60, 0),
        (photo(1, 1), "", 0),
    ],
    ids=["photo", "tall", "wide", "one pixel"],
)
def test_a_figure_of_any_shape_and_query(tmp_path, image, query, lost_rows):
    run = run_of(image, Script(lost_rows=lost_rows, exact=lost_rows > 0), query)
    path = tmp_path / "figure.png"
    draw_run(run, yardstick(run), path)
    with Image.open(path) as figure:
        assert figure.width == WIDTH_IN * DPI
        assert 500 < figure.height < 1_700
        assert len(figure.convert("RGB").getcolors(figure.width * figure.height)) > 500


def test_the_yardstick_as_plain_values():
    run = run_of(photo())
    values = yardstick(run).to_json()
    assert values["avif_fits"] is (values["avif_bytes"] <= to_json(run)["wire_bytes"])
    assert values["avif_psnr_db"] > 20
    assert values["avif_exact"] is False
