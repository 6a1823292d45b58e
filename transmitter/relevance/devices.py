"""Which device a network may compute on."""

import torch

from shared.errors import InvalidInputError


def usable_device(name: str) -> torch.device:
    """The device of a name.

    Args:
        name: "cpu", "cuda", "cuda:1"... as torch names them.

    Raises:
        InvalidInputError: there is no device of that name, or this machine cannot compute on it.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InvalidInputError("device", f"{name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device
