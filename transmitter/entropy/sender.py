"""The entropy codec's sending half, as the pipeline takes it; the work is in `entropy_planning`."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from shared.arrays import Float32Array, UInt8Array
from shared.codec.entropy.codec import EntropyCodec
from shared.codec.registry import ENTROPY, CodecEntry
from shared.patches import PatchGrid
from transmitter.entropy.costs import Costs
from transmitter.entropy.planning import plan_entropy, plan_exactly, replan_entropy
from transmitter.entropy.source import prepare_over
from transmitter.entropy.trials import Trials
from transmitter.planning import RATE_DISTORTION, Earlier, Plan, PlanRequest, check_earlier


@dataclass(eq=False)
class EntropyPicture:
    """Implements `transmitter.planning.PreparedPicture`; what plans share depends on relevance and budget here."""

    codec: EntropyCodec
    image: UInt8Array
    """(height, width, 3) RGB."""
    _learnt: tuple[Float32Array, Trials] | None = None
    """The last plan's relevance, and what was learnt while it was made."""

    def plan(self, relevance: Float32Array, request: PlanRequest) -> Plan:
        """See the contract."""
        planned = plan_entropy(self.codec, self.image, relevance, request)
        self._learnt = relevance.copy(), planned.trials
        return planned.plan

    def replan(self, relevance: Float32Array, request: PlanRequest, earlier: Sequence[Earlier]) -> Plan | None:
        """See the contract; quickest after `plan` with the same relevance."""
        check_earlier(earlier, ENTROPY, PatchGrid.of(self.image))
        trials = self._trials(relevance, earlier[0].plan.header.sketch, request)
        return replan_entropy(trials, request, earlier)

    def _trials(self, relevance: Float32Array, layer: bytes, request: PlanRequest) -> Trials:
        """Those of the last plan if they are of this relevance and background layer, else fresh ones."""
        if self._learnt is not None:
            before, trials = self._learnt
            if trials.source.layer == layer and np.array_equal(before, relevance):
                return trials
        trials = Trials(Costs(self.codec, prepare_over(self.codec, self.image, relevance, layer)), request)
        self._learnt = relevance.copy(), trials
        return trials


@dataclass(frozen=True)
class EntropySender:
    """Implements `transmitter.planning.SenderCodec`."""

    codec: EntropyCodec

    entry: ClassVar[CodecEntry] = ENTROPY
    strategies: ClassVar[Collection[str]] = (RATE_DISTORTION,)

    @property
    def weights_hash(self) -> bytes:
        """Of all that both ends must have alike."""
        return self.codec.weights_hash

    def prepare(self, image: UInt8Array) -> EntropyPicture:
        """See the contract."""
        return EntropyPicture(self.codec, image)

    def plan_exactly(self, image: UInt8Array, *, packet_bytes: int, frame_bytes: int = 0) -> Plan:
        """See the contract."""
        return plan_exactly(self.codec, image, PlanRequest(0, packet_bytes, frame_bytes=frame_bytes))
