"""Pictures as files of the patch codec, without any service: what `mmsc encode` and `mmsc decode` do.

```
picture ─► codec.prepare ──┐
relevance ─────────────────┴─► plan ─► pack ─► write_frames ─► file
file ─► read_frames ─► Assembly ─► codec.decode ─► codec.paint ─► picture
```
The stages are those of the transmitter and the receiver; only the container around the packets is new. Packets are
as long as they may be, since nothing is lost on the way.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from receiver.assembly import Assembly
from receiver.contract import ReceiverCodec, by_number
from receiver.header import HeaderSection
from shared.arrays import Float32Array, UInt8Array
from shared.container import FILE_ID, FRAME_BYTES, FileContents, write_frames
from shared.errors import PacketError, StreamError
from shared.packets import MAX_PACKET_BYTES, Packet, PacketKind, StreamHeader
from transmitter.packing import pack
from transmitter.pipeline import StageClock
from transmitter.planning import Plan, PlanRequest, SenderCodec


@dataclass(frozen=True)
class EncodedFile:
    """A picture as a file."""

    data: bytes
    plan: Plan
    """Which patch is at which level."""


@dataclass(frozen=True)
class DecodedFile:
    """What a file shows."""

    header: StreamHeader
    picture: UInt8Array
    """(height, width, 3) RGB."""
    levels_planned: tuple[int, ...]
    """Patches at each level as the file was made."""
    levels_read: tuple[int, ...]
    """Patches at each level that were read; none at level 0."""
    cut: bool
    """Whether the file ends before its time."""
    damages: int
    """Places that could not be read."""

    @property
    def expected_patches(self) -> int:
        """Patches that the file held when it was made."""
        return sum(self.levels_planned[1:])

    @property
    def read_patches(self) -> int:
        """Patches that were read."""
        return sum(self.levels_read[1:])

    @property
    def complete(self) -> bool:
        """Whether everything that the file held is shown."""
        return self.read_patches == self.expected_patches and not self.cut and not self.damages


# ---- encoding --------------------------------------------------------------------------------------


def encode_within(
    image: UInt8Array, relevance: Float32Array, codec: SenderCodec, *, limit_bytes: int, clock: StageClock
) -> EncodedFile:
    """Makes the most of a number of bytes.

    Args:
        image: (height, width, 3) RGB.
        relevance: (height, width), 0 to 1; 0 everywhere lets content alone decide.
        codec: of the patches.
        limit_bytes: the file's largest size.
        clock: where the stages' times go.

    Returns:
        A file of at most `limit_bytes`.

    Raises:
        BudgetTooSmallError: not even the stream header fits.
    """
    with clock.stage("encode"):
        prepared = codec.prepare(image)
    with clock.stage("allocate"):
        plan = prepared.plan(relevance, PlanRequest(limit_bytes, MAX_PACKET_BYTES, frame_bytes=FRAME_BYTES))
    with clock.stage("pack"):
        return _packed(plan)


def encode_exactly(image: UInt8Array, codec: SenderCodec, *, clock: StageClock) -> EncodedFile:
    """Puts every patch at the exact level, whatever size that takes.

    Args:
        image: (height, width, 3) RGB.
        codec: of the patches.
        clock: where the stages' times go.
    """
    with clock.stage("encode"):
        plan = codec.plan_exactly(image, packet_bytes=MAX_PACKET_BYTES, frame_bytes=FRAME_BYTES)
    with clock.stage("pack"):
        return _packed(plan)


def _packed(plan: Plan) -> EncodedFile:
    return EncodedFile(write_frames(pack(plan, FILE_ID)), plan)


# ---- decoding --------------------------------------------------------------------------------------


def stream_header(contents: FileContents) -> StreamHeader:
    """The header of a file, which says by which codec to decode it.

    Raises:
        StreamError: it is damaged, cut off, or describes an impossible picture.
    """
    section = HeaderSection()
    for packet in contents.packets:
        if packet.kind is PacketKind.HEADER and not packet.revision:
            try:
                section.add(packet.position, packet.body)
            except PacketError:
                continue  # the decoding counts it
    whole = section.whole()
    if whole is None:
        raise StreamError("ends within its header" if contents.cut else "has a damaged header")
    return StreamHeader.from_bytes(whole)


def decode_file(contents: FileContents, codec: ReceiverCodec, clock: StageClock) -> DecodedFile:
    """Makes the best picture of what can be read of a file.

    Args:
        contents: of the file, or of the beginning of one.
        codec: the one that the file's header names.
        clock: where the stages' times go.

    Raises:
        StreamError: there is no header, or it is of another codec or other weights.
    """
    with clock.stage("assemble"):
        stream_header(contents)
        assembly = Assembly(FILE_ID, by_number(codec), now=0.0)
        refused = _accept_all(assembly, contents.packets)
        if not refused and not contents.damages:
            _accept_cut(assembly, contents.cut_packet)
    arrived = assembly.snapshot()
    if arrived is None:
        raise StreamError("has a damaged header")
    with clock.stage("decode"):
        decoded = arrived.decode()
    with clock.stage("restore"):
        picture = decoded.paint()
    damages = contents.damages + refused
    cut = contents.cut or (not damages and arrived.patches < assembly.expected_patches)
    damages += decoded.read_patches < arrived.patches
    return DecodedFile(arrived.header, picture, assembly.levels_planned, decoded.level_counts, cut, damages)


def _accept_all(assembly: Assembly, packets: Sequence[Packet]) -> int:
    """How many of the packets fit nowhere."""
    refused = 0
    for packet in packets:
        try:
            assembly.accept(packet, now=0.0)
        except PacketError:
            refused += 1
    return refused


def _accept_cut(assembly: Assembly, packet: Packet | None) -> None:
    """Takes what can be used of a packet that was cut off, if it goes on where the one before it ended.

    Its checksum is gone; where it stands is all there is to check.
    """
    arrived = assembly.snapshot()
    if packet is None or arrived is None or packet.kind is not PacketKind.PATCHES:
        return
    if packet.position != assembly.received_patches:
        return
    if body := arrived.codec.usable(arrived.layout, packet.position, packet.body):
        assembly.accept(replace(packet, body=body), now=0.0)
