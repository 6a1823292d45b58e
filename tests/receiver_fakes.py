"""Stand-ins for the trained codec and restoration, and pictures cut into packets by hand."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from receiver.assembly import Arrival, Assembly
from receiver.contract import ReceiverCodec, ReceiverCodecs, by_number
from receiver.entropy_receiver import DecodedEntropy
from receiver.ladder_receiver import LadderReceiver
from receiver.store import Store
from shared.arrays import UInt8Array
from shared.codec.contract import EncodedPatches
from shared.codec.identity import stream_weights_hash
from shared.codec.ladder_order import packet_runs, sending_order
from shared.level_map import encode_level_map
from shared.levels import LEVEL_BYTES, RAW, SKIPPED
from shared.packets import LADDER_CODEC, PACKET_HEADER_BYTES, Packet, PacketKind, StreamHeader
from shared.patches import PatchGrid, join

ID = 0x00C0FFEE


class FakeCodec:
    """A patch is as bright as the first byte of its payload; raw patches are exact."""

    weights_hash = b"fake"

    def __init__(self) -> None:
        self.calls = 0

    def encode(self, patches: UInt8Array) -> EncodedPatches:
        raise NotImplementedError

    def decode(self, level: int, payload: UInt8Array) -> UInt8Array:
        self.calls += 1
        assert payload.shape[1] == LEVEL_BYTES[level]
        if level == RAW:
            return payload.reshape(-1, 8, 8, 3)
        return np.broadcast_to(payload[:, :1, None, None], (len(payload), 8, 8, 3))


WEIGHTS = stream_weights_hash(FakeCodec())


class FakeRestorer:
    """Shows the background where nothing arrived."""

    def restore(self, decoded: UInt8Array, levels: UInt8Array, grid: PatchGrid, background: UInt8Array) -> UInt8Array:
        return join(np.where((levels == SKIPPED)[:, None, None, None], background, decoded), grid)


def receivers(codec: FakeCodec | None = None) -> ReceiverCodecs:
    """The ladder's receiving half around the two above, as the receiver takes it."""
    return by_number(LadderReceiver(codec or FakeCodec(), FakeRestorer()))


def store(max_transmissions: int = 3, max_bytes: int = 10_000_000, idle_s: float = 60.0) -> Store:
    """Empty, and small."""
    return Store(max_transmissions, max_bytes, idle_s, receivers())


def opened(codec: FakeCodec | None = None) -> Assembly:
    """An empty one, at 10 s."""
    return Assembly(ID, receivers(codec), now=10.0)


def feed(assembly: Assembly, packets: Iterable[bytes], now: float = 11.0) -> list[Arrival]:
    return [assembly.accept(Packet.from_bytes(data), now) for data in packets]


def assembled(codec: ReceiverCodec, packets: Iterable[bytes]) -> Assembly:
    """What a real codec's receiver has of the packets, at 0 s."""
    assembly = Assembly(ID, by_number(codec), now=0.0)
    feed(assembly, packets, 0.0)
    return assembly


def decoded(codec: ReceiverCodec, packets: Iterable[bytes]) -> DecodedEntropy:
    """What the entropy codec makes of the packets."""
    arrived = assembled(codec, packets).snapshot()
    assert arrived is not None
    found = arrived.decode()
    assert isinstance(found, DecodedEntropy)
    return found


def picture(assembly: Assembly) -> UInt8Array:
    """(height, width, 3) what is shown of it now."""
    arrived = assembly.snapshot()
    assert arrived is not None
    return arrived.decode().paint()


@dataclass(frozen=True)
class Sent:
    """A transmission as it leaves the transmitter."""

    grid: PatchGrid
    levels: UInt8Array
    header: list[bytes]
    patches: list[bytes]
    picture: UInt8Array
    """What `FakeCodec` and `FakeRestorer` make of all of it."""

    @property
    def packets(self) -> list[bytes]:
        return self.header + self.patches

    @property
    def expected(self) -> int:
        return int(np.count_nonzero(self.levels))


def sent(
    transmission_id: int = ID,
    *,
    size: tuple[int, int] = (61, 45),
    seed: int = 0,
    packet_bytes: int = 256,
    fragment_bytes: int = 20,
    levels: UInt8Array | None = None,
    sketch: bytes = b"",
    revision: int = 0,
) -> Sent:
    """Random patches of a picture of (width, height), at random levels unless given."""
    grid = PatchGrid(*size)
    random = np.random.default_rng(seed)
    if levels is None:
        levels = random.integers(0, len(LEVEL_BYTES), grid.count).astype(np.uint8)
    order = sending_order(levels)
    payloads = [random.integers(0, 256, LEVEL_BYTES[levels[number]], np.uint8) for number in order]
    patches = np.full((grid.count, 8, 8, 3), 128, np.uint8)
    for number, payload in zip(order, payloads, strict=True):
        patches[number] = payload.reshape(8, 8, 3) if levels[number] == RAW else payload[0]
    table, level_map = encode_level_map(levels, grid)
    section = StreamHeader(LADDER_CODEC, WEIGHTS, grid, sketch, level_map, table).to_bytes()
    header = [
        Packet(PacketKind.HEADER, transmission_id, at, section[at : at + fragment_bytes], revision).to_bytes()
        for at in range(0, len(section), fragment_bytes)
    ]
    runs = packet_runs(np.bincount(levels, minlength=len(LEVEL_BYTES)), packet_bytes)
    packed = _packed(transmission_id, revision, payloads, runs)
    return Sent(grid, levels, header, packed, join(patches, grid))


def _packed(transmission_id: int, revision: int, payloads: list[UInt8Array], runs: list[int]) -> list[bytes]:
    packets, first = [], 0
    for run in runs:
        body = b"".join(payload.tobytes() for payload in payloads[first : first + run])
        packets.append(Packet(PacketKind.PATCHES, transmission_id, first, body, revision).to_bytes())
        first += run
    return packets


@dataclass(frozen=True)
class Source:
    """A PATCHES packet, as `repair_packets` takes it."""

    position: int
    patches: int
    data: bytes

    @property
    def body(self) -> bytes:
        return self.data[PACKET_HEADER_BYTES:]


def sources(whole: Sent) -> list[Source]:
    starts = [Packet.from_bytes(data).position for data in whole.patches]
    ends = [*starts[1:], whole.expected]
    return [Source(*each) for each in zip(starts, np.subtract(ends, starts).tolist(), whole.patches, strict=True)]
