"""Tables and figures of a measured transmission."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from transmission_data import HEIGHT, WIDTH, experiment_fixture, folder_fixture, scene, tools_fixture  # noqa: F401 - fixtures

from evaluation.transmission.contract import Outcome
from evaluation.transmission.figures import Strip, draw_curves, draw_strip
from evaluation.transmission.metrics import CAP_DB
from evaluation.transmission.report import markdown, rows_of
from evaluation.transmission.run import evaluate
from evaluation.transmission.strips import draw_strips
from evaluation.transmission.systems import parse_systems


@pytest.fixture
def notes():
    return []


def test_tables_mark_what_did_not_fit(experiment, tools, tmp_path, notes):
    experiment = replace(experiment, budgets=(2.0, 30.0))
    tables = markdown(evaluate(experiment, tools, tmp_path / "r.json", notes.append)["rows"])
    assert "| system | 2 % | 30 % |" in tables
    row = next(line for line in tables.splitlines() if line.startswith("| jpeg"))
    assert [cell.strip().endswith("*") for cell in row.split("|")[2:4]] == [True, False]


def test_figures_of_a_run(experiment, tools, tmp_path, notes):
    rows = evaluate(experiment, tools, tmp_path / "r.json", notes.append)["rows"]
    curves = draw_curves(rows, tmp_path)
    assert {path.name for path in curves} == {"masked_psnr_db.png", "masked_mse.png", "psnr_db.png", "ssim.png"}
    strips = draw_strips(experiment, tools, 2, 10.0, tmp_path)
    assert [path.name for path in strips] == ["strip_p0.png", "strip_p1.png"]
    for path in (*curves, *strips):
        with Image.open(path) as figure:
            assert min(figure.size) > 250
            assert len(figure.convert("RGB").getcolors(figure.width * figure.height)) > 20


def test_levels_beyond_the_ladders_have_colours_too(tools, tmp_path):
    photo, question = scene(tools)
    (system,) = parse_systems("ladder")
    levels = np.arange(HEIGHT * WIDTH // 64, dtype=np.uint8).reshape(HEIGHT // 8, -1)
    outcome = Outcome(photo.image, 5, fits=True, setting="", encode_s=0.0, levels=levels, level_count=96)
    draw_strip(Strip("s", photo, question, 1.0, 9, None, ((system, outcome),)), tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as figure:
        assert figure.width > 900


def test_means_over_decibels_count_exact_photos_at_the_cap():
    record = {"system": "a", "budget_percent": 1.0, "fits": True, "exact": False, "masked_exact": True, "masked_mse": 0}
    empty = dict.fromkeys(("ssim", "relevance_l1", "clip_score", "plan_s"))
    sizes = {"wire_bytes": 3, "budget_bytes": 4, "encode_s": 0.5, "psnr_db": 30.0}
    records = [{**record, **empty, **sizes, "masked_psnr_db": value} for value in (CAP_DB, 40.0)]
    (row,) = rows_of(records)
    assert row["masked_psnr_db"] == 70
    assert row["masked_exact"] == 2
    assert row["ssim"] is None
