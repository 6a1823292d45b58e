"""From trained networks to what ships, integer networks and tables counted with them at work; and back."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import nn

from shared.arrays import AnyArray, Float64Array
from shared.codec.entropy.context import FEATURE_BOUND
from shared.codec.entropy.exact import (
    FLOAT32_LIMIT,
    ExactLayer,
    ExactNetwork,
    activation_scale,
    rounded_layer,
)
from shared.codec.entropy.lossy import FIRST_SCALE_LOG2, MEAN_PARTS, SCALES, SCALES_PER_OCTAVE
from shared.codec.entropy.part_network import PART_ACTIVATION_LIMIT, PartNetwork
from training.entropy.networks import INPUT_ONE, GroupNetwork

REACH: Final = 31
"""Residuals of larger magnitude escape."""


def exact_network(network: GroupNetwork) -> PartNetwork:
    """The integer network whose outputs are means in MEAN_PARTS of a step and scale numbers."""
    weights, bias = _arrays(network.shared)
    own = [np.hstack([constant[:, None], columns]) for constant, columns in network.own_arrays()]
    scale = activation_scale(PART_ACTIVATION_LIMIT)
    joint = np.hstack([weights, *own]) * (scale / INPUT_ONE)
    first = rounded_layer(joint, bias * scale, FEATURE_BOUND, FLOAT32_LIMIT)
    return PartNetwork(first, tuple(_exact_head(head) for head in network.heads))


def _exact_head(head: nn.Module) -> ExactNetwork:
    hidden, (weights, bias) = (_arrays(layer) for layer in head.children() if isinstance(layer, nn.Linear))
    size = len(bias) // 2
    weights, bias = weights.copy(), bias.copy()
    # One output scale serves both halves, so the second is brought to it here.
    weights[size:] *= SCALES_PER_OCTAVE / MEAN_PARTS
    bias[size:] = (bias[size:] - FIRST_SCALE_LOG2) * SCALES_PER_OCTAVE / MEAN_PARTS
    return ExactNetwork.from_floats(
        [hidden, (weights, bias)],
        1 / activation_scale(PART_ACTIVATION_LIMIT),
        MEAN_PARTS,
        input_limit=PART_ACTIVATION_LIMIT,
        activation_limit=PART_ACTIVATION_LIMIT,
        sum_limit=FLOAT32_LIMIT,
    )


def float_network(first: ExactLayer, heads: Sequence[ExactNetwork], group: int) -> GroupNetwork:
    """The trained network of a group that a `PartNetwork` was rounded from, but for the rounding.

    Args:
        first: its first layer.
        heads: its heads, whose input limit is that of all activations.
        group: of coefficients.
    """
    made, scale = GroupNetwork(group), activation_scale(heads[0].input_limit)
    weights, bias = _floats(first)
    shared, *parts = np.split(weights * (INPUT_ONE / scale), _edges(made), axis=1)
    state = {"shared.weight": shared, "shared.bias": bias / scale}
    state["constants"] = np.stack([part[:, 0] for part in parts])
    state |= {f"own.{number}.weight": part[:, 1:] for number, part in enumerate(parts[1:])}
    for number, head in enumerate(heads):
        state |= {f"heads.{number}.{name}": array for name, array in _float_head(head, scale).items()}
    made.load_state_dict({name: torch.from_numpy(array.astype(np.float32)) for name, array in state.items()})
    return made


def _edges(network: GroupNetwork) -> list[int]:
    """Where the columns of each part begin in an integer network's first layer."""
    widths = [1 + part.start for part in network.parts]
    return [network.shared.in_features + sum(widths[:number]) for number in range(len(widths))]


def _float_head(head: ExactNetwork, scale: float) -> dict[str, AnyArray]:
    """The arrays of a head's two linear layers, where an activation of 1.0 is `scale`."""
    (hidden, hidden_bias), (last, bias) = map(_floats, head.layers)
    last, bias = last * (scale / MEAN_PARTS), bias / MEAN_PARTS
    size = len(bias) // 2
    last[size:] *= MEAN_PARTS / SCALES_PER_OCTAVE
    bias[size:] = bias[size:] * MEAN_PARTS / SCALES_PER_OCTAVE + FIRST_SCALE_LOG2
    return {"0.weight": hidden, "0.bias": hidden_bias / scale, "2.weight": last, "2.bias": bias}


def _floats(layer: ExactLayer) -> tuple[AnyArray, AnyArray]:
    """Weights and bias before they were rounded: what half a step was added to."""
    scale = 1 << layer.shift
    return layer.weights / scale, layer.bias / scale - 0.5


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
