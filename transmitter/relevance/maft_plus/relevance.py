"""Equation 7 of the paper, S_inf = sum_i <t_hat, v_i> sigma(m_i): the masks' scores spread over the picture.

The paper says that S_inf lies between 0 and 1, which the sum does not, and the original code has no counterpart
(FACTS 9). So the convention is a choice, and has a name:

| name | weight of mask i | map |
|---|---|---|
| `raw` | <t_hat, v_i> as printed, neither of unit length | the sum, stretched to 0..1 |
| `unit-v` | the same with v_i of unit length, as the model's own logits have it | the sum, stretched to 0..1 |
| `cosine` | both of unit length | the sum, stretched to 0..1 |
| `relevancy` | r_i, 0 to 1: how far it fits the query better than what fits anything | the greatest r_i sigma(m_i) |

`relevancy` is the default, because the other three share four faults. A weight can be negative, so that what a mask
covers ranks below what none covers. Set prediction leaves several masks on one object, and the sum counts all of
them. Stretching makes some pixel of every picture a 1, present or not. And numbers of different pictures or queries
cannot be compared. The relevancy of LERF (`transmitter.relevance.prompts`) at the model's own logit scale is a softmax
between the query and a contrast, at the scale at which the loss of eq. 5 draws the softmax over the classes to the
overlap of mask and object: 1/2 is where a mask fits both alike, an absent object stays below that everywhere, and
nothing needs to be stretched. The greatest of r_i sigma(m_i) lies between 0 and 1, counts masks on the same object
once, is near 0 where there is no mask, and cannot fall where a further mask is.

Whatever the convention, `present` is told by the relevancies.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from shared.errors import InvalidInputError
from transmitter.relevance.prompts import THRESHOLD, relevancy

Convention = Literal["relevancy", "raw", "unit-v", "cosine"]
"""How eq. 7 is read; see the module's table."""

CONVENTIONS: Final[tuple[Convention, ...]] = get_args(Convention)
"""All of them, the default first."""

_MASKS_AT_ONCE: Final = 32
"""Masks that are grown to the picture's size at a time; what bounds the memory of large pictures."""


def checked_convention(name: str) -> Convention:
    """The convention of a name.

    Raises:
        InvalidInputError: there is no such convention.
    """
    for convention in CONVENTIONS:
        if convention == name:
            return convention
    raise InvalidInputError("convention", f"unknown {name!r}; there are: {', '.join(CONVENTIONS)}")


@dataclass(frozen=True)
class Segments:
    """What the network found in a batch of pictures, whatever is asked for."""

    visual: Tensor
    """(batch, masks, channels): v_i, of any length."""

    logits: Tensor
    """(batch, masks, rows, columns): m_i at stride 4 of the padded pictures."""


@dataclass(frozen=True)
class Texts:
    """What is asked for, and what it is compared with, as the picture's own t_hat (eq. 2)."""

    queries: Tensor
    """(batch, queries, channels), of any length."""

    contrasts: Tensor
    """(batch, contrasts, channels): those of `prompts.CONTRASTS`."""

    against: Tensor
    """(queries, contrasts) bool, as from `prompts.rivals`."""


def mask_weights(texts: Tensor, visual: Tensor, convention: Literal["raw", "unit-v", "cosine"]) -> Tensor:
    """<t_hat, v_i> of every phrase and mask, in single precision.

    Args:
        texts: (batch, phrases, channels), t_hat, of any length.
        visual: (batch, masks, channels), v_i, of any length.
        convention: which of the two is made unit vectors first.

    Returns:
        (batch, phrases, masks), of either sign; between -1 and 1 for "cosine" only.
    """
    texts, visual = texts.float(), visual.float()
    if convention != "raw":
        visual = functional.normalize(visual, dim=-1)
    if convention == "cosine":
        texts = functional.normalize(texts, dim=-1)
    return texts @ visual.transpose(1, 2)


def mask_relevancies(texts: Texts, visual: Tensor, scale: float | Tensor) -> Tensor:
    """How much better each mask fits each query than the query's contrasts.

    Args:
        texts: queries and contrasts.
        visual: (batch, masks, channels), v_i.
        scale: the model's logit scale, at most 100.

    Returns:
        (batch, queries, masks), 0 to 1, above 1/2 where the query fits better.
    """
    scores, contrasts = (mask_weights(part, visual, "unit-v") for part in (texts.queries, texts.contrasts))
    return relevancy(scores, contrasts, scale, texts.against)


def spread_sum(weights: Tensor, logits: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """sum_i w_i sigma(m_i), the sum of eq. 7.

    Args:
        weights: (batch, queries, masks).
        logits: (batch, masks, rows, columns).
        size: rows and columns to which the logits, not their sigmoids, are grown first (FACTS 7); none means as
            they are.

    Returns:
        (batch, queries, *size), unbounded.
    """
    parts = (torch.einsum("bqn,bnhw->bqhw", part, covers) for part, covers in _covers(weights, logits, size))
    total = next(parts)
    for part in parts:
        total += part
    return total


def spread_greatest(weights: Tensor, logits: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """max_i w_i sigma(m_i); arguments and result as of `spread_sum`, between 0 and 1 where the weights are."""
    greatest: Tensor | None = None
    for part, covers in _covers(weights, logits, size):
        queries = [(covers * each[:, :, None, None]).amax(1) for each in part.unbind(1)]
        found = torch.stack(queries, 1)
        greatest = found if greatest is None else greatest.maximum(found)
    assert greatest is not None
    return greatest


def _covers(weights: Tensor, logits: Tensor, size: tuple[int, int] | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Weights and sigma(m_i) of a few masks at a time."""
    pairs = zip(torch.split(weights, _MASKS_AT_ONCE, 2), torch.split(logits, _MASKS_AT_ONCE, 1), strict=True)
    for part, masks in pairs:
        grown = masks.float()
        if size is not None:
            grown = functional.interpolate(grown, size, mode="bilinear", align_corners=False)
        # In place where it is a copy of ours: at the size of the picture it is the largest tensor of all.
        yield part, grown.sigmoid() if size is None else grown.sigmoid_()


def relevance_maps(
    texts: Texts,
    segments: Segments,
    scale: float | Tensor,
    *,
    convention: Convention = "relevancy",
    size: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Maps of a batch of pictures under several queries.

    Args:
        texts: queries and contrasts.
        segments: masks and their vectors.
        scale: the model's logit scale.
        convention: see the module's table.
        size: rows and columns of the maps; the padded pictures', or none for stride 4.

    Returns:
        (batch, queries, rows, columns): of "relevancy" 0 to 1, of the others the sum of eq. 7, which `stretched`
        brings to 0..1 once the padding is cut off. And (batch, queries) bool: whether a mask fits the query better than
        its contrasts, where the mask is.
    """
    relevancies = mask_relevancies(texts, segments.visual, scale)
    present = (relevancies * segments.logits.float().amax((2, 3)).sigmoid().unsqueeze(1)).amax(2) >= THRESHOLD
    if convention == "relevancy":
        return spread_greatest(relevancies, segments.logits, size), present
    return spread_sum(mask_weights(texts.queries, segments.visual, convention), segments.logits, size), present


def stretched(maps: Tensor) -> Tensor:
    """Each map with its least value at 0 and its greatest at 1; 0 where all are the same.

    Args:
        maps: (..., rows, columns).
    """
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)
