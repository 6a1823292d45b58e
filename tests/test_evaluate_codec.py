"""`mmsc evaluate codec`: settings through the real encoders and packets, resuming, and bad input."""

import json
from dataclasses import replace

import numpy as np
import pytest
from commands import assert_foreign_file_kept, assert_refused, evaluating
from PIL import Image

from evaluation.codec.experiment import Experiment
from evaluation.codec.folder import open_folder
from evaluation.codec.run import evaluate
from evaluation.codec.sweeps import DEFAULT_CODECS, LOSSLESS, OWN, PERCENTS, QUALITIES, parse_codecs, settings_of
from evaluation.partial import PARTIAL_SUFFIX
from evaluation.transmission.photo import Photo
from evaluation.transmission.stills import STILLS
from evaluation.transmission.systems import CODECS
from evaluation.transmission.tools import Settings, Tools
from receiver.codecs import load_receiver
from shared.errors import InvalidInputError
from transmitter.codecs import load_sender

WIDTH, HEIGHT = 64, 48
SETTINGS = Settings(avif_speed=10, judge=None)


@pytest.fixture(scope="session")
def models():
    return {"ladder": load_sender("ladder")}, {"ladder": load_receiver("ladder")}


@pytest.fixture
def tools(models):
    return Tools(SETTINGS, *models)


def picture(seed):
    """A gradient with an edge and some noise: every codec has something to gain on it."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    image = np.stack([3 * columns, 4 * rows, 60 + columns + rows], axis=2) + random.normal(0, 6, (HEIGHT, WIDTH, 3))
    image[10:30, 20:50] = 255 - image[10:30, 20:50]
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "pictures"
    made.mkdir()
    for number in range(3):
        Image.fromarray(picture(number)).save(made / f"p{number}.png")
    (made / "notes.txt").write_text("no picture")
    (made / ".hidden.png").write_bytes(b"no picture either")
    (made / "deeper").mkdir()
    return made


@pytest.fixture
def experiment(folder):
    return Experiment(open_folder(folder), ("ladder", "avif", "jpeg"), SETTINGS)


@pytest.fixture
def notes():
    return []


# ---- settings ------------------------------------------------------------------------------------


def test_every_format_and_every_own_codec_is_there():
    assert {"ladder", "greedy", "vit-sc"} <= set(OWN)
    assert {*OWN, *STILLS} == {name for name in CODECS if not name.endswith("-blur")}
    assert parse_codecs(" avif,ladder, avif ") == ("avif", "ladder")
    assert set(parse_codecs(DEFAULT_CODECS)) == {"ladder", *STILLS}


@pytest.mark.parametrize("text", ["magic", "avif-blur", "oracle:ladder", "", ",,"])
def test_unknown_codecs_are_refused(text):
    with pytest.raises(InvalidInputError, match=r"--codecs.*there are: ladder.*avif"):
        parse_codecs(text)


@pytest.mark.parametrize("codec", ["avif", "jxl", "webp", "jpeg"])
def test_a_format_is_measured_over_all_its_qualities(codec, tools):
    photo = Photo(picture(0), tools)
    settings = settings_of(codec, 10)
    found = {name: encode(photo) for name, encode in settings.items()}
    lossy = [coded.size_bytes for name, coded in found.items() if name != LOSSLESS]
    assert len(lossy) == QUALITIES
    assert lossy[0] == min(lossy) < max(lossy) / 4
    assert (LOSSLESS in found) == (codec in {"jxl", "webp"})
    if LOSSLESS in found:
        assert (found[LOSSLESS].picture == photo.image).all()


@pytest.mark.parametrize("codec", OWN)
def test_our_own_codecs_are_asked_for_budgets_up_to_the_exact_top(codec, tools):
    photo = Photo(picture(0), tools)
    found = {name: encode(photo) for name, encode in settings_of(codec, 10).items()}
    *budgets, top = found.values()
    assert len(budgets) == len(PERCENTS)
    for percent, coded in zip(PERCENTS, budgets, strict=True):
        assert coded.budget_bytes == int(photo.image.nbytes * percent / 100)
        assert coded.size_bytes <= coded.budget_bytes
        assert coded.fits == (coded.size_bytes > 0)
    assert (top.picture == photo.image).all()
    assert top.size_bytes > 0
    assert top.budget_bytes is None


# ---- the run -------------------------------------------------------------------------------------


def test_a_run(experiment, tools, tmp_path, notes):
    report = evaluate(experiment, tools, tmp_path / "r.json", notes.append)
    assert json.loads((tmp_path / "r.json").read_text()) == json.loads(json.dumps(report))
    assert list(report["curves"]) == ["ladder", "avif", "jpeg"]
    assert set(report["bd_rate_percent"]) == {"ladder", "jpeg"}
    assert set(report["lossless"]) == {"ladder", "raw"}
    assert report["lossless"]["ladder"]["exact"]
    assert report["lossless"]["raw"] == {"bytes": WIDTH * HEIGHT * 3, "percent_of_raw": 100, "exact": True}
    assert [image["image"] for image in report["images"]] == ["p0.png", "p1.png", "p2.png"]
    for image in report["images"]:
        for point in (point for points in image["points"].values() for point in points):
            assert point["bpp"] == pytest.approx(8 * point["bytes"] / (WIDTH * HEIGHT), abs=1e-5)
    assert len(report["curves"]["jpeg"]) == QUALITIES
    assert 0 < len(report["curves"]["ladder"]) <= len(PERCENTS)
    assert notes == []


def test_points_of_a_curve_are_means_over_the_pictures(experiment, tools, tmp_path, notes):
    report = evaluate(replace(experiment, codecs=("jpeg",)), tools, tmp_path / "r.json", notes.append)
    assert report["bd_rate_percent"] == {}
    for place, point in enumerate(report["curves"]["jpeg"]):
        of_point = [image["points"]["jpeg"][place] for image in report["images"]]
        assert {each["setting"] for each in of_point} == {point["setting"]}
        for name in ("bpp", "psnr_db", "ssim", "bytes"):
            assert point[name] == pytest.approx(np.mean([each[name] for each in of_point]), abs=1e-5)


def test_a_finished_run_is_only_added_to(experiment, tools, tmp_path, notes, monkeypatch):
    path, partial = tmp_path / "r.json", tmp_path / f"r.json{PARTIAL_SUFFIX}"
    less = replace(experiment, pictures=experiment.pictures[:2], codecs=("jpeg",))
    evaluate(less, tools, path, notes.append)
    lines = partial.read_text().splitlines()
    assert len(lines) == 1 + 2 * QUALITIES
    with monkeypatch.context() as patched:
        patched.setattr("evaluation.codec.run.measured", None)
        evaluate(less, tools, path, notes.append)
    more = replace(experiment, codecs=("avif", "jpeg"))
    report = evaluate(more, tools, path, notes.append)
    assert partial.read_text().splitlines()[: len(lines)] == lines
    evaluate(more, tools, tmp_path / "s.json", notes.append)
    assert path.read_text() == (tmp_path / "s.json").read_text()
    assert list(report["curves"]) == ["avif", "jpeg"]
    assert f"{2 * QUALITIES} of {6 * QUALITIES} figures are there already" in notes[-1]


def test_a_picture_that_changes_is_measured_anew(experiment, folder, tools, tmp_path, notes):
    jpeg = replace(experiment, codecs=("jpeg",))
    first = evaluate(jpeg, tools, tmp_path / "r.json", notes.append)
    Image.fromarray(picture(7)).save(folder / "p1.png")
    second = evaluate(replace(jpeg, pictures=open_folder(folder)), tools, tmp_path / "r.json", notes.append)
    same = [one == other for one, other in zip(first["images"], second["images"], strict=True)]
    assert same == [True, False, True]


def test_an_interrupted_run_goes_on(experiment, tools, tmp_path, notes, monkeypatch):
    from evaluation.codec import experiment as module

    both, path = replace(experiment, codecs=("jpeg", "avif")), tmp_path / "r.json"
    with monkeypatch.context() as patched:
        real, calls = module._record, []

        def stops(task, photo, codec, setting):
            calls.append(codec)
            if len(calls) > QUALITIES + 3:
                raise KeyboardInterrupt
            return real(task, photo, codec, setting)

        patched.setattr(module, "_record", stops)
        with pytest.raises(KeyboardInterrupt):
            evaluate(both, tools, path, notes.append)
    assert not path.exists()
    assert f"{QUALITIES} figures are kept" in notes[-1]
    evaluate(both, tools, path, notes.append)
    evaluate(both, tools, tmp_path / "s.json", notes.append)
    assert path.read_text() == (tmp_path / "s.json").read_text()


@pytest.mark.timeout(400)
def test_processes_give_the_same_figures(experiment, tools, tmp_path, notes):
    seen = []
    for jobs in (1, 2):
        evaluate(experiment, tools, tmp_path / f"{jobs}.json", notes.append, lambda *at: seen.append(at), jobs=jobs)
    assert (tmp_path / "1.json").read_text() == (tmp_path / "2.json").read_text()
    assert seen[-1] == (3, 3)


def test_other_settings_are_not_mixed_in(experiment, tools, tmp_path, notes):
    jpeg, path = replace(experiment, codecs=("jpeg",)), tmp_path / "r.json"
    evaluate(jpeg, tools, path, notes.append)
    other = replace(jpeg, settings=replace(SETTINGS, avif_speed=9))
    with pytest.raises(InvalidInputError, match=r"avif_speed.*--restart"):
        evaluate(other, tools, path, notes.append)
    evaluate(other, tools, path, notes.append, restart=True)


# ---- the command ---------------------------------------------------------------------------------


@pytest.fixture
def mmsc(folder, tmp_path, capfd):
    return evaluating(capfd, "codec", folder, tmp_path / "r.json")


QUICK = ("--codecs", "avif,jpeg", "--avif-speed", "10")


def test_the_command(mmsc, tmp_path):
    figures = tmp_path / "figures"
    code, out, errors = mmsc(*QUICK, "--limit", "2", "--figures", str(figures))
    assert (code, errors) == (0, [])
    assert out.startswith("| codec | BD-rate, avif | 0.25 bpp | 0.5 bpp | 1 bpp | 2 bpp | lossless, of raw |")
    report = json.loads((tmp_path / "r.json").read_text())
    assert len(report["images"]) == 2
    assert report["settings"]["avif_speed"] == 10
    assert not any("relevance" in name for name in report["settings"]["weights"])
    assert {path.name for path in figures.iterdir()} == {"rate_distortion.png", "bd_rate.png"}
    code, _, errors = mmsc(*QUICK)
    assert code == 0
    assert f"{4 * QUALITIES} of {6 * QUALITIES} figures are there already" in errors[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--codecs", "magic"], "unknown codec 'magic'; there are: ladder"),
        (["--codecs", "jpeg-blur"], "unknown codec"),
        (["--codecs", ""], "names none"),
        (["--limit", "0"], "limit"),
        (["--jobs", "0"], "jobs"),
        (["--avif-speed", "11"], "avif-speed"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(mmsc, tmp_path, arguments, said):
    assert_refused(mmsc(*QUICK, *arguments), said)
    assert not (tmp_path / "r.json").exists()


def test_a_folder_without_pictures_is_named(mmsc, tmp_path, folder):
    for wrong, said in ((tmp_path / "nowhere", "is no folder"), (folder / "deeper", "has no pictures")):
        code, _, errors = mmsc(*QUICK, data=wrong)
        assert (code, len(errors)) == (2, 1)
        assert wrong.name in errors[0]
        assert said in errors[0]


def test_a_picture_that_does_not_decode_is_named_and_the_rest_kept(mmsc, folder):
    whole = (folder / "p1.png").read_bytes()
    (folder / "p1.png").write_bytes(whole[:100])
    code, _, errors = mmsc(*QUICK)
    assert code == 2
    assert f"{2 * QUALITIES} figures are kept" in errors[0]
    assert "p1.png" in errors[1]
    (folder / "p1.png").write_bytes(whole)
    assert mmsc(*QUICK)[0] == 0


def test_a_foreign_file_is_not_overwritten(mmsc, tmp_path):
    assert_foreign_file_kept(mmsc, tmp_path / "r.json", *QUICK)
