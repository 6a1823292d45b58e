"""The CLIP half of MAFT+: open_clip's model, its ConvNeXt tapped after every stage, its head applied to vectors."""

from typing import Any, Final, NamedTuple

import timm
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from transmitter.relevance.clip_text import encode_text, logit_scale
from transmitter.relevance.maft_plus.config import MaftConfig

_STOCHASTIC_DEPTH: Final = 0.1


class ClipFeatures(NamedTuple):
    """What the ConvNeXt gives of a batch of pictures; no norm on any tap (FACTS 3)."""

    stem: Tensor
    """(batch, C0, h / 4, w / 4); of inference, which has no use for it, an empty one."""
    res2: Tensor
    """(batch, C0, h / 4, w / 4)."""
    res3: Tensor
    """(batch, C1, h / 8, w / 8)."""
    res4: Tensor
    """(batch, C2, h / 16, w / 16)."""
    res5: Tensor
    """(batch, C3, h / 32, w / 32), called clip_vis_dense by the original."""


class ClipBackbone(nn.Module):
    """CLIP under the name it has in the official checkpoints, `clip_model`.

    Args:
        config: sizes of trunk, head and text tower.
    """

    def __init__(self, config: MaftConfig) -> None:
        super().__init__()
        self.clip_model: Any = _clip(config)

    def features(self, images: Tensor) -> ClipFeatures:
        """Taps the trunk.

        Args:
            images: (batch, 3, h, w) normalised RGB, sides multiples of 32.
        """
        trunk = self.clip_model.visual.trunk
        maps = [trunk.stem(images)]
        for stage in trunk.stages:
            maps.append(stage(maps[-1]))
        return ClipFeatures(*maps)

    def project(self, vectors: Tensor) -> Tensor:
        """CLIP's own end of its visual half, vector by vector: (..., C3) to (..., embed_dim), not normalised."""
        visual = self.clip_model.visual
        flat = vectors.reshape(-1, vectors.shape[-1], 1, 1)
        projected: Tensor = visual.head(visual.trunk.head(flat))
        return projected.reshape(*vectors.shape[:-1], -1)

    def encode_text(self, tokens: Tensor, *, trim: bool = True) -> Tensor:
        """Prompts to their features, not normalised.

        Args:
            tokens: (count, context) int64; the highest id of a row is its end, which is where the feature is read.
            trim: whether to leave out what stands after the longest prompt's end. The tower is causal, so that
                the features are the same but for rounding.

        Returns:
            (count, embed_dim).
        """
        return encode_text(self.clip_model, tokens, trim=trim)

    def logit_scale(self) -> Tensor:
        """The factor that turns cosines into logits, 0-d, at most 100."""
        return logit_scale(self.clip_model)


def _clip(config: MaftConfig) -> CLIP:
    """open_clip's model without its visual half, which open_clip builds of named sizes only, then timm's under it."""
    text = CLIPTextCfg(
        context_length=config.context_length,
        vocab_size=config.vocab_size,
        width=config.text_width,
        heads=config.text_heads,
        layers=config.text_layers,
    )
    vision = CLIPVisionCfg(timm_model_name="convnext_atto", timm_pool="", timm_proj="linear")
    clip = CLIP(config.embed_dim, vision, text)
    clip.visual.trunk = timm.create_model(
        "convnext_large",
        depths=config.trunk_depths,
        dims=config.trunk_dims,
        num_classes=0,
        drop_path_rate=_STOCHASTIC_DEPTH,
    )
    channels = config.trunk_dims[-1]
    if config.clip_head == "mlp":
        mlp = Mlp(channels, 2 * config.embed_dim, config.embed_dim, bias=(True, False))
        clip.visual.head = nn.Sequential()
        clip.visual.head.add_module("mlp", mlp)
    else:
        clip.visual.head = nn.Sequential()
        clip.visual.head.add_module("proj", nn.Linear(channels, config.embed_dim, bias=False))
    return clip
