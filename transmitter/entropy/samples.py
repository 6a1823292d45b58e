"""A look at a few stretches of patches all over the picture, which stand for all others.

```
order of sending   ▓▓▓▓░░░░░░░░░░░░▓▓▓▓░░░░░░░░░░░░▓▓▓▓░░░      ▓ measured, each stretch as if it were a packet
```
A quarter of the patches tells the bytes of all to some percent, which is enough for a background that takes little
beside exact patches, and to know whether exact patches may fit at all. Stretches are short, so that there are many of
them: what patches take varies from one corner of a picture to another.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from shared.arrays import Float64Array, Int64Array
from shared.codec.entropy.codec import Run

LEAST: Final = 256
"""Patches of which a sample is worth its time; fewer are measured in full as quickly."""

_STRETCH: Final = 32  # patches
_SHARE: Final = 4  # one in so many
_MOST: Final = 2_048  # patches that are measured, however many there are
# Patches of a stretch take more than in a whole packet, by so much of a bit each: fewer neighbours tell of them.
_LONELY_BITS: Final = 1.4
_LONELY_SHARE: Final = 0.99


def stretches(order: Int64Array) -> Iterator[Run]:
    """Every so many patches of an order of sending, (n,) patch numbers."""
    spacing = _STRETCH * max(_SHARE, len(order) // _MOST)
    for start in range(spacing // 2, len(order), spacing):
        yield Run(start, order[start : start + _STRETCH])


def in_company(bits: Float64Array) -> Float64Array:
    """About what patches would take in whole packets, by (n,) what they take in stretches; measured on photos."""
    return np.asarray(bits / (_LONELY_SHARE + _LONELY_BITS / max(float(bits.mean()), _LONELY_BITS)))
