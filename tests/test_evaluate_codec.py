"""`mmsc evaluate codec`: BD-rates by hand, settings through the real encoders and packets, and resuming."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from client import cli
from evaluation.codec.bd_rate import RANGE_BPP, Curve, bd_rate
from evaluation.codec.experiment import Experiment
from evaluation.codec.figures import draw
from evaluation.codec.folder import open_folder
from evaluation.codec.report import curve_of, mean_psnr_at, report_of
from evaluation.codec.run import evaluate
from evaluation.codec.sweeps import DEFAULT_CODECS, LOSSLESS, OWN, PERCENTS, QUALITIES, parse_codecs, settings_of
from evaluation.codec.tables import markdown
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
STRAIGHT = [(0.25, 30.0), (0.5, 32.0), (1.0, 34.0), (2.0, 36.0), (4.0, 38.0)]
"""Two decibels for each doubling: what any interpolation draws the same, however many of the points it has."""
REFERENCE = [(0.1, 27.0), (0.3, 30.5), (0.7, 34.0), (1.5, 38.5), (3.0, 43.0)]


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


# ---- BD-rate -------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [0.9, 1.1, 2.0])
def test_a_curve_at_a_share_of_the_rate_has_just_that_bd_rate(times):
    other = Curve((times * bpp, psnr_db) for bpp, psnr_db in REFERENCE)
    found = bd_rate(Curve(REFERENCE), other)
    assert found.percent == pytest.approx(100 * (times - 1))
    assert found.range_bpp == pytest.approx(RANGE_BPP)
    assert found.overlap == pytest.approx(1)


def test_the_mean_is_taken_over_psnr_and_of_the_logarithm_of_the_rate():
    # Straight lines: the ratio of rates runs from 1 at 30 dB to 4 at 40 dB, so that its geometric mean is 2.
    reference, other = Curve([(0.25, 30.0), (2.0, 40.0)]), Curve([(0.25, 30.0), (8.0, 40.0)])
    assert bd_rate(reference, other).percent == pytest.approx(100)


def test_only_the_reference_rates_of_the_range_count():
    def rates(psnr_db):
        return 1.0 if 30 <= psnr_db <= 40 else 5.0

    steps_db = np.arange(20.0, 51.0, 0.5)
    reference = [(0.25 * 8 ** ((psnr_db - 30) / 10), psnr_db) for psnr_db in steps_db]
    other = [(bpp * rates(psnr_db), psnr_db) for bpp, psnr_db in reference]
    assert bd_rate(Curve(reference), Curve(other)).percent == pytest.approx(0, abs=1)
    assert bd_rate(Curve(reference), Curve(other), (0.05, 10.0)).percent > 30


def test_curves_that_overlap_in_part_say_on_how_much():
    other = Curve((1.2 * bpp, psnr_db) for bpp, psnr_db in STRAIGHT[2:])
    found = bd_rate(Curve(STRAIGHT), other)
    assert found.percent == pytest.approx(20)
    assert found.range_bpp == pytest.approx((1.0, 2.0))
    assert found.overlap == pytest.approx(1 / 3)


@pytest.mark.parametrize("points", [[], [(1.0, 35.0)], [(1.0, 10.0), (2.0, 20.0)], [(1.0, 60.0), (2.0, 70.0)]])
def test_curves_that_do_not_overlap_have_no_bd_rate(points):
    assert bd_rate(Curve(REFERENCE), Curve(points)) is None
    assert bd_rate(Curve(points), Curve([(3.0, 90.0), (4.0, 95.0)])) is None


def test_points_that_a_smaller_file_equals_are_left_out():
    curve = Curve([*REFERENCE, (0.5, 30.4), (0.3, 30.5), (3.0, 42.0), (0, 5.0)])
    assert curve.psnr_db.tolist() == [psnr_db for _, psnr_db in REFERENCE]
    for bpp, psnr_db in REFERENCE:
        assert curve.psnr_at(bpp) == pytest.approx(psnr_db)
        assert curve.bpp_at(psnr_db) == pytest.approx(bpp)
    assert curve.psnr_at(0.09) is curve.psnr_at(3.1) is None
    assert (curve.nearest_psnr(0.01), curve.nearest_psnr(9)) == (27, 43)


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


# ---- report and figures --------------------------------------------------------------------------


def records(curves, lossless, images=("a.png", "b.png")):
    """Records as the measuring makes them, of pictures of 80x100 pixels, on which a byte is 0.001 bits per pixel."""
    made = []
    for image in images:
        for codec, points in curves.items():
            for setting, (bpp, psnr_db) in enumerate(points):
                made.append(record(image, codec, f"s{setting}", round(1000 * bpp), psnr_db))
            if codec in lossless:
                made.append(record(image, codec, LOSSLESS, lossless[codec], 100.0))
    return made


def record(image, codec, setting, size_bytes, psnr_db):
    return {
        "image": image,
        "digest": "d",
        "codec": codec,
        "setting": setting,
        "width": 80,
        "height": 100,
        "bytes": size_bytes,
        "budget_bytes": None,
        "fits": True,
        "bpp": size_bytes / 1000,
        "psnr_db": psnr_db,
        "ssim": 0.9,
        "exact": psnr_db == 100,
        "lossless": setting == LOSSLESS,
    }


def test_the_report_of_hand_made_curves():
    cheaper = [(0.9 * bpp, psnr_db) for bpp, psnr_db in REFERENCE]
    made = records({"ladder": cheaper, "avif": REFERENCE, "jxl": REFERENCE}, {"ladder": 10_500, "jxl": 10_000})
    report = report_of(made, avif_speed=4)
    rate = report["bd_rate_percent"]["ladder"]
    assert rate["psnr"] == pytest.approx(-10, abs=0.01)
    assert (rate["range_bpp"], rate["overlap"], rate["images"]) == (pytest.approx(RANGE_BPP), pytest.approx(1), 2)
    assert report["bd_rate_percent"]["jxl"]["psnr"] == pytest.approx(0, abs=1e-9)
    assert report["lossless"]["ladder"] == {"bytes": 10_500, "percent_of_raw": 43.75, "exact": True}
    assert [(check["value"], check["bar"], check["ok"]) for check in report["checks"]] == [
        (pytest.approx(-10, abs=0.01), 5, True),
        (43.75, 45, True),
        (pytest.approx(5), 5, True),
    ]
    assert report["psnr_db_at_bpp"]["avif"]["1"] == pytest.approx(Curve(REFERENCE).psnr_at(1), abs=1e-5)
    assert [line.split("|")[1:3] for line in markdown(report).splitlines()[2:5]] == [
        [" ladder ", " -10.0 % "],
        [" avif ", "  "],
        [" jxl ", " +0.0 % "],
    ]


def test_a_top_level_that_is_not_exact_fails_whatever_its_size():
    made = records({"ladder": REFERENCE, "avif": REFERENCE}, {})
    report = report_of([*made[:5], {**record("a.png", "ladder", LOSSLESS, 100, 60.0)}, *made[5:10]], avif_speed=4)
    assert report["lossless"]["ladder"]["exact"] is False
    assert report["checks"][-1]["ok"] is False
    assert "not exact" in markdown(report)


def test_what_did_not_fit_and_what_is_exact_is_off_the_curve():
    points = [
        record("a.png", "ladder", f"s{place}", 1000 * place, psnr_db) for place, psnr_db in enumerate((9, 30, 40))
    ]
    points += [{**record("a.png", "ladder", "s3", 0, 7.0), "fits": False}, record("a.png", "ladder", "s4", 9000, 100.0)]
    assert curve_of(points).psnr_db.tolist() == [30, 40]
    made = records({"ladder": REFERENCE}, {})
    made[0] = {**made[0], "fits": False, "bytes": 0, "bpp": 0.0, "psnr_db": 7.0}
    report = report_of(made, avif_speed=4)
    assert [point["setting"] for point in report["curves"]["ladder"]] == ["s1", "s2", "s3", "s4"]
    assert mean_psnr_at(report["images"], "ladder", 0.2) is None
    assert mean_psnr_at(report["images"], "ladder", 0.5) is not None


def test_a_part_of_the_range_is_marked_in_the_table():
    made = records({"avif": STRAIGHT, "jpeg": STRAIGHT[1:]}, {})
    row = next(line for line in markdown(report_of(made, avif_speed=4)).splitlines() if line.startswith("| jpeg"))
    assert "+0.0 %*" in row
    nothing = report_of(records({"avif": REFERENCE, "jpeg": [(1, 9.0), (2, 11.0)]}, {}), avif_speed=4)
    assert nothing["bd_rate_percent"]["jpeg"]["psnr"] is None
    assert nothing["bd_rate_percent"]["jpeg"]["images"] == 0
    assert "| jpeg | * |" in markdown(nothing)


def test_figures(tmp_path):
    shifted = [(1.3 * bpp, psnr_db) for bpp, psnr_db in REFERENCE]
    curves = {"ladder": shifted, "avif": REFERENCE, "jpeg": [(1, 9.0), (2, 11.0)]}
    paths = draw(report_of(records(curves, {}, ("$a{_$.png", "猫.png")), avif_speed=4), tmp_path)
    assert [path.name for path in paths] == ["rate_distortion.png", "bd_rate.png"]
    for path in paths:
        with Image.open(path) as figure:
            assert min(figure.size) > 400
            assert len(figure.convert("RGB").getcolors(figure.width * figure.height)) > 20
    alone = draw(report_of(records({"jpeg": [(1, 9.0)]}, {}, ("a.png",)), avif_speed=4), tmp_path)
    assert [path.name for path in alone] == ["rate_distortion.png"]


# ---- the command ---------------------------------------------------------------------------------


@pytest.fixture
def mmsc(folder, tmp_path, capfd):
    def run(*arguments, data=folder):
        code = cli.run(["evaluate", "codec", str(data), "--json", str(tmp_path / "r.json"), *arguments])
        output = capfd.readouterr()
        return code, output.out, output.err.splitlines()

    return run


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
    code, out, errors = mmsc(*QUICK, *arguments)
    assert (code, out, len(errors)) == (2, "", 1)
    assert said in errors[0]
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
    (tmp_path / "r.json").write_text('{"my": "diary"}')
    for more in ([], ["--restart"]):
        code, _, errors = mmsc(*QUICK, *more)
        assert (code, len(errors)) == (2, 1)
        assert (tmp_path / "r.json").read_text() == '{"my": "diary"}'
