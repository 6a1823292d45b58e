"""What learns, how fast, and how the rate falls (FACTS section 8).

All names are those of the official checkpoints.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

RATE: Final = 1e-4
BACKBONE_SHARE: Final = 0.1
"""Of the rate, for the CLIP trunk."""

WEIGHT_DECAY: Final = 2e-5
GRADIENT_NORM: Final = 0.01
"""Of all gradients together, at most."""

POWER: Final = 0.9

_TRUNK: Final = "backbone.clip_model.visual.trunk."
_TRAINED: Final = (
    f"{_TRUNK}stem.",
    f"{_TRUNK}stages.",
    f"{_TRUNK}norm_pre.",
    "sem_seg_head.",
    "cdt.",
    "void_embedding.",
)
_NORMS: Final = (nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Rule:
    """How one parameter learns."""

    rate: float
    """Learning rate before the schedule."""

    weight_decay: float


def freeze(model: nn.Module) -> None:
    """Lets the CLIP trunk, the head, the CDT and the void embedding learn, and nothing else.

    CLIP's own projection head, its text tower, its logit scale and the whole teacher stay as they are.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(_TRAINED))


def rules(model: nn.Module, rate: float = RATE) -> Iterator[tuple[str, nn.Parameter, Rule]]:
    """The learning parameters in the model's order, by name.

    The trunk learns at a tenth. Parameters of norms and of embeddings do not decay; bare ones (`level_embed` of the
    pixel decoder, `gamma`, `logit_scale`) do.
    """
    for path, module in model.named_modules():
        plain = isinstance(module, (*_NORMS, nn.Embedding))
        for own, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{own}" if path else own
            if parameter.requires_grad:
                share = BACKBONE_SHARE if name.startswith("backbone.") else 1.0
                yield name, parameter, Rule(rate * share, 0.0 if plain else WEIGHT_DECAY)


def make_optimiser(model: nn.Module, rate: float = RATE) -> torch.optim.AdamW:
    """AdamW with one group per rule; a group's `base_rate` is its rate before the schedule."""
    groups: dict[Rule, list[nn.Parameter]] = {}
    for _, parameter, rule in rules(model, rate):
        groups.setdefault(rule, []).append(parameter)
    described: list[dict[str, Any]] = [
        {"params": members, "lr": rule.rate, "base_rate": rule.rate, "weight_decay": rule.weight_decay}
        for rule, members in groups.items()
    ]
    return torch.optim.AdamW(described)


def rate_share(iteration: int, iterations: int) -> float:
    """Share of the full rate at an iteration (from 0): (1 - iteration / iterations) ^ 0.9, without a warm-up."""
    return float((1 - iteration / iterations) ** POWER)


def set_rates(optimiser: torch.optim.Optimizer, iteration: int, iterations: int) -> None:
    """Sets the rates of all groups for an iteration; they depend on nothing else, so that nothing need be kept."""
    for group in optimiser.param_groups:
        group["lr"] = group["base_rate"] * rate_share(iteration, iterations)


def clip_gradients(model: nn.Module) -> Tensor:
    """Shortens the gradient of the whole model to `GRADIENT_NORM`; returns its norm before, 0-d."""
    return nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], GRADIENT_NORM)
