"""BD-rates by hand, and the report of hand-made curves."""

import numpy as np
import pytest
from PIL import Image

from evaluation.codec.bd_rate import RANGE_BPP, Curve, bd_rate
from evaluation.codec.figures import draw
from evaluation.codec.report import curve_of, mean_psnr_at, report_of
from evaluation.codec.sweeps import LOSSLESS
from evaluation.codec.tables import markdown

STRAIGHT = [(0.25, 30.0), (0.5, 32.0), (1.0, 34.0), (2.0, 36.0), (4.0, 38.0)]
"""Two decibels for each doubling: what any interpolation draws the same, however many of the points it has."""
REFERENCE = [(0.1, 27.0), (0.3, 30.5), (0.7, 34.0), (1.5, 38.5), (3.0, 43.0)]


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
