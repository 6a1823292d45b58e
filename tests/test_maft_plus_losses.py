"""The losses of MAFT+'s training: against the original's numbers, and against what can be worked out by hand."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from evaluation.maft_golden.training import check_training
from shared.errors import InvalidInputError
from training.maft_plus.alignment_losses import (
    MA_WEIGHT,
    RC_WEIGHT,
    compensation_loss,
    mask_aware_loss,
    min_max,
    profiles,
    soft_iou,
)
from training.maft_plus.matching import Match, match, pairwise_bce, pairwise_dice
from training.maft_plus.points import PictureDraws, point_sample, uncertain_points
from training.maft_plus.proposal_loss import Proposals, class_loss, mask_losses, proposal_loss
from training.maft_plus.replay import RecordedDraws, replay
from training.maft_plus.step import mask_count
from training.maft_plus.targets import Target, pad_targets

_SAME = {"rtol": 1e-5, "atol": 0.0}


@pytest.fixture(scope="module")
def golden():
    """One output of the original's decoder with its draws, matches and losses; P = 64, one picture of 96x128."""
    return load_file(Path(__file__).parent / "expected" / "maft_losses.safetensors")


def golden_target(golden):
    return Target(golden["target.labels0"], golden["target.masks0"].bool())


def draws(*seeds):
    return PictureDraws(seeds, torch.device("cpu"))


def target(labels, masks):
    return Target(torch.tensor(labels, dtype=torch.int64), torch.as_tensor(np.asarray(masks), dtype=torch.bool))


def nothing(height=32, width=48):
    return target([], np.zeros((0, height, width)))


def half(height=32, width=48):
    """A mask of the left half."""
    mask = np.zeros((1, height, width))
    mask[:, :, : width // 2] = 1
    return mask


def logits_of(mask, high=8.0):
    """(1, h / 4, w / 4) logits of a mask whose borders lie on the coarse grid."""
    return torch.from_numpy(np.where(mask[:, 2::4, 2::4] > 0, high, -high)).float()


# ---- against the original ---------------------------------------------------


def test_losses_and_matches_of_proposals_are_the_originals(golden):
    recorded = RecordedDraws([golden[f"rand.00{number}"] for number in range(3)])
    output = Proposals(golden["mask_logits"], golden["class_logits"])
    found = proposal_loss([output], [golden_target(golden)], 2, recorded, points=64)
    for name in ("loss_ce", "loss_mask", "loss_dice"):
        torch.testing.assert_close(found.terms[name].view(1), golden[f"loss.{name}"], **_SAME)
    pairs = found.matches[0][0]
    assert torch.equal(torch.stack([pairs.queries, pairs.segments]), golden["match.call0.image0"])
    assert recorded.left == 0


def test_mask_aware_loss_is_the_originals(golden):
    one = golden_target(golden)
    found = MA_WEIGHT * mask_aware_loss(golden["outvocab.logits"][:, :, :-1], golden["mask_logits"], [one])
    torch.testing.assert_close(found.view(1), golden["loss.ranking_loss"], **_SAME)
    raw = soft_iou(golden["mask_logits"][0], one.masks)
    torch.testing.assert_close(raw, golden["ma.iou_raw"], **_SAME)
    torch.testing.assert_close(min_max(raw), golden["ma.iou_norm"], rtol=1e-5, atol=1e-5)


def test_compensation_loss_is_the_originals(golden):
    found = RC_WEIGHT * compensation_loss(golden["student"], golden["teacher"])
    torch.testing.assert_close(found.view(1), golden["loss.rc_loss"], **_SAME)


def test_a_step_out_of_tolerance_is_told():
    recorded = {
        "loss.total": torch.tensor([2.0]),
        "match.call0.image0": torch.tensor([[1], [0]]),
        "ma.iou_raw": torch.tensor([[0.5]]),
        "grad.cdt": torch.tensor([1.0, 1e-9]),
    }
    assert all(check.ok for check in check_training(recorded, recorded))
    near = recorded | {"loss.total": torch.tensor([2.00001]), "grad.cdt": torch.tensor([1.00005, 0.0])}
    assert all(check.ok for check in check_training(near, recorded))
    for name, wrong in {
        "loss.total": torch.tensor([2.0001]),
        "match.call0.image0": torch.tensor([[0], [1]]),
        "ma.iou_raw": torch.tensor([[torch.nan]]),
        "grad.cdt": torch.tensor([1.0002, 1e-9]),
    }.items():
        verdicts = [check.ok for check in check_training(recorded | {name: wrong}, recorded)]
        assert verdicts.count(False) == 1
        without = {other: value for other, value in recorded.items() if other != name}
        assert not all(check.ok for check in check_training(without, recorded))


def test_recorded_draws_are_refused_in_another_order():
    recorded = RecordedDraws([torch.zeros(1, 8, 2), torch.zeros(2, 24, 2)])
    assert recorded([0], 8).shape == (1, 8, 2)
    with pytest.raises(InvalidInputError, match=r"draw 1 is \(2, 24, 2\), and \(1, 24, 2\)"):
        recorded([0], 24)
    with pytest.raises(InvalidInputError, match="is not recorded"):
        replay(None, {})


# ---- points -----------------------------------------------------------------


def test_points_read_pixels_at_their_middles_and_nothing_outside():
    maps = torch.arange(6.0).view(1, 2, 3)
    middles = torch.tensor([[[0.5 / 3, 0.25], [2.5 / 3, 0.75], [0.5, 0.5], [2.0, 0.5]]])
    assert point_sample(maps, middles)[0].tolist() == pytest.approx([0.0, 5.0, 2.5, 0.0], abs=1e-6)


def test_one_row_of_points_serves_all_maps():
    maps, points = torch.randn(5, 7, 9), torch.rand(1, 20, 2)
    torch.testing.assert_close(point_sample(maps, points), point_sample(maps, points.expand(5, -1, -1)))


def test_three_quarters_of_the_points_are_the_most_uncertain():
    ramp = torch.linspace(-10, 10, 100).view(1, 1, 100).expand(1, 100, 100).contiguous()
    points = uncertain_points(ramp, [0], 400, draws(0))
    assert points.shape == (1, 400, 2)
    doubt = point_sample(ramp, points).abs()[0]
    # A quarter of 1,200 candidates lies within a quarter of the ramp about its zero.
    assert doubt[:300].max() < 2.8
    assert doubt[300:].max() > 8


def test_a_picture_draws_the_same_points_in_any_batch():
    alone, first, other = draws(7), draws(7, 8), draws(8)
    together = first([0, 0, 1], 5)
    assert torch.equal(together[:2], alone([0, 0], 5))
    assert torch.equal(together[2:], other([0], 5))
    assert not torch.equal(together[0], together[1])


# ---- matching and L_P -------------------------------------------------------


def test_pairwise_losses_are_those_of_each_pair():
    logits, truth = torch.randn(4, 50), (torch.rand(3, 50) > 0.5).float()
    bce, dice = pairwise_bce(logits, truth), pairwise_dice(logits, truth)
    for query in range(4):
        for segment in range(3):
            soft = logits[query].sigmoid()
            expected = torch.nn.functional.binary_cross_entropy(soft, truth[segment])
            assert float(bce[query, segment]) == pytest.approx(float(expected), rel=1e-5)
            ratio = (2 * (soft * truth[segment]).sum() + 1) / (soft.sum() + truth[segment].sum() + 1)
            assert float(dice[query, segment]) == pytest.approx(1 - float(ratio), rel=1e-5)


def test_the_query_with_the_mask_and_the_class_answers():
    masks = torch.stack([logits_of(1 - half())[0], logits_of(half())[0], logits_of(half())[0]])[None]
    classes = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 4.0, 0.0]]])
    found = match(masks, classes, [target([1], half())], 64, draws(0))
    assert found[0].queries.tolist() == [2]
    assert found[0].segments.tolist() == [0]


def test_masks_that_are_not_numbers_are_still_matched():
    masks = torch.full((1, 3, 8, 12), torch.nan)
    assert len(match(masks, torch.zeros(1, 3, 2), [target([0], half())], 16, draws(0))[0].queries) == 1


def test_queries_without_a_segment_count_a_tenth():
    logits = torch.tensor([[[2.0, 0.0], [2.0, 0.0]]])
    right, wrong = (-math.log(math.exp(x) / (math.exp(2) + 1)) for x in (2, 0))
    found = class_loss(logits, [target([0], half())], [Match(torch.tensor([1]), torch.tensor([0]))])
    assert float(found) == pytest.approx((right + 0.1 * wrong) / 1.1)


def test_mask_losses_fall_as_the_mask_fits():
    pairs = [Match(torch.tensor([0]), torch.tensor([0]))]
    found = [
        mask_losses(logits_of(half(), high)[None], [target([0], half())], pairs, 1, draw=draws(0), points=256)
        for high in (-6, 0.1, 2, 6)
    ]
    for worse, better in pairwise(found):
        assert better[0] < worse[0]
        assert better[1] < worse[1]
    assert found[1][0] == pytest.approx(math.log(2), abs=0.06)


def test_pictures_without_segments_still_have_a_loss():
    masks, classes = torch.randn(2, 5, 8, 12, requires_grad=True), torch.randn(2, 5, 4, requires_grad=True)
    found = proposal_loss([Proposals(masks, classes)] * 2, [nothing(), nothing()], 1, draws(0, 1), points=16)
    assert found.terms.keys() == {f"loss_{name}{end}" for name in ("ce", "mask", "dice") for end in ("", "_0")}
    assert found.terms["loss_ce"] > 0
    assert found.terms["loss_mask"] == found.terms["loss_dice"] == 0
    sum(found.terms.values()).backward()
    assert masks.grad is not None
    assert not masks.grad.any()


def test_unequal_pictures_are_padded_with_what_is_in_no_mask():
    small, large = target([0], np.ones((1, 20, 30))), target([1], np.ones((1, 32, 48)))
    padded = pad_targets([small, large], 32, 64)
    assert [tuple(each.masks.shape) for each in padded] == [(1, 32, 64), (1, 32, 64)]
    assert int(padded[0].masks.sum()) == 600
    assert padded[0].masks[0, :20, :30].all()
    assert mask_count([small, large]) == 2
    assert mask_count([nothing()]) == 1


# ---- the losses that tune CLIP ----------------------------------------------


def test_mask_aware_loss_wants_the_best_mask_to_be_the_most_probable():
    masks = torch.stack([logits_of(half())[0], logits_of(1 - half())[0]])[None]
    what = [target([0], half())]
    good, bad = (torch.tensor([[[x, 0.0], [0.0, x]]]) for x in (9.0, -9.0))
    assert float(mask_aware_loss(good, masks, what)) < 1e-4
    assert float(mask_aware_loss(bad, masks, what)) == pytest.approx(0.5, abs=1e-3)


def test_mask_aware_loss_reaches_class_logits_only():
    masks, logits = torch.randn(1, 3, 8, 12, requires_grad=True), torch.randn(1, 3, 2, requires_grad=True)
    mask_aware_loss(logits, masks, [target([1], half())]).backward()
    assert masks.grad is None
    assert logits.grad.abs().sum() > 0
    assert mask_aware_loss(logits, masks, [nothing()]) == 0


def test_equal_coverage_is_stretched_to_nothing():
    assert min_max(torch.tensor([[0.3, 0.3], [0.1, 0.3]])).tolist() == [[0.0, 0.0], [0.0, pytest.approx(1.0)]]


def test_profiles_of_a_square_map_are_sums_of_block_means():
    features = torch.randn(2, 3, 4, 4)
    rectified = features.clamp(min=0).numpy()
    expected = []
    for kernel in (4, 2, 1):
        blocks = rectified.reshape(2, 3, 4 // kernel, kernel, 4 // kernel, kernel).mean((3, 5))
        expected += [blocks.sum(2).reshape(2, -1), blocks.sum(3).reshape(2, -1)]
    torch.testing.assert_close(profiles(features), torch.from_numpy(np.concatenate(expected, 1)))


@pytest.mark.parametrize(("height", "width"), [(5, 4), (4, 7), (1, 3)])
def test_profiles_of_other_maps_are_those_of_the_square(height, width):
    features = torch.rand(1, 2, height, width)
    side = max(height, width)
    square = torch.nn.functional.interpolate(features, (side, side), mode="bilinear", align_corners=False)
    kernels = [max(1, width // k) for k in (1, 2, 4)]
    assert profiles(features).shape == (1, 2 * 2 * sum(side // kernel for kernel in kernels))
    pooled = torch.nn.functional.avg_pool2d(square, kernels[0])
    torch.testing.assert_close(profiles(features)[:, : 2 * pooled.shape[3]], pooled.sum(2).flatten(1))


def test_compensation_loss_reaches_the_student_only():
    student, teacher = torch.randn(1, 4, 4, 4, requires_grad=True), torch.randn(1, 4, 4, 4)
    assert compensation_loss(teacher, teacher) == 0
    compensation_loss(student, teacher).backward()
    assert student.grad.abs().sum() > 0
