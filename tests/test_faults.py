"""The three services, struck by a few seeded faults: `make faults` strikes them with a thousand."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from evaluation.endurance.calls import Shown
from evaluation.endurance.clock import compiler, jumping_clock
from evaluation.endurance.disk import disk_at
from evaluation.endurance.draws import KINDS, LONGEST_HOLD_S, draw
from evaluation.endurance.soak import Sample, growth_checks
from evaluation.endurance.stored import Fingerprint, JournalCheck
from receiver.journal import journal_start, record
from shared.packets import Packet, PacketKind

_ID = 0xC0FFEE01
_NAME = f"{_ID:08x}.journal"


def _struck(path, *arguments):
    command = [sys.executable, "-m", "evaluation.endurance.faults", "--json", str(path), *arguments]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=110)
    return ended, json.loads(path.read_text())


def test_every_transmission_ends_in_a_picture_or_an_error_whatever_happens(tmp_path):
    kinds = ["kill channel", "kill receiver", "cut link", "corrupt packets", "full disk"]
    kinds += ["clock jump"] if compiler() else ["stall"]  # a clock that jumps needs a C compiler
    arguments = [f"--kind={kind}" for kind in kinds]
    ended, found = _struck(tmp_path / "faults.json", "--faults", "6", "--seed", "5", *arguments)
    values = {check["name"]: check["value"] for check in found["checks"]}
    assert ended.returncode == 0, ended.stderr
    assert not found["broken"]
    assert values["faults"] == 6
    assert values["transmissions"] == 24
    assert values["transmissions that were accepted"] > 12
    assert values["transmissions that ended complete"] > 4


_APPENDS = """
import sys
for _ in sys.stdin:
    try:
        with open(sys.argv[1], "ab", buffering=0) as file:
            written = file.write(bytes(1_000))
        print(written, flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""


def test_a_disk_that_is_full_takes_nothing_until_there_is_room_again(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", _APPENDS, str(tmp_path / "file")]
    with disk_at(None) as disk, subprocess.Popen(command, **pipes) as process:

        def append():
            process.stdin.write("\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        assert append() == "1000"
        disk.fill(process.pid, 1_300)
        assert [append(), append()] == ["300", "File too large"]
        disk.free(process.pid)
        assert append() == "1000"
        process.stdin.close()


@pytest.mark.skipif(not compiler(), reason="a clock that jumps needs a C compiler")
@pytest.mark.parametrize("offset_s", [0, 3 * 10**8, -(10**8)])
def test_the_wall_clock_jumps_and_the_monotonic_one_does_not(tmp_path, offset_s):
    command = [sys.executable, "-c", "import time; print(time.time(), time.monotonic())"]
    with jumping_clock(tmp_path) as clock:
        clock.set_to(offset_s)
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert float(told[0]) - offset_s == pytest.approx(time.time(), abs=30)
    assert float(told[1]) == pytest.approx(time.monotonic(), abs=30)
    assert "LD_PRELOAD" not in os.environ


def test_growth_is_told_from_the_last_two_thirds():
    rising = [Sample(second, int(600e6 + 1e6 * second), 20, 30) for second in range(300)]
    level = [replace(each, resident_bytes=int(600e6 + 1e6 * (each.at_s % 20))) for each in rising]
    assert [check.ok for check in growth_checks("receiver", rising)] == [True, False, True, True]
    assert all(check.ok for check in growth_checks("receiver", level))
    leaking = [replace(each, files=30 + int(each.at_s)) for each in level]
    assert [check.name for check in growth_checks("receiver", leaking) if not check.ok] == [
        "open files of the receiver: more"
    ]


def test_the_same_seed_draws_the_same_faults_and_each_deck_has_all_kinds():
    rounds = [draw(3, number) for number in range(2 * len(KINDS))]
    assert rounds == [draw(3, number) for number in range(2 * len(KINDS))]
    assert rounds != [draw(4, number) for number in range(2 * len(KINDS))]
    for deck in (rounds[: len(KINDS)], rounds[len(KINDS) :]):
        assert {drawn.fault.kind for drawn in deck} == set(KINDS)
    assert all(drawn.fault.hold_s <= LONGEST_HOLD_S for drawn in rounds)


def _journal(*packets):
    return journal_start(_ID, 0.0) + b"".join(map(record, packets))


def _packet(position):
    return Packet(PacketKind.PATCHES, _ID, position, bytes(range(50))).to_bytes()


@pytest.mark.parametrize(
    ("name", "content", "faults"),
    [
        (_NAME, _journal(_packet(0), _packet(1)), 0),
        (_NAME, _journal(_packet(0), _packet(1))[:-20], 0),
        (_NAME, _journal(_packet(0), b"damage" * 9, _packet(1)), 1),
        (_NAME, _journal(_packet(0))[5:], 1),
        ("00000001.journal", _journal(_packet(0)), 1),
        (_NAME.replace("journal", "damaged"), _journal(_packet(0)), 1),
    ],
    ids=["whole", "cut off", "damaged in the midst", "no start", "of another", "set aside"],
)
def test_only_a_cut_end_of_a_journal_is_right(tmp_path, name, content, faults):
    (tmp_path / name).write_bytes(content)
    check = JournalCheck(tmp_path)
    assert len(check.faults()) == faults
    assert check.journals == 1
    assert not check.faults()  # told once


def test_a_fingerprint_knows_every_bit_of_a_picture():
    shown = Shown("OK", "partial", b"\x89PNG....", 100, 3, 4)
    assert Fingerprint.of(shown) == Fingerprint.of(replace(shown))
    for other in (replace(shown, image_png=b"\x89PNG...."[:-1]), replace(shown, received_patches=2)):
        assert Fingerprint.of(other) != Fingerprint.of(shown)
