"""The ladder's sending half: every patch at every level, levels within the budget, whole patches to a packet."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from shared.arrays import Float32Array, UInt8Array
from shared.codec.contract import EncodedPatches, PatchCodec
from shared.codec.identity import stream_weights_hash
from shared.codec.ladder_order import packet_runs, sending_order
from shared.codec.registry import LADDER, CodecEntry
from shared.levels import LEVEL_BYTES, RAW
from shared.patches import split
from transmitter.importance import patch_importance
from transmitter.ladder.planning import STRATEGIES, LadderPlan, exact_plan, make_plan
from transmitter.ladder.revisions import make_revision
from transmitter.planning import Body, Earlier, Plan, PlanRequest, worth_sending


@dataclass(frozen=True)
class LadderPicture:
    """A picture at every level; implements `transmitter.planning.PreparedPicture`."""

    image: UInt8Array
    """(height, width, 3) RGB."""
    encoded: EncodedPatches
    weights_hash: bytes

    def plan(self, relevance: Float32Array, request: PlanRequest) -> Plan:
        """See the contract; a patch is as important as it is relevant on average."""
        plan = make_plan(self.image, patch_importance(relevance), self.encoded.errors, request, self.weights_hash)
        return filled(plan, self.encoded)

    def replan(self, relevance: Float32Array, request: PlanRequest, earlier: Sequence[Earlier]) -> Plan | None:
        """See the contract."""
        levels = make_revision(self.image, patch_importance(relevance), self.encoded.errors, request, earlier)
        plan = filled(levels, self.encoded) if levels else None
        return plan if plan and worth_sending(plan) else None


@dataclass(frozen=True)
class LadderSender:
    """Implements `transmitter.planning.SenderCodec`."""

    codec: PatchCodec

    entry: ClassVar[CodecEntry] = LADDER
    strategies: ClassVar[Collection[str]] = tuple(STRATEGIES)

    @property
    def weights_hash(self) -> bytes:
        """Of the levels' tables and the level map's."""
        return stream_weights_hash(self.codec)

    def prepare(self, image: UInt8Array) -> LadderPicture:
        """Encodes every patch at every level."""
        return LadderPicture(image, self.codec.encode(split(image)), self.weights_hash)

    def plan_exactly(self, image: UInt8Array, *, packet_bytes: int, frame_bytes: int = 0) -> Plan:
        """Every patch as it is; no level but the exact one is computed."""
        patches = split(image)
        nothing = np.zeros((len(patches), 0), np.uint8)
        payloads = (*(nothing for _ in range(RAW)), patches.reshape(len(patches), -1))
        encoded = EncodedPatches(payloads, np.zeros((len(patches), len(LEVEL_BYTES)), np.float32))
        return filled(exact_plan(image, self.weights_hash, packet_bytes, frame_bytes), encoded)


def filled(plan: LadderPlan, encoded: EncodedPatches) -> Plan:
    """The plan with the bytes of its patches."""
    return Plan(plan.header, plan.levels, tuple(_bodies(plan, encoded)), plan.packet_bytes, plan.frame_bytes)


def _bodies(plan: LadderPlan, encoded: EncodedPatches) -> Iterator[Body]:
    """Every body filled as far as whole patches go."""
    sizes = np.asarray(LEVEL_BYTES)[plan.levels[sending_order(plan.levels)]]
    ends = np.concatenate([[0], np.cumsum(sizes)])
    content = _content(plan, encoded)
    first = 0
    for run in packet_runs(plan.level_counts, plan.packet_bytes):
        yield Body(first, run, content[ends[first] : ends[first + run]])
        first += run


def _content(plan: LadderPlan, encoded: EncodedPatches) -> bytes:
    """The bytes of all sent patches in the order of sending, which is level by level."""
    levels = range(len(LEVEL_BYTES) - 1, 0, -1)
    return b"".join(encoded.payloads[level][plan.levels == level].tobytes() for level in levels)
