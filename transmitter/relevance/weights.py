"""Reads and writes the weights file of the embedded extractor."""

from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from shared.errors import WeightsError
from shared.weights import default_path, read_weights, write_weights
from transmitter.relevance.embedded import RelevanceModel
from transmitter.relevance.network import TEXT_CHANNELS, RelevanceNetwork
from transmitter.relevance.text_tower import TextTower

RELEVANCE_FORMAT: Final = "mmsc-relevance-3"
"""Format and version tag of the weights file."""


def save(model: RelevanceModel, path: Path) -> None:
    """Writes a model; matrices and filters in half precision, the rest in single."""
    tensors = {f"network.{name}": value for name, value in model.network.state_dict().items()}
    tensors |= {f"tower.{name}": value for name, value in model.tower.state_dict().items()}
    tensors |= {"anything": model.anything, "threshold": torch.tensor(model.threshold)}
    stored = {name: _narrow(value).numpy() for name, value in tensors.items()}
    write_weights(path, RELEVANCE_FORMAT, stored, {"words": "\n".join(model.tower.words)})


def _narrow(value: Tensor) -> Tensor:
    value = value.detach().contiguous()
    return value.half() if value.is_floating_point() and value.ndim > 1 else value


def load(path: Path | None = None) -> RelevanceModel:
    """Reads a model.

    Args:
        path: the file; none means the shipped one.

    Raises:
        WeightsError: the file is absent, not of this format and version, or damaged; it names the path.
    """
    path = path or default_path("relevance.safetensors")
    weights = read_weights(path, RELEVANCE_FORMAT)
    tensors = {name: torch.from_numpy(value) for name, value in weights.tensors.items()}
    try:
        return _assemble(weights.settings, tensors)
    except (KeyError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{path}: damaged weights: {str(error).splitlines()[0]}") from error


def _assemble(metadata: dict[str, str], tensors: dict[str, Tensor]) -> RelevanceModel:
    values = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    if not all(bool(value.isfinite().all()) for value in values.values()):
        raise ValueError("a value is not finite")
    network, tower = RelevanceNetwork(), TextTower(metadata["words"].split("\n"))
    _fill(network, values, "network.")
    _fill(tower, values, "tower.")
    anything = values["anything"]
    if anything.shape != (TEXT_CHANNELS,):
        raise ValueError(f"the vector of the empty query has shape {tuple(anything.shape)}")
    return RelevanceModel(network, tower, anything, float(values["threshold"]))


def _fill(module: Any, values: dict[str, Tensor], prefix: str) -> None:
    own = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    module.load_state_dict(own, strict=True)
    module.eval().requires_grad_(requires_grad=False)
