"""Weights files of other people's networks: found in the model hub, read without running anything in them, checked.

What all of them have in common, whatever the network: a file may be absent, cut off, foreign or hostile, and the hub
may be out of reach. Each of these is one `WeightsError`, one line, which names the path.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import huggingface_hub
import safetensors.torch
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from torch import Tensor

from shared.errors import WeightsError

HUB_TIMEOUT_S: Final = 5.0
"""Seconds that the hub has to answer."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads what a file holds by name; nothing in it is executed.

    Args:
        path: a safetensors file, or one written by `torch.save` (any other suffix).

    Returns:
        Tensors, on the CPU, and whatever else the file holds by name at its top level.

    Raises:
        WeightsError: the file is absent, damaged, holds code, or nothing by name.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or first_line(error)})") from error
    try:
        content = safetensors.torch.load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except Exception as error:  # damaged files fail in as many ways as there are bytes
        raise WeightsError(f"{path}: {_why(error)}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not tensors by name")
    return {str(name): value for name, value in content.items()}


def _unpickled(path: Path) -> Any:
    """What `torch.save` wrote; tensors are mapped, so that those that nobody uses are never read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a newer pickle protocol, which reads as well
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # files of torch before 1.6 cannot be mapped
            return torch.load(path, map_location="cpu", weights_only=True)


def _why(error: Exception) -> str:
    """What is wrong with a file; torch's own words would advise to run what is in it."""
    code = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, UnpicklingError) else None
    if code:
        return f"is refused: it holds {code.group(1)}, which is code and no tensor; code in weights files is never run"
    if isinstance(error, UnpicklingError):
        return "is damaged or no weights file (not written by torch.save)"
    return f"is cut off, damaged or no weights file ({first_line(error)})"


def only_tensors(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors among what a file holds; a checkpoint may hold an optimiser and notes beside them."""
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def fitted(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path, what: str) -> dict[str, Tensor]:
    """A file's tensors in the shape of a network's; those that it has no place for are left out.

    Args:
        state: as read from the file, of any floating dtype.
        wanted: the network's own `state_dict()`.
        path: where `state` came from, for the error.
        what: the network's name, for the error.

    Returns:
        A float32 tensor for every name of `wanted`.

    Raises:
        WeightsError: one is missing, of another shape, or not finite.
    """
    own = {}
    for name, place in wanted.items():
        if name not in state:
            raise WeightsError(f"{path}: has no {name}; it holds no {what}")
        if state[name].shape != place.shape:
            shapes = f"{tuple(state[name].shape)}, not {tuple(place.shape)}"
            raise WeightsError(f"{path}: {name} is {shapes}; it holds no {what}")
        own[name] = state[name].float()
    check_finite(own, path)
    return own


def check_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuses values that would make every map empty.

    Raises:
        WeightsError: a tensor of floating-point numbers has one that is infinite or none at all.
    """
    for name, value in state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise WeightsError(f"{path}: {name} has values that are not finite")


def from_hub(repository: str, files: Sequence[str], advice: str) -> Path:
    """A file of a hub repository, from the cache if it is there.

    The hub has `HUB_TIMEOUT_S` to answer a question; `HF_HUB_OFFLINE=1` forbids asking.

    Args:
        repository: "owner/name".
        files: names in it, one or more; the first that there is counts.
        advice: what else helps, for the error.

    Raises:
        WeightsError: the hub gives none of them; the message says why and ends with the advice.
    """
    for file in files:
        cached = huggingface_hub.try_to_load_from_cache(repository, file)
        if isinstance(cached, str):
            return Path(cached)
    for place, file in enumerate(files, start=1):
        try:
            return _downloaded(repository, file)
        except EntryNotFoundError as error:
            # Offline is a kind of "not found" too, and then the next name is no better.
            if place == len(files) or isinstance(error, LocalEntryNotFoundError):
                raise _absent(repository, file, error, advice) from error
        except Exception as error:  # offline, refused, cut off, no room: the errors are those of several libraries
            raise _absent(repository, file, error, advice) from error
    raise ValueError("no file is asked for")


def _downloaded(repository: str, file: str) -> Path:
    # One question without retries: the download itself would repeat it for half a minute before it gave up.
    huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(repository, file), timeout=HUB_TIMEOUT_S)
    return Path(huggingface_hub.hf_hub_download(repository, file, etag_timeout=HUB_TIMEOUT_S))


def _absent(repository: str, file: str, error: Exception, advice: str) -> WeightsError:
    return WeightsError(f"the hub did not give {file} of {repository} ({first_line(error)}); {advice}")


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its kind if it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)
