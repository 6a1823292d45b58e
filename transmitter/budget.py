"""What a transmission may take: bytes, given outright or as a share of the raw picture, and time."""

import math
from dataclasses import dataclass
from typing import Final, Literal

from shared.errors import InvalidInputError
from shared.patches import PatchGrid

MAX_DEADLINE_S: Final = 86_400.0
"""Longest deadline that may be asked for."""

LARGEST_BYTES: Final = 1 << 40
"""Stands for no limit on bytes: no picture needs as much."""


@dataclass(frozen=True)
class Budget:
    """A limit on every byte of a transmission.

    Raises:
        InvalidInputError: the amount is not finite, zero or negative, or a deadline is beyond MAX_DEADLINE_S.
    """

    kind: Literal["wire_bytes", "percent_of_raw", "deadline_s"]
    amount: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.amount) and self.amount > 0):
            raise InvalidInputError(f"budget.{self.kind}", f"must be above 0, got {self.amount:g}")
        if self.kind == "deadline_s":
            checked_deadline_s(self.amount, "budget.deadline_s")

    @property
    def in_bytes(self) -> bool:
        """Whether it limits bytes; else time alone does."""
        return self.kind != "deadline_s"

    def wire_bytes(self, grid: PatchGrid, rate_bps: float) -> int:
        """The limit in bytes; of a deadline, what the channel is said to carry by then.

        Args:
            grid: the picture's, for the raw size.
            rate_bps: the channel's claimed rate.
        """
        if self.kind == "percent_of_raw":
            limit = grid.raw_bytes * self.amount / 100
        elif self.kind == "deadline_s":
            limit = self.amount * rate_bps / 8
        else:
            limit = self.amount
        return int(min(limit, LARGEST_BYTES))


def checked_deadline_s(deadline_s: float, field: str) -> float:
    """A deadline in seconds, if it can be one.

    Args:
        deadline_s: what was asked for.
        field: the request's field, for the error.

    Raises:
        InvalidInputError: it is not above 0, or beyond MAX_DEADLINE_S.
    """
    if not 0 < deadline_s <= MAX_DEADLINE_S:  # false for NaN too
        raise InvalidInputError(field, f"must be above 0 and at most {MAX_DEADLINE_S:g}, got {deadline_s:g}")
    return deadline_s
