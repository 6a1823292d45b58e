"""The arithmetic of inference: matrices through oneDNN, deformable attention as weighted sums of table rows.

On processors that are not Intel's, torch multiplies single-precision matrices with code for 256-bit registers;
oneDNN, which torch has aboard for convolutions, uses 512 bits where there are, and adds bias and GELU on the way.
Without oneDNN, on a GPU, or where gradients are wanted, torch's own functions do the same.
"""

from collections.abc import Sequence
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from transmitter.relevance.maft_plus.deformable import Sizes, sample_levels

Activation = Literal["none", "relu", "gelu"]

_VECTORS_AT_ONCE: Final = 1_200

_QUERIES_AT_ONCE: Final = 1_024


def _fused_precisions() -> frozenset[torch.dtype]:
    """What oneDNN's linear layer takes here; it is not a public function, and made for processors with AVX."""
    made_for = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    if not made_for or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return frozenset()
    halves = hasattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported") and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return frozenset({torch.float32, torch.bfloat16} if halves else {torch.float32})


_FUSED: Final = _fused_precisions()


def linear(layer: nn.Linear, x: Tensor, activation: Activation = "none") -> Tensor:
    """A linear layer and what follows it.

    Args:
        layer: whose weights may be of less precision than x; the product is then computed in theirs.
        x: (..., in), float32.
        activation: "gelu" is the exact one.

    Returns:
        (..., out), of the weights' precision.
    """
    return affine(x, layer.weight, layer.bias, activation)


def affine(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation = "none") -> Tensor:
    """`linear` of bare weights: (out, in) and (out,)."""
    x = x.to(weight.dtype)
    if x.device.type == "cpu" and weight.dtype in _FUSED and not torch.is_grad_enabled():
        fused: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")
        return fused
    y = functional.linear(x, weight, bias)
    if activation == "none":
        return y
    return y.relu() if activation == "relu" else functional.gelu(y)


def perceptron(first: nn.Linear, second: nn.Linear, x: Tensor, activation: Activation) -> Tensor:
    """Two linear layers with an activation between: (..., in) to (..., out), of x's precision.

    What is between the layers is the largest tensor of all, and never there as a whole (see `few_at_once`).
    """
    flat = x.reshape(-1, x.shape[-1])
    y = [linear(second, linear(first, flat[few], activation)).to(x.dtype) for few in few_at_once(flat)]
    return (y[0] if len(y) == 1 else torch.cat(y)).view(*x.shape[:-1], -1)


def few_at_once(vectors: Tensor) -> list[slice]:
    """Rows of (count, channels) that are worked on together: on a processor few, elsewhere all."""
    count = len(vectors)
    step = _VECTORS_AT_ONCE if vectors.device.type == "cpu" else count
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    """A layer norm over the last dimension, whatever the layer does to the others before."""
    return functional.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)


def attention(
    weights: tuple[Tensor, Tensor],
    out: nn.Linear,
    heads: int,
    inputs: tuple[Tensor, Tensor, Tensor],
    allowed: Tensor | None,
) -> Tensor:
    """Multi-head attention.

    Args:
        weights: the joint (3 * channels, channels) and (3 * channels,) of queries, keys and values.
        out: what follows.
        heads: number of heads.
        inputs: queries (batch, queries, channels), keys and values (batch, places, channels); those that are the
            same object are multiplied together.
        allowed: (batch or 1, queries, places) bool.

    Returns:
        (batch, queries, channels), of the inputs' precision.
    """
    q, k, v = (_split_heads(x, heads) for x in _projections(weights, inputs))
    mask = None if allowed is None else allowed[:, None]
    read = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return linear(out, read.transpose(1, 2).flatten(2)).to(inputs[0].dtype)


def _projections(weights: tuple[Tensor, Tensor], inputs: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
    """Queries, keys and values; weights of neighbours that read the same are used as one matrix."""
    query, key, value = inputs
    matrix, bias = (part.chunk(3) for part in weights)
    if query is key:
        both = affine(query, weights[0][: -len(matrix[2])], weights[1][: -len(bias[2])])
        return [*both.chunk(2, -1), affine(value, matrix[2], bias[2])]
    return [affine(x, part, shift) for x, part, shift in zip(inputs, matrix, bias, strict=True)]


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def sample(values: Tensor, reference: Tensor, offsets: Tensor, weights: Tensor, sizes: Sizes) -> Tensor:
    """`deformable.sample_levels`; on a processor every sum of points is a weighted sum of rows of a table.

    The table is the values as they lie in memory, a row per token and head, with a border of zeros around each level.
    Each point is its four neighbours there, wherever it is, and nothing is gathered or laid out anew.

    Args:
        values: (batch, tokens, heads, channels), the levels' tokens one level after the other.
        reference: (tokens, 2), x and y of each token in its own level, 0 to 1.
        offsets: (batch, tokens, heads, levels, points, 2), x and y, in pixels of the level.
        weights: (batch, tokens, heads, levels, points).
        sizes: of the levels.

    Returns:
        (batch, tokens, heads * channels).
    """
    device = values.device
    extent = _per_level([(float(columns), float(rows)) for rows, columns in sizes], device)
    if device.type != "cpu" or torch.is_grad_enabled():
        return sample_levels(values, reference[:, None, None, None] + offsets / extent, weights, sizes)
    # Half a pixel, because a token's middle is its place; one more for the border.
    places = (reference[:, None, None, None] * extent + 0.5).expand(len(reference), -1, -1, -1, -1)
    table, starts = _bordered(values, sizes)
    parts = (torch.split(x, _QUERIES_AT_ONCE, dim) for x, dim in ((places, 0), (offsets, 1), (weights, 1)))
    read = [
        _weighted_rows(table, torch.minimum((place + offset).clamp_min_(0), extent + 1), weight, starts, sizes)
        for place, offset, weight in zip(*parts, strict=True)
    ]
    return torch.cat(read, 1)


def _weighted_rows(table: Tensor, place: Tensor, weights: Tensor, starts: Sequence[int], sizes: Sizes) -> Tensor:
    """Sums of the table's rows around places within the borders: (batch, queries, heads * channels)."""
    low = place.floor()
    index = _rows(low, starts, sizes, weights.shape[2])
    bags = index.shape[0] * index.shape[1] * index.shape[2]
    shares = _shares(place.sub_(low), weights)
    total = functional.embedding_bag(index.view(bags, -1), table, per_sample_weights=shares.view(bags, -1), mode="sum")
    return total.view(*index.shape[:2], -1)


def _per_level(values: Sequence[tuple[float, float]], device: torch.device) -> Tensor:
    """(levels, 1, 2), made without a copy from the host, which CUDA graphs could not record."""
    pairs = [torch.stack([torch.full((), value, device=device) for value in pair]) for pair in values]
    return torch.stack(pairs)[:, None]


def _bordered(values: Tensor, sizes: Sizes) -> tuple[Tensor, list[int]]:
    """The table, (rows, channels), and the number of the token at which each level of the first picture starts.

    A point at the very end of the border has its further neighbours, which count nothing, in the row after it; so
    there are two rows more at the bottom.
    """
    batch, _, heads, channels = values.shape
    counts = [(rows + 3) * (columns + 2) + 1 for rows, columns in sizes]
    starts = [sum(counts[:level]) for level in range(len(sizes))]
    table = values.new_zeros(batch, sum(counts), heads * channels)
    levels = torch.split(values, [rows * columns for rows, columns in sizes], 1)
    for level, start, (rows, columns) in zip(levels, starts, sizes, strict=True):
        place = table[:, start : start + (rows + 3) * (columns + 2)].view(batch, rows + 3, columns + 2, -1)
        place[:, 1 : rows + 1, 1 : columns + 1] = level.reshape(batch, rows, columns, -1)
    return table.view(-1, channels), starts


def _rows(low: Tensor, starts: Sequence[int], sizes: Sizes, heads: int) -> Tensor:
    """Rows of the table of the four neighbours of each point, int32: (batch, tokens, heads, levels, points, 4)."""
    widths = torch.tensor([columns + 2 for _, columns in sizes], dtype=torch.int32)[:, None]
    x, y = low.to(torch.int32).unbind(-1)
    picture = (sizes[-1][0] + 3) * (sizes[-1][1] + 2) + 1 + starts[-1]
    pictures = torch.arange(len(low), dtype=torch.int32).view(-1, 1, 1, 1, 1) * picture
    first = torch.tensor(starts, dtype=torch.int32)[:, None]
    head = torch.arange(heads, dtype=torch.int32)[:, None, None]
    corner = (y * widths + x).add_(pictures + first).mul_(heads).add_(head)
    steps = torch.cat([torch.zeros_like(widths), torch.ones_like(widths), widths, widths + 1], 1) * heads
    return corner[..., None] + steps[:, None]


def _shares(between: Tensor, weights: Tensor) -> Tensor:
    """Bilinear weights of the four neighbours times the points' own: (batch, tokens, heads, levels, points, 4)."""
    x, y = between.unbind(-1)
    right = weights * x
    left = weights - right
    below_left, below_right = left * y, right * y
    return torch.stack([left - below_left, right - below_right, below_left, below_right], -1)
