"""The lossy model's weights file."""

from pathlib import Path
from typing import Final

import numpy as np

from shared.arrays import AnyArray, Float64Array
from shared.codec.entropy.lossy_model import Estimates, LossyModel
from shared.codec.entropy.part_network import PartNetwork
from shared.codec.entropy.schedule import GROUPS
from shared.codec.entropy.symbols import SymbolCosts, SymbolTables
from shared.codec.entropy.transform import PatchTransform
from shared.errors import WeightsError
from shared.weights import default_path, read_weights, write_weights

LOSSY_FORMAT: Final = "mmsc-entropy-4"
"""Format and version tag of the weights file."""


def load_lossy(path: Path | None = None) -> tuple[LossyModel, bytes]:
    """Loads the lossy levels.

    Args:
        path: weights file; None takes the one that ships with the project.

    Returns:
        The model, and the first 4 bytes of the SHA-256 of its file.

    Raises:
        WeightsError: the file is absent, foreign or damaged; the message names its path.
    """
    path = path or default_path("entropy.safetensors")
    weights = read_weights(path, LOSSY_FORMAT)
    try:
        return _model(weights.tensors), weights.hash
    except (KeyError, ValueError, WeightsError) as error:
        raise WeightsError(f"{path}: its tables are damaged ({error})") from error


def save_lossy(path: Path, model: LossyModel, settings: dict[str, str]) -> None:
    """Writes a model, with notes about its training, as a weights file."""
    tensors: dict[str, AnyArray] = {
        "basis": model.transform.basis,
        "frequencies": model.tables.frequencies,
        "shrink": model.shrink.astype(np.int8),
        "estimates.bits": model.estimates.costs.bits.astype(np.float32),
        "estimates.shrink": model.estimates.shrink.astype(np.int8),
        "estimates.factors": model.estimates.factors.astype(np.float32),
    }
    for group, network in enumerate(model.networks):
        tensors |= network.to_tensors(f"group{group}")
    write_weights(path, LOSSY_FORMAT, tensors, settings)


def _model(tensors: dict[str, AnyArray]) -> LossyModel:
    networks = tuple(PartNetwork.from_tensors(tensors, f"group{group}") for group in range(GROUPS))
    tables, shrink = SymbolTables(tensors["frequencies"]), _shrink(tensors, "shrink")
    costs = SymbolCosts(tensors["estimates.bits"].astype(np.float64))
    factors = tensors["estimates.factors"].astype(np.float64)
    estimates = Estimates(costs, _shrink(tensors, "estimates.shrink"), factors)
    return LossyModel(PatchTransform(tensors["basis"]), networks, tables, shrink, estimates)


def _shrink(tensors: dict[str, AnyArray], name: str) -> Float64Array:
    if tensors[name].dtype != np.int8:
        raise WeightsError(f"{name} is of type {tensors[name].dtype}")
    return tensors[name].astype(np.float64)
