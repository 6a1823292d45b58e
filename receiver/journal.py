"""One transmission as a file that only grows: its packets as they were accepted, each after its size.

```
journal   start │ record record ...
start     "MMSCjrn1"  transmission:u32  begun:f64 (seconds of the epoch)  crc32:u32        (24 bytes, big endian)
record    size:u16 │ packet of that size, with its own checksum (`shared.packets`)
```
A REPORT packet says how the transmission ended; more packets and another report may follow it. A journal that was
cut off anywhere is read as far as it goes, and behind a damaged place the next packet is found again, as in a file
of `shared.container`.
"""

import re
import struct
import zlib
from dataclasses import dataclass
from typing import Final

from shared.container import FRAME_BYTES, packet_at, size_at
from shared.errors import StreamError
from shared.packets import Packet

_MAGIC: Final = b"MMSCjrn1"
_START: Final = struct.Struct(">8sIdI")
_MOST_DAMAGES: Final = 64
"""Places behind which the next packet is looked for: bounds the work on a file made to cost much."""

START_BYTES: Final = _START.size
"""Bytes before the first record."""


@dataclass(frozen=True)
class Journal:
    """What can be read of a journal."""

    transmission_id: int
    begun_s: float
    """Seconds of the epoch."""
    packets: tuple[Packet, ...]
    """Intact ones, reports among them, in the order of writing."""
    sound_bytes: int
    """Where the last intact record ends: what is written next belongs there."""
    damages: int
    """Places that hold no intact record, a cut end among them."""


def journal_start(transmission_id: int, begun_s: float) -> bytes:
    """The first bytes of a journal.

    Args:
        transmission_id: 0 to 2**32 - 1.
        begun_s: seconds of the epoch.
    """
    crc = zlib.crc32(_START.pack(_MAGIC, transmission_id, begun_s, 0))
    return _START.pack(_MAGIC, transmission_id, begun_s, crc)


def record(packet: bytes) -> bytes:
    """A packet as a record; `packet` is as it crossed the channel."""
    return len(packet).to_bytes(FRAME_BYTES, "big") + packet


def read_journal(data: bytes) -> Journal:
    """Takes a journal, or the beginning of one, apart.

    Args:
        data: of any content.

    Raises:
        StreamError: it does not begin as a journal does.
    """
    transmission_id, begun_s = _read_start(data)
    pattern = re.compile(rb"[\x10-\x12]" + re.escape(transmission_id.to_bytes(4, "big")))
    packets: list[Packet] = []
    sound_bytes = at = START_BYTES
    damages = 0
    while at < len(data):
        packet = packet_at(data, at, transmission_id)
        if packet is not None:
            packets.append(packet)
            sound_bytes = at = at + FRAME_BYTES + size_at(data, at)
            continue
        damages += 1
        following = pattern.search(data, at + FRAME_BYTES + 1)
        if following is None or damages == _MOST_DAMAGES:
            break
        at = following.start() - FRAME_BYTES
    return Journal(transmission_id, begun_s, tuple(packets), sound_bytes, damages)


def _read_start(data: bytes) -> tuple[int, float]:
    if len(data) < START_BYTES:
        raise StreamError("journal is shorter than its start")
    magic, transmission_id, begun_s, crc = _START.unpack_from(data)
    if magic != _MAGIC or zlib.crc32(_START.pack(magic, transmission_id, begun_s, 0)) != crc:
        raise StreamError("is no journal of this version, or its start is damaged")
    return transmission_id, begun_s
