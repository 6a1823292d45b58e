"""What a training is interrupted and continued with.

A checkpoint holds the model, the optimiser, the loss scaler, and the number of the next iteration. Everything random
in an iteration (which photos, mirrored or not, at which points, which blocks are dropped) and the learning rates
follow from the seed and that number, so that no state of a generator need be kept, and a continued run gives the
numbers of an uninterrupted one.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from shared.errors import InvalidInputError, WeightsError
from transmitter.relevance.files import first_line, read_checkpoint

_TAG: Final = "mmsc-maft-training/1"


@dataclass(frozen=True)
class Checkpoint:
    """All of a training at one point."""

    iteration: int
    """The next one."""

    facts: dict[str, str]
    """What must be the same for the run to go on: settings, classes, photos."""

    model: dict[str, Any]
    optimiser: dict[str, Any]
    scaler: dict[str, Any]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint; whenever this is cut off, the one that was there before is still there.

    Raises:
        InvalidInputError: it cannot be written there.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            torch.save({"format": _TAG, **vars(checkpoint)}, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, RuntimeError) as error:
        # torch says in a RuntimeError that the disk is full.
        raise InvalidInputError("out", f"{path} cannot be written ({first_line(error)})") from error


def read_checkpoint_of(path: Path, facts: dict[str, str]) -> Checkpoint:
    """Reads a checkpoint of a run that is to go on.

    Args:
        path: the file.
        facts: of the run that asks.

    Raises:
        WeightsError: the file is damaged, or something else.
        InvalidInputError: it belongs to a run with other settings, classes or photos; the message says which.
    """
    content = read_checkpoint(path)
    if content.pop("format", None) != _TAG:
        raise WeightsError(f"{path}: is no checkpoint of this training")
    try:
        found = Checkpoint(**content)
    except TypeError as error:
        raise WeightsError(f"{path}: is no checkpoint of this training ({error})") from error
    for name in sorted(facts.keys() | found.facts.keys()):
        was, now = found.facts.get(name, "nothing"), facts.get(name, "nothing")
        if was != now:
            short = f"{was[:60]}, not {now[:60]}"
            raise InvalidInputError(name, f"the run in {path.parent} has {short}; another folder begins a new run")
    return found
