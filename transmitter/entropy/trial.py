"""What came of a setting of the entropy codec."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from shared.arrays import Float64Array, UInt8Array
from shared.codec.entropy.codec import COUNT_BYTES, Run, Scene, patches_in
from shared.codec.entropy.levels import EXACT
from shared.codec.entropy.pacing import Course, Pacer
from shared.packets import StreamHeader
from transmitter.entropy.settings import Setting, at_price
from transmitter.planning import Body

STRING_BITS: Final = 8 * (COUNT_BYTES + 2.5)
"""Of a body of lossy patches beyond its symbols."""

_GROWTHS: Final = (0.5, 2.0)  # bytes of lossy patches


@dataclass(frozen=True)
class Trial:
    """A setting and what came of it."""

    setting: Setting
    header: StreamHeader
    levels: UInt8Array
    bodies: tuple[Body, ...] | None
    """In the order of sending; None of a trial that was only measured."""
    wire_bytes: int
    """All that it puts on the channel; of a trial that was only measured, nearly."""
    lossy_bytes: int
    """What the bodies of lossy patches take of that."""
    course: Course
    """How the bits of lossy patches come at the default price, as measured; of no patches where nothing was."""

    @property
    def lossy_bits(self) -> float:
        """What the symbols of lossy patches take, of a trial that was coded."""
        exact = int(np.count_nonzero(self.levels == EXACT))
        bodies = sum(body.position >= exact for body in self.bodies or ())
        return 8 * self.lossy_bytes - STRING_BITS * bodies


class Piece(NamedTuple):
    """What becomes a body."""

    position: int
    size: int
    """In bytes."""
    content: bytes | None
    """None where it was only measured."""


class Taken(NamedTuple):
    """What runs took."""

    pieces: list[Piece]
    """One per run."""
    bits: Float64Array
    """(patches of all runs,)."""
    course: Course
    """As measured; of no patches where they were coded."""


Coding = Callable[[Scene, list[Run], float, Pacer | None], Taken]
"""Codes runs, or measures them, at a price of a bit."""


class Aim(NamedTuple):
    """What a trial that was measured is to become."""

    trial: Trial
    wire_bytes: float

    def expected(self, bits: Float64Array, scene: Scene) -> Float64Array:
        """(grid.count,) what patches will take, of those at the trial's price: the fewer bits, the more they give."""
        course, lossy = self.trial.course, (scene.levels > 0) & (scene.levels != EXACT)
        growth = 1 + (self.wire_bytes - self.trial.wire_bytes) / max(self.trial.lossy_bytes, 1)
        growth = min(max(growth, _GROWTHS[0]), _GROWTHS[1])
        given = at_price(bits, course.ratio_for(growth * course.total))
        return np.asarray(given * growth * bits[lossy].sum() / max(given[lossy].sum(), 1))


def bodies_of(pieces: Sequence[Piece]) -> tuple[Body, ...]:
    """Of those that were coded."""
    found = ((piece.position, piece.content) for piece in pieces if piece.content is not None)
    return tuple(Body(position, patches_in(content), content) for position, content in found)
