"""How many bytes may cross the channel: given outright, as a share of the raw picture, or as a deadline."""

import math
from dataclasses import dataclass
from typing import Literal

from shared.errors import InvalidInputError
from shared.patches import PatchGrid

_LARGEST_BYTES = 1 << 40


@dataclass(frozen=True)
class Budget:
    """A limit on every byte of a transmission.

    Raises:
        InvalidInputError: the amount is not finite, zero or negative.
    """

    kind: Literal["wire_bytes", "percent_of_raw", "deadline_s"]
    amount: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.amount) and self.amount > 0):
            raise InvalidInputError(f"budget.{self.kind}", f"must be above 0, got {self.amount:g}")

    def wire_bytes(self, grid: PatchGrid, rate_bps: float) -> int:
        """The limit in bytes.

        Args:
            grid: the picture's, for the raw size.
            rate_bps: the channel's current rate.
        """
        if self.kind == "percent_of_raw":
            limit = grid.raw_bytes * self.amount / 100
        elif self.kind == "deadline_s":
            limit = self.amount * rate_bps / 8
        else:
            limit = self.amount
        return int(min(limit, _LARGEST_BYTES))
