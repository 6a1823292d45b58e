"""The measure of relevance: average precision and the rest on cases worked out by hand."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from evaluation.relevance_ap import (
    auroc,
    average_precision,
    checks_of,
    patch_means,
    read_samples,
    score,
    side_by_side,
)
from transmitter.relevance import Relevance


@pytest.mark.parametrize(
    ("scores", "positive", "expected"),
    [
        ([4, 3, 2, 1], [1, 1, 0, 0], 1.0),
        ([4, 3, 2, 1], [0, 0, 1, 1], (1 / 3 + 2 / 4) / 2),
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], (1 + 2 / 3) / 2),
        ([1, 1, 1, 1], [1, 0, 0, 0], 0.25),
        ([2, 1, 1, 0], [1, 1, 0, 0], 0.5 + 0.5 * 2 / 3),
    ],
)
def test_average_precision(scores, positive, expected):
    got = average_precision(np.array(scores, np.float32), np.array(positive, bool))
    assert got == pytest.approx(expected)


@pytest.mark.parametrize(
    ("scores", "positive", "expected"),
    [([2, 1], [1, 0], 1.0), ([1, 2], [1, 0], 0.0), ([1, 1], [1, 0], 0.5), ([3, 2, 1, 0], [1, 0, 1, 0], 0.75)],
)
def test_auroc(scores, positive, expected):
    assert auroc(np.array(scores, np.float32), np.array(positive, bool)) == pytest.approx(expected)


def test_measures_need_something_to_measure():
    with pytest.raises(ValueError, match="positive"):
        average_precision(np.zeros(3, np.float32), np.zeros(3, bool))
    with pytest.raises(ValueError, match="negatives"):
        auroc(np.zeros(3, np.float32), np.ones(3, bool))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40))
def test_average_precision_does_not_depend_on_the_order(pairs):
    scores = np.array([pair[0] for pair in pairs], np.float32)
    positive = np.array([pair[1] for pair in pairs])
    if positive.any():
        turned = average_precision(scores[::-1], positive[::-1])
        assert average_precision(scores, positive) == pytest.approx(turned)
        assert 0 < turned <= 1


def test_patch_means_go_in_raster_order():
    plane = np.zeros((16, 24), np.float32)
    plane[:8, 8:16], plane[8:, :4] = 1, 1
    assert patch_means(plane).tolist() == [0, 1, 0, 0.5, 0, 0]


@pytest.fixture
def folder(tmp_path):
    rows = []
    (tmp_path / "masks").mkdir()
    for stem, names in (("one", ["cat", "tv set"]), ("two", ["dog", "cup"])):
        Image.new("RGB", (48, 32), "red").save(tmp_path / f"{stem}.png")
        for place, name in enumerate(names):
            mask = np.zeros((32, 48), bool)
            mask[:, place * 16 : place * 16 + 16] = True
            Image.fromarray(mask).save(tmp_path / "masks" / f"{stem}.{name.replace(' ', '_')}.png")
        objects = [{"name": name} for name in names]
        rows.append(
            {"image": f"{stem}.png", "query": " and ".join(names), "objects_in_query": names, "objects": objects}
        )
    (tmp_path / "queries.json").write_text(json.dumps(rows))
    return tmp_path


class Oracle:
    """Knows where the test's objects are."""

    name = "oracle"

    def __call__(self, image, query):
        plane = np.zeros(image.shape[:2], np.float32)
        for place, names in enumerate(({"cat", "dog"}, {"tv set", "cup"})):
            if names & set(query.split(" and ")):
                plane[:, place * 16 : place * 16 + 16] = 1
        return Relevance(plane, present=True)


def test_an_oracle_gets_full_marks(folder):
    samples = list(read_samples(folder))
    assert [sample.asked for sample in samples] == [("cat", "tv set"), ("dog", "cup")]
    checks = {row["name"]: row for row in checks_of(score(Oracle(), samples))}
    assert checks["two-object AP"]["value"] == 1
    assert checks["two-object AP"]["ok"]
    assert checks["single-object AP"]["value"] == 1
    assert checks["separation of the two objects"]["value"] == 1
    assert checks["two-object AP, empty query"]["value"] == pytest.approx(2 / 3, abs=1e-4)
    assert checks["present or absent, told rightly"]["value"] == 0.5  # it always says present


def test_pictures_stand_side_by_side(folder):
    sample = next(read_samples(folder))
    assert side_by_side(sample, np.zeros((32, 48), np.float32)).shape == (32, 144, 3)
