"""Repair packets: any of a block's packets and repairs, as many as it has packets, give all; nonsense does no harm."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from receiver_fakes import Source

from shared.errors import PacketError
from shared.packets import MAX_PACKET_BYTES, PACKET_HEADER_BYTES, POSITIONS, Packet, PacketKind
from shared.repair import (
    DECODING_FAILURES,
    MAX_BLOCK,
    MAX_SYMBOLS,
    REPAIR_OVERHEAD_BYTES,
    RepairBlock,
    RepairLayout,
    block_failure,
    parity_for,
    repair_packet_bytes,
    repair_packets,
)

ID = 0x0BADCAFE


def sources(rng: random.Random, packets: int, longest: int = 60, revision: int = 3) -> list[Source]:
    found, position = [], rng.randrange(1_000)
    for _ in range(packets):
        patches = rng.randint(1, 50)
        data = Packet(PacketKind.PATCHES, ID, position, rng.randbytes(rng.randint(1, longest)), revision).to_bytes()
        found.append(Source(position, patches, data))
        position += patches
    return found


def made(packets: list[Source], count: int, first: int = 0) -> list[Packet]:
    return [Packet.from_bytes(data) for data in repair_packets(ID, 3, packets, count, first)]


def block_of(repairs: list[Packet]) -> RepairBlock:
    block = RepairBlock.of(repairs[0])
    for repair in repairs[1:]:
        assert block.add(repair)
    return block


def bodies(packets: list[Source]) -> dict[int, bytes]:
    return {packet.position: packet.body for packet in packets}


def with_body(packet: Packet, body: bytes) -> Packet:
    return Packet(packet.kind, packet.transmission_id, packet.position, body, packet.revision)


# ---- what was lost comes back -----------------------------------------------------------------------


@given(st.integers(0, 2**32), st.integers(1, MAX_BLOCK), st.sampled_from([1, 5, 6, 60, 1_188]), st.data())
def test_lost_packets_come_back_as_they_were(seed: int, packets: int, longest: int, data: st.DataObject) -> None:
    rng = random.Random(seed)
    block = sources(rng, packets, longest)
    lost = set(rng.sample(block, data.draw(st.integers(1, packets))))
    there = bodies([packet for packet in block if packet not in lost])
    repairs = made(block, len(lost) + 3, data.draw(st.integers(0, 90)))
    found = block_of(repairs).recover(there)
    assert found == [(packet.position, packet.body) for packet in block if packet in lost]


def test_nothing_comes_before_enough_is_there() -> None:
    block = sources(random.Random(1), 6)
    first, second, third, fourth, fifth = made(block, 5)
    receiving = block_of([first, second])
    assert receiving.recover(bodies(block[:3])) == []
    receiving.add(third)
    assert receiving.recover({}) == []
    assert len(receiving.recover(bodies(block[:3]))) == 3
    assert receiving.recover(bodies(block)) == []
    only_repairs = block_of([first, second, third, fourth, fifth, *made(block, 3, 5)])
    assert dict(only_repairs.recover({})) == bodies(block)


def test_bodies_of_other_blocks_do_no_harm() -> None:
    whole = sources(random.Random(2), 40)
    block, others = whole[:20], bodies(whole[20:])
    receiving = block_of(made(block, 4))
    assert receiving.recover(others | bodies(block[3:])) == [(packet.position, packet.body) for packet in block[:3]]


def test_the_same_number_is_the_same_packet_and_of_no_use_twice() -> None:
    block = sources(random.Random(3), 5)
    assert made(block, 9)[4:] == made(block, 5, 4)
    receiving = RepairBlock.of(made(block, 1)[0])
    assert not receiving.add(made(block, 1)[0])
    assert receiving.held_bytes == receiving.layout.symbol_bytes


@given(st.integers(0, 2**32), st.integers(1, MAX_BLOCK), st.integers(1, 2_000))
def test_sizes_are_as_announced(seed: int, packets: int, longest: int) -> None:
    block = sources(random.Random(seed), packets, longest)
    sizes = {len(data) for data in repair_packets(ID, 3, block, 3)}
    assert sizes == {repair_packet_bytes(block)}
    assert max(sizes) <= max(len(packet.data) for packet in block) + REPAIR_OVERHEAD_BYTES


def test_the_largest_block_there_can_be() -> None:
    rng = random.Random(4)
    data = Packet(PacketKind.PATCHES, ID, 0, rng.randbytes(MAX_PACKET_BYTES - REPAIR_OVERHEAD_BYTES - 12), 3).to_bytes()
    block = [Source(number, 1, data) for number in range(MAX_BLOCK)]
    repairs = made(block, 1)
    assert block_of(repairs).recover(bodies(block[1:])) == [(0, block[0].body)]


def test_the_bytes_on_the_wire_stay_what_they_were() -> None:
    packets = [
        Packet(PacketKind.PATCHES, ID, 4, b"abc").to_bytes(),
        Packet(PacketKind.PATCHES, ID, 6, b"defghijk").to_bytes(),
    ]
    block = [Source(4, 2, packets[0]), Source(6, 300, packets[1])]
    assert [data.hex() for data in repair_packets(ID, 0, block, 2)] == EXPECTED


EXPECTED = [
    "130badcafe0000044a0403ba0000020002012c006814f0c541a5427691000000000000",
    "130badcafe000004d6ae1f320001020002012c00cddfe1b03bed990571000000000000",
]


# ---- what makes no sense ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("gap", "follow each other"),
        ("none", "no block"),
        ("many", "no block"),
        ("symbols", "no symbols from 255"),
        ("negative", "no symbols"),
        ("long", "too long"),
        ("patches", "1 to 65535 patches"),
        ("empty", "has a body"),
    ],
)
def test_what_is_no_block_is_not_repaired(change: str, words: str) -> None:
    block = sources(random.Random(5), MAX_BLOCK + 1)
    count, first = 2, 0
    match change:
        case "gap":
            block = [block[0], block[2]]
        case "none":
            block = []
        case "symbols":
            block, first = block[:2], MAX_SYMBOLS - 1
        case "negative":
            block, count = block[:2], -1
        case "patches":
            block = [Source(0, 65_536, block[0].data)]
        case "empty":
            block = [Source(0, 1, block[0].data[:PACKET_HEADER_BYTES])]
        case "long":
            block = [Source(0, 1, bytes(MAX_PACKET_BYTES))]
    with pytest.raises(ValueError, match=words):
        repair_packets(ID, 3, block, count, first)


@given(st.integers(0, 2**32), st.integers(1, MAX_BLOCK))
def test_damaged_layouts_are_refused_or_bounded(seed: int, packets: int) -> None:
    rng = random.Random(seed)
    repair = made(sources(rng, packets, 20), 1)[0]
    body = bytearray(repair.body)
    for _ in range(rng.randint(1, 4)):
        body[rng.randrange(min(len(body), 8))] = rng.choice((0, 1, 32, 33, 255, rng.randrange(256)))
    try:
        layout = RepairLayout.of(with_body(repair, bytes(body[: rng.randint(0, len(body))])))
    except PacketError:
        return
    assert 1 <= len(layout.positions) <= MAX_BLOCK
    assert layout.positions[0] < layout.stop <= POSITIONS
    assert layout.symbol_bytes % 8 == 0


@pytest.mark.parametrize("body", [b"", b"\0\0\1", b"\0\0\1\0\1", b"\0\0\0" + bytes(8), b"\0\0\1\0\0" + bytes(8)])
def test_what_says_too_little_is_refused(body: bytes) -> None:
    with pytest.raises(PacketError):
        RepairBlock.of(Packet(PacketKind.REPAIR, ID, 0, body))


def test_only_repairs_of_its_own_block_are_taken() -> None:
    block = sources(random.Random(6), 8)
    receiving = RepairBlock.of(made(block, 1)[0])
    for other in (made(block[1:], 1)[0], made(block[:7], 1)[0], Packet.from_bytes(block[0].data)):
        with pytest.raises(PacketError):
            receiving.add(other)
    moved = made(block, 2)[1]
    with pytest.raises(PacketError):
        receiving.add(Packet(moved.kind, ID, moved.position, moved.body, 4))
    with pytest.raises(PacketError):
        receiving.add(Packet(moved.kind, ID, POSITIONS - 1, moved.body, 3))


def test_it_holds_no_more_than_it_can_use() -> None:
    block = sources(random.Random(7), 4)
    receiving = RepairBlock.of(made(block, 1)[0])
    taken = [receiving.add(repair) for repair in made(block, MAX_SYMBOLS - 1, 1)]
    assert sum(taken) == 4 + 2
    assert receiving.held_bytes == 7 * receiving.layout.symbol_bytes


@given(st.integers(0, 2**32), st.integers(1, 12))
def test_forged_symbols_never_replace_what_arrived(seed: int, packets: int) -> None:
    rng = random.Random(seed)
    block = sources(rng, packets)
    repairs = made(block, packets)
    size = RepairLayout.of(repairs[0]).symbol_bytes
    forged = [with_body(repair, repair.body[:-size] + rng.randbytes(size)) for repair in repairs]
    there = bodies(rng.sample(block, rng.randint(0, packets - 1)))
    found = block_of(forged).recover(there)
    assert not {position for position, _ in found} & set(there)
    assert all(0 < len(body) <= size - 2 for _, body in found)


def test_forged_symbols_are_mostly_noticed() -> None:
    rng = random.Random(8)
    answers = 0
    for _ in range(300):
        block = sources(rng, 6)
        repair = made(block, 1)[0]
        forged = with_body(repair, repair.body[:-1] + bytes([repair.body[-1] ^ rng.randint(1, 255)]))
        shorter = [packet for packet in block if len(packet.body) < RepairLayout.of(repair).symbol_bytes - 2]
        missing = rng.choice(shorter)
        there = bodies([packet for packet in block if packet is not missing])
        answers += bool(RepairBlock.of(forged).recover(there))
    assert answers == 0


def test_forged_blocks_are_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(12)
    block = sources(rng, 12)
    symbol = RepairLayout.of(made(block, 1)[0]).symbol_bytes
    forged = [with_body(repair, repair.body[:-symbol] + bytes(symbol)) for repair in made(block, 12)]
    receiving, attempts = block_of(forged), 0
    decoded = RepairBlock._decoded

    def counted(self: RepairBlock, arrived: dict[int, bytes]) -> bytes | None:
        nonlocal attempts
        attempts += 1
        return decoded(self, arrived)

    monkeypatch.setattr(RepairBlock, "_decoded", counted)
    for count in range(12):
        assert receiving.recover(bodies(block[:count])) == []
    assert attempts <= 4


def test_a_body_too_long_for_its_block_gives_nothing() -> None:
    block = sources(random.Random(9), 4)
    receiving = block_of(made(block, 2))
    there = bodies(block[:3]) | {block[0].position: bytes(1_000)}
    assert receiving.recover(there) == []


# ---- how many ---------------------------------------------------------------------------------------


def test_raptorq_fails_no_more_often_than_is_counted_on() -> None:
    rng = random.Random(10)
    open_after: Counter[int] = Counter()
    trials = 0
    for packets in (2, 5, 8, 9, 10, 17, 32):
        block = sources(rng, packets, 5)
        repairs = made(block, 100)
        for _ in range(600):
            trials += 1
            lost = rng.randint(1, packets)
            there = bodies(rng.sample(block, packets - lost))
            chosen = rng.sample(repairs, lost + 2)
            receiving = block_of(chosen[:lost])
            for extra in range(3):
                if receiving.recover(there):
                    break
                open_after[extra] += 1
                if extra < 2:
                    receiving.add(chosen[lost + extra])
    for extra, share in enumerate(DECODING_FAILURES):
        assert open_after[extra] <= trials * share + 4 * (trials * share) ** 0.5 + 1


@pytest.mark.parametrize(
    ("loss", "burst"), [(0.05, 1.0), (0.2, 1.0), (0.1, 4.0), (0.3, 8.0), (0.01, 1.0), (0.5, 2.0), (0.0, 1.0)]
)
@pytest.mark.parametrize("packets", [1, 4, 32])
def test_failures_are_as_often_as_calculated(packets: int, loss: float, burst: float) -> None:
    trials, repairs = 40_000, min(packets, 7)
    lost = _lost(np.random.default_rng(11), trials, packets + repairs, loss, burst)
    sources_lost, came = lost[:, :packets].sum(axis=1), (~lost[:, packets:]).sum(axis=1)
    spare = np.where(sources_lost == 0, 99, came - sources_lost)
    share = np.mean(np.where(spare < 0, 1.0, np.array([*DECODING_FAILURES, 0.0])[np.clip(spare, 0, 3)]))
    expected = block_failure(packets, repairs, loss, burst)
    assert abs(share - expected) < 5 * (expected / trials) ** 0.5 + 1e-12


def _lost(random: np.random.Generator, trials: int, packets: int, loss: float, burst: float) -> np.ndarray:
    """(trials, packets) a Markov chain, drawn."""
    independent = burst < 1 / (1 - loss)
    stay, begin = (loss, loss) if independent else (1 - 1 / burst, loss / (burst * (1 - loss)))
    state, found = random.random(trials) < loss, []
    for _ in range(packets):
        state = random.random(trials) < np.where(state, stay, begin)
        found.append(state)
    return np.stack(found, axis=1)


@given(st.integers(1, MAX_BLOCK), st.floats(0, 0.6), st.sampled_from([0.1, 1e-2, 1e-3, 1e-4]), st.floats(1, 20))
def test_parity_is_the_least_that_suffices(packets: int, loss: float, failure: float, burst: float) -> None:
    count = parity_for(packets, loss, failure, burst)
    assert block_failure(packets, count, loss, burst) <= failure or count == MAX_SYMBOLS
    assert count == 0 or block_failure(packets, count - 1, loss, burst) > failure


def test_parity_where_there_is_no_loss_or_nothing_else() -> None:
    assert parity_for(32, 0.0, 1e-6) == 0
    assert parity_for(32, 1.0, 0.5) == MAX_SYMBOLS
    assert parity_for(32, 0.05, 1e-3) == 7
    assert parity_for(32, 0.05, 1e-3, burst_packets=4.0) > 15
