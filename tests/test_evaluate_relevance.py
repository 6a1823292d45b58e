"""`mmsc evaluate relevance`: its files, runs that are cut short, and bad input."""

import hashlib
import json
import re
import sys

import pytest
from commands import run_mmsc
from evaluation_data import SYNONYMS, Grey, Scripted, folder_fixture, load_scripted, rows_fixture, write_coco  # noqa: F401 - fixtures

from client import cli
from evaluation.datasets import open_dataset
from evaluation.relevance import run
from evaluation.relevance.report import summarise
from shared.errors import InvalidInputError, WeightsError
from shared.pictures import read_picture
from shared.weights import default_path


@pytest.fixture
def backend(monkeypatch):
    """What the command loads instead of weights; its `asked` tells what it was asked."""
    made = Scripted()
    monkeypatch.setattr(run, "load_extractor", lambda name, **_: made)
    return made


@pytest.fixture
def evaluate(tmp_path, capfd, backend):
    """Runs `mmsc evaluate relevance` with synonyms of the test; gives exit code, output and lines of errors."""
    (tmp_path / "words.json").write_text(json.dumps(SYNONYMS))

    def evaluated(*arguments, folder="set", result="out/r.json", synonyms="words.json"):
        paths = [str(tmp_path / folder), "--json", str(tmp_path / result), "--synonyms", str(tmp_path / synonyms)]
        code, out, errors = run_mmsc(capfd, "evaluate", "relevance", *paths, *map(str, arguments))
        return code, out, [line for line in errors if line]

    return evaluated


def test_command(evaluate, folder, tmp_path, rows):
    code, out, errors = evaluate("--figures", tmp_path / "pictures")
    assert (code, errors) == (0, [])
    report = json.loads((tmp_path / "out/r.json").read_text())
    assert list(report) == list(run.RESULT_KEYS)
    assert report["images"] == rows
    assert report["mean"] == summarise(rows)[0]
    assert set(report["mean"]) > {
        "patch_ap", "auroc", "budget_recall", "soft_iou", "single_object_ap", "separation_auroc", "no_query_ap",
        "wrong_query_ap",
    }  # fmt: skip
    assert report["dataset"]["photos"] == 2
    assert report["extractor"]["name"] == "embedded"
    assert "| single objects on 1 % of the patches or more | 0.708 | AP | 4 | ≥ 0.74 | missed |" in out.splitlines()
    assert "| cat | 1 | 1.000 | 0.750 | 1.000 | 1 | 1.000 |" in out.splitlines()
    pictures = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert pictures == ["best.png", "categories.png", "worst.png"]
    assert read_picture((tmp_path / "pictures/best.png").read_bytes()).std() > 20
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["r.json"]


def test_help_names_the_commands_and_needs_no_dataset(capfd):
    assert cli.run(["evaluate", "--help"]) == 0
    shown = capfd.readouterr().out
    assert all(f"\n  {name} " in shown for name in ("relevance", "transmission"))
    assert cli.run(["evaluate", "relevance", "--help"]) == 0
    assert "--annotations" in capfd.readouterr().out
    assert cli.run(["evaluate", "beauty"]) == 2


def test_command_on_coco(evaluate, backend, tmp_path, monkeypatch):
    annotations = write_coco(tmp_path / "val")
    monkeypatch.setattr(run, "load_extractor", lambda name, **_: Grey())
    code, _, errors = evaluate("--annotations", annotations, "--objects", 1, "--limit", 3, folder="val")
    assert (code, errors) == (0, [])
    report = json.loads((tmp_path / "out/r.json").read_text())
    assert report["dataset"]["photos"] == 3
    assert report["mean"]["patch_ap"] == pytest.approx(2 / 3, abs=1e-6)
    assert report["mean"]["separation_auroc"] is None
    assert report["mean"]["wrong_query_ap"] is None  # there is a table on every photo


class Interrupted(Scripted):
    """Ctrl-C comes after some questions."""

    def __init__(self, after):
        super().__init__()
        self._after = after

    def __call__(self, image, query):
        if len(self.asked) == self._after:
            raise KeyboardInterrupt
        return super().__call__(image, query)


@pytest.fixture
def interrupted(evaluate, folder, tmp_path, monkeypatch, backend):
    """A run that was cut short after the first photo; gives its partial file."""
    with monkeypatch.context() as patch:
        patch.setattr(run, "load_extractor", lambda name, **_: Interrupted(after=13))
        code, _, errors = evaluate()
    partial = tmp_path / "out/r.json.partial.jsonl"
    assert code == 130
    assert errors == [
        f"1 of 2 photos are kept in {partial}; the same command goes on there",
        "mmsc: interrupted",
    ]
    assert len(partial.read_text().splitlines()) == 2
    assert not (tmp_path / "out/r.json").exists()
    return partial


def test_an_interrupted_run_goes_on(interrupted, evaluate, backend, tmp_path):
    code, _, errors = evaluate()
    assert (code, errors) == (0, [f"{interrupted}: goes on after 1 of 2 photos"])
    assert "mouse" not in backend.asked  # which only the first photo shows
    assert not interrupted.exists()
    assert evaluate(result="out/whole.json")[0] == 0
    assert (tmp_path / "out/r.json").read_bytes() == (tmp_path / "out/whole.json").read_bytes()


@pytest.mark.parametrize("cut", [1, 40])
def test_a_half_written_line_is_computed_again(interrupted, evaluate, backend, cut):
    interrupted.write_bytes(interrupted.read_bytes()[:-cut])
    code, _, errors = evaluate()
    assert (code, errors) == (0, [f"{interrupted}: its last line was cut off and is computed again"])
    assert "mouse" in backend.asked


def test_another_run_is_refused_until_told_to_start_anew(interrupted, evaluate, tmp_path, backend):
    (tmp_path / "words.json").write_text("{}")
    code, _, errors = evaluate()
    assert code == 2
    assert len(errors) == 1
    assert "another synonyms" in errors[0]
    assert "--restart" in errors[0]
    assert evaluate("--limit", 1, synonyms="words.json")[0] == 2
    assert evaluate("--restart")[0] == 0
    assert backend.asked.count("mouse") == 1
    assert not interrupted.exists()


def test_lines_of_other_photos_are_refused(interrupted, evaluate):
    interrupted.write_text(interrupted.read_text().replace('"image": "one"', '"image": "two"'))
    code, _, errors = evaluate()
    assert (code, len(errors)) == (2, 1)
    assert "other photos" in errors[0]


def test_a_photo_that_does_not_decode_ends_the_run_and_keeps_the_rest(evaluate, folder, tmp_path):
    (folder / "images/two.png").write_bytes(b"nonsense")
    code, _, errors = evaluate()
    assert code == 2
    assert "1 of 2 photos are kept" in errors[0]
    assert errors[1].startswith(f"mmsc: dataset: photo {folder}/images/two.png is no picture")
    assert len(errors) == 2


BAD = {
    "no folder": ({"folder": "nowhere"}, (), "dataset: .*nowhere is no folder"),
    "no list": ({"folder": "out"}, (), "out has no queries.json"),
    "no synonyms": ({"synonyms": "nowhere.json"}, (), "--synonyms: cannot read"),
    "synonyms of no form": ({"synonyms": "set/queries.json"}, (), "--synonyms: .* is no object"),
    "no annotations": ({}, ("--annotations", "nowhere.json"), "annotations: cannot read nowhere.json"),
    "result in a file": ({"result": "words.json/r.json"}, (), "--json: cannot write"),
    "result is a folder": ({"result": "set"}, (), "--json: cannot read .*set"),
    "result is something else": ({"result": "words.json"}, (), "--json: .*words.json holds other JSON"),
    "figures in a file": ({}, ("--figures", "words.json"), "--figures: cannot write"),
    "no photos": ({}, ("--limit", 0), "--limit"),
    "three objects": ({}, ("--objects", 3), "--objects"),
    "no jobs": ({}, ("--jobs", 0), "--jobs"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(evaluate, folder, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    where, arguments, words = BAD[case]
    code, _, errors = evaluate(*arguments, **where)
    assert (code, len(errors)) == (2, 1)
    assert re.search(words, errors[0])
    assert not (tmp_path / "out/r.json").exists()


def test_bad_extractor_and_synonyms_are_one_line(folder, tmp_path, capfd):
    (tmp_path / "words.json").write_text('{"cat": "kitty"}')
    cases = {
        "unknown extractor 'psychic'": ("--extractor", "psychic"),
        "--synonyms: .*'cat' has no list": ("--synonyms", str(tmp_path / "words.json")),
    }
    for words, arguments in cases.items():
        assert cli.run(["evaluate", "relevance", str(folder), "--json", str(tmp_path / "r.json"), *arguments]) == 2
        errors = capfd.readouterr().err.splitlines()
        assert len(errors) == 1
        assert re.search(words, errors[0])


def test_bad_weights_are_one_line(evaluate, folder, monkeypatch):
    def load(name, *, weights, **_):
        raise WeightsError(f"{weights}: is damaged")

    monkeypatch.setattr(run, "load_extractor", load)
    code, _, errors = evaluate("--weights", "w.safetensors")
    assert (code, errors) == (2, ["mmsc: --weights: w.safetensors: is damaged"])


def test_a_missing_package_is_one_line(evaluate, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    for name in [name for name in sys.modules if name.startswith("evaluation.relevance")]:
        monkeypatch.delitem(sys.modules, name)
    code, _, errors = evaluate()
    assert (code, len(errors)) == (1, 1)
    assert "pip install 'mmsc[evaluation]'" in errors[0]


@pytest.mark.timeout(300)  # two more interpreters, on whatever cores there are
def test_several_processes_give_the_same_and_name_what_is_wrong(folder, tmp_path, rows):
    third = json.loads((folder / "queries.json").read_text())[1] | {"image": "images/three.png"}
    (folder / "images/three.png").write_bytes((folder / "images/two.png").read_bytes())
    for name in ("dog", "cup"):
        (folder / f"masks/three.{name}.png").write_bytes((folder / f"masks/two.{name}.png").read_bytes())
    (folder / "queries.json").write_text(json.dumps([*json.loads((folder / "queries.json").read_text()), third]))
    job = run.Job(open_dataset(folder), load_scripted, SYNONYMS)
    (folder / "masks/three.cup.png").unlink()
    notes = []
    with pytest.raises(InvalidInputError, match=r"three\.cup\.png is missing"):
        run.evaluate(job, Scripted(), {"name": "scripted"}, tmp_path / "r.json", notes.append, processes=2)
    partial = tmp_path / "r.json.partial.jsonl"
    assert notes == [f"2 of 3 photos are kept in {partial}; the same command goes on there"]
    assert [json.loads(line) for line in partial.read_text().splitlines()[1:]] == rows


def test_a_backend_names_its_weights(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"some")
    first = run.identity_of(run.Backend("embedded", path))
    path.write_bytes(b"other")
    assert first != run.identity_of(run.Backend("embedded", path))
    hub = run.identity_of(run.Backend("vit-attention"))
    assert (hub["name"], hub["weights_sha256"], hub["code_sha256"]) == ("vit-attention", None, first["code_sha256"])
    chosen = run.Backend("embedded", path, options=("size=3",))
    assert run.identity_of(chosen)["options"] == {"size": "3"}
    with pytest.raises(InvalidInputError, match="embedded has no option 'size'"):
        chosen()
    shipped = run.identity_of(run.Backend("embedded"))["weights_sha256"]
    assert shipped == hashlib.sha256(default_path("relevance.safetensors").read_bytes()).hexdigest()
