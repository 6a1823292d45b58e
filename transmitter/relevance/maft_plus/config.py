"""The sizes of a MAFT+ model: of the official ones, and of any other from the shapes of its weights."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from shared.errors import WeightsError

ClipHead = Literal["mlp", "linear"]
"""How CLIP's visual half ends: Linear, GELU, Linear without bias (Large), or one Linear without bias (Base)."""

LEVELS: Final = 3
"""Maps that the pixel decoder's encoder and the mask decoder look at: strides 32, 16 and 8."""

SIZE_STEP: Final = 32
"""Both sides of the network's input are multiples of this."""


@dataclass(frozen=True)
class MaftConfig:
    """Everything that decides the shapes and the arithmetic of a model; the defaults are those of all official ones."""

    trunk_depths: tuple[int, int, int, int]
    """ConvNeXt blocks per stage."""
    trunk_dims: tuple[int, int, int, int]
    """ConvNeXt channels per stage, at strides 4, 8, 16 and 32."""
    embed_dim: int
    """Dimensions that CLIP's pictures and texts share."""
    clip_head: ClipHead
    text_width: int
    text_heads: int
    text_layers: int
    vocab_size: int = 49_408
    context_length: int = 77
    """Tokens of a prompt, padding included."""
    hidden: int = 256
    """Channels of the pixel decoder, of the queries and of their mask embeddings."""
    heads: int = 8
    """Heads of the pixel decoder's deformable attention and of the mask decoder's attention."""
    encoder_layers: int = 6
    encoder_ffn: int = 1_024
    points: int = 4
    """Points that deformable attention samples per head and level."""
    decoder_layers: int = 9
    decoder_ffn: int = 2_048
    queries: int = 100
    cdt_heads: int = 8
    panoptic: bool = False
    """Where the content-dependent transfer puts its LayerNorm: T + LN(x) if panoptic, else LN(T + x)."""


LARGE: Final = MaftConfig(
    trunk_depths=(3, 3, 27, 3),
    trunk_dims=(192, 384, 768, 1_536),
    embed_dim=768,
    clip_head="mlp",
    text_width=768,
    text_heads=12,
    text_layers=16,
)
"""maftp_l: convnext_large_d_320; the paper's."""

BASE: Final = MaftConfig(
    trunk_depths=(3, 3, 27, 3),
    trunk_dims=(128, 256, 512, 1_024),
    embed_dim=640,
    clip_head="linear",
    text_width=640,
    text_heads=10,
    text_layers=12,
)
"""maftp_b: convnext_base_w_320."""

_CLIP: Final = "backbone.clip_model."
_PIXEL: Final = "sem_seg_head.pixel_decoder."
_PREDICTOR: Final = "sem_seg_head.predictor."


def config_of(
    shapes: Mapping[str, tuple[int, ...]],
    *,
    heads: int = 8,
    text_heads: int | None = None,
    cdt_heads: int = 8,
    panoptic: bool = False,
) -> MaftConfig:
    """The configuration of a state_dict, read from its keys and shapes; what shapes do not tell is asked for.

    Args:
        shapes: shape of every tensor, by its official key.
        heads: attention heads of both decoders.
        text_heads: heads of the text tower; none means 64 channels each, as in every official model.
        cdt_heads: heads of the content-dependent transfer.
        panoptic: whether it is a panoptic model (its shapes are those of the semantic ones).

    Raises:
        WeightsError: a tensor that tells a size is absent; its key is named.
    """
    try:
        text_width = shapes[f"{_CLIP}ln_final.weight"][0]
        stages = [f"{_CLIP}visual.trunk.stages.{stage}.blocks" for stage in range(4)]
        return MaftConfig(
            trunk_depths=_four(_count(shapes, stage) for stage in stages),
            trunk_dims=_four(shapes[f"{stage}.0.gamma"][0] for stage in stages),
            embed_dim=shapes[f"{_CLIP}text_projection"][1],
            clip_head="mlp" if f"{_CLIP}visual.head.mlp.fc1.weight" in shapes else "linear",
            text_width=text_width,
            text_heads=text_heads or max(1, text_width // 64),
            text_layers=_count(shapes, f"{_CLIP}transformer.resblocks"),
            vocab_size=shapes[f"{_CLIP}token_embedding.weight"][0],
            context_length=shapes[f"{_CLIP}positional_embedding"][0],
            hidden=shapes[f"{_PREDICTOR}query_feat.weight"][1],
            heads=heads,
            encoder_layers=_count(shapes, f"{_PIXEL}transformer.encoder.layers"),
            encoder_ffn=shapes[f"{_PIXEL}transformer.encoder.layers.0.linear1.weight"][0],
            points=shapes[f"{_PIXEL}transformer.encoder.layers.0.self_attn.attention_weights.bias"][0]
            // (heads * LEVELS),
            decoder_layers=_count(shapes, f"{_PREDICTOR}transformer_ffn_layers"),
            decoder_ffn=shapes[f"{_PREDICTOR}transformer_ffn_layers.0.linear1.weight"][0],
            queries=shapes[f"{_PREDICTOR}query_feat.weight"][0],
            cdt_heads=cdt_heads,
            panoptic=panoptic,
        )
    except KeyError as error:
        raise WeightsError(f"no MAFT+ weights: {error.args[0]} is absent") from error


def _count(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    """How many numbered modules there are under a prefix."""
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return len({found.group(1) for key in shapes if (found := pattern.match(key))})


def _four(values: Iterable[int]) -> tuple[int, int, int, int]:
    first, second, third, fourth = values
    return first, second, third, fourth
