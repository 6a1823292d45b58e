"""The three services, struck by a few seeded faults: `make faults` strikes them with a thousand."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from evaluation.endurance.calls import Shown
from evaluation.endurance.clock import compiler
from evaluation.endurance.draws import KINDS, LONGEST_HOLD_S, draw
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
