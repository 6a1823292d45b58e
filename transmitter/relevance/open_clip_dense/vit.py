"""Dense features of a ViT CLIP: neighbourhood attention in the last block (NACLIP, arXiv 2404.08181).

CLIP's last block gathers the whole picture in one token, and its patches say little about what is where. NACLIP, which
needs no training, changes that block alone:

```
              ┌ keys ─── k kᵀ / √d ── + exp(-|i - j|² / 2σ²) ── softmax ┐
x ─ norm 1 ───┤                                                         ├─ · ─ out projection ─ final norm ─ projection
              └ values ─────────────────────────────────────────────────┘
```
Keys are compared with keys instead of queries with keys, so that patches attend to what is like them; a Gaussian of
the distance on the grid, whose peak is 1, is added to the logits, so that they attend to their neighbours; the block's
residual and its feed-forward part are left out. The class token stays among the keys, at no distance from anyone. Its
projection, and so CLIP's text space, is untouched.
"""

from typing import Any, Final

import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn import functional

NEIGHBOURHOOD: Final = 5.0
"""Standard deviation of the Gaussian in patches, as NACLIP has it for all its datasets."""


class VitHead:
    """Computes dense features of a vision transformer.

    Args:
        visual: a transformer that `is_supported`.
        neighbourhood: the Gaussian's standard deviation in patches, above 0.
    """

    def __init__(self, visual: Any, neighbourhood: float = NEIGHBOURHOOD) -> None:
        self._visual, self._neighbourhood = visual, neighbourhood
        self.stride: int = visual.patch_size[0]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Features of every patch in CLIP's joint space, not normalised.

        Args:
            pixels: (batch, 3, height, width), normalised, sides multiples of the patch.

        Returns:
            (batch, channels, rows, columns).
        """
        rows, columns = (side // self.stride for side in pixels.shape[2:])
        tokens = tokens_before_last(self._visual, pixels)
        bias = neighbour_bias(rows, columns, self._neighbourhood).to(tokens)
        attended = neighbour_attention(self._visual.transformer.resblocks[-1], tokens, bias)
        features: Tensor = self._visual.ln_post(attended) @ self._visual.proj
        return features.transpose(1, 2).reshape(len(pixels), -1, rows, columns)


def is_supported(visual: nn.Module) -> bool:
    """Whether a visual half is what NACLIP's change is defined for: a plain ViT, read at its class token."""
    if not isinstance(visual, VisionTransformer):
        return False
    plain = all(type(block) is ResidualAttentionBlock for block in visual.transformer.resblocks)
    square = visual.patch_size[0] == visual.patch_size[1]
    return plain and square and visual.pool_type == "tok" and visual.attn_pool is None


def tokens_before_last(visual: Any, pixels: Tensor) -> Tensor:
    """What the last block gets, for pictures of any size; the position embeddings are interpolated to it.

    Args:
        visual: open_clip's `VisionTransformer`.
        pixels: (batch, 3, height, width), sides multiples of the patch.

    Returns:
        (batch, 1 + patches, width), the class token first.
    """
    patches = visual.conv1(pixels)
    grid = patches.shape[2:]
    own = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
    embedded = torch.cat((own, patches.flatten(2).transpose(1, 2)), dim=1)
    tokens: Tensor = visual.ln_pre(embedded + positions(visual, (grid[0], grid[1])).to(embedded.dtype))
    for block in visual.transformer.resblocks[:-1]:
        tokens = block(tokens)
    return tokens


def positions(visual: Any, grid: tuple[int, int]) -> Tensor:
    """(1, 1 + patches, width) position embeddings of a grid of (rows, columns); CLIP's own are of one square grid."""
    own: Tensor = visual.positional_embedding[None]
    resized: Tensor = resample_abs_pos_embed(own, list(grid), list(visual.grid_size), num_prefix_tokens=1)
    return resized


def neighbour_bias(rows: int, columns: int, deviation: float) -> Tensor:
    """What is added to the attention's logits: exp(-|i - j|² / 2σ²) for patches i and j of the grid.

    Returns:
        (patches, 1 + patches): from each patch to the class token, which is 0, and to each patch, 1 for itself.
    """
    down, right = torch.meshgrid(torch.arange(float(rows)), torch.arange(float(columns)), indexing="ij")
    places = torch.stack((down.flatten(), right.flatten()), 1)
    near = torch.exp(-(places[:, None] - places).square().sum(-1) / (2 * deviation**2))
    return functional.pad(near, (1, 0))


def neighbour_attention(block: Any, tokens: Tensor, bias: Tensor) -> Tensor:
    """The last block's attention, from keys to keys and to neighbours, without residual and feed-forward part.

    Args:
        block: open_clip's `ResidualAttentionBlock`.
        tokens: (batch, 1 + patches, width), the class token first.
        bias: (patches, 1 + patches).

    Returns:
        (batch, patches, width).
    """
    attention = block.attn
    projected = functional.linear(block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)
    by_head = projected.reshape(*tokens.shape[:2], 3, attention.num_heads, -1)
    _, keys, values = by_head.permute(2, 0, 3, 1, 4)
    gathered = functional.scaled_dot_product_attention(keys[:, :, 1:], keys, values, attn_mask=bias.to(keys.dtype))
    attended: Tensor = block.ls_1(attention.out_proj(gathered.transpose(1, 2).flatten(2)))
    return attended
