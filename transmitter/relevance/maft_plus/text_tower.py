"""CLIP's text tower for inference: prompts that begin alike share what they have in common.

A token of a causal tower sees only what stands before it. So prompts with a common beginning have the same numbers
there, whatever follows, and nothing after a prompt's end matters to it. The prompts of a query, or of many, are a
tree whose nodes are computed once:

```
start ─ a ─ photo ─ of ─ a ─┬─ cat ─┬─ . ─ end
                            │       └─ in ─ the ─ scene ─ end
                            ├─ small ─ cat ─ . ─ end
                            └─ dog ─┬─ ...
```
14 prompts of a word are some 70 nodes, instead of 14 x 77 tokens; of each further query, some 50.
"""

from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from transmitter.relevance.maft_plus.kernels import attention, perceptron

_PROMPTS_AT_ONCE: Final = 280
"""Bounds the tree, whose attention grows with the square of its nodes."""


class PromptTree(NamedTuple):
    """Prompts with their common beginnings told once."""

    tokens: Tensor
    """(nodes,) int64."""
    depths: Tensor
    """(nodes,) int64, 0 for the root."""
    visible: Tensor
    """(nodes, nodes) bool: which nodes each one sees, itself and those on the way to the root."""
    ends: Tensor
    """(prompts,) int64: the node where each prompt ends."""


def prompt_tree(tokens: Tensor) -> PromptTree:
    """The tree of some prompts.

    Args:
        tokens: (prompts, context) int64; the highest id of a row is its end.
    """
    nodes: dict[tuple[int, int], int] = {}
    parents: list[int] = []
    ends = []
    for row, end in zip(tokens.tolist(), tokens.argmax(-1).tolist(), strict=True):
        node = -1
        for token in row[: end + 1]:
            step = (node, token)
            if step not in nodes:
                nodes[step] = len(parents)
                parents.append(node)
            node = nodes[step]
        ends.append(node)
    visible = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            visible[node] |= visible[parent]
    found = torch.tensor([token for _, token in nodes])
    return PromptTree(found, visible.sum(1) - 1, visible, torch.tensor(ends))


def encode_prompts(clip: Any, tokens: Tensor) -> Tensor:
    """As open_clip's `encode_text`, but for rounding.

    Args:
        clip: open_clip's CLIP.
        tokens: (prompts, context) int64.

    Returns:
        (prompts, embed_dim) float32, not normalised.
    """
    device = clip.positional_embedding.device
    parts = [_encode(clip, prompt_tree(part.cpu()), device) for part in torch.split(tokens, _PROMPTS_AT_ONCE)]
    return torch.cat(parts)


def _encode(clip: Any, tree: PromptTree, device: torch.device) -> Tensor:
    places, depths, visible, ends = (part.to(device) for part in tree)
    x = (clip.token_embedding(places) + clip.positional_embedding[depths])[None].float()
    for block in clip.transformer.resblocks:
        y, heads = _norm(block.ln_1, x), block.attn
        weights = (heads.in_proj_weight, heads.in_proj_bias)
        x = x + attention(weights, heads.out_proj, heads.num_heads, (y, y, y), visible[None])
        x = x + perceptron(block.mlp.c_fc, block.mlp.c_proj, _norm(block.ln_2, x), "gelu")
    features: Tensor = _norm(clip.ln_final, x[0, ends]) @ clip.text_projection.float()
    return features


def _norm(norm: Any, x: Tensor) -> Tensor:
    return functional.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
