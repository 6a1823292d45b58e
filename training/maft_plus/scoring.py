"""How well a model in training finds the classes of photos: mean IoU as the original measures it (FACTS section 7)."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from training.maft_plus.classes import ClassText
from training.maft_plus.photos import Photo
from training.maft_plus.samples import Sizes, prepare
from transmitter.relevance.maft_plus.classification import class_shares
from transmitter.relevance.maft_plus.model import MaftPlus, normalise_and_pad


@torch.no_grad()
def class_scores(model: MaftPlus, text: ClassText, picture: Tensor, size: tuple[int, int]) -> Tensor:
    """How much each pixel belongs to each class.

    Args:
        model: in evaluation mode.
        text: of the classes.
        picture: (3, h, w) RGB, 0 to 255, as large as the model is to see it.
        size: (height, width) of the answer.

    Returns:
        (classes, height, width), 0 and up.
    """
    images = normalise_and_pad([picture])
    made = model(images, model.vocabulary(text.vectors.to(images.device), text.counts))
    last = made.predictions[-1]
    shares = class_shares(made.logits, last.class_logits).softmax(-1)[0, :, :-1]
    masks = functional.interpolate(last.mask_logits, images.shape[2:], mode="bilinear", align_corners=False).sigmoid()
    scores = torch.einsum("qc,qhw->chw", shares, masks[0])[:, : picture.shape[1], : picture.shape[2]]
    return functional.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]


def overlaps(model: MaftPlus, text: ClassText, photos: Iterable[Photo], sizes: Sizes) -> Tensor:
    """Pixels in both and in either of what is predicted and what is there.

    Pixels that belong to no class do not count.

    Args:
        model: its mode is left as it was.
        text: of the classes.
        photos: of those classes.
        sizes: how large the model is to see them.

    Returns:
        (2, classes) float64 on the model's device, sums over the photos; row 0 the intersections, row 1 the unions.
    """
    modes = {module: module.training for module in model.modules()}
    device = model.void_embedding.weight.device
    counts = torch.zeros(2, len(text.counts), dtype=torch.float64, device=device)
    model.eval()
    for photo in photos:
        picture = prepare(photo, sizes, flip=False, seed=0).image.to(device)
        size = (photo.pixels.shape[0], photo.pixels.shape[1])
        counts += _overlaps(class_scores(model, text, picture, size).argmax(0), photo, len(text.counts)).to(device)
    for module, mode in modes.items():
        module.training = mode
    return counts


def _overlaps(predicted: Tensor, photo: Photo, classes: int) -> Tensor:
    """(2, classes) of one photo: (height, width) numbers of classes against its masks."""
    both, either = (torch.zeros(classes, dtype=torch.float64) for _ in range(2))
    if photo.masks:
        labelled = torch.from_numpy(np.any(list(photo.masks.values()), axis=0)).to(predicted.device)
        either += torch.bincount(predicted[labelled], minlength=classes).cpu()
    for number, mask in photo.masks.items():
        found = int((predicted[torch.from_numpy(mask.copy()).to(predicted.device)] == number).sum())
        both[number] += found
        either[number] += int(mask.sum()) - found
    return torch.stack([both, either])


def mean_iou(counts: Tensor) -> float:
    """Mean over the classes that are there or were predicted, of (2, classes) from `overlaps`; 0 of none."""
    met = counts[1] > 0
    return float((counts[0] / counts[1].clamp(min=1))[met].mean()) if bool(met.any()) else 0.0
