"""`mmsc evaluate relevance`: figures worked out by hand, runs that are cut short, and bad input."""

import hashlib
import json
import re
import sys

import numpy as np
import pytest
from evaluation_data import (
    HEIGHT,
    WIDTH,
    Scripted,
    ScriptedMany,
    load_scripted,
    standard_folder,
    stripe,
    write_coco,
    write_folder,
)
from hypothesis import given
from hypothesis import strategies as st

from client import cli
from evaluation.datasets import open_dataset
from evaluation.relevance import run
from evaluation.relevance.figures import heat
from evaluation.relevance.metrics import auroc, average_precision, budget_recall, soft_iou
from evaluation.relevance.photo import score_photo, wrong_entry
from evaluation.relevance.report import checks_of, extremes, markdown, per_category, summarise
from evaluation.relevance.synonyms import load_synonyms
from shared.errors import InvalidInputError, WeightsError
from shared.pictures import read_picture
from shared.weights import default_path
from training.relevance.photos import CATEGORIES
from transmitter.relevance import Relevance

SYNONYMS = {"cat": ("house cat", "puss"), "crumb": ("never asked",)}


def floats(*values):
    return np.array(values, np.float32)


def flags(*values):
    return np.array(values, bool)


@pytest.mark.parametrize(
    ("scores", "positive", "expected"),
    [
        ((4, 3, 2, 1), (1, 1, 0, 0), 1.0),
        ((4, 3, 2, 1), (0, 0, 1, 1), (1 / 3 + 2 / 4) / 2),
        ((0.1, 0.4, 0.35, 0.8), (0, 0, 1, 1), (1 + 2 / 3) / 2),
        ((1, 1, 1, 1), (1, 0, 0, 0), 0.25),
        ((2, 1, 1, 0), (1, 1, 0, 0), 0.5 + 0.5 * 2 / 3),
    ],
)
def test_average_precision(scores, positive, expected):
    assert average_precision(floats(*scores), flags(*positive)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("scores", "positive", "expected"),
    [((2, 1), (1, 0), 1.0), ((1, 2), (1, 0), 0.0), ((1, 1), (1, 0), 0.5), ((3, 2, 1, 0), (1, 0, 1, 0), 0.75)],
)
def test_auroc(scores, positive, expected):
    assert auroc(floats(*scores), flags(*positive)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("scores", "positive", "expected"),
    [
        ((4, 3, 2, 1), (1, 1, 0, 0), 1.0),
        ((4, 3, 2, 1), (1, 0, 1, 0), 0.5),
        ((4, 3, 2, 1), (0, 0, 1, 1), 0.0),
        ((2, 1, 1, 1), (1, 1, 0, 0), (1 + 1 / 3) / 2),
        ((1, 1, 1, 1), (1, 1, 1, 1), 1.0),
        ((1, 1, 1, 1), (1, 0, 0, 0), 0.25),
    ],
)
def test_budget_recall(scores, positive, expected):
    assert budget_recall(floats(*scores), flags(*positive)) == pytest.approx(expected)


@pytest.mark.parametrize("measure", [average_precision, budget_recall])
@given(pairs=st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=30), random=st.randoms())
def test_no_measure_depends_on_the_order_of_patches(measure, pairs, random):
    pairs = [*pairs, (1, True)]
    shuffled = random.sample(pairs, len(pairs))
    one, other = (measure(floats(*(p[0] for p in each)), flags(*(p[1] for p in each))) for each in (pairs, shuffled))
    assert one == pytest.approx(other)
    assert 0 <= one <= 1


def test_soft_iou():
    assert soft_iou(floats(1, 0.5, 0), floats(1, 1, 0)) == pytest.approx(1.5 / 2)
    assert soft_iou(floats(0.3, 0.7), floats(0.3, 0.7)) == 1


@pytest.mark.parametrize("measure", [average_precision, budget_recall, auroc, soft_iou])
def test_measures_need_something_to_measure(measure):
    with pytest.raises(ValueError, match="needs"):
        measure(floats(0, 0, 0), flags(0, 0, 0))


def test_auroc_needs_negatives():
    with pytest.raises(ValueError, match="needs"):
        auroc(floats(0, 1), flags(1, 1))


@pytest.fixture
def folder(tmp_path):
    return standard_folder(tmp_path / "set")


@pytest.fixture
def rows(folder):
    dataset = open_dataset(folder)
    numbers = range(len(dataset))
    return [score_photo(Scripted(), dataset[number], wrong_entry(dataset, number), SYNONYMS) for number in numbers]


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


class Grey:
    """Finds everything everywhere, by half."""

    name = "grey"

    def __call__(self, image, query):
        return Relevance(np.full(image.shape[:2], 0.5, np.float32), present=True)


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


# ---- the command ------------------------------------------------------------


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
        code = cli.run(["evaluate", "relevance", *paths, *map(str, arguments)])
        output = capfd.readouterr()
        return code, output.out, [line for line in output.err.splitlines() if line]

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
