"""L_P of the paper: what the queries propose, against what is there (FACTS section 8).

The paper lists BCE and Dice; the code that made its weights has a cross-entropy on the in-vocabulary head too, and
takes all three from every output of the decoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from training.maft_plus.matching import Match, match
from training.maft_plus.points import Draw, point_sample, uncertain_points
from training.maft_plus.targets import Target

CLASS_WEIGHT: Final = 2.0
MASK_WEIGHT: Final = 5.0
DICE_WEIGHT: Final = 5.0

NO_OBJECT_WEIGHT: Final = 0.1
"""Of a query that answers for nothing, against 1 of one that answers for a segment."""

POINTS: Final = 12_544
"""Points per mask (112 x 112)."""


@dataclass(frozen=True)
class Proposals:
    """One output of the decoder."""

    mask_logits: Tensor
    """(batch, queries, h, w) at stride 4 of the padded pictures."""

    class_logits: Tensor
    """(batch, queries, classes + 1), the last for "no object"."""


@dataclass(frozen=True)
class ProposalLoss:
    """The terms of L_P, already weighted, and the matches behind them."""

    terms: dict[str, Tensor]
    """Scalars: `loss_ce`, `loss_mask` and `loss_dice` of the last output, `loss_ce_0`... of the others in order."""

    matches: list[list[Match]]
    """By output (the last one first, then the others in order), then by picture."""


def proposal_loss(
    outputs: Sequence[Proposals], targets: Sequence[Target], mask_count: float, draw: Draw, points: int = POINTS
) -> ProposalLoss:
    """L_P over all outputs of the decoder; every output is matched anew.

    Args:
        outputs: of the decoder, in its order: the learned queries', then one per layer.
        targets: one per picture, on the batch's canvas.
        mask_count: segments by which the sums over masks are divided, at least 1.
        draw: where randomness comes from; the last output draws first.
        points: per mask.
    """
    terms: dict[str, Tensor] = {}
    matches = []
    suffixes = ["", *(f"_{number}" for number in range(len(outputs) - 1))]
    for suffix, output in zip(suffixes, [outputs[-1], *outputs[:-1]], strict=True):
        matches.append(match(output.mask_logits, output.class_logits, targets, points, draw))
        named = class_loss(output.class_logits, targets, matches[-1])
        masked, diced = mask_losses(output.mask_logits, targets, matches[-1], mask_count, draw=draw, points=points)
        terms[f"loss_ce{suffix}"] = CLASS_WEIGHT * named
        terms[f"loss_mask{suffix}"] = MASK_WEIGHT * masked
        terms[f"loss_dice{suffix}"] = DICE_WEIGHT * diced
    return ProposalLoss(terms, matches)


def class_loss(class_logits: Tensor, targets: Sequence[Target], matches: Sequence[Match]) -> Tensor:
    """Weighted mean cross-entropy over all queries of all pictures.

    Args:
        class_logits: (batch, queries, classes + 1), the last for "no object".
        targets: one per picture.
        matches: one per picture.

    Returns:
        A scalar: the sum of each query's weighted loss over the sum of the weights.
    """
    nothing = class_logits.shape[2] - 1
    wanted = torch.full(class_logits.shape[:2], nothing, device=class_logits.device)
    for row, target, pairs in zip(wanted, targets, matches, strict=True):
        row[pairs.queries.to(row.device)] = target.labels[pairs.segments.to(target.labels.device)]
    weights = torch.ones(nothing + 1, device=class_logits.device)
    weights[nothing] = NO_OBJECT_WEIGHT
    return functional.cross_entropy(class_logits.float().flatten(0, 1), wanted.flatten(), weights)


def mask_losses(
    mask_logits: Tensor,
    targets: Sequence[Target],
    matches: Sequence[Match],
    mask_count: float,
    *,
    draw: Draw,
    points: int,
) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy and Dice loss of the matched masks, at their most uncertain points.

    Args:
        mask_logits: (batch, queries, h, w).
        targets: one per picture, on the batch's canvas.
        matches: one per picture.
        mask_count: what the sums over masks are divided by.
        draw: where randomness comes from.
        points: per mask.

    Returns:
        Two scalars; 0 (still part of the graph) where no picture has a segment.
    """
    logits = torch.cat([maps[pairs.queries.to(maps.device)] for maps, pairs in zip(mask_logits, matches, strict=True)])
    truth = [
        target.masks[pairs.segments.to(target.masks.device)] for target, pairs in zip(targets, matches, strict=True)
    ]
    images = [image for image, pairs in enumerate(matches) for _ in pairs.queries]
    logits = logits.float()
    where = uncertain_points(logits.detach(), images, points, draw)
    if not images:
        return logits.sum(), logits.sum()
    read = point_sample(logits, where)
    wanted = _sampled(truth, where)
    return _bce(read, wanted) / mask_count, _dice(read, wanted) / mask_count


def _sampled(truth: Sequence[Tensor], where: Tensor) -> Tensor:
    """(masks, points): picture by picture, since all masks of a batch as floats may be gigabytes."""
    parts = torch.split(where, [len(masks) for masks in truth])
    return torch.cat([point_sample(masks.float(), at) for masks, at in zip(truth, parts, strict=True)])


def _bce(logits: Tensor, wanted: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1).sum()


def _dice(logits: Tensor, wanted: Tensor) -> Tensor:
    soft = logits.sigmoid()
    overlap = 2 * (soft * wanted).sum(1) + 1
    return (1 - overlap / (soft.sum(1) + wanted.sum(1) + 1)).sum()
