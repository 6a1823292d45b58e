"""How long a new plan takes on this machine, by the plans that were made of late."""

from typing import Final

from transmitter.transport.contract import USUAL_REPLAN_S

_USUAL_RAW_BYTES: Final = 480 * 320 * 3
_OF_A_FIRST: Final = 0.55  # what a new plan takes of what the first one took: on average of 23 and 32 measured
_NEWS: Final = 0.5  # what the last one counts


class PlanningPace:
    """Seconds of a new plan in proportion to the picture; a machine that is busy with other things is slow for long."""

    def __init__(self) -> None:
        self._s_per_byte = USUAL_REPLAN_S / _USUAL_RAW_BYTES

    def replan_s(self, raw_bytes: int) -> float:
        """What a new plan is expected to take of a picture of so many raw bytes."""
        return self._s_per_byte * raw_bytes

    def after_first(self, raw_bytes: int, seconds: float) -> float:
        """The same, when the first plan of that very picture has taken so many seconds."""
        return self.replan_s(raw_bytes) + _NEWS * (_OF_A_FIRST * seconds - self.replan_s(raw_bytes))

    def learn(self, raw_bytes: int, replan_s: float) -> None:
        """Takes what was believed at the end of a transmission."""
        if raw_bytes > 0:
            self._s_per_byte += _NEWS * (max(replan_s, 0.0) / raw_bytes - self._s_per_byte)
