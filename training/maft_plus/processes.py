"""The processes that train together, as torchrun starts them; one alone where it did not."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed

from shared.errors import InvalidInputError
from transmitter.relevance.devices import usable_device


@dataclass(frozen=True)
class Processes:
    """Where this process stands among those that train together."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and talks."""
        return self.rank == 0


@contextmanager
def together(device: str) -> Iterator[Processes]:
    """Joins the other processes (nccl on GPUs, gloo on the CPU) and leaves them at the end.

    Args:
        device: "cpu" or "cuda"; of several GPUs each process takes the one of its local rank.

    Raises:
        InvalidInputError: this machine has no such device, or torchrun's variables make no sense.
    """
    if "WORLD_SIZE" not in os.environ:
        yield Processes(usable_device(device))
        return
    numbers = _numbers()
    own = usable_device(f"cuda:{numbers['LOCAL_RANK']}" if device == "cuda" else device)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    distributed.init_process_group("nccl" if own.type == "cuda" else "gloo")
    try:
        yield Processes(own, numbers["RANK"], numbers["WORLD_SIZE"])
    finally:
        distributed.destroy_process_group()


def _numbers() -> dict[str, int]:
    try:
        return {name: int(os.environ.get(name, "0")) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    except ValueError as error:
        raise InvalidInputError("environment", f"RANK, LOCAL_RANK and WORLD_SIZE are numbers: {error}") from error


def summed(counts: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes; itself where there is one."""
    if distributed.is_initialized():
        distributed.all_reduce(counts)
    return counts
