"""Spreads work on patches over the cores, by threads that each compute alone.

The matrices of patch coding are too small for a numerical library's own threads: on two cores those make encoding
slower than one thread does, and much slower on a busy machine.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Final, TypeVar

import torch

from shared.arrays import UInt8Array

_CORES: Final = len(os.sched_getaffinity(0))
_LEAST_PATCHES: Final = 256
_MOST_PATCHES: Final = 8_192

_T = TypeVar("_T")


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_CORES, thread_name_prefix="codec", initializer=torch.set_num_threads, initargs=(1,))


def in_parts(function: Callable[[UInt8Array], _T], patches: UInt8Array) -> list[_T]:
    """Applies a function to slices of an array of patches, several at a time.

    Args:
        function: computes on (n, ...) patches, with n up to 8,192; must not call `in_parts` itself.
        patches: (patches, ...); of none, the function gets an empty slice.

    Returns:
        The results, in the order of the slices.
    """
    count = len(patches)
    size = min(max(-(-count // (4 * _CORES)), _LEAST_PATCHES), _MOST_PATCHES)
    return list(_pool().map(function, (patches[start : start + size] for start in range(0, max(count, 1), size))))
