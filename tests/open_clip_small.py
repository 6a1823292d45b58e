"""Small CLIPs of open_clip's with random weights."""

import open_clip
import torch

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


def make_known(monkeypatch):
    """Has open_clip know the small architectures by name, like its own."""
    for name, config in CONFIGS.items():
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)


def tiny(name, seed=0):
    """A small CLIP with random weights, far enough from zero for its attention to be uneven."""
    torch.manual_seed(seed)
    clip = open_clip.CLIP(**CONFIGS[name]).eval().requires_grad_(False)
    for values in clip.parameters():
        if values.ndim:
            torch.nn.init.normal_(values, std=0.4 if name == "tiny-vit" else 0.1)
    return clip
