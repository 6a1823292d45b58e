"""A golden file: a complete state_dict of the original at a small size, its inputs, and every tensor it computed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from torch import Tensor

from shared.errors import InvalidInputError, WeightsError
from transmitter.relevance.maft_plus.config import MaftConfig, config_of
from transmitter.relevance.maft_plus.model import MaftPlus

_SETTINGS: Final = {"heads", "text_heads", "panoptic", "outs"}
_STATE: Final = "state_dict."
_STUDENT, _TEACHER = "backbone.", "backbone_t."
_CRITERION: Final = "criterion."
_VISUAL: Final = "clip_model.visual."


@dataclass(frozen=True)
class Golden:
    """What the file holds."""

    settings: Mapping[str, Any]
    """The original's own configuration, by its own names: heads, classes, outs..."""

    state: Mapping[str, Tensor]
    """The state_dict of the original, student and teacher."""

    tensors: Mapping[str, Tensor]
    """Everything else by its name in the file."""

    def numbered(self, prefix: str) -> list[Tensor]:
        """The tensors `prefix0`, `prefix1`..., as many as there are."""
        count = sum(name.startswith(prefix) and name[len(prefix) :].isdigit() for name in self.tensors)
        return [self.tensors[f"{prefix}{index}"] for index in range(count)]

    def config(self) -> MaftConfig:
        """The sizes of the model."""
        shapes = {key: tuple(value.shape) for key, value in self.state.items()}
        return config_of(
            shapes,
            heads=self.settings["heads"],
            text_heads=self.settings["text_heads"],
            panoptic=self.settings["panoptic"],
        )

    def model(self, *, teacher: bool = False) -> MaftPlus:
        """Our model with the file's weights, in eval mode.

        Args:
            teacher: whether it holds the frozen CLIP of training, too.

        Raises:
            WeightsError: keys or shapes are not ours.
        """
        model = MaftPlus(self.config(), teacher=teacher)
        try:
            model.load_state_dict(self._weights(teacher=teacher))
        except RuntimeError as error:
            raise WeightsError(f"golden state_dict: {' '.join(str(error).split())}") from error
        return model.eval()

    def _weights(self, *, teacher: bool) -> dict[str, Tensor]:
        """The file leaves out the teacher's text tower, which is the student's."""
        kept = {key: value for key, value in self.state.items() if not key.startswith((_CRITERION, _TEACHER))}
        if not teacher:
            return kept
        shared = {key: value for key, value in kept.items() if key.startswith(_STUDENT) and _VISUAL not in key}
        texts = {_TEACHER + key.removeprefix(_STUDENT): value for key, value in shared.items()}
        return kept | texts | {key: value for key, value in self.state.items() if key.startswith(_TEACHER)}


def read_golden(path: Path) -> Golden:
    """Reads a file.

    Raises:
        InvalidInputError: it cannot be read, or is no golden file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no mapping
    except (OSError, SafetensorError) as error:
        raise InvalidInputError("file", f"{path}: {error}") from error
    settings = json.loads(metadata.get("config", "{}"))
    absent = _SETTINGS - settings.keys()
    if absent:
        raise InvalidInputError("file", f"{path}: no golden file, its configuration lacks {', '.join(sorted(absent))}")
    state = {name.removeprefix(_STATE): value for name, value in tensors.items() if name.startswith(_STATE)}
    others = {name: value for name, value in tensors.items() if not name.startswith(_STATE)}
    return Golden(settings, state, others)
