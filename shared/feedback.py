"""What the receiver tells the sender while a transmission is under way; each message says all, so that none is missed.

```
body      sequence:u16  bytes:u64  packets:u32  last_us:u64  hold_us:u32  kind:u8  revision and position:u24  count:u8
          │ state state ...                                                                 (big endian)
state     revision:4 bits  header:1 bit  0:3 bits  known_below:u24  runs:varint │ gap:varint length:varint ...
```
A run is of ordinals that arrived, in the revision's sending order; its gap counts from the end of the run before. What
was repaired has arrived.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Final

from shared.errors import PacketError
from shared.packets import MAX_REVISIONS, POSITIONS, Packet, PacketKind

_FIXED: Final = struct.Struct(">HQIQIBBHB")
_STATE: Final = struct.Struct(">BBH")
_HEADER: Final = 0x08
_MAX_RUNS: Final = 256
_MOST_LAST_US: Final = 2**64 - 1  # as read and written again, floating point makes it one more
_MOST_HOLD_US: Final = 2**32 - 1
_VARINT_BITS: Final = 7
_VARINT_BYTES: Final = 4


@dataclass(frozen=True)
class Arrived:
    """What is there of one revision."""

    revision: int
    """0 to MAX_REVISIONS - 1."""
    header: bool
    """Whether its whole header section is there; before that, none of its patches counts."""
    runs: tuple[tuple[int, int], ...] = ()
    """(start, stop) of the ordinals that arrived, rising, apart from each other."""
    known_below: int = POSITIONS
    """The runs tell of ordinals below this; POSITIONS where they tell all."""

    def shortened(self) -> "Arrived":
        """With no more runs than a message carries: the first ones."""
        if len(self.runs) <= _MAX_RUNS:
            return self
        return Arrived(self.revision, self.header, self.runs[:_MAX_RUNS], self.runs[_MAX_RUNS][0])


@dataclass(frozen=True)
class Feedback:
    """How far a transmission has come at the receiver."""

    transmission_id: int
    sequence: int
    """Rises by one from message to message, 0 to 65,535, then begins again."""
    arrived_bytes: int
    """Bytes of all intact packets of this transmission on this stream, copies and repairs among them."""
    arrived_packets: int
    """The number of these packets."""
    last_s: float
    """When the last of them came, by a clock of the receiver's that never goes back; whole microseconds."""
    hold_s: float
    """Seconds from then to this message; at most 4,294; whole microseconds."""
    last_kind: PacketKind
    """What the last of them was: kind, revision and position name a packet."""
    last_revision: int
    last_position: int
    revisions: tuple[Arrived, ...]
    """Of every revision that anything arrived of, rising."""

    def to_packet(self) -> bytes:
        """The message as a packet; of very many runs, the first ones only."""
        last_us, hold_us = min(round(self.last_s * 1e6), _MOST_LAST_US), min(round(self.hold_s * 1e6), _MOST_HOLD_US)
        place = self.last_revision * POSITIONS + self.last_position
        name = (self.last_kind, place >> 16, place & 0xFFFF)
        counts = (self.sequence & 0xFFFF, self.arrived_bytes, self.arrived_packets)
        fixed = _FIXED.pack(*counts, last_us, hold_us, *name, len(self.revisions))
        body = fixed + b"".join(_state_bytes(state.shortened()) for state in self.revisions)
        return Packet(PacketKind.FEEDBACK, self.transmission_id, 0, body).to_bytes()

    @classmethod
    def from_packet(cls, packet: Packet) -> "Feedback":
        """Reads a message.

        Raises:
            PacketError: the packet is no feedback, or says what no receiver would.
        """
        if packet.kind is not PacketKind.FEEDBACK or len(packet.body) < _FIXED.size:
            raise PacketError("packet is no feedback")
        sequence, size, packets, last_us, hold_us, kind, high, low, count = _FIXED.unpack_from(packet.body)
        if kind not in tuple(PacketKind) or count > MAX_REVISIONS:
            raise PacketError("feedback makes no sense")
        revision, position = divmod(high << 16 | low, POSITIONS)
        states = tuple(_states(packet.body[_FIXED.size :], count))
        if any(later.revision <= earlier.revision for earlier, later in pairwise(states)):
            raise PacketError("revisions do not rise")
        times = (last_us / 1e6, hold_us / 1e6)
        return cls(
            packet.transmission_id, sequence, size, packets, *times, PacketKind(kind), revision, position, states
        )


def _state_bytes(state: Arrived) -> bytes:
    # POSITIONS itself does not fit 20 bits, but 24 are there.
    head = _STATE.pack(
        state.revision << 4 | (_HEADER if state.header else 0), state.known_below >> 16, state.known_below & 0xFFFF
    )
    ends = [0, *chain.from_iterable(state.runs)]
    gaps = (stop - start for start, stop in pairwise(ends))
    return head + _varint(len(state.runs)) + b"".join(map(_varint, gaps))


def _states(data: bytes, count: int) -> Iterator[Arrived]:
    at = 0
    for _ in range(count):
        if len(data) < at + _STATE.size:
            raise PacketError("feedback is cut off")
        first, high, low = _STATE.unpack_from(data, at)
        runs, at = _read_varint(data, at + _STATE.size)
        if runs > _MAX_RUNS:
            raise PacketError("feedback has too many runs")
        found, at = _read_runs(data, at, runs)
        yield Arrived(first >> 4, bool(first & _HEADER), found, high << 16 | low)
    if at != len(data):
        raise PacketError("feedback is longer than it says")


def _read_runs(data: bytes, at: int, count: int) -> tuple[tuple[tuple[int, int], ...], int]:
    runs: list[tuple[int, int]] = []
    end = 0
    for number in range(count):
        gap, at = _read_varint(data, at)
        length, at = _read_varint(data, at)
        start, end = end + gap, end + gap + length
        if not length or (number and not gap) or end > POSITIONS:
            raise PacketError("runs of the feedback make no sense")
        runs.append((start, end))
    return tuple(runs), at


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 1 << _VARINT_BITS:
        out.append(value & 0x7F | 0x80)
        value >>= _VARINT_BITS
    return bytes([*out, value])


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place, byte in enumerate(data[at : at + _VARINT_BYTES]):
        value |= (byte & 0x7F) << (_VARINT_BITS * place)
        if byte < 1 << _VARINT_BITS:
            return value, at + place + 1
    raise PacketError("a number of the feedback does not end")
