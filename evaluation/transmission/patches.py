"""Our own systems, measured on the real path: what the transmitter packs, and what the receiver makes of it.

```
photo, relevance ─► Pipeline ─► packets ─► Assembly ─► decode ─► paint ─► picture
                                 bytes are all that passes
```
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from time import perf_counter
from typing import Final

import numpy as np

from evaluation.transmission.contract import Outcome, Sender
from evaluation.transmission.photo import Photo
from receiver.assembly import Assembly
from receiver.contract import ArrivedPatches, ReceiverCodec, by_number
from shared.arrays import UInt8Array
from shared.codec.registry import CodecEntry
from shared.errors import BudgetTooSmallError, StreamError
from shared.packets import DEFAULT_PACKET_BYTES, Packet
from transmitter.budget import Budget
from transmitter.packing import pack
from transmitter.pipeline import Job, Pipeline, PlanStage, StageClock
from transmitter.planning import RATE_DISTORTION, Plan, PreparedPicture, SenderCodec
from transmitter.relevance import Relevance

_TRANSMISSION: Final = 1
_ANY_RATE_BPS: Final = 1.0  # only budgets that are deadlines look at it
_GREY: Final = 128


@dataclass(frozen=True)
class PreparedOnce:
    """A codec that has prepared the photo already; implements `transmitter.planning.SenderCodec`."""

    codec: SenderCodec
    prepared: PreparedPicture

    @property
    def entry(self) -> CodecEntry:
        """Of the codec proper."""
        return self.codec.entry

    @property
    def weights_hash(self) -> bytes:
        """Of the codec proper."""
        return self.codec.weights_hash

    @property
    def strategies(self) -> Collection[str]:
        """Of the codec proper."""
        return self.codec.strategies

    def prepare(self, image: UInt8Array) -> PreparedPicture:  # noqa: ARG002 - the contract's
        """What was prepared before."""
        return self.prepared

    def plan_exactly(self, image: UInt8Array, *, packet_bytes: int, frame_bytes: int = 0) -> Plan:
        """As the codec proper."""
        return self.codec.plan_exactly(image, packet_bytes=packet_bytes, frame_bytes=frame_bytes)


@dataclass
class Known:
    """An extractor whose answer is known already."""

    relevance: Relevance
    name = "known"

    def __call__(self, image: UInt8Array, query: str) -> Relevance:  # noqa: ARG002 - the contract's
        """The known map."""
        return self.relevance


@dataclass(frozen=True)
class PatchSender:
    """The project's own transmitter and receiver, without the services around them."""

    photo: Photo
    relevance: Relevance
    codec: str
    """A key of `shared.codec.registry.CODECS`."""
    strategy: str = RATE_DISTORTION
    """One of the codec's strategies."""
    packet_bytes: int = DEFAULT_PACKET_BYTES
    """Largest packet."""

    def send(self, budget_bytes: int) -> Outcome:
        """Sends the photo; where not even the headers fit, nothing is sent and the receiver shows grey."""
        prepared, encode_s = self.photo.prepared(self.codec)
        sender = PreparedOnce(self.photo.tools.sender(self.codec), prepared)
        pipeline = Pipeline({self.codec: sender}, {"known": Known(self.relevance)})
        clock = StageClock(perf_counter)
        budget = Budget("wire_bytes", max(budget_bytes, 1))
        job = Job(self.photo.png, "", budget, _TRANSMISSION, strategy=self.strategy, packet_bytes=self.packet_bytes)
        try:
            *_, stage = pipeline.run(job, _ANY_RATE_BPS, clock)
        except BudgetTooSmallError:
            nothing = np.full_like(self.photo.image, _GREY)
            return Outcome(nothing, 0, fits=False, setting="nothing sent", encode_s=encode_s)
        assert isinstance(stage, PlanStage)
        return self._outcome(stage.packets, encode_s, clock.seconds["allocate"] + clock.seconds["pack"])

    def send_exactly(self) -> Outcome:
        """Sends every patch as it is, whatever bytes that takes."""
        start_s = perf_counter()
        plan = self.photo.tools.sender(self.codec).plan_exactly(self.photo.image, packet_bytes=self.packet_bytes)
        packets = pack(plan, _TRANSMISSION)
        return self._outcome(packets, perf_counter() - start_s, 0.0)

    def _outcome(self, packets: list[bytes], encode_s: float, plan_s: float) -> Outcome:
        receiver = self.photo.tools.receiver(self.codec)
        decoded = _arrived(packets, receiver).decode()
        return Outcome(
            decoded.paint(),
            sum(map(len, packets)),
            fits=True,
            setting=f"{len(packets)} packets",
            encode_s=encode_s,
            plan_s=plan_s,
            levels=decoded.level_picture,
            level_count=receiver.entry.levels,
        )


def patch_sender(codec: str, strategy: str, packet_bytes: int) -> Callable[[Photo, Relevance], Sender]:
    """How to prepare our own path with one of the codecs, one of its strategies, and packets of some length."""
    return lambda photo, relevance: PatchSender(photo, relevance, codec, strategy, packet_bytes)


def _arrived(packets: list[bytes], codec: ReceiverCodec) -> ArrivedPatches:
    """What a receiver has that gets nothing but the packets."""
    assembly = Assembly(_TRANSMISSION, by_number(codec), now=0.0)
    for packet in packets:
        assembly.accept(Packet.from_bytes(packet), now=0.0)
    arrived = assembly.snapshot()
    if arrived is None:
        raise StreamError("the packets hold no header")
    return arrived
