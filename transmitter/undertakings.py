"""Transmissions that were left before their end, kept for a while so that they can be taken up again."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from shared.errors import DeadlineError, InvalidInputError, NotFoundError
from shared.stubs.mmsc.v1 import channel_pb2, transmitter_pb2
from transmitter.course import Course
from transmitter.pipeline import Job, PlanStage

KEPT_S: Final = 600.0
"""Seconds after which one that nobody takes up is forgotten."""

KEPT: Final = 32
"""How many are kept at most, the newest ones."""

KEPT_RAW_BYTES: Final = 64 << 20
"""Raw bytes of their pictures, all together; what is kept of a picture takes several times as much."""


@dataclass(eq=False)
class Undertaking:
    """A transmission that has been planned, and all that sending it takes."""

    job: Job
    digest: bytes
    """Of the request, but for the id of a transmission to take up."""
    relevance: transmitter_pb2.RelevanceReady
    made: transmitter_pb2.PlanMade
    stage: PlanStage
    stages_s: Mapping[str, float]
    """Seconds of the stages before sending."""
    link: channel_pb2.LinkState
    """As it was at first."""
    course: Course

    @property
    def name(self) -> str:
        """8 hexadecimal digits."""
        return f"{self.job.transmission_id:08x}"


def request_digest(request: transmitter_pb2.TransmitRequest) -> bytes:
    """The same for requests that ask for the same."""
    asked = transmitter_pb2.TransmitRequest()
    asked.CopyFrom(request)
    asked.options.transmission_id = ""
    return sha256(asked.SerializeToString(deterministic=True)).digest()


class Unfinished:
    """Keeps undertakings by their ids; the oldest give way."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, tuple[Undertaking, float]] = OrderedDict()

    def keep(self, undertaking: Undertaking, now: float) -> None:
        """Keeps one that was left; now is in seconds, on a clock that does not go back."""
        self._kept[undertaking.job.transmission_id] = (undertaking, now)
        self._forget(now)

    def take(self, transmission_id: int, digest: bytes, now: float) -> Undertaking:
        """Gives one back, and forgets it.

        Raises:
            NotFoundError: it is unknown: never begun here, under way, at its end or forgotten.
            InvalidInputError: the request is another one.
            DeadlineError: its deadline has passed.
        """
        self._forget(now)
        if transmission_id not in self._kept:
            reason = "is under way, has ended, was forgotten, or never began here"
            raise NotFoundError(f"transmission {transmission_id:08x} cannot be taken up: it {reason}")
        undertaking, _ = self._kept[transmission_id]
        if undertaking.digest != digest:
            raise InvalidInputError("options.transmission_id", "belongs to a request that asked for something else")
        del self._kept[transmission_id]
        deadline_s = undertaking.course.deadline_s
        if deadline_s is not None and now >= deadline_s:
            raise DeadlineError(f"the deadline of transmission {transmission_id:08x} has passed")
        return undertaking

    def _forget(self, now: float) -> None:
        while self._kept:
            undertaking, since_s = next(iter(self._kept.values()))
            raw_bytes = sum(each.stage.plan.header.grid.raw_bytes for each, _ in self._kept.values())
            if now - since_s <= KEPT_S and len(self._kept) <= KEPT and raw_bytes <= KEPT_RAW_BYTES:
                return
            del self._kept[undertaking.job.transmission_id]
