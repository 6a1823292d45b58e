"""What is left of a picture, planned anew for what the link turned out to carry."""

from dataclasses import dataclass, field, replace
from enum import Enum
from threading import Lock
from typing import Final

import numpy as np

from shared.arrays import BoolArray, Float32Array, UInt8Array
from shared.errors import BudgetTooSmallError
from transmitter.packing import pack_revision
from transmitter.planning import RATE_DISTORTION, Plan, PlanRequest, PreparedPicture, earlier_plans
from transmitter.transport.contract import PackedRevision, RevisionWanted

_ENOUGH_IN_A_HURRY: Final = 0.96  # of the bytes: to use the last ones takes as long as to send many times as many


class Reason(Enum):
    """Why a new plan is wanted; the values are labels of metrics."""

    LESS_ROOM = "less_room"
    """What was planned does not fit any more."""
    MORE_ROOM = "more_room"
    """There is more room than was planned for."""


@dataclass(frozen=True, eq=False)
class Revised:
    """A new plan, ready to be sent."""

    wanted: RevisionWanted
    reason: Reason
    plan: Plan
    packed: PackedRevision


@dataclass(eq=False)
class Replanner:
    """Keeps of a picture what planning it again needs, and the plans that were made of it."""

    prepared: PreparedPicture
    relevance: Float32Array
    """(height, width) what the first plan went by."""
    strategy: str
    transmission_id: int
    plans: list[Plan]
    """Of every revision so far, the first plan first."""
    packed: list[PackedRevision] = field(default_factory=list)
    """The same as packets."""
    _lock: Lock = field(default_factory=Lock)  # a thread may still plan for a call that is gone

    def revised(self, wanted: RevisionWanted) -> Revised | None:
        """Makes the plan that is wanted; None where nothing is worth its bytes.

        Computes for tenths of a second; what it made counts once it is kept.
        """
        earlier = earlier_plans(self.plans, wanted.served)
        request = request_for(wanted, self.strategy)
        try:
            with self._lock:
                plan = self.prepared.replan(self.relevance, request, earlier)
        except BudgetTooSmallError:  # not even a header
            return None
        if plan is None:
            return None
        packed = pack_revision(plan, self.transmission_id, wanted.number)
        return Revised(wanted, self.reason(wanted), plan, packed)

    def keep(self, revised: Revised) -> None:
        """Takes a plan for one that is going to be sent."""
        self.plans.append(revised.plan)
        self.packed.append(revised.packed)

    def reason(self, wanted: RevisionWanted) -> Reason:
        """Whether what the last plan has left is more than the new one may take, or less."""
        last = self.packed[-1]
        scans = (last, *last.scans)
        left = sum(map(open_bytes, scans, wanted.served[-len(scans) :]))
        return Reason.LESS_ROOM if wanted.budget_bytes < left else Reason.MORE_ROOM

    @property
    def levels(self) -> UInt8Array:
        """(patches,) in raster order: the highest level that any plan has for each."""
        highest: UInt8Array = np.maximum.reduce([plan.levels for plan in self.plans])
        return highest


def request_for(wanted: RevisionWanted, strategy: str = RATE_DISTORTION) -> PlanRequest:
    """What a planner is asked for; `strategy`: one of the codec's."""
    request = PlanRequest(wanted.budget_bytes, wanted.packet_bytes, strategy, scans=wanted.scans)
    return replace(request, enough=_ENOUGH_IN_A_HURRY) if wanted.hurried else request


def open_bytes(packed: PackedRevision, served: BoolArray) -> int:
    """Bytes of a revision's packets that still have something to bring.

    Args:
        packed: the revision.
        served: (expected,) in sending order.
    """
    return sum(
        len(packet.data)
        for packet in packed.patches
        if not served[packet.position : packet.position + packet.patches].all()
    )
