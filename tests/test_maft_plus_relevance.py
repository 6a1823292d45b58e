"""Equation 7 in its four readings, against the numbers of the original."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from shared.errors import InvalidInputError
from transmitter.relevance.maft_plus.relevance import (
    CONVENTIONS,
    Segments,
    Texts,
    checked_convention,
    mask_relevancies,
    mask_weights,
    relevance_maps,
    spread_greatest,
    spread_sum,
    stretched,
)
from transmitter.relevance.prompts import CONTRASTS, rivals

_CLOSE = {"atol": 1e-6, "rtol": 1e-5}


@pytest.fixture(scope="module")
def golden():
    """Tensors of the original, one picture of 96x128."""
    return load_file(Path(__file__).parent / "expected" / "maft_eq7.safetensors")


def _random(queries=2, masks=40, batch=2, channels=16, size=(6, 8)):
    torch.manual_seed(3)
    texts = Texts(
        torch.randn(batch, queries, channels),
        torch.randn(batch, len(CONTRASTS), channels),
        rivals(["cat"] * queries),
    )
    return texts, Segments(torch.randn(batch, masks, channels), torch.randn(batch, masks, *size) * 3)


# ---- against the original -------------------------------------------------------------------------


@pytest.mark.parametrize(("convention", "name"), [("raw", "raw"), ("unit-v", "vnorm"), ("cosine", "cos")])
def test_weights_and_sums_are_the_originals(golden, convention, name):
    weights = mask_weights(golden["t_hat"], golden["V"], convention)
    assert torch.allclose(weights[:, 0], golden[f"w_{name}"], **_CLOSE)
    coarse = spread_sum(weights, golden["mask_logits"])
    assert torch.allclose(coarse[:, 0], golden[f"S_inf_{name}_stride4"], **_CLOSE)


@pytest.mark.parametrize(("convention", "name"), [("raw", "raw"), ("cosine", "cos")])
def test_logits_are_grown_before_their_sigmoids_as_in_the_original(golden, convention, name):
    weights = mask_weights(golden["t_hat"], golden["V"], convention)
    fine = spread_sum(weights, golden["mask_logits"], (96, 128))
    assert fine.shape == (1, 1, 96, 128)
    expected = golden[f"S_inf_{name}_every_third"]
    assert torch.allclose(fine[:, 0, 1::3, ::3], expected, **_CLOSE)
    late = functional.interpolate(spread_sum(weights, golden["mask_logits"]), (96, 128), mode="bilinear")
    assert not torch.allclose(late[:, 0, 1::3, ::3], expected, atol=1e-3)


# ---- spreading ------------------------------------------------------------------------------------


def test_masks_are_taken_in_parts_without_changing_the_result():
    _, segments = _random(masks=70)
    weights = torch.randn(2, 3, 70)
    covers = functional.interpolate(segments.logits, (13, 17), mode="bilinear").sigmoid()
    whole = torch.einsum("bqn,bnhw->bqhw", weights, covers)
    assert torch.allclose(spread_sum(weights, segments.logits, (13, 17)), whole, atol=1e-5)
    products = weights[:, :, :, None, None] * covers[:, None]
    assert torch.allclose(spread_greatest(weights, segments.logits, (13, 17)), products.amax(2), atol=1e-6)


def test_each_query_and_each_picture_has_its_own_map():
    texts, segments = _random(queries=3)
    maps, present = relevance_maps(texts, segments, 20.0)
    assert (maps.shape, present.shape) == ((2, 3, 6, 8), (2, 3))
    for picture in range(2):
        for query in range(3):
            row = slice(query, query + 1)
            one = Texts(
                texts.queries[picture : picture + 1, row], texts.contrasts[picture : picture + 1], texts.against[row]
            )
            part = Segments(segments.visual[picture : picture + 1], segments.logits[picture : picture + 1])
            alone, found = relevance_maps(one, part, 20.0)
            assert torch.allclose(alone[0, 0], maps[picture, query], atol=1e-6)
            assert bool(found) == bool(present[picture, query])


def test_half_precision_of_the_network_does_not_reach_the_map():
    texts, segments = _random()
    half = Texts(texts.queries.bfloat16(), texts.contrasts.bfloat16(), texts.against)
    maps, _ = relevance_maps(half, Segments(segments.visual.bfloat16(), segments.logits.bfloat16()), 20.0)
    assert maps.dtype == torch.float32


# ---- the default convention -----------------------------------------------------------------------


def test_relevancies_do_not_change_with_the_length_of_v_and_lie_between_0_and_1():
    texts, segments = _random()
    found = mask_relevancies(texts, segments.visual, 100.0)
    assert torch.allclose(found, mask_relevancies(texts, segments.visual * 7, 100.0), atol=1e-5)
    assert bool(((found >= 0) & (found <= 1)).all())


@pytest.mark.parametrize("size", [None, (24, 32)])
def test_the_default_map_lies_between_0_and_1_however_many_masks_cover_a_pixel(size):
    texts, segments = _random(masks=100)
    everywhere = Segments(segments.visual, torch.full_like(segments.logits, 30))
    for each in (segments, everywhere):
        maps, _ = relevance_maps(texts, each, 100.0, size=size)
        assert bool(((maps >= 0) & (maps <= 1)).all())


def test_a_mask_that_fits_badly_does_not_push_what_it_covers_below_what_none_covers():
    logits = torch.full((1, 2, 4, 4), -30.0)
    logits[0, 0, :2], logits[0, 1, :, :2] = 30.0, 30.0
    visual = torch.tensor([[[-1.0, 0.0], [0.6, 0.8]]])
    contrasts = torch.tensor([[0.0, 1.0]]).expand(1, len(CONTRASTS), 2)
    texts = Texts(torch.tensor([[[1.0, 0.0]]]), contrasts, rivals(["cat"]))
    raw, _ = relevance_maps(texts, Segments(visual, logits), 5.0, convention="raw")
    default, _ = relevance_maps(texts, Segments(visual, logits), 5.0)
    assert raw[0, 0, 0, 3] < raw[0, 0, 3, 3]
    assert default[0, 0, 0, 3] >= default[0, 0, 3, 3]
    assert default[0, 0, 0, 0] == default[0, 0, 3, 0]
    assert raw[0, 0, 0, 0] < raw[0, 0, 3, 0]


def test_several_masks_on_one_object_count_once():
    texts, segments = _random(masks=3)
    once, _ = relevance_maps(texts, segments, 20.0)
    twice = Segments(segments.visual.repeat(1, 4, 1), segments.logits.repeat(1, 4, 1, 1))
    assert torch.allclose(relevance_maps(texts, twice, 20.0)[0], once)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_present_is_what_fits_better_than_its_contrasts_where_there_is_a_mask(convention):
    cat, thing = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    texts = Texts(
        torch.stack([cat, torch.tensor([0.0, 0.0, 1.0])])[None],
        thing.expand(1, len(CONTRASTS), 3),
        rivals(["cat", "dog"]),
    )
    visual = torch.stack([torch.tensor([0.9, 0.3, 0.1]), torch.tensor([0.1, 0.9, 0.2])])[None]
    logits = torch.full((1, 2, 4, 4), -9.0)
    logits[0, 0, 1, 1] = logits[0, 1, 2, 2] = 9.0
    maps, present = relevance_maps(texts, Segments(visual, logits), 50.0, convention=convention)
    assert present.tolist() == [[True, False]]
    if convention == "relevancy":
        assert float(maps[0, 1].amax()) < 0.5 <= float(maps[0, 0, 1, 1])
    nowhere = Segments(visual, torch.full((1, 2, 4, 4), -9.0))
    assert relevance_maps(texts, nowhere, 50.0, convention=convention)[1].tolist() == [[False, False]]


# ---- the other conventions as maps ----------------------------------------------------------------


def test_stretching_keeps_the_order_and_makes_flat_maps_0():
    maps = torch.randn(2, 3, 5, 7)
    maps[1, 1] = -3.25
    result = stretched(maps)
    assert torch.equal(result[0].flatten(1).argsort(), maps[0].flatten(1).argsort())
    assert torch.equal(result[1, 1], torch.zeros(5, 7))
    assert torch.equal(result[0].amax((1, 2)), torch.ones(3))
    assert torch.equal(result.amin((2, 3)), torch.zeros(2, 3))


def test_an_unknown_convention_is_refused_and_the_known_ones_are_told():
    assert [checked_convention(name) for name in CONVENTIONS] == list(CONVENTIONS)
    assert CONVENTIONS[0] == "relevancy"
    with pytest.raises(InvalidInputError, match=r"convention: unknown 'Raw'; there are: relevancy, raw, unit-v, cos"):
        checked_convention("Raw")
