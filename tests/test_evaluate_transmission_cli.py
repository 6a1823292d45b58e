"""`mmsc evaluate transmission`: its files and figures, and bad input."""

import json

import pytest
from commands import assert_foreign_file_kept, assert_refused, evaluating
from transmission_data import PATIENT, find_by_colour, folder_fixture, make_tiny_clip  # noqa: F401 - a fixture


@pytest.fixture
def extractor(monkeypatch):
    return find_by_colour(monkeypatch)


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    return make_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def mmsc(folder, tmp_path, extractor, capfd):
    return evaluating(capfd, "transmission", folder, tmp_path / "r.json")


QUICK = ("--systems", "ladder,jpeg", "--budgets", "30,10", "--avif-speed", "10")


@PATIENT
def test_the_command(mmsc, tmp_path, tiny_clip):
    figures = tmp_path / "figures"
    clip = ("--clip-model", "tiny", "--clip-weights", str(tiny_clip))
    code, out, errors = mmsc(*QUICK, *clip, "--limit", "2", "--figures", str(figures), "--strips", "1")
    assert (code, errors) == (0, [])
    assert out.count("| system | 10 % | 30 % |") == 2
    report = json.loads((tmp_path / "r.json").read_text())
    assert len(report["images"]) == 8
    assert all(-1 <= row["clip_score"] <= 1 and row["relevance_l1"] >= 0 for row in report["rows"])
    assert report["settings"]["clip_model"] == "tiny"
    assert set(report["settings"]["weights"]) >= {"clip", "ladder.safetensors"}
    assert {"clip_score.png", "relevance_l1.png", "strip_p0.png"} <= {path.name for path in figures.iterdir()}
    assert mmsc(*QUICK, *clip, "--limit", "2")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--systems", "magic"], "unknown system 'magic'; there are:"),
        (["--systems", "oracle:avif"], "takes no relevance"),
        (["--budgets", "1,x"], "--budgets"),
        (["--budgets", "0"], "--budgets"),
        (["--budgets", "inf"], "--budgets"),
        (["--judge", "jury"], "--judge"),
        (["--weights", "embedded"], "--weights"),
        (["--clip-weights", "absent.pt"], "absent.pt"),
        (["--annotations", "absent.json"], "absent.json"),
        (["--queries", "triples"], "triples"),
        (["--limit", "0"], "limit"),
        (["--jobs", "0"], "jobs"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(mmsc, tmp_path, arguments, said):
    assert_refused(mmsc(*QUICK, *arguments), said)
    assert not (tmp_path / "r.json").exists()


def test_a_wrong_folder_is_named(mmsc, tmp_path):
    code, _, errors = mmsc(*QUICK, data=tmp_path / "nowhere")
    assert (code, len(errors)) == (2, 1)
    assert "nowhere" in errors[0]


def test_a_damaged_photo_is_named_and_the_rest_kept(mmsc, folder, tmp_path):
    whole = (folder / "images/p1.png").read_bytes()
    (folder / "images/p1.png").write_bytes(whole[:100])
    code, _, errors = mmsc(*QUICK)
    assert code == 2
    assert "4 figures are kept" in errors[0]
    assert "p1.png" in errors[1]
    (folder / "images/p1.png").write_bytes(whole)
    code, _, errors = mmsc(*QUICK)
    assert code == 0
    assert "4 of 12 figures are there already" in errors[0]


def test_a_half_written_result_file_is_named_and_written_anew(mmsc, tmp_path):
    assert mmsc(*QUICK, "--limit", "1")[0] == 0
    path = tmp_path / "r.json"
    whole = path.read_text()
    path.write_text(whole[:200])
    code, _, errors = mmsc(*QUICK, "--limit", "1")
    assert code == 0
    assert "r.json is half-written" in errors[0]
    assert path.read_text() == whole


def test_a_foreign_file_is_not_overwritten(mmsc, tmp_path):
    assert_foreign_file_kept(mmsc, tmp_path / "r.json", *QUICK)
