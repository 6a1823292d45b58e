"""The price of a bit from part to part: as many bits as may be, whatever the measure was off by."""

import numpy as np
import pytest
from skimage.data import astronaut

from shared.codec.entropy.codec import load_entropy_codec
from shared.codec.entropy.context import PatchContext
from shared.codec.entropy.lossy_model import DEFAULT_PRICE
from shared.codec.entropy.pacing import NO_COURSE, RAISED, Course, Pacer, place_groups, place_of
from shared.codec.entropy.schedule import steps
from shared.patches import PatchGrid, split

MODEL = load_entropy_codec().lossy
IMAGE = np.ascontiguousarray(astronaut()[40:168, 150:310])
GRID = PatchGrid.of(IMAGE)
COEFFICIENTS = MODEL.transform.analyse(split(IMAGE))
PLACES = len(place_groups())


def _context(quality):
    rows, columns = np.divmod(np.arange(GRID.count), GRID.columns)
    return PatchContext(rows, columns, np.full(GRID.count, quality), np.zeros((GRID.count, 3)))


def _course(exponent):
    bits = np.linspace(1, 50, PLACES)
    return Course(bits, bits * RAISED**-exponent)


def test_places_follow_the_order_of_coding():
    found = [place_of(step, part) for step in steps() for part in step.parts]
    assert found == list(range(PLACES))
    assert (np.diff(place_groups()) >= 0).all()


@pytest.mark.parametrize("ratio", [0.6, 1.0, 1.7])
def test_ratio_for_is_the_inverse_of_at(ratio):
    course = _course(np.linspace(0.1, 1, PLACES))
    assert course.ratio_for(course.at(ratio)) == pytest.approx(ratio, rel=1e-3)


def test_no_course_has_no_say():
    assert NO_COURSE.ratio_for(100) == 1
    assert NO_COURSE.at(3) == 0


def test_what_does_not_follow_the_price_leaves_it_alone():
    assert _course(0.0).ratio_for(1) == 1


@pytest.mark.parametrize("off", [0.97, 1.0, 1.04])
def test_pacer_makes_good_what_the_measure_was_off_by(off):
    course = _course(np.linspace(0.05, 0.8, PLACES))
    limit_bits, spent = 1.03 * course.total, 0.0
    pacer = Pacer(course, limit_bits, (0.1, 10))
    for place in range(PLACES):
        ratio = pacer(place, spent)
        spent += off * course.bits[place] * ratio ** -course.exponents[place]
    assert spent == pytest.approx(limit_bits, rel=2e-3)


def test_pacer_keeps_to_its_bounds():
    course = _course(0.2)
    pacer = Pacer(course, 0.01 * course.total, (0.5, 1.5))
    assert {pacer(place, 1e6) for place in range(PLACES)} == {1.5}
    assert pacer.mean == pytest.approx(1.5)


@pytest.mark.parametrize("quality", [50, 90])
@pytest.mark.parametrize("growth", [0.96, 1.04])
def test_patches_are_coded_into_what_they_may_take(quality, growth):
    course = MODEL.measure(COEFFICIENTS, _context(quality), DEFAULT_PRICE).course
    limit_bits = growth * course.total
    pacer = Pacer(course, limit_bits, (0.2, 3))
    body = MODEL.encode(COEFFICIENTS, _context(quality), DEFAULT_PRICE, pacer).bodies[0]
    assert 8 * len(body) == pytest.approx(limit_bits, rel=0.008, abs=40)
    decoded = MODEL.decode([body], _context(quality))
    assert not decoded.damaged.any()


def test_course_tells_how_bits_follow_the_price():
    courses = [
        MODEL.measure(COEFFICIENTS, _context(80), price).course for price in (DEFAULT_PRICE, RAISED * DEFAULT_PRICE)
    ]
    assert courses[0].at(RAISED) == pytest.approx(courses[1].total, rel=0.015)
    assert courses[0].at(RAISED) < courses[0].total
