"""The bodies of exact patches: as many patches in each as fit its packet, by what those before took.

What a patch takes exactly is guessed from its coefficients, and a few stretches of patches tell by how much such
guesses are off in this picture. Bodies are then coded one after another; one that turns out too long is coded again
with fewer patches. That happens too rarely to cost as much as measuring all patches beforehand.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from shared.arrays import Float64Array, Int64Array
from shared.codec.entropy.codec import COUNT_BYTES, MAX_BODY_PATCHES, Run
from transmitter.entropy.samples import stretches

_FILLED: Final = 0.95  # how full a body is aimed to be
_AGAIN: Final = 0.98  # likewise, of one that was too long
_OVERHEAD_BYTES: Final = COUNT_BYTES + 6
_MOST: Final = 256  # patches of a sample
_LEARNING: Final = 0.5  # how much the last body says of the next, which lies beside it


@dataclass
class ExactBodies:
    """What is known of a picture's exact patches, and the bodies that were coded."""

    factor: float | None = None
    """Bits over what was guessed; None: not known yet."""
    _coded: dict[bytes, bytes] = field(default_factory=dict)

    def sample(self, order: Int64Array, guess: Float64Array, bits_of: Callable[[Int64Array], Float64Array]) -> bool:
        """Learns from a few patches; False where nothing was to be learnt.

        Args:
            order: (n,) numbers of the exact patches, in the order of sending.
            guess: (patches,) bits that each patch of the picture might take.
            bits_of: measures the patches of (n,) numbers.
        """
        if self.factor is not None or not len(order):
            return False
        chosen = np.concatenate([run.numbers for run in stretches(order, 0)] or [order])[:_MOST]
        self.factor = float(bits_of(chosen).sum() / max(guess[chosen].sum(), 1))
        return True

    def expected(self, guess: Float64Array) -> Float64Array:
        """(n,) bits that patches may take exactly, of (n,) guesses."""
        return guess if self.factor is None else guess * self.factor

    def bodies(
        self, order: Int64Array, guess: Float64Array, capacity: int, encode: Callable[[Run], bytes]
    ) -> Iterator[tuple[int, bytes]]:
        """Codes patches.

        Args:
            order: (n,) numbers of the exact patches, which are sent first, in this order.
            guess: as above.
            capacity: bytes that a body should have at most.
            encode: makes a body.

        Yields:
            The ordinal of each body's first patch, and the body; longer than `capacity` only where it holds but one.
        """
        scale, first = 1.0, 0
        expected = self.expected(guess[order]) / 8
        while first < len(order):
            ahead = np.cumsum(expected[first : first + MAX_BODY_PATCHES])
            room = (capacity - _OVERHEAD_BYTES) * _FILLED / scale
            count = max(int(np.searchsorted(ahead, room, side="right")), 1)
            body, count = self._fitting(Run(first, order[first : first + count]), capacity, encode)
            scale += _LEARNING * (len(body) / max(float(ahead[count - 1]), 1) - scale)
            yield first, body
            first += count

    def _fitting(self, run: Run, capacity: int, encode: Callable[[Run], bytes]) -> tuple[bytes, int]:
        """A body of a run or the beginning of one, and how many patches it holds."""
        while True:
            key, count = run.numbers.tobytes(), len(run.numbers)
            if key not in self._coded:
                self._coded[key] = encode(run)
            body = self._coded[key]
            if len(body) <= capacity or count == 1:
                return body, count
            fewer = min(int(count * _AGAIN * capacity / len(body)), count - 1)
            run = Run(run.first, run.numbers[: max(fewer, 1)])
