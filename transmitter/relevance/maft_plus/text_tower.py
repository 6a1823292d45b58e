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

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from transmitter.relevance.maft_plus.kernels import affine, linear, norm, perceptron

_PROMPTS_AT_ONCE: Final = 280
"""Bounds the memory of one tree."""

_NODES_AT_ONCE: Final = 128
"""Nodes whose attention is computed together: neighbours see much the same, and nothing of most other nodes."""


class Block(NamedTuple):
    """Neighbouring nodes, and all that any of them sees."""

    nodes: slice
    seen: Tensor
    """(places,) int64: nodes that some node of the block sees."""
    allowed: Tensor
    """(1, 1, nodes of the block, places) bool: which of them each one sees."""


class PromptTree(NamedTuple):
    """Prompts with their common beginnings told once."""

    tokens: Tensor
    """(nodes,) int64."""
    depths: Tensor
    """(nodes,) int64, 0 for the root."""
    ends: Tensor
    """(prompts,) int64: the node where each prompt ends."""
    visible: Tensor
    """(nodes, nodes) bool: which nodes each one sees, itself and those on the way to the root."""

    def to(self, device: torch.device) -> "PromptTree":
        """The same on another device."""
        return PromptTree(*(part.to(device) for part in self))

    def blocks(self) -> list[Block]:
        """All nodes, in blocks."""
        firsts = range(0, len(self.tokens), _NODES_AT_ONCE)
        return [_block(self.visible, slice(first, first + _NODES_AT_ONCE)) for first in firsts]


def prompt_tree(tokens: Tensor) -> PromptTree:
    """The tree of some prompts, on the CPU.

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
    return PromptTree(found, visible.sum(1) - 1, torch.tensor(ends), visible)


def _block(visible: Tensor, nodes: slice) -> Block:
    rows = visible[nodes]
    seen = rows.any(0).nonzero()[:, 0]
    return Block(nodes, seen, rows[None, None, :, seen])


def encode_prompts(clip: Any, tokens: Tensor) -> Tensor:
    """As open_clip's `encode_text`, but for rounding.

    Args:
        clip: open_clip's CLIP.
        tokens: (prompts, context) int64.

    Returns:
        (prompts, embed_dim) float32, not normalised.
    """
    device = clip.positional_embedding.device
    trees = [prompt_tree(part.cpu()).to(device) for part in torch.split(tokens, _PROMPTS_AT_ONCE)]
    return torch.cat([_encode(clip, tree) for tree in trees])


def _encode(clip: Any, tree: PromptTree) -> Tensor:
    x = (clip.token_embedding(tree.tokens) + clip.positional_embedding[tree.depths]).float()
    blocks = tree.blocks()
    *before, last = clip.transformer.resblocks
    for layer in before:
        x = _after(layer, x, _attended(layer, x, blocks))
    # After the last attention nothing but the ends is read.
    features = norm(clip.ln_final, _after(last, x[tree.ends], _attended(last, x, blocks)[tree.ends]))
    projected: Tensor = features @ clip.text_projection.float()
    return projected


def _attended(layer: Any, x: Tensor, blocks: Sequence[Block]) -> Tensor:
    """What the nodes see, before the output's matrix: (nodes, width)."""
    width, heads = x.shape[1], layer.attn.num_heads
    joint = affine(norm(layer.ln_1, x), layer.attn.in_proj_weight, layer.attn.in_proj_bias)
    queries, others = torch.split(joint, [width, 2 * width], -1)
    read = []
    for block in blocks:
        k, v = others[block.seen].chunk(2, -1)
        q, k, v = (_by_head(part, heads) for part in (queries[block.nodes], k, v))
        read.append(functional.scaled_dot_product_attention(q, k, v, attn_mask=block.allowed))
    return torch.cat(read, 2)[0].transpose(0, 1).flatten(1)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(nodes, width) to (1, heads, nodes, channels)."""
    return x.view(1, len(x), heads, -1).transpose(1, 2)


def _after(layer: Any, x: Tensor, attended: Tensor) -> Tensor:
    """The rest of a layer, node by node: (nodes, width)."""
    x = x + linear(layer.attn.out_proj, attended).to(x.dtype)
    return x + perceptron(layer.mlp.c_fc, layer.mlp.c_proj, norm(layer.ln_2, x), "gelu")
