"""The context networks as they are trained: in floating point, on what the integer ones will see."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from shared.arrays import AnyArray, Float64Array, Int64Array
from shared.codec.entropy.context import inputs_of
from shared.codec.entropy.exact import activation_scale
from shared.codec.entropy.lossy import FIRST_SCALE_LOG2, MEAN_PARTS, SCALES, SCALES_PER_OCTAVE
from shared.codec.entropy.part_network import PART_ACTIVATION_LIMIT
from shared.codec.entropy.schedule import GROUPS, parts_of

HIDDEN: Final = ((96, 32), (192, 64), (256, 96), (320, 128), (320, 128), (320, 160), (320, 160))
"""Of each group, the units that its parts share and those of each part's own hidden layer."""

INPUT_ONE: Final = 64
"""A feature of this counts as 1."""

ACTIVATION_BOUND: Final = PART_ACTIVATION_LIMIT / activation_scale(PART_ACTIVATION_LIMIT)
"""Hidden activations end here, as in the integer networks."""

_LOGISTIC: Final = 0.5513  # scale of a logistic distribution of standard deviation 1
_SPREAD_BOUNDS: Final = (FIRST_SCALE_LOG2, FIRST_SCALE_LOG2 + (SCALES - 1) / SCALES_PER_OCTAVE)


class GroupNetwork(nn.Module):
    """Mean and spread of one group's coefficients."""

    def __init__(self, group: int) -> None:
        super().__init__()
        units, hidden = HIDDEN[group]
        self.parts = parts_of(group)
        self.shared = nn.Linear(inputs_of(group), units)
        self.constants = nn.Parameter(torch.zeros(len(self.parts), units))
        self.own = nn.ModuleList(nn.Linear(part.start, units, bias=False) for part in self.parts[1:])
        self.heads = nn.ModuleList(_head(units, hidden, 2 * (part.stop - part.start)) for part in self.parts)

    def forward(self, features: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """(n, group) means in quantiser steps and base-2 logarithms of spreads.

        Args:
            features: (n, inputs) of the context.
            own: (n, group) features of the group's own coefficients; each part sees those before it.
        """
        shared = self.shared(features / INPUT_ONE)
        found = [self.part(number, shared, own[:, : part.start]) for number, part in enumerate(self.parts)]
        means, spreads = zip(*found, strict=True)
        return torch.cat(means, dim=1), torch.cat(spreads, dim=1)

    def part(self, number: int, shared: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """(n, part) means and spreads of one part, of (n, units) shared sums and (n, coefficients before) own."""
        sums = shared + self.constants[number]
        if number:
            sums = sums + self.own[number - 1](own / INPUT_ONE)
        means, spreads = self.heads[number](_activated(sums)).chunk(2, dim=1)
        return means, spreads

    def own_arrays(self) -> list[tuple[AnyArray, AnyArray]]:
        """Of each part (units,) its constant and (units, coefficients before it) its weights."""
        layers = [layer.weight for layer in self.own if isinstance(layer, nn.Linear)]
        own = [np.zeros((self.constants.shape[1], 0)), *(weights.detach().numpy() for weights in layers)]
        return list(zip(self.constants.detach().numpy(), own, strict=True))


class _Activation(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _activated(x)


def _activated(x: Tensor) -> Tensor:
    return functional.relu(x).clamp_max(ACTIVATION_BOUND)


def _head(units: int, hidden: int, outputs: int) -> nn.Sequential:
    last = nn.Linear(hidden, outputs)
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.zero_()
    return nn.Sequential(nn.Linear(units, hidden), _Activation(), last)


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
        self._networks = networks

    @torch.no_grad()
    def shared(self, group: int, features: Float64Array) -> AnyArray:
        """See `Predictor`."""
        found: Tensor = self._networks[group].shared(_tensor(features) / INPUT_ONE)
        return found.numpy()

    @torch.no_grad()
    def part(self, group: int, number: int, shared: AnyArray, own: Float64Array) -> tuple[Float64Array, Int64Array]:
        """See `Predictor`."""
        means, spreads = self._networks[group].part(number, torch.from_numpy(shared), _tensor(own))
        scales = torch.floor((spreads - FIRST_SCALE_LOG2) * SCALES_PER_OCTAVE).clamp(0, SCALES - 1)
        return torch.floor(means * MEAN_PARTS).double().numpy(), scales.long().numpy()


def _tensor(values: Float64Array) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def new_networks(seed: int) -> nn.ModuleList:
    """One for each group."""
    torch.manual_seed(seed)
    return nn.ModuleList(GroupNetwork(group) for group in range(GROUPS))
