"""A transmission as a file: its packets in the order of sending, each with its size before it.

```
file    frame frame ...
frame   size:u16 │ packet of that size                (big endian; the packet is that of `shared.packets`)
```
The packets' transmission number is FILE_ID, which costs no byte and does three things: a file says at bytes 2 to 6
what it is (0x10 "MMS1", packet version and container version), a foreign file is told at once, and behind a
damaged place the next packet is found again. A file that was cut off is read as far as it goes: the packet that
the cut fell into is given as it is, without its checksum.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from shared.errors import InvalidInputError, PacketError, StreamError
from shared.packets import MAX_PACKET_BYTES, PACKET_HEADER_BYTES, Packet, PacketKind

_MAGIC: Final = b"MMS1"

FILE_ID: Final = int.from_bytes(_MAGIC, "big")
"""Transmission number of every packet in a file; its last byte is the container's version."""

FRAME_BYTES: Final = 2
"""Bytes before each packet."""

MAX_FILE_BYTES: Final = 64 * 1024 * 1024
"""No file is larger: the largest picture, exact, takes 50 MB."""

_FILE_START: Final = b"\x10" + _MAGIC
_PACKET_START: Final = re.compile(rb"[\x10\x11]" + re.escape(_MAGIC))
_MOST_DAMAGES: Final = 64
"""Places behind which the next packet is looked for: bounds the work on a file made to cost much."""


@dataclass(frozen=True)
class FileContents:
    """What can be read of a file."""

    packets: tuple[Packet, ...]
    """Intact packets in the order of the file."""
    cut_packet: Packet | None
    """The beginning of the packet that the end of the file fell into, if its own header is there; unchecked."""
    cut: bool
    """Whether the file ends within a packet."""
    damages: int
    """Places that hold no intact packet."""


def write_frames(packets: Iterable[bytes]) -> bytes:
    """Puts packets into a file.

    Args:
        packets: of transmission FILE_ID, in the order of sending, the header's first.
    """
    return b"".join(len(packet).to_bytes(FRAME_BYTES, "big") + packet for packet in packets)


def read_frames(data: bytes) -> FileContents:
    """Takes a file, or the beginning of one, apart.

    Args:
        data: anything.

    Raises:
        StreamError: it is empty, not such a file, or of another version.
        InvalidInputError: it has more than MAX_FILE_BYTES.
    """
    _check_start(data)
    packets: list[Packet] = []
    damages, at = 0, 0
    while at < len(data):
        packet = packet_at(data, at, FILE_ID)
        if packet is not None:
            packets.append(packet)
            at += FRAME_BYTES + PACKET_HEADER_BYTES + len(packet.body)
            continue
        following = _next_frame(data, at)
        if following is None and _ends_within(data, at):
            return FileContents(tuple(packets), _cut_packet(data, at), cut=True, damages=damages)
        damages += 1
        if following is None or damages == _MOST_DAMAGES:
            break
        at = following
    return FileContents(tuple(packets), None, cut=False, damages=damages)


def _check_start(data: bytes) -> None:
    if not data:
        raise StreamError("is empty")
    if len(data) > MAX_FILE_BYTES:
        raise InvalidInputError("file", f"{len(data)} bytes are over the limit of {MAX_FILE_BYTES}")
    start = data[FRAME_BYTES : FRAME_BYTES + len(_FILE_START)]
    if not _FILE_START.startswith(start):
        raise StreamError("is no file of this kind and version, or its first bytes are damaged")


def size_at(data: bytes, at: int) -> int:
    """What the frame at a place says of the size of its packet, in bytes."""
    return int.from_bytes(data[at : at + FRAME_BYTES], "big")


def packet_at(data: bytes, at: int, transmission_id: int) -> Packet | None:
    """The packet in the frame at a place; None where there is no whole one of that transmission."""
    start = at + FRAME_BYTES
    end = start + size_at(data, at)
    if end > len(data):
        return None
    try:
        packet = Packet.from_bytes(data[start:end])
    except PacketError:
        return None
    return packet if packet.transmission_id == transmission_id else None


def _next_frame(data: bytes, at: int) -> int | None:
    """Where the next frame seems to begin, behind the one that begins at `at`."""
    found = _PACKET_START.search(data, at + FRAME_BYTES + 1)
    return None if found is None else found.start() - FRAME_BYTES


def _ends_within(data: bytes, at: int) -> bool:
    """Whether the frame at `at` is one that the end of the file cuts off, as far as can be seen."""
    size, rest = size_at(data, at), data[at + FRAME_BYTES :]
    if len(data) - at <= FRAME_BYTES:
        return True
    known = rest[: 1 + len(_MAGIC)]
    starts = known[:1] in (b"\x10", b"\x11") and _MAGIC.startswith(known[1:])
    return starts and len(rest) < size <= MAX_PACKET_BYTES


def _cut_packet(data: bytes, at: int) -> Packet | None:
    rest = data[at + FRAME_BYTES :]
    if len(rest) < PACKET_HEADER_BYTES:
        return None
    # What is left of the packet gets a checksum of its own: reading it needs no second parser.
    position = int.from_bytes(rest[5:8], "big")
    return Packet(PacketKind(rest[0] & 0x0F), FILE_ID, position, rest[PACKET_HEADER_BYTES:])
