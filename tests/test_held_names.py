"""What names that the text tower was never told cost: the measurement."""

import json

import pytest
from click.testing import CliRunner
from evaluation_data import Scripted, standard_folder

from evaluation import held_names
from evaluation.datasets import open_dataset
from evaluation.held_names import draw_names, main, precision
from shared.errors import InvalidInputError
from training.relevance.photos import CATEGORIES


def test_names_are_drawn_from_the_categories_once_each():
    names = draw_names(40, 0)
    assert len(set(names)) == 40
    assert set(names) < set(CATEGORIES)
    assert names == draw_names(40, 0)
    assert names != draw_names(40, 1)


def test_precision_counts_the_large_enough_objects_of_the_names(tmp_path):
    dataset = open_dataset(standard_folder(tmp_path / "data"))
    assert precision(Scripted(), dataset, ["cat", "crumb"]) == (1.0, 1)
    value, count = precision(Scripted(), dataset, ["cat", "dog"])
    assert count == 2
    assert value == pytest.approx((1 + 1 / 3) / 2, abs=0.02)
    with pytest.raises(InvalidInputError, match="none of the held-out names"):
        precision(Scripted(), dataset, ["zebra"])


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the command on the standard folder; `quality` of each tower's answers, the shipped one's first."""

    def invoke(*quality):
        told = []

        def train(_, *, held, **rest):
            told.append((held, rest["steps"]))

        monkeypatch.setattr(held_names, "train_text", train)
        values = iter(quality)
        monkeypatch.setattr(held_names, "precision", lambda *_: (next(values), 7))
        folder = standard_folder(tmp_path / "data")
        arguments = [
            str(folder),
            "--data",
            str(tmp_path),
            "--json",
            str(tmp_path / "out" / "held.json"),
            "--count",
            "3",
        ]
        answer = CliRunner().invoke(main, arguments)
        return answer, told, tmp_path / "out" / "held.json"

    return invoke


@pytest.mark.parametrize(("held", "ok"), [(0.72, True), (0.70, False)])
def test_command_holds_the_loss_to_its_bar(run, held, ok):
    answer, told, path = run(0.74, held)
    assert answer.exit_code == 0, answer.output
    report = json.loads(path.read_text())
    assert [names for names, _ in told] == [report["names"]] == [draw_names(3, 0)]
    (check,) = report["checks"]
    assert check["ok"] is ok
    assert check["value"] == pytest.approx(0.74 - held)
    assert "7 objects of 3 names" in answer.output


def test_folder_that_is_no_dataset_is_named(tmp_path):
    arguments = [str(tmp_path), "--data", str(tmp_path), "--json", str(tmp_path / "out.json")]
    answer = CliRunner().invoke(main, arguments)
    assert answer.exit_code == 2
    assert "queries.json" in answer.output
    assert "Traceback" not in answer.output
