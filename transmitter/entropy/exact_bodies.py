"""The bodies of exact patches, cut by what each patch takes among all, and coded together."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from shared.arrays import Float64Array, Int64Array
from shared.codec.entropy.codec import COUNT_BYTES, MAX_BODY_PATCHES, Run
from transmitter.entropy.samples import stretches

Measure = Callable[[Int64Array], Float64Array]
"""Bits that patches of (n,) numbers take, coded together."""

Encode = Callable[[Sequence[Run]], Sequence[bytes]]
"""Makes a body of each run."""

_FILLED: Final = 0.93  # how full a body is aimed to be: in packets of their own patches take some percent more
_OVERHEAD_BYTES: Final = COUNT_BYTES + 6
_MOST: Final = 256  # patches of a sample


@dataclass
class ExactBodies:
    """What is known of a picture's exact patches, and the bodies that were coded."""

    factor: float | None = None
    """Bits over what was guessed; None: not known yet."""
    _bits: dict[int, float] = field(default_factory=dict)
    _coded: dict[bytes, bytes] = field(default_factory=dict)

    def sample(self, order: Int64Array, guess: Float64Array, measure: Measure) -> bool:
        """Learns from a few patches; False where nothing was to be learnt.

        Args:
            order: (n,) numbers of the exact patches, in the order of sending.
            guess: (patches,) bits that each patch of the picture might take.
            measure: see above.
        """
        if self.factor is not None or not len(order):
            return False
        chosen = np.concatenate([run.numbers for run in stretches(order)] or [order])[:_MOST]
        self.factor = float(measure(chosen).sum() / max(guess[chosen].sum(), 1))
        return True

    def knows(self, order: Int64Array) -> bool:
        """Whether it is known what each of these patches takes."""
        return self._bits.keys() >= set(order.tolist())

    def expected(self, guess: Float64Array) -> Float64Array:
        """(patches,) bits that patches may take exactly, of (patches,) guesses; known ones, what they took."""
        expected = guess * (1.0 if self.factor is None else self.factor)
        expected[list(self._bits)] = list(self._bits.values())
        return expected

    def bodies(self, order: Int64Array, capacity: int, measure: Measure, encode: Encode) -> list[tuple[int, bytes]]:
        """Codes patches.

        Args:
            order: (n,) numbers of the exact patches, which are sent first, in this order.
            capacity: bytes that a body should have at most.
            measure: see above.
            encode: see above.

        Returns:
            The ordinal of each body's first patch, and the body; longer than `capacity` only where it holds but one.
        """
        waiting, done = list(self._runs(order, capacity, measure)), []
        while waiting:
            self._code(waiting, encode)
            found = [(run, self._coded[run.numbers.tobytes()]) for run in waiting]
            long = [run for run, body in found if len(body) > capacity and len(run.numbers) > 1]
            done += [(run.first, body) for run, body in found if len(body) <= capacity or len(run.numbers) == 1]
            waiting = [half for run in long for half in halves(run)]
        return sorted(done)

    def _code(self, runs: Sequence[Run], encode: Encode) -> None:
        new = [run for run in runs if run.numbers.tobytes() not in self._coded]
        if new:
            self._coded.update(zip((run.numbers.tobytes() for run in new), encode(new), strict=True))

    def _runs(self, order: Int64Array, capacity: int, measure: Measure) -> Iterator[Run]:
        unknown = np.array([number for number in order.tolist() if number not in self._bits], np.int64)
        if len(unknown):
            self._bits.update(zip(unknown.tolist(), measure(unknown).tolist(), strict=True))
        bits, first = np.array([self._bits[number] for number in order.tolist()]), 0
        room = 8 * (capacity - _OVERHEAD_BYTES) * _FILLED
        while first < len(order):
            ahead = np.cumsum(bits[first : first + MAX_BODY_PATCHES])
            count = max(int(np.searchsorted(ahead, room, side="right")), 1)
            yield Run(first, order[first : first + count])
            first += count


def halves(run: Run) -> list[Run]:
    """Two runs of half as many patches."""
    middle = len(run.numbers) // 2
    return [Run(run.first, run.numbers[:middle]), Run(run.first + middle, run.numbers[middle:])]
