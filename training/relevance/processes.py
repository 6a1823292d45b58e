"""What processes that train one network together share: gradients and statistics, averaged over all of them."""

import os
from collections.abc import Sequence

import torch
from torch import distributed, nn


def rank() -> int:
    """Number of this process among those that train together; 0 where it is alone."""
    return int(os.environ.get("RANK", "0"))


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replaces each gradient by its mean over the processes that train together."""
    if not distributed.is_initialized():
        return
    found = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in found])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for gradient, mean in zip(found, torch.split(flat, [gradient.numel() for gradient in found]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def average_statistics(*networks: nn.Module) -> None:
    """Averages what the processes keep apart: the statistics of the batch normalisation, in place."""
    if not distributed.is_initialized():
        return
    for network in networks:
        for buffer in network.buffers():
            if buffer.is_floating_point():
                distributed.all_reduce(buffer)
                buffer.div_(distributed.get_world_size())
