"""Multi-scale deformable attention (Deformable DETR) in plain PyTorch, with no compiled operator."""

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from transmitter.relevance.maft_plus.config import LEVELS, MaftConfig

Sizes = tuple[tuple[int, int], ...]
"""(rows, columns) of every level, in the order of the tokens."""

Product = Callable[[nn.Linear, Tensor], Tensor]
"""How a linear layer is computed."""


def _product(layer: nn.Linear, x: Tensor) -> Tensor:
    y: Tensor = layer(x)
    return y


class DeformableAttention(nn.Module):
    """Every token reads a few points of every level, at offsets and with weights of its own (FACTS 4).

    Args:
        config: hidden channels, heads and points.
    """

    def __init__(self, config: MaftConfig) -> None:
        super().__init__()
        self.heads, self.points = config.heads, config.points
        samples = config.heads * LEVELS * config.points
        self.sampling_offsets = nn.Linear(config.hidden, samples * 2)
        self.attention_weights = nn.Linear(config.hidden, samples)
        self.value_proj = nn.Linear(config.hidden, config.hidden)
        self.output_proj = nn.Linear(config.hidden, config.hidden)
        self._initialise()

    def _initialise(self) -> None:
        """Heads start by looking into the eight directions of the compass, point n at n pixels."""
        angles = torch.arange(self.heads, dtype=torch.float32) * (2 * math.pi / self.heads)
        compass = torch.stack([angles.cos(), angles.sin()], -1)
        compass = compass / compass.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1, dtype=torch.float32)
        start = (compass[:, None, None] * steps[:, None]).expand(-1, LEVELS, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(start.reshape(-1))
        for linear in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(linear.weight)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
        for linear in (self.attention_weights, self.value_proj, self.output_proj):
            nn.init.zeros_(linear.bias)

    def forward(self, query: Tensor, value: Tensor, reference: Tensor, sizes: Sizes) -> Tensor:
        """Attends.

        Args:
            query: (batch, tokens, hidden), positions added.
            value: (batch, tokens, hidden), what is read.
            reference: (tokens, 2), x and y of each token in its own level, 0 to 1.
            sizes: of the levels.

        Returns:
            (batch, tokens, hidden), before the residual.
        """
        batch, tokens, hidden = query.shape
        values = self.value_proj(value).view(batch, tokens, self.heads, hidden // self.heads)
        extent = query.new_tensor([(columns, rows) for rows, columns in sizes])[:, None]
        locations = reference[:, None, None, None] + self.offsets(query) / extent
        read: Tensor = self.output_proj(sample_levels(values, locations, self.weights(query), sizes))
        return read

    def offsets(self, query: Tensor, product: Product = _product) -> Tensor:
        """Where each query reads: (batch, tokens, heads, levels, points, 2), x and y from its place, in pixels."""
        return product(self.sampling_offsets, query).view(*query.shape[:2], self.heads, LEVELS, self.points, 2)

    def weights(self, query: Tensor, product: Product = _product) -> Tensor:
        """How much each point counts: (batch, tokens, heads, levels, points), 1 in all over levels and points."""
        logits = product(self.attention_weights, query).view(*query.shape[:2], self.heads, LEVELS * self.points)
        return logits.softmax(-1).view(*logits.shape[:3], LEVELS, self.points)


def sample_levels(values: Tensor, locations: Tensor, weights: Tensor, sizes: Sizes) -> Tensor:
    """Reads values between tokens, bilinearly, and adds them up; outside of a level they are 0.

    Args:
        values: (batch, tokens, heads, channels), the levels' tokens one level after the other.
        locations: (batch, queries, heads, levels, points, 2), x and y, 0 to 1.
        weights: (batch, queries, heads, levels, points).
        sizes: of the levels.

    Returns:
        (batch, queries, heads * channels).
    """
    batch, _, heads, channels = values.shape
    queries = locations.shape[1]
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)
    levels = torch.split(values, [rows * columns for rows, columns in sizes], dim=1)
    read = [
        functional.grid_sample(
            level.permute(0, 2, 3, 1).reshape(batch * heads, channels, rows, columns),
            grids[:, :, index],
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )
        for index, (level, (rows, columns)) in enumerate(zip(levels, sizes, strict=True))
    ]
    by_head = weights.transpose(1, 2).flatten(0, 1).flatten(2)[:, None]
    total = (torch.cat(read, -1) * by_head).sum(-1)
    return total.view(batch, heads * channels, queries).transpose(1, 2)


def reference_points(sizes: Sizes, device: torch.device | str = "cpu") -> Tensor:
    """The middle of every token in its own level: (tokens, 2), x and y, 0 to 1."""
    return torch.cat([_middles(rows, columns, device) for rows, columns in sizes])


def _middles(rows: int, columns: int, device: torch.device | str) -> Tensor:
    y = (torch.arange(rows, dtype=torch.float32, device=device) + 0.5) / rows
    x = (torch.arange(columns, dtype=torch.float32, device=device) + 0.5) / columns
    return torch.stack([x.expand(rows, -1), y[:, None].expand(-1, columns)], -1).flatten(0, 1)


def sine_positions(rows: int, columns: int, channels: int, device: torch.device | str = "cpu") -> Tensor:
    """The position of every place of a map, as sines of rising wavelength (DETR).

    Returns:
        (channels, rows, columns): the first half tells the row, the second the column; sine and cosine alternate.
    """
    y = _waves(rows, channels // 2, device)[:, :, None].expand(-1, -1, columns)
    x = _waves(columns, channels // 2, device)[:, None].expand(-1, rows, -1)
    return torch.cat([y, x])


_SMALL: Final = 1e-6
_LONGEST: Final = 10_000.0


def _waves(count: int, channels: int, device: torch.device | str) -> Tensor:
    """(channels, count)."""
    place = torch.arange(1, count + 1, dtype=torch.float32, device=device) / (count + _SMALL) * (2 * math.pi)
    index = torch.arange(channels, dtype=torch.float32, device=device)
    angles = place / (_LONGEST ** (2 * (index // 2) / channels))[:, None]
    return torch.where((index % 2 == 0)[:, None], angles.sin(), angles.cos())
