"""Journals: cut at every byte, damaged anywhere, and read again."""

import random

import pytest
from store_fakes import packet

from receiver.journal import START_BYTES, journal_start, read_journal, record
from shared.container import FRAME_BYTES
from shared.errors import StreamError
from shared.packets import Packet

ID = 0x00C0FFEE
PACKETS = [packet(ID, place, size) for place, size in enumerate((40, 1, 244, 0, 90))]
JOURNAL = journal_start(ID, 1.7e9) + b"".join(map(record, PACKETS))
ENDS = [START_BYTES + sum(FRAME_BYTES + len(data) for data in PACKETS[:count]) for count in range(len(PACKETS) + 1)]


def written(data: bytes) -> list[bytes]:
    return [found.to_bytes() for found in read_journal(data).packets]


def test_what_was_written_is_read():
    journal = read_journal(JOURNAL)
    assert (journal.transmission_id, journal.begun_s) == (ID, 1.7e9)
    assert [found.to_bytes() for found in journal.packets] == PACKETS
    assert (journal.sound_bytes, journal.damages) == (len(JOURNAL), 0)


@pytest.mark.parametrize("cut", range(START_BYTES))
def test_cut_within_the_start(cut):
    with pytest.raises(StreamError):
        read_journal(JOURNAL[:cut])


def test_cut_at_every_byte():
    for cut in range(START_BYTES, len(JOURNAL) + 1):
        journal = read_journal(JOURNAL[:cut])
        whole = sum(end <= cut for end in ENDS[1:])
        assert [found.to_bytes() for found in journal.packets] == PACKETS[:whole], cut
        assert journal.sound_bytes == ENDS[whole]
        assert journal.damages == (cut != ENDS[whole])


def test_going_on_after_a_cut_anywhere_reads_all_that_is_whole():
    more = record(packet(ID, 99))
    for cut in range(START_BYTES, len(JOURNAL) + 1):
        sound = read_journal(JOURNAL[:cut]).sound_bytes
        whole = sum(end <= cut for end in ENDS[1:])
        assert written(JOURNAL[:sound] + more) == [*PACKETS[:whole], packet(ID, 99)]
        # Where the cut could not be made, the reader finds its way over what stayed.
        assert written(JOURNAL[:cut] + more)[-1] == packet(ID, 99)


def test_a_damaged_byte_costs_its_own_packet():
    for at in range(START_BYTES, len(JOURNAL)):
        damaged = bytearray(JOURNAL)
        damaged[at] ^= 0x40
        hit = sum(end <= at for end in ENDS[1:])
        assert written(bytes(damaged)) == PACKETS[:hit] + PACKETS[hit + 1 :], at


def test_packets_of_others_are_left_out():
    foreign = record(packet(ID + 1, 0))
    assert written(JOURNAL + foreign + record(packet(ID, 9))) == [*PACKETS, packet(ID, 9)]


def test_any_damage_is_read_or_refused():
    rng = random.Random(5)
    for _ in range(400):
        damaged = bytearray(JOURNAL)
        for _ in range(rng.choice((1, 4, 30))):
            at = rng.randrange(len(damaged))
            damaged[at : at + rng.choice((0, 1, 9))] = rng.randbytes(rng.choice((0, 1, 9)))
        try:
            journal = read_journal(bytes(damaged))
        except StreamError:
            continue
        assert all(isinstance(found, Packet) and found.to_bytes() in PACKETS for found in journal.packets)
        assert journal.sound_bytes <= len(damaged)


def test_work_on_a_file_made_to_cost_much_is_bounded():
    trap = (b"\xff\xff\x11" + ID.to_bytes(4, "big")) * 200_000
    assert read_journal(JOURNAL + trap).damages == 64
