"""Repair packets: a block of PATCHES packets and some of them for lost ones give all of it (RaptorQ, RFC 6330).

```
body      symbol:u16  packets:u8  patches:u16 ...  │ repair symbol                              (big endian)
source    size:u16  body of the PATCHES packet  zeros ...                            (a symbol; never sent as such)
```
A block is up to MAX_BLOCK consecutive PATCHES packets of one revision, told by the ordinal of its first patch and how
many patches each packet holds. Its symbols are as long as its longest packet needs. Any of its packets and repair
packets together, as many as the block has packets, nearly always give the rest; two more always do, as far as was
ever seen (`DECODING_FAILURES`).
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final, Protocol

import numpy as np
from raptorq import Decoder, Encoder

from shared.arrays import Float64Array
from shared.errors import PacketError
from shared.packets import MAX_PACKET_BYTES, PACKET_HEADER_BYTES, POSITIONS, Packet, PacketKind

_FIXED: Final = struct.Struct(">HB")
_COUNT_BYTES: Final = 2  # of the patches of a packet, and of the size of a body
_MAX_PATCHES: Final = 0xFFFF
_ALIGNMENT: Final = 8  # symbols of other sizes are cut by the library where they are long
_SYMBOL_ID: Final = struct.Struct(">I")  # the library's: number of the source block (always 0), number of the symbol
_SPARE: Final = 3  # symbols kept beyond the packets of a block

MAX_BLOCK: Final = 32
"""PATCHES packets of a block at most."""

MAX_SYMBOLS: Final = 256
"""Repair symbols of a block at most: their numbers are below this."""

REPAIR_OVERHEAD_BYTES: Final = _FIXED.size + _COUNT_BYTES * MAX_BLOCK + _COUNT_BYTES + _ALIGNMENT - 1
"""A REPAIR packet is at most that much longer than the longest packet of its block."""

DECODING_FAILURES: Final = (0.01, 0.001, 0.00002)
"""Shares of the blocks that stay open although as many symbols came as the block has packets, one more, two more:
0.0050, 0.00003 and 0.000001 of 1,860,000 blocks of 2 to 32 packets, and twice as much and more for some of them."""


class SourcePacket(Protocol):
    """A PATCHES packet to be protected."""

    @property
    def position(self) -> int:
        """Ordinal of its first patch."""
        ...

    @property
    def patches(self) -> int:
        """How many it holds, 1 to 65,535."""
        ...

    @property
    def data(self) -> bytes:
        """As it crosses the channel."""
        ...


# ---- sender ----------------------------------------------------------------------------------------


def repair_packets(
    transmission_id: int, revision: int, packets: Sequence[SourcePacket], count: int, first_symbol: int = 0
) -> list[bytes]:
    """Makes repair packets for a block.

    Args:
        transmission_id: of all packets.
        revision: of all packets.
        packets: 1 to MAX_BLOCK of them, each beginning where the one before ends.
        count: how many repair packets, 0 or more.
        first_symbol: number of the first; the same number makes the same packet. Their end is at most MAX_SYMBOLS.

    Returns:
        `count` packets as they cross the channel, each of `repair_packet_bytes`.

    Raises:
        ValueError: the packets are no block, or the numbers are out of range.
    """
    _check_block(packets, count, first_symbol)
    bodies = [packet.data[PACKET_HEADER_BYTES:] for packet in packets]
    size = _symbol_bytes(max(map(len, bodies)))
    source = b"".join(_source_symbol(body, size) for body in bodies)
    encoded = Encoder.with_defaults(source, size).get_encoded_packets(first_symbol + count)[len(packets) :]
    counts = struct.pack(f">{len(packets)}H", *(packet.patches for packet in packets))
    return [
        Packet(
            PacketKind.REPAIR,
            transmission_id,
            packets[0].position,
            _FIXED.pack(number, len(packets)) + counts + encoded[number][_SYMBOL_ID.size :],
            revision,
        ).to_bytes()
        for number in range(first_symbol, first_symbol + count)
    ]


def repair_packet_bytes(packets: Sequence[SourcePacket]) -> int:
    """Size of each repair packet of a block."""
    longest = max(len(packet.data) for packet in packets) - PACKET_HEADER_BYTES
    return PACKET_HEADER_BYTES + _FIXED.size + _COUNT_BYTES * len(packets) + _symbol_bytes(longest)


def _check_block(packets: Sequence[SourcePacket], count: int, first_symbol: int) -> None:
    if not 1 <= len(packets) <= MAX_BLOCK:
        raise ValueError(f"{len(packets)} packets are no block")
    if not all(1 <= packet.patches <= _MAX_PATCHES for packet in packets):
        raise ValueError(f"each packet of a block holds 1 to {_MAX_PATCHES} patches")
    if not all(len(packet.data) > PACKET_HEADER_BYTES for packet in packets):
        raise ValueError("each packet of a block has a body")
    if any(later.position != earlier.position + earlier.patches for earlier, later in pairwise(packets)):
        raise ValueError("packets of a block follow each other")
    if not 0 <= first_symbol <= first_symbol + count <= MAX_SYMBOLS or count < 0:
        raise ValueError(f"no symbols from {first_symbol} to {first_symbol + count}")
    if repair_packet_bytes(packets) > MAX_PACKET_BYTES:
        raise ValueError("repair packets would be too long")


def _symbol_bytes(longest_body: int) -> int:
    return -(-(longest_body + _COUNT_BYTES) // _ALIGNMENT) * _ALIGNMENT


def _source_symbol(body: bytes, size: int) -> bytes:
    return (len(body).to_bytes(_COUNT_BYTES, "big") + body).ljust(size, b"\0")


# ---- receiver --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RepairLayout:
    """Which packets a repair packet is for; packets of one block have the same."""

    revision: int
    positions: tuple[int, ...]
    """Ordinal of the first patch of each of the block's packets, rising."""
    stop: int
    """Ordinal after the block's last patch."""
    symbol_bytes: int

    @classmethod
    def of(cls, packet: Packet) -> "RepairLayout":
        """Reads the layout of a REPAIR packet.

        Raises:
            PacketError: the packet is none, or says what no sender would.
        """
        number, count = _fixed(packet)
        start = _FIXED.size + _COUNT_BYTES * count
        size = len(packet.body) - start
        if number >= MAX_SYMBOLS or not 1 <= count <= MAX_BLOCK or size < _ALIGNMENT or size % _ALIGNMENT:
            raise PacketError("repair packet makes no sense")
        patches = struct.unpack_from(f">{count}H", packet.body, _FIXED.size)
        *positions, stop = accumulate(patches, initial=packet.position)
        if 0 in patches or stop > POSITIONS:
            raise PacketError("repair packet is for packets that cannot be")
        return cls(packet.revision, tuple(positions), stop, size)


class RepairBlock:
    """The repair packets of one block, as they arrive; takes at most MAX_BLOCK + 3 symbols, 2.3 MB.

    Nothing tells forged symbols from others: what they lead to are bodies that the codec must still make sense of, and
    never of packets that arrived.
    """

    def __init__(self, layout: RepairLayout) -> None:
        self.layout = layout
        self._symbols: dict[int, bytes] = {}
        self._tried = (0, 0)
        self._forged = False

    @classmethod
    def of(cls, packet: Packet) -> "RepairBlock":
        """A block from its first repair packet.

        Raises:
            PacketError: the packet is no repair packet.
        """
        block = cls(RepairLayout.of(packet))
        block.add(packet)
        return block

    @property
    def held_bytes(self) -> int:
        """What it takes in memory, nearly."""
        return len(self._symbols) * self.layout.symbol_bytes

    def add(self, packet: Packet) -> bool:
        """Takes a repair packet of this block.

        Returns:
            Whether it is of use: it did not come before, and there are not enough already.

        Raises:
            PacketError: the packet is no repair packet, or of another block.
        """
        if RepairLayout.of(packet) != self.layout:
            raise PacketError("repair packet is of another block")
        number, _ = _fixed(packet)
        if number in self._symbols or len(self._symbols) >= len(self.layout.positions) + _SPARE:
            return False
        self._symbols[number] = packet.body[-self.layout.symbol_bytes :]
        return True

    def recover(self, present: Mapping[int, bytes]) -> list[tuple[int, bytes]]:
        """Makes the packets that did not arrive.

        Args:
            present: bodies of the revision's PATCHES packets by position; those of other blocks do no harm.

        Returns:
            Position and body, 1 byte or more, of each packet of the block that is not present; none as long as too
            little is there, or where the symbols belong to other packets. That is found out by a few attempts, and
            never tried again.
        """
        arrived = {at: present[at] for at in self.layout.positions if at in present}
        there = (len(arrived), len(self._symbols))
        if len(arrived) == len(self.layout.positions) or sum(there) < len(self.layout.positions):
            return []
        if (
            self._forged
            or there == self._tried
            or max(map(len, arrived.values()), default=0) > self.layout.symbol_bytes - _COUNT_BYTES
        ):
            return []
        self._tried = there
        source = self._decoded(arrived)
        found = [] if source is None else _missing(self._split(source), arrived)
        # Honest symbols hardly ever fail with one to spare, and never make nonsense.
        self._forged = not found and (source is not None or sum(there) >= len(self.layout.positions) + _SPARE)
        return found

    def _decoded(self, arrived: Mapping[int, bytes]) -> bytes | None:
        """All source symbols, one after the other."""
        packets, size = len(self.layout.positions), self.layout.symbol_bytes
        decoder = Decoder.with_defaults(packets * size, size)
        known = {self.layout.positions.index(at): _source_symbol(body, size) for at, body in arrived.items()}
        known |= {packets + number: symbol for number, symbol in self._symbols.items()}
        found: bytes | None = None
        for number in sorted(known):
            found = decoder.decode(_SYMBOL_ID.pack(number) + known[number])
            if found is not None:
                break
        return found

    def _split(self, source: bytes) -> dict[int, bytes]:
        size = self.layout.symbol_bytes
        return {at: source[number * size :][:size] for number, at in enumerate(self.layout.positions)}


def _fixed(packet: Packet) -> tuple[int, int]:
    """Number of the symbol, and of the packets of its block."""
    if packet.kind is not PacketKind.REPAIR or len(packet.body) < _FIXED.size:
        raise PacketError("packet is no repair packet")
    number, count = _FIXED.unpack_from(packet.body)
    return int(number), int(count)


def _missing(symbols: Mapping[int, bytes], arrived: Mapping[int, bytes]) -> list[tuple[int, bytes]]:
    """Bodies of the symbols that did not arrive; none where any of all makes no sense."""
    found = []
    for position, symbol in symbols.items():
        stop = _COUNT_BYTES + int.from_bytes(symbol[:_COUNT_BYTES], "big")
        body = symbol[_COUNT_BYTES:stop]
        if not _COUNT_BYTES < stop <= len(symbol) or any(symbol[stop:]) or arrived.get(position, body) != body:
            return []
        if position not in arrived:
            found.append((position, body))
    return found


# ---- how many --------------------------------------------------------------------------------------


def parity_for(packets: int, loss_rate: float, failure: float, burst_packets: float = 1.0) -> int:
    """The least number of repair packets with which a block is hardly ever lost; exact, as `block_failure` is.

    Args:
        packets: of the block, 1 to MAX_BLOCK.
        loss_rate: share of the packets, repair packets among them, that do not arrive, 0 to 1.
        failure: share of the blocks that may stay incomplete, above 0.
        burst_packets: mean length of a row of losses; below 1 / (1 - loss_rate), losses are independent.

    Returns:
        0 to MAX_SYMBOLS, the latter also where no number suffices.
    """
    chances = _Chances(packets, loss_rate, burst_packets)
    while chances.repairs < MAX_SYMBOLS and chances.failure > failure:
        chances.send_repair()
    return chances.repairs


def block_failure(packets: int, repairs: int, loss_rate: float, burst_packets: float = 1.0) -> float:
    """How probably a block stays incomplete, RaptorQ's own failures included.

    Args:
        packets: of the block, 1 to MAX_BLOCK, sent one after the other, and the repair packets after them.
        repairs: how many repair packets.
        loss_rate: as in `parity_for`.
        burst_packets: as in `parity_for`.

    Returns:
        0 to 1. Losses are a Markov chain of two states, in one of which nothing arrives (Gilbert 1960).
    """
    chances = _Chances(packets, loss_rate, burst_packets)
    for _ in range(repairs):
        chances.send_repair()
    return chances.failure


class _Chances:
    """How probably a block lacks so many symbols, packet by packet."""

    def __init__(self, packets: int, loss_rate: float, burst_packets: float) -> None:
        self.repairs = 0
        self._after = _after(loss_rate, burst_packets)
        # Whether the last packet arrived or was lost, and how many symbols are lacking: -2 (two to spare) to packets.
        self._chances: Float64Array = np.zeros((2, packets + len(DECODING_FAILURES)))
        self._chances[:, _NOTHING_LACKING] = 1 - loss_rate, loss_rate
        for _ in range(packets):
            self._chances = self._after @ self._chances
            self._chances[1] = [0.0, *self._chances[1, :-1]]
        self._chances[:, _NOTHING_LACKING] = 0.0  # these blocks are there without repair

    def send_repair(self) -> None:
        """One more repair packet; blocks with more than two to spare are left out from then on."""
        self.repairs += 1
        self._chances = self._after @ self._chances
        self._chances[0] = [*self._chances[0, 1:], 0.0]

    @property
    def failure(self) -> float:
        """That a block is not whole."""
        lacking = self._chances.sum(axis=0)
        to_spare = float(lacking[_NOTHING_LACKING::-1] @ DECODING_FAILURES)
        return to_spare + float(lacking[_NOTHING_LACKING + 1 :].sum())


_NOTHING_LACKING: Final = len(DECODING_FAILURES) - 1  # the column of blocks with as many symbols as packets


def _after(loss_rate: float, burst_packets: float) -> Float64Array:
    """(2, 2): how probably a packet (arrives, is lost) after one that (arrived, was lost)."""
    if loss_rate >= 1:
        return np.array([[0.0, 0.0], [1.0, 1.0]])
    burst = max(burst_packets, 1 / (1 - loss_rate))
    begins = loss_rate / (burst * (1 - loss_rate))
    return np.array([[1 - begins, 1 / burst], [begins, 1 - 1 / burst]])
