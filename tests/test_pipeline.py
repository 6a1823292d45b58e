"""The main path, without weights: what goes in, in which order it comes out, and what is refused."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import skimage.data
from fakes import LeftHalf, MeanCodec, mean_sender

from shared.errors import InvalidInputError
from shared.patches import PatchGrid
from shared.pictures import png_bytes
from transmitter.budget import Budget
from transmitter.importance import patch_importance
from transmitter.ladder.sender import LadderSender
from transmitter.pipeline import MAX_QUERY_CHARACTERS, Job, Pipeline, StageClock, guiding_map

_PHOTO = skimage.data.chelsea()[:120, :160]
_JOB = Job(png_bytes(_PHOTO), "left", Budget("wire_bytes", 4000), 5)


class Asked(LeftHalf):
    """Remembers what it was asked."""

    def __call__(self, image, query):
        self.query = query
        return super().__call__(image, query)


def _pipeline(extractor=None):
    extractor = extractor or LeftHalf()
    return Pipeline({"ladder": mean_sender()}, {extractor.name: extractor})


def _clock():
    ticks = itertools.count()
    return StageClock(lambda: float(next(ticks)))


def _run(job, pipeline=None):
    return list((pipeline or _pipeline()).run(job, 64_000, _clock()))


def test_the_relevant_half_gets_the_bytes():
    _, plan = _run(_JOB)
    levels = plan.plan.levels.reshape(15, 20)
    assert levels[:, :10].mean() > 3 * levels[:, 10:].mean()
    assert sum(map(len, plan.packets)) == plan.plan.wire_bytes <= 4000 == plan.budget_bytes


def test_the_stages_are_timed_by_the_given_clock():
    clock = _clock()
    list(_pipeline().run(_JOB, 64_000, clock))
    assert clock.seconds == {"decode": 1, "relevance": 1, "encode": 1, "allocate": 1, "pack": 1}


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (Budget("wire_bytes", 3000), 3000),
        (Budget("percent_of_raw", 2.5), 1440),
        (Budget("deadline_s", 0.25), 2000),
    ],
)
def test_each_kind_of_budget_becomes_bytes(budget, expected):
    assert _run(replace(_JOB, budget=budget))[1].budget_bytes == expected


@pytest.mark.parametrize("kind", ["wire_bytes", "percent_of_raw", "deadline_s"])
@pytest.mark.parametrize("amount", [0, -1, float("nan"), float("inf"), float("-inf")])
def test_budgets_that_are_none_are_refused(kind, amount):
    with pytest.raises(InvalidInputError, match=kind):
        Budget(kind, amount)


def test_a_budget_beyond_all_bounds_sends_everything_raw():
    plan = _run(replace(_JOB, budget=Budget("percent_of_raw", 1e300)))[1]
    assert (plan.plan.levels == 4).all()


def test_a_long_query_is_read_to_its_limit():
    extractor = Asked()
    _run(replace(_JOB, query="猫" * 10_000), _pipeline(extractor))
    assert extractor.query == "猫" * MAX_QUERY_CHARACTERS


def test_the_clients_own_map_replaces_the_extractor():
    right = np.zeros(_PHOTO.shape[:2], np.uint8)
    right[:, 80:] = 255
    stage, plan = _run(replace(_JOB, relevance_png=png_bytes(right)))
    levels = plan.plan.levels.reshape(15, 20)
    assert stage.extractor == "client"
    assert levels[:, 10:].mean() > 3 * levels[:, :10].mean()


def test_where_nothing_was_found_content_alone_decides():
    stage, plan = _run(replace(_JOB, query="unicorn"))
    assert not stage.relevance.present
    assert not guiding_map(stage.relevance).any()
    assert plan.spread_by_content
    # The same plan as for a map that says nothing at all, and not the one that favours the left.
    blank = replace(_JOB, relevance_png=png_bytes(np.zeros(_PHOTO.shape[:2], np.uint8)))
    np.testing.assert_array_equal(plan.plan.levels, _run(blank)[1].plan.levels)
    assert plan.plan.levels.reshape(15, 20)[:, 10:].any()
    found = _run(_JOB)[1]
    assert not found.spread_by_content
    assert (found.plan.levels != plan.plan.levels).any()


def test_an_extractor_that_exists_but_was_not_loaded_is_told_apart():
    with pytest.raises(InvalidInputError, match=r"'vit-attention' is not loaded .*; loaded: left-half$"):
        _pipeline().extractor("vit-attention")
    with pytest.raises(InvalidInputError, match=r"^extractor: 'oracle' is unknown; loaded: left-half$"):
        _pipeline().extractor("oracle", "extractor")


def test_the_codec_that_is_asked_for_is_taken():
    asked = []

    class Other(LadderSender):
        def prepare(self, image):
            asked.append(image.shape)
            return super().prepare(image)

    pipeline = Pipeline({"ladder": mean_sender(), "other": Other(MeanCodec())}, {"left-half": LeftHalf()})
    _run(_JOB, pipeline)
    assert not asked
    _run(replace(_JOB, codec="other"), pipeline)
    assert asked == [(120, 160, 3)]


def test_a_strategy_that_the_codec_lacks_is_refused_with_those_it_has():
    class Plain(LadderSender):
        strategies = ("rate-distortion",)

    pipeline = Pipeline({"ladder": Plain(MeanCodec())}, {"left-half": LeftHalf()})
    with pytest.raises(InvalidInputError, match=r"options.allocation: the ladder codec has no 'greedy', but rate-dist"):
        _run(replace(_JOB, strategy="greedy"), pipeline)


def test_a_codec_that_exists_but_was_not_loaded_is_told_apart():
    pipeline = Pipeline({"other": mean_sender()}, {"left-half": LeftHalf()})
    with pytest.raises(InvalidInputError, match=r"options.codec: 'ladder' is not loaded"):
        pipeline.codec("ladder")


def test_importance_is_the_mean_over_the_patch():
    relevance = np.zeros((16, 8), np.float32)
    relevance[:4] = 0.5
    assert patch_importance(relevance).tolist() == [0.25, 0]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"image": b"nothing"}, "image"),
        ({"extractor": "oracle"}, "options.extractor"),
        ({"codec": "zip"}, "options.codec"),
        ({"relevance_png": b"nothing"}, "options.relevance_png"),
        ({"budget": Budget("wire_bytes", 10)}, "budget"),
    ],
)
def test_unusable_requests_are_refused_by_field(change, field):
    with pytest.raises(InvalidInputError) as caught:
        _run(replace(_JOB, **change))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"packet_bytes": 255}, "packet_bytes"),
        ({"packet_bytes": 65_001}, "packet_bytes"),
        ({"strategy": "luck"}, "allocation"),
    ],
)
def test_unusable_options_are_refused_by_field(change, field):
    with pytest.raises(InvalidInputError, match=field):
        replace(_JOB, **change)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (8, 1), (3, 300), (257, 9)])
def test_odd_sizes_go_through(width, height):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    plan = _run(replace(_JOB, image=png_bytes(image), budget=Budget("wire_bytes", 100_000)))[1]
    assert plan.plan.header.grid == PatchGrid(width, height)
    assert (plan.plan.levels == 4).all()
