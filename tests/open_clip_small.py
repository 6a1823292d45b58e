"""Small CLIPs of open_clip's with random weights."""

import numpy as np
import open_clip
import pytest
import torch
from open_clip.pretrained import _PRETRAINED

from transmitter.relevance.open_clip_dense.extractor import OpenClipExtractor, Settings
from transmitter.relevance.open_clip_dense.weights import ModelChoice

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
CONFIGS = {
    "tiny-vit": {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 24, "layers": 3, "head_width": 8},
        "text_cfg": TEXT,
    },
    "tiny-convnext": {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 64, "timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear"},
        "text_cfg": TEXT,
    },
}
TAG = {"hf_hub": "someone/tiny/", "url": "", "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "quick_gelu": True}
"""A tag of the first, as open_clip lists its own."""


def make_known(monkeypatch):
    """Has open_clip know the small architectures by name, like its own."""
    for name, config in CONFIGS.items():
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)


def make_tags_known(monkeypatch):
    """Has open_clip know the small architectures, and of the first one a tag in the hub and one nowhere."""
    make_known(monkeypatch)
    monkeypatch.setitem(_PRETRAINED, "tiny-vit", {"good": TAG, "nowhere": {"url": "", "hf_hub": ""}})


def tiny(name, seed=0):
    """A small CLIP with random weights, far enough from zero for its attention to be uneven."""
    torch.manual_seed(seed)
    clip = open_clip.CLIP(**CONFIGS[name]).eval().requires_grad_(False)
    for values in clip.parameters():
        if values.ndim:
            torch.nn.init.normal_(values, std=0.4 if name == "tiny-vit" else 0.1)
    return clip


def picture(height=40, width=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def extractor_of(clip, name="tiny-vit", **settings):
    return OpenClipExtractor(clip, Settings(ModelChoice(name), **{"short_side": 64, **settings}))


@pytest.fixture(autouse=True)
def tiny_architectures(monkeypatch):
    """The small architectures and tags are known to every test of a module that imports this."""
    make_tags_known(monkeypatch)


@pytest.fixture(name="named_clip", scope="module", params=list(CONFIGS))
def named_clip_fixture(request):
    return request.param, tiny(request.param)


@pytest.fixture(name="vit_clip", scope="module")
def vit_clip_fixture():
    return tiny("tiny-vit")
