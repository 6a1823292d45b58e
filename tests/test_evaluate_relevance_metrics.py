"""Measures of relevance, worked out by hand."""

import pytest
from evaluation_data import flags, floats
from hypothesis import given
from hypothesis import strategies as st

from evaluation.relevance.metrics import auroc, average_precision, budget_recall, soft_iou


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
