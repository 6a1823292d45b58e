"""The paper's baseline (ViT-SC): where a self-supervised vision transformer looks, whatever is asked.

```
picture ─ scaled to 480 ─ DINO ViT-S/8 up to its last block ─ query of CLS, keys of all tokens ─┐
                                    map ◄─ 0 to 1 ◄─ mean over heads ◄─ softmax(q kᵀ / √d) ◄────┘
```
ViT-SC (arXiv 2412.01817, section III-A) takes the first row of the last block's attention matrix, from the CLS token
to the patches, as what each patch means to the picture. The network is DINO's (arXiv 2104.14294), the attention that
of arXiv 1706.03762, equation 1. As in DINO's own visualisation, pictures are RGB, normalised by ImageNet's mean and
deviation, each patch keeps one value, and every side is a multiple of the patch; the position embeddings are
interpolated to that size.

The weights are not part of this repository: a local file, or the model hub's.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from shared.arrays import UInt8Array
from transmitter.relevance.contract import Relevance
from transmitter.relevance.files import fitted, from_hub, only_tensors, read_checkpoint
from transmitter.relevance.pictures import check_picture

NAME: Final = "vit-attention"
"""What requests and events call this extractor."""

ARCHITECTURE: Final = "vit_small_patch8_224.dino"
"""timm's name of the network and its weights."""

HUB_REPOSITORY: Final = f"timm/{ARCHITECTURE}"
"""Where timm's hub has the weights."""

HUB_FILE: Final = "model.safetensors"
"""The weights file in that repository."""

ORIGINAL_FILE: Final = "dino_deitsmall8_pretrain.pth"
"""What DINO's own release calls the same weights."""

LONG_SIDE: Final = 480
"""Larger pictures are scaled down to this before the network, in pixels."""

PATCH: Final = 8
"""Side of the network's patches in pixels."""

_MEAN: Final = torch.tensor(timm.data.IMAGENET_DEFAULT_MEAN)[:, None, None]
_DEVIATION: Final = torch.tensor(timm.data.IMAGENET_DEFAULT_STD)[:, None, None]


class ViTAttentionExtractor:
    """Computes the CLS attention of a vision transformer's last block.

    Args:
        model: a timm `VisionTransformer` with a CLS token, two blocks or more and `dynamic_img_size`, as from `load`.
        device: where it computes; the model is moved there.
    """

    name = NAME

    def __init__(self, model: nn.Module, device: torch.device | None = None) -> None:
        self._device = device or torch.device("cpu")
        self._model = model.eval().to(self._device)

    def __call__(self, image: UInt8Array, query: str) -> Relevance:  # noqa: ARG002 - the contract's
        """Relevance of each pixel; the query is ignored, for the network knows no text.

        Args:
            image: (height, width, 3) uint8 RGB, any size that `PatchGrid` takes.
            query: not read.

        Returns:
            A map of the picture's own size, 0 where the network looks least in this picture and 1 where it looks
            most; 0 everywhere if it looks at all patches alike. One value per patch of the network: where a picture
            is not scaled, each 8x8 patch of the codec has exactly its own attention. `present` is always True.

        Raises:
            InvalidInputError: the picture is of another shape or dtype, or too large.
        """
        check_picture(image)
        with torch.inference_mode():
            attention = cls_attention(self._model, to_input(image).to(self._device)).cpu()
        grown = functional.interpolate(_stretched(attention)[None, None], image.shape[:2], mode="nearest-exact")
        return Relevance(np.asarray(grown[0, 0].numpy(), np.float32), present=True)


def to_input(image: UInt8Array) -> Tensor:
    """(height, width, 3) uint8 RGB to the network's (1, 3, h, w), normalised, sides multiples of 8 up to 480."""
    height, width = image.shape[:2]
    zoom = min(1.0, LONG_SIDE / max(height, width))
    rows, columns = (max(1, round(side * zoom / PATCH)) for side in (height, width))
    scaled = Image.fromarray(image).resize((columns * PATCH, rows * PATCH), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(scaled, np.float32)).permute(2, 0, 1) / 255
    return ((pixels - _MEAN) / _DEVIATION)[None]


def cls_attention(model: Any, pixels: Tensor) -> Tensor:
    """How much the CLS token of the last block attends to each patch (ViT-SC, section III-A).

    The attention is computed from the block's own queries and keys, because the block itself never holds it: torch
    fuses softmax(q kᵀ / √d) v (arXiv 1706.03762, equation 1) into one step.

    Args:
        model: a timm `VisionTransformer` with a CLS token, two blocks or more and `dynamic_img_size`.
        pixels: (1, 3, height, width), normalised, sides multiples of the patch.

    Returns:
        (rows, columns): mean over the heads, above 0; with the CLS token's attention to itself they add up to 1.
    """
    before_last = [len(model.blocks) - 2]
    ((patches, prefix),) = model.forward_intermediates(
        pixels,
        indices=before_last,
        return_prefix_tokens=True,
        stop_early=True,
        output_fmt="NLC",
        intermediates_only=True,
    )
    block = model.blocks[-1]
    tokens = block.norm1(torch.cat((prefix, patches), dim=1))
    count, width = tokens.shape[1:]
    heads = block.attn.num_heads
    projected = block.attn.qkv(tokens).reshape(count, 3, heads, width // heads).permute(1, 2, 0, 3)
    queries, keys = block.attn.q_norm(projected[0]), block.attn.k_norm(projected[1])
    weights = (queries[:, :1] @ keys.transpose(1, 2) * block.attn.scale).softmax(dim=-1)
    rows, columns = model.patch_embed.dynamic_feat_size(pixels.shape[2:])
    attention: Tensor = weights[:, 0, model.num_prefix_tokens :].mean(dim=0).reshape(rows, columns)
    return attention


def _stretched(attention: Tensor) -> Tensor:
    """The same with the least value at 0 and the greatest at 1; 0 where all are the same."""
    low, high = attention.aminmax()
    return (attention - low) / (high - low) if high > low else torch.zeros_like(attention)


def load(path: Path | None = None, device: torch.device | None = None) -> ViTAttentionExtractor:
    """Reads DINO's ViT-S/8.

    Args:
        path: a safetensors file with timm's names, or the .pth of DINO's release (the backbone alone). None takes
            what the hub's cache holds, else asks the hub, which has a few seconds to answer; `HF_HUB_OFFLINE=1`
            forbids that.
        device: where it computes.

    Raises:
        WeightsError: the file or the hub's copy is absent, damaged, or of another network; it says what helps.
    """
    path = path or _from_hub()
    model = _network()
    model.load_state_dict(fitted(only_tensors(read_checkpoint(path)), model.state_dict(), path, ARCHITECTURE))
    return ViTAttentionExtractor(model, device)


def _network() -> nn.Module:
    """The architecture, with random weights."""
    network: nn.Module = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=0, dynamic_img_size=True)
    return network.requires_grad_(requires_grad=False)


def _from_hub() -> Path:
    """The hub's weights file, from the cache if it is there."""
    file = f"the path of a copy of it, or of DINO's {ORIGINAL_FILE}"
    where = "--weights (mmsc relevance) or MMSC_TRANSMITTER_VIT_WEIGHTS (transmitter)"
    return from_hub(HUB_REPOSITORY, (HUB_FILE,), f"{NAME} needs {file}, in {where}")
