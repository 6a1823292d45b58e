"""The bytes on the channel: packets, and the stream header that opens a transmission.

```
packet    kind:u8  transmission:u32  revision:4 bits  position:20 bits  crc32:u32 │ body   (12 bytes + body, big endian)
          HEADER    position = offset of the body within the revision's header section
          PATCHES   position = ordinal of the first patch in the revision's sending order; the body is the codec's
          REPAIR    position = ordinal of the first patch of the packets that it can replace (`shared.repair`)
          POLL      asks for feedback at once; no body
          FEEDBACK  back to the sender: what has arrived so far (`shared.feedback`)
          REPORT    back to the sender: how the transmission ended (`shared.reports`)

section   codec:u8  weights:4  width:u16  height:u16  sketch:u16  map:u24  table:u8 │ sketch │ level map
```

A transmission begins as revision 0. When the sender changes its mind about what has not arrived yet, it sends the rest
as the next revision: a header section of its own, without sketch, whose level map skips what stays as it is. Where a
patch has come in several revisions, the finest counts. A revision may also be but another scan of the one before: its
header says so in place of a level map, and its bodies go on where those at the same places ended, so that what comes
first shows all of the picture and what comes later makes it finer.

Sending order is by level, highest first, and within a level as the codec says: it follows from the level map, so
that no byte is spent on patch positions, and any prefix of the stream decodes. The CRC covers the rest of the
packet. Every byte of a packet counts against the budget.
"""

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from shared.errors import InvalidInputError, PacketError, StreamError
from shared.patches import PatchGrid

_VERSION: Final = 0x10
_PACKET: Final = struct.Struct(">BIBHI")
_SECTION: Final = struct.Struct(">B4sHHHBHB")

_MAX_SKETCH_BYTES: Final = 0xFFFF  # what its size in the header can say

PACKET_HEADER_BYTES: Final = _PACKET.size
"""Bytes of each packet before its body."""

SECTION_HEADER_BYTES: Final = _SECTION.size
"""Bytes of the header section before the sketch."""

MIN_PACKET_BYTES: Final = 256
"""Smallest allowed limit on a packet: a raw patch must fit."""

MAX_PACKET_BYTES: Final = 65_000
"""Largest allowed limit on a packet."""

DEFAULT_PACKET_BYTES: Final = 1_200
"""Fits an Ethernet frame with room for tunnels."""

MAX_REVISIONS: Final = 16
"""Revisions that a transmission may have, the first plan among them."""

POSITIONS: Final = 1 << 20
"""Positions are below this."""

_POSITION_BITS: Final = 20

SCAN_TABLE: Final = 255
"""Stands in place of a level map's table where a revision is a scan of the one before."""

LADDER_CODEC: Final = 1
"""Codec number of the paper's ladder, version 1."""


class PacketKind(IntEnum):
    """What a packet's body is."""

    HEADER = 0
    PATCHES = 1
    REPORT = 2
    REPAIR = 3
    FEEDBACK = 4
    POLL = 5


@dataclass(frozen=True)
class Packet:
    """One packet as it crosses the channel."""

    kind: PacketKind
    transmission_id: int
    """0 to 2**32 - 1."""
    position: int
    """0 to POSITIONS - 1; see the module's picture."""
    body: bytes
    revision: int = 0
    """0 to MAX_REVISIONS - 1."""

    def to_bytes(self) -> bytes:
        """The packet on the wire."""
        place = self.revision << _POSITION_BITS | self.position
        fields = (_VERSION | self.kind, self.transmission_id, place >> 16, place & 0xFFFF)
        crc = zlib.crc32(self.body, zlib.crc32(_PACKET.pack(*fields, 0)))
        return _PACKET.pack(*fields, crc) + self.body

    @classmethod
    def from_bytes(cls, data: bytes) -> "Packet":
        """Reads a packet.

        Raises:
            PacketError: the bytes are no intact packet of this version.
        """
        if not PACKET_HEADER_BYTES <= len(data) <= MAX_PACKET_BYTES:
            raise PacketError(f"{len(data)} bytes are no packet")
        first, transmission_id, high, low, crc = _PACKET.unpack_from(data)
        body = data[PACKET_HEADER_BYTES:]
        if zlib.crc32(body, zlib.crc32(_PACKET.pack(first, transmission_id, high, low, 0))) != crc:
            raise PacketError("checksum does not match")
        if first & 0xF0 != _VERSION or first & 0x0F not in tuple(PacketKind):
            raise PacketError(f"unknown packet version or kind {first:#04x}")
        revision, position = divmod((high << 16) | low, POSITIONS)
        return cls(PacketKind(first & 0x0F), transmission_id, position, body, revision)


@dataclass(frozen=True)
class StreamHeader:
    """What the receiver must know before the first patch."""

    codec: int
    """Number of the codec and its version."""
    weights_hash: bytes
    """4 bytes: the start of the SHA-256 of the codec's weights."""
    grid: PatchGrid
    sketch: bytes
    """The whole picture, coarsely, as the codec has it (the ladder: `shared.sketch`); at most `max_sketch_bytes`."""
    level_map: bytes
    """The coded level map, likewise (the ladder: `shared.level_map`), less than 2**24 bytes."""
    level_map_table: int
    """Which of the trained tables the level map is coded with, 0 to 254, or in how many further scans the patches
    come, as the codec has it; SCAN_TABLE."""

    @property
    def scan(self) -> bool:
        """Whether this is another scan of the revision before."""
        return self.level_map_table == SCAN_TABLE

    def to_bytes(self) -> bytes:
        """The header section."""
        size = len(self.level_map)
        fixed = (self.codec, self.weights_hash, self.grid.width, self.grid.height, len(self.sketch))
        head = _SECTION.pack(*fixed, size >> 16, size & 0xFFFF, self.level_map_table)
        return head + self.sketch + self.level_map

    @classmethod
    def from_bytes(cls, section: bytes) -> "StreamHeader":
        """Reads a whole header section.

        Raises:
            StreamError: the section is truncated or describes an impossible picture.
        """
        total = section_bytes(section)
        if len(section) != total:
            raise StreamError(f"header section has {len(section)} bytes where {total} are announced")
        codec, weights, width, height, sketch, high, low, table = _SECTION.unpack_from(section)
        try:
            grid = PatchGrid(width, height)
        except InvalidInputError as error:
            raise StreamError(f"header describes an impossible picture: {error.description}") from error
        if sketch > max_sketch_bytes(grid.count):
            raise StreamError("header announces a sketch larger than any picture of this size has")
        map_start = SECTION_HEADER_BYTES + sketch
        if (high << 16) | low > grid.count + 64:
            raise StreamError("header announces a level map larger than any picture of this size has")
        return cls(codec, weights, grid, section[SECTION_HEADER_BYTES:map_start], section[map_start:], table)


def max_sketch_bytes(patches: int) -> int:
    """The longest sketch that a picture of so many patches may have, whatever the codec."""
    return min(patches // 2 + 1_024, _MAX_SKETCH_BYTES)


def section_bytes(start: bytes) -> int:
    """Size of the whole header section, from its first SECTION_HEADER_BYTES.

    Raises:
        StreamError: fewer bytes than that were given.
    """
    if len(start) < SECTION_HEADER_BYTES:
        raise StreamError("header section is truncated")
    *_, sketch, high, low, _table = _SECTION.unpack_from(start)
    return SECTION_HEADER_BYTES + int(sketch) + ((int(high) << 16) | int(low))
