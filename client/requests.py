"""What a caller may ask for, checked before a byte is sent, and what a transmission comes back with."""

import math
import re
from dataclasses import dataclass, field
from typing import Any, Final

from shared.errors import InvalidInputError
from shared.packets import MAX_PACKET_BYTES, MIN_PACKET_BYTES
from shared.service import MAX_UPLOAD_BYTES
from shared.stubs.mmsc.v1 import common_pb2, receiver_pb2, transmitter_pb2

ALLOCATIONS: Final[dict[str, transmitter_pb2.Allocation.ValueType]] = {
    "rate-distortion": transmitter_pb2.ALLOCATION_RATE_DISTORTION,
    "greedy": transmitter_pb2.ALLOCATION_GREEDY,
    "vit-sc": transmitter_pb2.ALLOCATION_VIT_SC,
}
"""How a budget may be spread over the patches, by the command line's names."""

DEFAULT_PERCENT_OF_RAW: Final = 2.0
"""Budget where the caller names none, in percent of width x height x 3 bytes."""

MAX_BUDGET_BYTES: Final = 1 << 40
"""Largest budget in bytes; no picture needs as much."""

MAX_DEADLINE_S: Final = 86_400.0
"""Longest deadline."""

_ID: Final = re.compile("[0-9a-fA-F]{8}")

OUTCOMES: Final = {
    common_pb2.OUTCOME_UNSPECIFIED: "receiving",
    common_pb2.OUTCOME_COMPLETE: "complete",
    common_pb2.OUTCOME_PARTIAL: "partial",
    common_pb2.OUTCOME_FAILED: "failed",
}
"""Words for how a transmission ended."""


@dataclass(frozen=True)
class Budget:
    """How many bytes may cross the channel; exactly one of the three is given.

    Raises:
        InvalidInputError: none or several are given, or the one is not a finite number above 0, or it is more
            than MAX_BUDGET_BYTES or MAX_DEADLINE_S.
    """

    wire_bytes: int | None = None
    """Bytes, everything counted."""

    percent_of_raw: float | None = None
    """Percent of width x height x 3 bytes."""

    deadline_s: float | None = None
    """Seconds from the first byte sent, in which the link carries what it can: then the picture must be there."""

    def __post_init__(self) -> None:
        if len(self._given()) != 1:
            raise InvalidInputError("budget", "give one of bytes, percent of the raw size, and deadline")
        ((name, value),) = self._given().items()
        if not (math.isfinite(value) and value > 0):
            raise InvalidInputError(f"budget.{name}", f"must be above 0, not {value:g}")
        if name == "wire_bytes" and value > MAX_BUDGET_BYTES:
            raise InvalidInputError(f"budget.{name}", f"must be at most {MAX_BUDGET_BYTES}, not {value:g}")
        if name == "deadline_s" and value > MAX_DEADLINE_S:
            raise InvalidInputError(f"budget.{name}", f"must be at most {MAX_DEADLINE_S:g}, not {value:g}")

    def to_message(self) -> transmitter_pb2.Budget:
        """The budget as it is sent."""
        fields: dict[str, Any] = self._given()
        return transmitter_pb2.Budget(**fields)

    def _given(self) -> dict[str, int | float]:
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Options:
    """How the budget is spent; the defaults are the transmitter's own.

    Raises:
        InvalidInputError: an unknown allocation, a packet size or a deadline outside the limits, or a
            transmission's id that is none.
    """

    allocation: str = "rate-distortion"
    """One of ALLOCATIONS."""

    packet_bytes: int = 0
    """Largest packet, MIN_PACKET_BYTES to MAX_PACKET_BYTES; 0 leaves it to the transmitter."""

    codec: str = ""
    """Name of the patch codec; empty means the transmitter's default."""

    extractor: str = ""
    """Name of the relevance extractor; empty means the transmitter's default."""

    relevance_png: bytes = b""
    """The caller's own relevance map (grey PNG of the picture's upright size) in place of the extractor."""

    return_maps: bool = True
    """Have the relevance map and the level maps returned as PNGs."""

    deadline_s: float | None = None
    """Seconds from the first byte sent by which the picture must be there, however much of the budget is left; above
    0, at most MAX_DEADLINE_S. Not together with a budget that is a deadline."""

    transmission_id: str = ""
    """8 hexadecimal digits: takes up a transmission that failed or was left; what the receiver has is not sent again.
    Everything else must be asked for as it was."""

    open_loop: bool = False
    """Send the plan as it is, whatever the receiver says of losses; for comparison."""

    def __post_init__(self) -> None:
        if self.allocation not in ALLOCATIONS:
            known = ", ".join(ALLOCATIONS)
            raise InvalidInputError("options.allocation", f"is none of {known}: {self.allocation!r}")
        if self.packet_bytes and not MIN_PACKET_BYTES <= self.packet_bytes <= MAX_PACKET_BYTES:
            limits = f"{MIN_PACKET_BYTES} to {MAX_PACKET_BYTES} bytes"
            raise InvalidInputError("options.packet_bytes", f"must be {limits}, not {self.packet_bytes}")
        if self.deadline_s is not None and not 0 < self.deadline_s <= MAX_DEADLINE_S:
            reason = f"must be above 0 and at most {MAX_DEADLINE_S:g}, not {self.deadline_s:g}"
            raise InvalidInputError("options.deadline_s", reason)
        if self.transmission_id and not _ID.fullmatch(self.transmission_id):
            raise InvalidInputError("options.transmission_id", f"{self.transmission_id!r} is not 8 hexadecimal digits")

    def to_message(self) -> transmitter_pb2.TransmitOptions:
        """The options as they are sent."""
        return transmitter_pb2.TransmitOptions(
            allocation=ALLOCATIONS[self.allocation],
            packet_bytes=self.packet_bytes,
            codec=self.codec,
            extractor=self.extractor,
            relevance_png=self.relevance_png,
            return_maps=self.return_maps,
            deadline_s=self.deadline_s or 0.0,
            transmission_id=self.transmission_id,
            open_loop=self.open_loop,
        )


@dataclass(frozen=True)
class Link:
    """What a link shall be like; None keeps what it is, or the emulator's default."""

    rate_bps: float | None = None
    """Bits per second, above 0."""

    propagation_s: float | None = None
    """One-way delay in seconds."""

    queue_bytes: int | None = None
    """Bytes that may wait for the link, per stream."""

    loss_rate: float | None = None
    """Probability that a packet is lost, 0 to 1."""

    seed: int | None = None
    """Seeds everything random; setting it restarts the random sequence."""

    def to_arguments(self) -> tuple[str, ...]:
        """The command line of the channel emulator."""
        units = {"rate_bps": ("--rate", "bit"), "propagation_s": ("--propagation", "s")}
        arguments: list[str] = []
        for name, value in vars(self).items():
            option, unit = units.get(name, (f"--{name.replace('_', '-')}", ""))
            if value is not None:
                # Never an exponent: 1e-06 is no number on most command lines.
                text = str(value) if isinstance(value, int) else f"{value:.9f}"
                arguments += [option, text + unit]
        return tuple(arguments)


@dataclass
class Transmission:
    """The events of one transmission, gathered."""

    relevance: transmitter_pb2.RelevanceReady = field(default_factory=transmitter_pb2.RelevanceReady)
    """Which extractor ran, whether it found the thing, and the map as a grey PNG if maps were asked for."""

    plan: transmitter_pb2.PlanMade = field(default_factory=transmitter_pb2.PlanMade)
    """The budget, the plan's bytes on the wire, the patches at each level, and the level map as a PNG."""

    replanned: list[transmitter_pb2.Replanned] = field(default_factory=list)
    """What was planned anew on the way, for what the link turned out to carry."""

    delivered: transmitter_pb2.Delivered = field(default_factory=transmitter_pb2.Delivered)
    """The summary: outcome, bytes, losses, patches, seconds by stage, the link as it was, and as it seemed."""

    @property
    def transmission_id(self) -> str:
        """8 hexadecimal digits; the receiver files the reconstruction under it."""
        return self.plan.transmission_id

    @property
    def outcome(self) -> str:
        """`complete`, `partial` or `failed`."""
        return OUTCOMES[self.delivered.outcome]

    def add(self, event: transmitter_pb2.TransmitResponse) -> None:
        """Files one event of the stream; progress is not kept."""
        match event.WhichOneof("event"):
            case "relevance":
                self.relevance = event.relevance
            case "plan":
                self.plan = event.plan
            case "replanned":
                self.replanned.append(event.replanned)
            case "delivered":
                self.delivered = event.delivered


@dataclass(frozen=True)
class Reconstruction:
    """What the receiver made of a transmission."""

    transmission_id: str
    outcome: str
    """`receiving`, `complete`, `partial` or `failed`."""
    image_png: bytes
    """8-bit RGB PNG; empty where the stream header did not arrive."""
    level_map_png: bytes
    """8-bit grey PNG, one pixel per patch: the level that arrived, 0 for skipped and lost."""
    received_bytes: int
    expected_patches: int
    received_patches: int
    reconstruct_s: float
    codec: str = ""
    """Name of the patch codec; empty where the stream header did not arrive."""

    @classmethod
    def of(cls, message: receiver_pb2.Reconstruction) -> "Reconstruction":
        """Reads the receiver's message."""
        return cls(
            message.transmission_id,
            OUTCOMES[message.outcome],
            message.image_png,
            message.level_map_png,
            message.received_bytes,
            message.expected_patches,
            message.received_patches,
            message.reconstruct_s,
            message.codec,
        )


def clean_text(text: str) -> str:
    """Text that can be sent: what a terminal's broken bytes left in it becomes question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def checked_image(image: bytes) -> bytes:
    """The encoded picture, if it may be uploaded.

    Raises:
        InvalidInputError: it is empty or larger than MAX_UPLOAD_BYTES.
    """
    if not image:
        raise InvalidInputError("image", "is empty")
    if len(image) > MAX_UPLOAD_BYTES:
        raise InvalidInputError("image", f"{len(image)} bytes are over the limit of {MAX_UPLOAD_BYTES}")
    return image
