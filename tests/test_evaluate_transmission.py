"""Transmission, measured: a run over everything, resuming, and what ends it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from transmission_data import (
    HEIGHT,
    PATIENT,
    SETTINGS,
    WIDTH,
    ByColour,
    experiment_fixture,  # noqa: F401 - a fixture
    folder_fixture,  # noqa: F401 - a fixture
    make_dataset,
    tools_fixture,  # noqa: F401 - a fixture
)

from evaluation.datasets import open_dataset
from evaluation.partial import PARTIAL_SUFFIX
from evaluation.transmission.experiment import Experiment
from evaluation.transmission.run import evaluate
from evaluation.transmission.systems import parse_systems
from shared.errors import InvalidInputError


@pytest.fixture
def notes():
    return []


ALL = "ladder,oracle:ladder,query-free:ladder,wrong-query:ladder,greedy,vit-sc,avif,jpeg,oracle:jpeg-blur,webp-blur"


def test_a_run_over_everything(experiment, tools, tmp_path, notes):
    experiment = replace(experiment, systems=parse_systems(ALL), budgets=(2.0, 15.0, 60.0))
    report = evaluate(experiment, tools, tmp_path / "r.json", notes.append)
    written = json.loads((tmp_path / "r.json").read_text())
    assert written == json.loads(json.dumps(report))
    assert [row["system"] for row in written["rows"]] == [name for name in ALL.split(",") for _ in range(3)]
    assert [row["budget_percent"] for row in written["rows"][:3]] == [2, 15, 60]
    assert len(written["images"]) == 3 * 30
    for image in written["images"]:
        assert image["budget_bytes"] == int(WIDTH * HEIGHT * 3 * image["budget_percent"] / 100)
        assert image["wire_bytes"] <= image["budget_bytes"] or not image["fits"]
    rows = {(row["system"], row["budget_percent"]): row for row in written["rows"]}
    assert rows["oracle:ladder", 15]["masked_psnr_db"] > rows["wrong-query:ladder", 15]["masked_psnr_db"] + 1
    assert rows["oracle:jpeg-blur", 15]["masked_psnr_db"] > rows["jpeg", 15]["masked_psnr_db"]
    assert rows["jpeg", 60]["psnr_db"] > rows["jpeg", 15]["psnr_db"]
    assert rows["jpeg", 2]["fitting"] < rows["jpeg", 2]["queries"] == 3
    assert notes == []


def test_rows_are_means_over_the_photos(experiment, tools, tmp_path, notes):
    report = evaluate(experiment, tools, tmp_path / "r.json", notes.append)
    for row in report["rows"]:
        of_row = [
            image
            for image in report["images"]
            if (image["system"], image["budget_percent"]) == (row["system"], row["budget_percent"])
        ]
        assert len(of_row) == row["queries"] == 3
        for name in ("masked_psnr_db", "masked_mse", "psnr_db", "ssim", "wire_bytes"):
            assert row[name] == pytest.approx(np.mean([image[name] for image in of_row]), abs=1e-5)
        assert row["clip_score"] is None


def test_singles_ask_for_each_object_with_its_own_mask(experiment, tools, tmp_path, notes):
    experiment = replace(experiment, queries="singles", systems=parse_systems("oracle:greedy,wrong-query:greedy"))
    images = evaluate(experiment, tools, tmp_path / "r.json", notes.append)["images"]
    assert [image["query"] for image in images[::4]] == ["cat", "dog", "kite", "dog", "cat"]
    better = [one["masked_mse"] < other["masked_mse"] for one, other in zip(images[::4], images[2::4], strict=True)]
    assert all(better)
    assert set(tools.extractors["embedded"].asked) == {"kite", "dog"}


def timeless(report):
    images = [{name: value for name, value in image.items() if not name.endswith("_s")} for image in report["images"]]
    rows = [{name: value for name, value in row.items() if not name.endswith("_s")} for row in report["rows"]]
    return images, rows


def test_a_finished_run_is_only_added_to(experiment, tools, tmp_path, notes, monkeypatch):
    path = tmp_path / "r.json"
    first = evaluate(experiment, tools, path, notes.append)
    lines = len((tmp_path / f"r.json{PARTIAL_SUFFIX}").read_text().splitlines())
    assert lines == 1 + len(first["images"])
    monkeypatch.setattr("evaluation.transmission.run.measured", None)
    assert timeless(evaluate(experiment, tools, path, notes.append)) == timeless(first)
    monkeypatch.undo()
    tools.extractors["embedded"] = ByColour()
    more = replace(experiment, systems=parse_systems("jpeg,ladder,oracle:ladder"), budgets=(10.0, 20.0, 30.0))
    added = evaluate(more, tools, path, notes.append)
    assert [row["system"] for row in added["rows"]] == ["jpeg"] * 3 + ["ladder"] * 3 + ["oracle:ladder"] * 3
    new = len((tmp_path / f"r.json{PARTIAL_SUFFIX}").read_text().splitlines()) - lines
    assert new == 3 * (9 - 4)
    anew = evaluate(more, tools, tmp_path / "s.json", notes.append)
    assert timeless(added) == timeless(anew)


def test_an_interrupted_run_goes_on(experiment, tools, tmp_path, notes):
    class Interrupts(ByColour):
        def __call__(self, image, query):
            if "kite" in query:
                raise KeyboardInterrupt
            return super().__call__(image, query)

    path = tmp_path / "r.json"
    tools.extractors["embedded"] = Interrupts()
    with pytest.raises(KeyboardInterrupt):
        evaluate(experiment, tools, path, notes.append)
    assert not path.exists()
    assert "4 figures are kept" in notes[0]
    partial = tmp_path / f"r.json{PARTIAL_SUFFIX}"
    partial.write_bytes(partial.read_bytes()[:-30])
    path.write_text('{"rows": [{"sys')
    tools.extractors["embedded"] = second = ByColour()
    report = evaluate(experiment, tools, path, notes.append)
    assert "cat and dog" not in second.asked
    assert any("half-written" in note for note in notes)
    assert any("cut off" in note for note in notes)
    assert timeless(report) == timeless(evaluate(experiment, tools, tmp_path / "s.json", notes.append))


def test_other_settings_are_not_mixed_in(experiment, tools, tmp_path, notes):
    path = tmp_path / "r.json"
    evaluate(experiment, tools, path, notes.append)
    other = replace(experiment, settings=replace(SETTINGS, avif_speed=9))
    with pytest.raises(InvalidInputError, match=r"avif_speed.*--restart"):
        evaluate(other, tools, path, notes.append)
    evaluate(other, tools, path, notes.append, restart=True)


def test_photos_that_come_later_add_to_a_run(experiment, tools, tmp_path, notes):
    evaluate(replace(experiment, photos=1), tools, tmp_path / "r.json", notes.append)
    report = evaluate(experiment, tools, tmp_path / "r.json", notes.append)
    assert len(report["images"]) == 12
    assert "4 of 12 figures" in notes[0]


def test_an_empty_mask_is_left_out_with_a_note(experiment, folder, tools, tmp_path, notes):
    Image.new("L", (WIDTH, HEIGHT)).save(folder / "masks/p1.kite.png")
    report = evaluate(experiment, tools, tmp_path / "r.json", notes.append)
    assert {image["image"] for image in report["images"]} == {"p0", "p2"}
    assert "p1" in notes[0]


def test_a_wrong_query_needs_other_objects(tmp_path, tools, notes):
    dataset = open_dataset(make_dataset(tmp_path / "alike", (("cat",), ("cat", "dog"))))
    systems = parse_systems("wrong-query:ladder")
    experiment = Experiment(dataset, 2, "pairs", systems, (10.0,), SETTINGS)
    with pytest.raises(InvalidInputError, match="wrong-query"):
        evaluate(experiment, tools, tmp_path / "r.json", notes.append)


@PATIENT
def test_processes_give_the_same_figures(experiment, tools, tmp_path, notes):
    experiment = replace(experiment, systems=parse_systems("oracle:ladder,jpeg"))
    one = evaluate(experiment, tools, tmp_path / "one.json", notes.append)
    seen = []
    two = evaluate(experiment, tools, tmp_path / "two.json", notes.append, lambda *at: seen.append(at), jobs=2)
    assert timeless(one) == timeless(two)
    assert seen[-1] == (3, 3)


def test_a_bad_photo_ends_the_run_and_keeps_the_rest(experiment, folder, tools, tmp_path, notes):
    (folder / "images/p2.png").write_bytes(b"nothing")
    experiment = replace(experiment, systems=parse_systems("jpeg"))
    with pytest.raises(InvalidInputError, match=r"p2\.png"):
        evaluate(experiment, tools, tmp_path / "r.json", notes.append)
    assert "4 figures are kept" in notes[-1]
