"""The two losses that tune CLIP: mask-aware (eq. 5) and representation compensation (eq. 6); FACTS section 8."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from training.maft_plus.targets import Target

MA_WEIGHT: Final = 1.0
RC_WEIGHT: Final = 0.1

POOLINGS: Final = (1, 2, 4)
"""k of eq. 6: the pooling kernel is the width of the feature map over k."""

_IOU_EPSILON: Final = 1e-7
_RANGE_EPSILON: Final = 1e-8


def mask_aware_loss(class_logits: Tensor, mask_logits: Tensor, targets: Sequence[Target]) -> Tensor:
    """Eq. 5: how probable each query's pixels make a class should follow how well its mask covers that class.

    Args:
        class_logits: (batch, queries, classes) out-vocabulary logits, without "no object".
        mask_logits: (batch, queries, h, w) of the last decoder output; taken as constants.
        targets: one per picture, on the batch's canvas.

    Returns:
        A scalar: smooth L1 (beta 1), mean over all segments of the batch and all queries; 0 without segments.
    """
    given = torch.cat(
        [logits.float().softmax(-1)[:, target.labels].T for logits, target in zip(class_logits, targets, strict=True)]
    )
    wanted = torch.cat(
        [min_max(soft_iou(masks, target.masks)) for masks, target in zip(mask_logits, targets, strict=True)]
    )
    return functional.smooth_l1_loss(given, wanted, reduction="sum") / max(1, given.numel())


@torch.no_grad()
def soft_iou(mask_logits: Tensor, masks: Tensor) -> Tensor:
    """(segments, queries) in 0..1: overlap of soft masks with true ones.

    Args:
        mask_logits: (queries, h, w). It is their sigmoid that is enlarged to the size of the true masks, as the
            original does it; elsewhere the logits are.
        masks: (segments, height, width) bool.
    """
    with torch.autocast(mask_logits.device.type, enabled=False):
        size = (masks.shape[1], masks.shape[2])
        small = mask_logits.float().sigmoid()[None]
        large = functional.interpolate(small, size, mode="bilinear", align_corners=False)[0]
        soft, truth = large.flatten(1), masks.flatten(1).float()
        overlap = truth @ soft.T
        union = truth.sum(1)[:, None] + soft.sum(1)[None] - overlap
        return overlap / (union + _IOU_EPSILON)


def min_max(values: Tensor) -> Tensor:
    """(rows, n) with each row stretched to 0..1; a row of equal values becomes 0."""
    if not len(values):
        return values
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    return (values - low) / (high - low + _RANGE_EPSILON)


def compensation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Eq. 6: the tuned CLIP's features keep the row and column sums of the frozen one's, at three poolings.

    Args:
        student: (batch, channels, h, w) dense features at stride 32.
        teacher: the same of the frozen CLIP.

    Returns:
        A scalar: smooth L1 (beta 1), mean over everything that is compared.
    """
    return functional.smooth_l1_loss(profiles(student), profiles(teacher))


def profiles(features: Tensor) -> Tensor:
    """(batch, n) sums over rows and over columns of the rectified features, pooled three ways.

    The kernels follow from the width before a map that is not square is stretched to one. The original refuses
    maps narrower than 4; here the kernel is 1 at least.

    Args:
        features: (batch, channels, h, w).
    """
    height, width = features.shape[2:]
    square = features.float().relu()
    if height != width:
        side = max(height, width)
        square = functional.interpolate(square, (side, side), mode="bilinear", align_corners=False)
    sums = []
    for k in POOLINGS:
        pooled = functional.avg_pool2d(square, max(1, width // k))
        sums += [pooled.sum(2).flatten(1), pooled.sum(3).flatten(1)]
    return torch.cat(sums, dim=1)
