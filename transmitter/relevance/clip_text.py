"""The text half of open_clip's CLIP, for prompts much shorter than its context."""

from typing import Any, Final

import torch
from torch import Tensor

MAX_LOGIT_SCALE: Final = 100.0
"""CLIP was trained with its logit scale held below this (arXiv 2103.00020, section 2.5)."""


def encode_text(clip: Any, tokens: Tensor, *, trim: bool = True) -> Tensor:
    """Prompts to their features, not normalised.

    Args:
        clip: open_clip's `CLIP`, with a causal text tower that is read at the highest token id, as all of OpenAI's
            and LAION's are.
        tokens: (count, context) int64; the highest id of a row is its end, which is where the feature is read.
        trim: whether to leave out what stands after the longest prompt's end. The tower is causal, so that
            the features are the same but for rounding.

    Returns:
        (count, channels).
    """
    ends = tokens.argmax(-1)
    length = int(ends.max()) + 1 if trim else tokens.shape[1]
    x = clip.token_embedding(tokens[:, :length]) + clip.positional_embedding[:length]
    x = clip.transformer(x, attn_mask=clip.attn_mask[:length, :length])
    ended = clip.ln_final(x[torch.arange(len(x), device=x.device), ends])
    features: Tensor = ended @ clip.text_projection
    return features


def logit_scale(clip: Any) -> Tensor:
    """The factor that turns cosines into logits, 0-d, at most `MAX_LOGIT_SCALE`."""
    scale: Tensor = clip.logit_scale.exp()
    return scale.clamp(max=MAX_LOGIT_SCALE)
