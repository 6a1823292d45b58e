"""Reading and writing weights files: safetensors with a tag in the metadata that says what they are."""

import hashlib
import importlib.resources
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from shared.arrays import AnyArray
from shared.errors import WeightsError

_TAG: Final = "mmsc_format"
_HEADER_LIMIT_BYTES: Final = 1 << 20

_Network = TypeVar("_Network")


@dataclass(frozen=True)
class Weights:
    """What a weights file holds."""

    tensors: dict[str, AnyArray]
    """Arrays by name."""

    settings: dict[str, str]
    """The file's metadata, the format tag included."""

    hash: bytes
    """First 4 bytes of the SHA-256 of the file."""


def default_path(name: str) -> Path:
    """Path of a weights file that ships with the `models` package."""
    return Path(str(importlib.resources.files("models").joinpath(name)))


def read_weights(path: Path, tag: str) -> Weights:
    """Reads a weights file.

    Args:
        path: a safetensors file.
        tag: the format and version that its metadata must carry.

    Raises:
        WeightsError: the file is absent, damaged, or of another format or version; the message names the path.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        settings, tensors = _metadata(data), load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(f"{path}: is damaged or no safetensors file ({error})") from error
    if settings.get(_TAG) != tag:
        raise WeightsError(f"{path}: holds format {settings.get(_TAG)!r}, not {tag!r}")
    return Weights(tensors, settings, hashlib.sha256(data).digest()[:4])


def read_network(path: Path, tag: str, network_of: Callable[[Weights], _Network]) -> _Network:
    """Reads a network's weights file.

    Args:
        path: a safetensors file.
        tag: the format and version that its metadata must carry.
        network_of: makes the network; a KeyError, ValueError or RuntimeError of it says that the file does not fit.

    Raises:
        WeightsError: the file is absent, foreign or damaged; the message names its path.
    """
    weights = read_weights(path, tag)
    try:
        return network_of(weights)
    except (KeyError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: its tensors do not fit the network ({error})") from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file of any size, in hexadecimal.

    Raises:
        WeightsError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error


def write_weights(path: Path, tag: str, tensors: dict[str, AnyArray], settings: dict[str, str]) -> None:
    """Writes a weights file that `read_weights` accepts under the same tag."""
    ordered = {name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}
    path.write_bytes(save(ordered, metadata={**settings, _TAG: tag}))


def _metadata(data: bytes) -> dict[str, str]:
    size = int.from_bytes(data[:8], "little")
    if not 2 <= size <= min(_HEADER_LIMIT_BYTES, len(data) - 8):
        raise ValueError("its header does not fit")
    header = json.loads(data[8 : 8 + size])
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict):
        raise TypeError("its header is no table of tensors")
    return {str(key): str(value) for key, value in metadata.items()}
