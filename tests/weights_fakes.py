"""Weights files that are none, and that loaders refuse them."""

import re

import pytest
import torch

from shared.errors import WeightsError
from shared.weights import default_path

NO_WEIGHTS = (None, b"", b"not safetensors at all")
"""What may stand where a file of weights should; None: nothing."""


class Malice:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def rewritten(model, **changes):
    """A model's state with other tensors; `__` in a name stands for a dot."""
    return {**model.state_dict(), **{name.replace("__", "."): value for name, value in changes.items()}}


def assert_file_refused(load, path, content, said):
    """A file of these bytes, or of this object as torch saves it, is refused by its path, in one line."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(WeightsError, match=rf"{path.name}: .*({said})") as caught:
        load(path)
    assert len(str(caught.value).splitlines()) == 1


def assert_no_weights_refused(load, path, content):
    """One of NO_WEIGHTS is refused by its path."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=re.escape(path.name)):
        load(path)


def assert_others_refused(load, own, foreign, folder):
    """A file that is absent, one of the other shipped ones, and the own one cut off are refused by their paths.

    Args:
        load: reads weights from a path.
        own: name of the shipped file that it reads.
        foreign: name of one that it does not.
        folder: for the damaged file.
    """
    with pytest.raises(WeightsError, match=r"nowhere\.safetensors"):
        load(folder / "nowhere.safetensors")
    with pytest.raises(WeightsError, match=rf"{re.escape(foreign)}.*format"):
        load(default_path(foreign))
    damaged = folder / "damaged.safetensors"
    damaged.write_bytes(default_path(own).read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=r"damaged\.safetensors"):
        load(damaged)
