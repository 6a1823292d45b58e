"""What the receiver remembers and forgets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from receiver_fakes import store

from receiver.store import Entry, Picture, Store
from shared.errors import UnavailableError
from shared.packets import Packet, PacketKind
from shared.reports import ReportOutcome


def admit(kept: Store, number: int, now: float, *, ended: bool = False) -> Entry:
    entry = kept.admit(Packet(PacketKind.HEADER, number, 0, bytes(100)), now)
    if ended:
        entry.assembly.close()
    return entry


def test_the_oldest_ended_goes_first() -> None:
    kept = store()
    for number, now in ((1, 1.0), (2, 2.0), (3, 3.0)):
        admit(kept, number, now, ended=number > 1)
    admit(kept, 4, 4.0)
    assert [entry.assembly.transmission_id for entry in kept.newest_first()] == [4, 3, 1]
    assert kept.get(2) is None


def test_a_packet_makes_its_transmission_young() -> None:
    kept = store()
    for number, now in ((1, 1.0), (2, 2.0), (3, 3.0), (1, 4.0)):
        admit(kept, number, now, ended=True)
    admit(kept, 4, 5.0)
    assert kept.get(1) is not None
    assert kept.get(2) is None


def test_full_of_unfinished_ones() -> None:
    kept = store()
    for number in range(3):
        admit(kept, number, 1.0)
    with pytest.raises(UnavailableError):
        admit(kept, 9, 2.0)
    assert admit(kept, 2, 2.0) is kept.get(2)
    assert {entry.assembly.outcome for entry in kept.expire(62.0)} == {ReportOutcome.FAILED}
    assert admit(kept, 9, 63.0).assembly.transmission_id == 9


def test_expiry() -> None:
    kept = store(idle_s=10.0)
    silent, busy, done = admit(kept, 1, 0.0), admit(kept, 2, 0.0), admit(kept, 3, 0.0, ended=True)
    admit(kept, 2, 5.0)
    assert kept.expire(9.9) == []
    assert kept.expire(10.0) == [silent]
    assert silent.ended
    assert not busy.ended
    assert kept.expire(11.0) == []
    assert kept.get(3) is done


def test_bytes_are_bounded() -> None:
    kept = store(max_transmissions=100, max_bytes=20_000)
    for number in range(50):
        packet = Packet(PacketKind.PATCHES, number, 0, bytes(3_000))
        entry = kept.admit(packet, float(number))
        entry.assembly.accept(packet, float(number))
        kept.settle(entry)
        entry.assembly.close()
        assert kept.stored_bytes <= 20_000
    assert kept.get(49) is not None
    assert kept.get(0) is None
    assert kept.stored_bytes == sum(entry.assembly.stored_bytes for entry in kept.newest_first())


def test_pictures_count_and_give_way() -> None:
    kept = store(max_bytes=50_000)
    entry = admit(kept, 1, 0.0, ended=True)
    before = kept.stored_bytes
    kept.keep(entry, Picture(1, bytes(10_000), bytes(500), 0.1))
    assert kept.stored_bytes == before + 10_500
    kept.keep(entry, Picture(2, bytes(60_000), b"", 0.1))
    assert entry.picture is None
    assert kept.stored_bytes == before


def test_a_picture_of_a_forgotten_transmission_is_not_charged() -> None:
    kept = store(max_transmissions=1)
    entry = admit(kept, 1, 0.0, ended=True)
    admit(kept, 2, 1.0)
    before = kept.stored_bytes
    kept.keep(entry, Picture(1, bytes(10_000), b"", 0.1))
    assert kept.stored_bytes == before


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 900), st.booleans()), max_size=80))
def test_limits_hold_whatever_comes(steps: list[tuple[int, int, bool]]) -> None:
    kept = store(max_transmissions=4, max_bytes=5_000)
    for now, (number, size, ended) in enumerate(steps):
        packet = Packet(PacketKind.PATCHES, number, now, bytes(size))
        try:
            entry = kept.admit(packet, float(now))
        except UnavailableError:
            assert not any(held.ended for held in kept.newest_first() if held.assembly.transmission_id != number)
            continue
        entry.assembly.accept(packet, float(now))
        if ended:
            entry.assembly.close()
        kept.settle(entry)
        assert len(kept.newest_first()) <= 4
        assert kept.stored_bytes == sum(held.assembly.stored_bytes for held in kept.newest_first())
        assert kept.stored_bytes <= 5_000
