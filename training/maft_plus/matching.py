"""Which query answers for which segment: the assignment of least cost (FACTS section 8)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from training.maft_plus.points import Draw, point_sample
from training.maft_plus.targets import Target

CLASS_COST: Final = 2.0
MASK_COST: Final = 5.0
DICE_COST: Final = 5.0

_UNUSABLE: Final = 1e10
"""Cost in the place of one that is not a number, as a diverged step may give; the loss will show it."""


@dataclass(frozen=True)
class Match:
    """The pairs of one picture, queries ascending; as many as it has segments (or queries, if those are fewer)."""

    queries: Tensor
    """(pairs,) int64 on the CPU."""

    segments: Tensor
    """(pairs,) int64 on the CPU."""


@torch.no_grad()
def match(mask_logits: Tensor, class_logits: Tensor, targets: Sequence[Target], count: int, draw: Draw) -> list[Match]:
    """Matches the queries of each picture to its segments.

    Args:
        mask_logits: (batch, queries, h, w).
        class_logits: (batch, queries, classes + 1), the last for "no object".
        targets: one per picture, on the batch's canvas.
        count: points at which masks are compared, shared by all pairs of a picture.
        draw: asked once per picture, in order.
    """
    found = []
    for image, target in enumerate(targets):
        points = draw([image], count)
        with torch.autocast(mask_logits.device.type, enabled=False):
            costs = pair_costs(mask_logits[image].float(), class_logits[image].float(), target, points)
        rows, columns = linear_sum_assignment(costs.nan_to_num(_UNUSABLE, _UNUSABLE, -_UNUSABLE).cpu().numpy())
        found.append(Match(torch.from_numpy(rows), torch.from_numpy(columns)))
    return found


def pair_costs(mask_logits: Tensor, class_logits: Tensor, target: Target, points: Tensor) -> Tensor:
    """(queries, segments) cost of letting each query answer for each segment.

    Args:
        mask_logits: (queries, h, w).
        class_logits: (queries, classes + 1).
        target: of the picture.
        points: (1, p, 2).
    """
    logits, truth = point_sample(mask_logits, points), point_sample(target.masks.float(), points)
    named = class_logits.softmax(-1)[:, target.labels]
    return MASK_COST * pairwise_bce(logits, truth) + DICE_COST * pairwise_dice(logits, truth) - CLASS_COST * named


def pairwise_bce(logits: Tensor, truth: Tensor) -> Tensor:
    """(queries, segments) mean binary cross-entropy of (queries, p) logits against (segments, p) in 0..1."""
    positive = functional.softplus(-logits) @ truth.T
    negative = functional.softplus(logits) @ (1 - truth).T
    return (positive + negative) / logits.shape[1]


def pairwise_dice(logits: Tensor, truth: Tensor) -> Tensor:
    """(queries, segments) Dice loss, with 1 added above and below, of the same."""
    soft = logits.sigmoid()
    total = soft.sum(1)[:, None] + truth.sum(1)[None]
    return 1 - (2 * soft @ truth.T + 1) / (total + 1)
