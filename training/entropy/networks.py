"""The context networks as they are trained: in floating point, on what the integer ones will see."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from shared.arrays import Float64Array, Int64Array
from shared.codec.entropy.context import inputs_of
from shared.codec.entropy.lossy import FIRST_SCALE_LOG2, MEAN_PARTS, SCALES, SCALES_PER_OCTAVE
from shared.codec.entropy.schedule import GROUP_ENDS, GROUPS

HIDDEN: Final = ((64, 32), (128, 64), (160, 96), (192, 128), (256, 128), (320, 160), (320, 160))
"""Widths of each group's hidden layers."""

INPUT_ONE: Final = 64
"""A feature of this counts as 1."""

ACTIVATION_BOUND: Final = 4095 / 256
"""Hidden activations end here, as in the integer networks."""

_LOGISTIC: Final = 0.5513  # scale of a logistic distribution of standard deviation 1
_SPREAD_BOUNDS: Final = (FIRST_SCALE_LOG2, FIRST_SCALE_LOG2 + (SCALES - 1) / SCALES_PER_OCTAVE)


class GroupNetwork(nn.Module):
    """Mean and spread of one group's coefficients."""

    def __init__(self, group: int) -> None:
        super().__init__()
        self.size = GROUP_ENDS[group] - (0, *GROUP_ENDS)[group]
        widths = (inputs_of(group), *HIDDEN[group], 2 * self.size)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        *_, last = self.linear
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.zero_()

    @property
    def linear(self) -> list[nn.Linear]:
        """The layers, first to last."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(n, group) means in quantiser steps and base-2 logarithms of spreads, of (n, inputs) features."""
        *hidden, last = self.linear
        x = features / INPUT_ONE
        for layer in hidden:
            x = functional.relu(layer(x)).clamp_max(ACTIVATION_BOUND)
        out: Tensor = last(x)
        return out[:, : self.size], out[:, self.size :]


def code_length_bits(targets: Tensor, means: Tensor, spreads_log2: Tensor) -> Tensor:
    """(n, group) bits of targets, in quantiser steps, under a logistic distribution; noise stands for rounding."""
    off = (targets - means + torch.rand_like(targets) - 0.5).abs()
    narrow = torch.exp2(-spreads_log2.clamp(*_SPREAD_BOUNDS)) / _LOGISTIC
    upper, lower = (0.5 - off) * narrow, (-0.5 - off) * narrow
    nats = functional.logsigmoid(upper) + functional.logsigmoid(-lower) + torch.log(-torch.expm1(-narrow))
    # The straight part keeps spreads beyond the bounds from being stuck there.
    beyond = (spreads_log2 - spreads_log2.clamp(*_SPREAD_BOUNDS)).abs()
    bits: Tensor = -nats / np.log(2) + 0.01 * beyond
    return bits


class FloatPredictor:
    """The networks of all groups at work; implements `shared.codec.entropy.lossy.Predictor`."""

    def __init__(self, networks: Sequence[GroupNetwork]) -> None:
        self._layers = [
            [(layer.weight.detach().numpy().T.copy(), layer.bias.detach().numpy()) for layer in network.linear]
            for network in networks
        ]

    def __call__(self, group: int, features: Float64Array) -> tuple[Float64Array, Int64Array]:
        """See `Predictor`."""
        x = features.astype(np.float32) / INPUT_ONE
        for weight, bias in self._layers[group][:-1]:
            x = np.clip(x @ weight + bias, 0, ACTIVATION_BOUND)
        weight, bias = self._layers[group][-1]
        means, spreads = np.split(x @ weight + bias, 2, axis=1)
        scales = np.floor((spreads - FIRST_SCALE_LOG2) * SCALES_PER_OCTAVE)
        return np.floor(means * MEAN_PARTS).astype(np.float64), np.clip(scales, 0, SCALES - 1).astype(np.int64)


def new_networks(seed: int) -> nn.ModuleList:
    """One for each group."""
    torch.manual_seed(seed)
    return nn.ModuleList(GroupNetwork(group) for group in range(GROUPS))
