"""The entropy codec's sending half, as the pipeline takes it; the work is in `entropy_planning`."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from shared.arrays import Float32Array, UInt8Array
from shared.codec.entropy.codec import EntropyCodec
from shared.codec.registry import ENTROPY, CodecEntry
from transmitter.entropy_planning import plan_entropy, plan_exactly
from transmitter.planning import RATE_DISTORTION, Plan, PlanRequest


@dataclass(frozen=True)
class EntropyPicture:
    """Implements `transmitter.planning.PreparedPicture`; what plans share depends on relevance and budget here."""

    codec: EntropyCodec
    image: UInt8Array
    """(height, width, 3) RGB."""

    def plan(self, relevance: Float32Array, request: PlanRequest) -> Plan:
        """See the contract."""
        return plan_entropy(self.codec, self.image, relevance, request)


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
