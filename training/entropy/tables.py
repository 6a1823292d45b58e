"""From trained networks to what ships: integer networks, and tables counted with them at work."""

from typing import Final

import numpy as np
from torch import nn

from shared.arrays import AnyArray, Float64Array
from shared.codec.entropy.context import FEATURE_BOUND
from shared.codec.entropy.exact import (
    ACTIVATION_LIMIT,
    ACTIVATION_SCALE,
    FLOAT64_LIMIT,
    ExactNetwork,
    rounded_layer,
)
from shared.codec.entropy.lossy import FIRST_SCALE_LOG2, MEAN_PARTS, SCALES, SCALES_PER_OCTAVE
from shared.codec.entropy.part_network import PartNetwork
from training.entropy.networks import INPUT_ONE, GroupNetwork

REACH: Final = 31
"""Residuals of larger magnitude escape."""


def exact_network(network: GroupNetwork) -> PartNetwork:
    """The integer network whose outputs are means in MEAN_PARTS of a step and scale numbers."""
    weights, bias = _arrays(network.shared)
    own = [np.hstack([constant[:, None], columns]) for constant, columns in network.own_arrays()]
    joint = np.hstack([weights, *own]) * (ACTIVATION_SCALE / INPUT_ONE)
    first = rounded_layer(joint, bias * ACTIVATION_SCALE, FEATURE_BOUND, FLOAT64_LIMIT)
    return PartNetwork(first, tuple(_exact_head(head) for head in network.heads))


def _exact_head(head: nn.Module) -> ExactNetwork:
    hidden, (weights, bias) = (_arrays(layer) for layer in head.children() if isinstance(layer, nn.Linear))
    size = len(bias) // 2
    weights, bias = weights.copy(), bias.copy()
    # One output scale serves both halves, so the second is brought to it here.
    weights[size:] *= SCALES_PER_OCTAVE / MEAN_PARTS
    bias[size:] = (bias[size:] - FIRST_SCALE_LOG2) * SCALES_PER_OCTAVE / MEAN_PARTS
    layers = [hidden, (weights, bias)]
    return ExactNetwork.from_floats(layers, 1 / ACTIVATION_SCALE, MEAN_PARTS, input_limit=ACTIVATION_LIMIT)


def shrink_of(sums: Float64Array) -> Float64Array:
    """(quantisers, GROUPS * SCALES, 3) whole MEAN_PARTS by which residuals of 0, 1 and more are nearer to the mean.

    Args:
        sums: (quantisers, GROUPS * SCALES, 3, 2) of `counting.Tally`.
    """
    mean = np.where(sums[..., 1] >= 50, sums[..., 0] / np.maximum(sums[..., 1], 1), 0)
    mean[..., 0] = 0
    return np.asarray(np.clip(np.rint(mean * MEAN_PARTS), -8, 24))


def _arrays(layer: nn.Linear) -> tuple[AnyArray, AnyArray]:
    return layer.weight.detach().numpy().astype(np.float64), layer.bias.detach().numpy().astype(np.float64)


def logistic_bits() -> Float64Array:
    """(SCALES, REACH + 1) bits of residuals 0, 1, ... under logistic distributions, before anything was counted."""
    middles = FIRST_SCALE_LOG2 + (np.arange(SCALES) + 0.5) / SCALES_PER_OCTAVE
    spread = (0.5513 * 2.0**middles)[:, None]
    k = np.arange(REACH + 1)[None]
    mass = _sigmoid((0.5 - k) / spread) - _sigmoid((-0.5 - k) / spread)
    return np.asarray(-np.log2(np.maximum(mass, 2.0**-20)))


def _sigmoid(x: Float64Array) -> Float64Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -500, 500))))
