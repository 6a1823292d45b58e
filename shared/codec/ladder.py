"""The ladder codec: the paper's fixed-size levels (section III of arXiv 2512.15691), each trained on its own.

```
level      1: 12 B        2: 24 B        3: 48 B        4: 192 B
         classified KLT  classified KLT  classified KLT  the patch itself
```
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from shared.arrays import AnyArray, UInt8Array
from shared.codec.contract import EncodedPatches
from shared.codec.klt import SAMPLES, ClassifiedKlt
from shared.codec.workers import in_parts
from shared.errors import WeightsError
from shared.levels import LEVEL_BYTES, RAW
from shared.patches import PATCH_SIZE
from shared.weights import Weights, default_path, read_weights, write_weights

LADDER_FORMAT: Final = "mmsc-ladder-1"
"""Format and version tag of the weights file."""

_CODED_LEVELS: Final = range(1, RAW)
_TABLES: Final = ("means", "basis", "bits", "values")
_DTYPES: Final = {"means": np.int16, "basis": np.int16, "bits": np.uint8, "values": np.int16}


@dataclass(frozen=True)
class Ladder:
    """Codec of all levels; implements `shared.codec.contract.PatchCodec`."""

    levels: tuple[ClassifiedKlt, ...]
    """Tables of the coded levels, from 12 bytes up."""

    weights_hash: bytes
    """First 4 bytes of the SHA-256 of the weights file; the stream header carries it."""

    def encode(self, patches: UInt8Array) -> EncodedPatches:
        """Encodes patches at every level.

        Args:
            patches: (patches, 8, 8, 3) uint8 RGB.

        Returns:
            Per level the payload, (patches, LEVEL_BYTES[level]) uint8, and the errors (patches, levels): the exact
            sum of squared errors of what `decode` makes of each payload, +inf at level 0, 0 at the raw level.
        """
        flat = np.ascontiguousarray(patches).reshape(-1, SAMPLES)
        parts = in_parts(self._encode_part, flat)
        payloads = (np.concatenate(pieces) for pieces in zip(*(part.payloads for part in parts), strict=True))
        return EncodedPatches(tuple(payloads), np.concatenate([part.errors for part in parts]))

    def _encode_part(self, flat: UInt8Array) -> EncodedPatches:
        coded = [tables.encode(flat) for tables in self.levels]
        errors = np.zeros((len(flat), len(LEVEL_BYTES)), np.float32)
        errors[:, 0] = np.inf
        for level, (_, decoded) in zip(_CODED_LEVELS, coded, strict=True):
            difference = flat.astype(np.float32) - decoded
            # Sums over 192 samples: integers below 2^24, so exact.
            errors[:, level] = np.einsum("ps,ps->p", difference, difference)
        nothing = np.zeros((len(flat), 0), np.uint8)
        return EncodedPatches((nothing, *(payload for payload, _ in coded), flat), errors)

    def decode(self, level: int, payload: UInt8Array) -> UInt8Array:
        """Decodes payloads of one level; any content is legal.

        Args:
            level: 1 to 4.
            payload: (n, LEVEL_BYTES[level]) uint8.

        Returns:
            (n, 8, 8, 3) uint8 RGB, the same on every machine.
        """
        flat = payload if level == RAW else self.levels[level - 1].decode(payload)
        return flat.reshape(-1, PATCH_SIZE, PATCH_SIZE, 3).copy()


def load_ladder(path: Path | None = None) -> Ladder:
    """Loads the ladder.

    Args:
        path: weights file; None takes the one that ships with the project.

    Raises:
        WeightsError: the file is absent, foreign or damaged; the message names its path.
    """
    path = path or default_path("ladder.safetensors")
    weights = read_weights(path, LADDER_FORMAT)
    try:
        return Ladder(tuple(map(partial(_level, weights), _CODED_LEVELS)), weights.hash)
    except (KeyError, ValueError, WeightsError) as error:
        raise WeightsError(f"{path}: its tables are damaged ({error})") from error


def save_ladder(path: Path, levels: tuple[ClassifiedKlt, ...], settings: dict[str, str]) -> None:
    """Writes the tables of the coded levels, with notes about their training, as a weights file."""
    tensors: dict[str, AnyArray] = {
        f"level{level}.{name}": getattr(tables, name)
        for level, tables in zip(_CODED_LEVELS, levels, strict=True)
        for name in _TABLES
    }
    write_weights(path, LADDER_FORMAT, tensors, settings)


def _level(weights: Weights, level: int) -> ClassifiedKlt:
    parts = {name: weights.tensors[f"level{level}.{name}"] for name in _TABLES}
    for name, dtype in _DTYPES.items():
        if parts[name].dtype != dtype:
            raise WeightsError(f"level {level}'s {name} are of type {parts[name].dtype}")
    return ClassifiedKlt(LEVEL_BYTES[level], **parts)
