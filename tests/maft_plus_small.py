"""Models of MAFT+ small enough for tests, with the official files' keys."""

from contextlib import contextmanager
from dataclasses import replace

import torch
from torch.nn import functional

from transmitter.relevance.maft_plus.config import MaftConfig
from transmitter.relevance.maft_plus.model import MaftPlus

SMALL_LARGE = MaftConfig(
    trunk_depths=(1, 1, 1, 1),
    trunk_dims=(8, 8, 16, 16),
    embed_dim=32,
    clip_head="mlp",
    text_width=64,
    text_heads=1,
    text_layers=1,
    vocab_size=64,
    hidden=64,
    encoder_layers=1,
    encoder_ffn=32,
    decoder_layers=2,
    decoder_ffn=32,
    queries=6,
)
"""Stands in for the Large model."""

SMALL_BASE = replace(SMALL_LARGE, embed_dim=16, clip_head="linear")

SMALL_VARIANTS = {
    "large": SMALL_LARGE,
    "base": SMALL_BASE,
    "panoptic-large": replace(SMALL_LARGE, panoptic=True),
}


def small_model(config=SMALL_LARGE, seed=0):
    """A model with random weights, none of them trivial."""
    torch.manual_seed(seed)
    model = MaftPlus(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.requires_grad_(False)


def small_case(config=SMALL_LARGE, size=(64, 96), seed=0):
    """A model, two pictures and a vocabulary of two classes with three synonyms."""
    model = small_model(config, seed)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 3, *size, generator=generator)
    texts = functional.normalize(torch.randn(3, config.embed_dim, generator=generator), dim=-1)
    return model, images, model.vocabulary(texts, (1, 2))


@contextmanager
def single_thread():
    """Has torch compute on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
