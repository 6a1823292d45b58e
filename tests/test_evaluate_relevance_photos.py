"""What is measured of a photo, and the means, tables and bars that come of it."""

import numpy as np
import pytest
from evaluation_data import (
    HEIGHT,
    SYNONYMS,
    WIDTH,
    Grey,
    ScriptedMany,
    floats,
    folder_fixture,  # noqa: F401 - a fixture
    rows_fixture,  # noqa: F401 - a fixture
    stripe,
    write_folder,
)

from evaluation.datasets import open_dataset
from evaluation.relevance.figures import heat
from evaluation.relevance.photo import score_photo, wrong_entry
from evaluation.relevance.report import checks_of, extremes, markdown, per_category, summarise
from evaluation.relevance.synonyms import load_synonyms
from training.relevance.photos import CATEGORIES


def test_figures_of_a_photo(rows):
    row = rows[0]
    expected = {
        "patch_ap": 0.5 + 0.5 * 2 / 3,  # the first stripe at 1, then the rest at once
        "auroc": 0.5 + 0.5 * 0.5,
        "budget_recall": 0.75,  # 50 surely, and half of the 50 places that 100 share
        "soft_iou": 75 / 125,
        "no_query_ap": 2 / 3,
        "wrong_query_ap": 0.5 * 0.5 + 0.5 * 2 / 3,
        "separation_auroc": 1.0,  # the cat's map is found and the other is flat: their difference parts the two
        "separation_one_map_auroc": (1 + 0.5) / 2,
        "single_object_ap": (1 + 0.5) / 2,
        "single_object_ap_every_mask": (1 + 0.5 + 1 / 150) / 3,
        "single_object_ap_queried": (1 + 0.5) / 2,
        "absent_below_present": 0.5,  # the dog's .25 is below the mouse's .3, the cup's .7 is not
        "absent_below_present_1_percent": 1.0,
    }
    assert {key: row[key] for key in expected} == pytest.approx(expected, abs=1e-6)
    assert (row["image"], row["query"], row["wrong_query"]) == ("one", "cat and tv set", "dog and cup")
    assert row["objects"]["cat"]["synonyms"] == {"house cat": 0.5, "puss": 1.0}
    assert {name: (each["patches"], each["counted"]) for name, each in row["objects"].items()} == {
        "cat": (50, True), "tv set": (50, True), "mouse": (1, False), "crumb": (0, False),
    }  # fmt: skip
    assert row["objects"]["crumb"]["ap"] is None
    assert row["absent"] == {
        "dog": {"maximum": 0.25, "present": False},
        "cup": {"maximum": pytest.approx(0.7), "present": True},
    }


def test_means(rows):
    means, counts = summarise(rows)
    # Photo two asks for the dog on the first stripe (a flat map) and the cup on the second (found).
    second = {"patch_ap": 7 / 12, "single_object_ap": (1 / 3 + 1) / 2, "separation_one_map_auroc": (0.5 + 1) / 2}
    assert {key: rows[1][key] for key in second} == pytest.approx(second, abs=1e-6)
    assert means["patch_ap"] == pytest.approx((5 / 6 + 7 / 12) / 2, abs=1e-6)
    assert means["single_object_ap"] == pytest.approx((1 + 0.5 + 1 / 3 + 1) / 4, abs=1e-6)
    assert means["single_object_ap_every_mask"] == pytest.approx((1 + 0.5 + 1 / 150 + 1 / 3 + 1) / 5, abs=1e-6)
    assert (means["synonym_original_ap"], means["synonym_single_object_ap"], means["synonym_drop"]) == (1, 0.75, 0.25)
    # Present: cat, tv set and cup told so, dog not. Absent: dog told so; cup, cat and tv set not.
    assert (means["present_recognised"], means["absent_recognised"]) == (0.75, 0.25)
    assert means["present_told_rightly"] == 0.5
    assert counts["patch_ap"] == 2
    assert counts["single_object_ap"] == 4
    assert counts["single_object_ap_every_mask"] == 5
    assert counts["absent_recognised"] == 4


def test_categories(rows):
    table = per_category(rows)
    assert list(table) == ["cat", "crumb", "cup", "dog", "mouse", "tv set"]
    assert table["cat"] == {
        "masks": 1, "single_object_ap": 1, "present_recognised": 1, "synonym_single_object_ap": 0.75,
        "masks_of_any_size": 1, "single_object_ap_every_mask": 1,
    }  # fmt: skip
    assert (table["mouse"]["masks"], table["mouse"]["masks_of_any_size"]) == (0, 1)
    assert table["crumb"]["single_object_ap_every_mask"] is None


def test_checks_have_the_bars(rows):
    checks = {check["name"]: check for check in checks_of(summarise(rows)[0])}
    single = checks["single objects on 1 % of the patches or more"]
    assert (single["bar"], single["ok"]) == (0.74, False)
    assert checks["loss by synonyms"] == {
        "name": "loss by synonyms", "value": 0.25, "unit": "AP", "bar": 0.03, "ok": False,
    }  # fmt: skip
    assert checks["control: empty query"]["bar"] is None
    better = {**summarise(rows)[0], "single_object_ap": 0.74, "synonym_drop": -0.01, "soft_iou": 0.6}
    met = {check["name"] for check in checks_of(better) if check["bar"] is not None and check["ok"]}
    assert met == {
        "single objects on 1 % of the patches or more",
        "one object of the query against the other, map less map",
        "loss by synonyms",
        "whole query, soft IoU",
    }


def test_what_a_photo_cannot_tell_is_left_out(tmp_path):
    nothing = write_folder(tmp_path / "nothing", {"one": {"cat": np.zeros((HEIGHT, WIDTH), bool)}})
    dataset = open_dataset(nothing)
    row = score_photo(Grey(), dataset[0], wrong_entry(dataset, 0), {})
    means, counts = summarise([row])
    assert row["wrong_query"] is None
    assert {key for key, value in means.items() if value is not None} == set()
    assert counts["patch_ap"] == counts["wrong_query_ap"] == counts["absent_recognised"] == 0
    assert checks_of(means) == []
    assert "| whole query |  | AP | 0 | ≥ 0.885 |  |" in markdown(means, counts, per_category([row]))
    everything = write_folder(tmp_path / "everything", {"one": {"sky": np.ones((HEIGHT, WIDTH), bool)}})
    row = score_photo(Grey(), open_dataset(everything)[0], None, {})
    assert (row["patch_ap"], row["auroc"], row["soft_iou"], row["separation_auroc"]) == (1, None, 0.5, None)


def test_an_extractor_that_takes_many_questions_is_asked_once(folder, rows):
    extractor = ScriptedMany()
    sample = open_dataset(folder)[0]
    assert score_photo(extractor, sample, wrong_entry(open_dataset(folder), 0), SYNONYMS) == rows[0]
    assert len(extractor.asked) == len(set(extractor.asked)) == 11 - 2 + 2
    assert extractor.calls == 1


def test_the_wrong_query_names_nothing_of_the_photo(tmp_path):
    both = {"dog": stripe(0), "cat": stripe(1), "cup": stripe(2)}
    photos = {"a": {"cat": stripe(0)}, "b": both, "c": {"cup": stripe(0)}, "d": {"cat": stripe(0), "cup": stripe(1)}}
    dataset = open_dataset(write_folder(tmp_path / "set", photos))
    wrong = [wrong_entry(dataset, number) for number in range(4)]
    assert [entry and entry.stem for entry in wrong] == ["c", None, "a", None]


def test_extremes_do_not_overlap():
    rows = [{"image": str(number), "patch_ap": ap} for number, ap in enumerate([0.1, None, 0.9, 0.5])]
    best, worst = extremes(rows, 4)
    assert ([row["image"] for row in best], [row["image"] for row in worst]) == (["2", "3"], ["0"])
    best, worst = extremes(rows, 1)
    assert ([row["image"] for row in best], [row["image"] for row in worst]) == (["2"], ["0"])
    assert extremes([], 4) == ([], [])


def test_shipped_synonyms_are_of_coco_names():
    synonyms = load_synonyms()
    assert set(synonyms) < set(CATEGORIES)
    assert len(synonyms) >= 40
    assert "sofa" in synonyms["couch"]
    phrases = [phrase for each in synonyms.values() for phrase in each]
    assert len(set(phrases)) == len(phrases)
    assert not set(phrases) & set(CATEGORIES)


def test_heat_is_bright_where_the_map_is():
    image = np.full((4, 4, 3), 100, np.uint8)
    shown = heat(image, np.repeat(floats(0, 1), 8).reshape(4, 4))
    assert shown.shape == image.shape
    assert shown[:2].mean() + 60 < shown[2:].mean()
