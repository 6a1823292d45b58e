"""A few inputs for every decoder of bytes from outside, and every input that `python -m tests.fuzz` found fault with.

The long run is `make fuzz`.
"""

import io
import itertools
import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fuzz.__main__ import ranges_of
from fuzz.mutations import seal_packet, seal_png
from fuzz.runner import Target, run
from fuzz.samples import middle, photo
from fuzz.targets import TARGETS
from PIL import Image

from shared.errors import BudgetTooSmallError, InvalidInputError, PacketError, UnavailableError, WeightsError
from shared.level_map import CONTEXTS, LEVEL_MAP_FORMAT, load_tables
from shared.levels import LEVEL_BYTES
from shared.packets import Packet, PacketKind
from shared.patches import PatchGrid
from shared.pictures import png_bytes, read_picture, read_relevance
from shared.stubs.mmsc.v1 import channel_pb2
from shared.weights import read_weights, write_weights
from transmitter import carrying
from transmitter.codecs import load_sender
from transmitter.planning import PlanRequest

_INPUTS = {
    "packets": 600,
    "reports": 500,
    "headers": 500,
    "feedback": 500,
    "sender": 100,
    "repair": 200,
    "repair-making": 100,
    "fragments": 200,
    "container": 200,
    "journal": 300,
    "level-map-ladder": 150,
    "level-map-entropy": 20,
    "sketch": 30,
    "background": 10,
    "bodies-ladder": 40,
    "bodies-entropy": 5,
    "bodies-entropy-cut": 5,
    "lossless": 5,
    "stream-ladder": 10,
    "stream-entropy": 2,
    "revisions-ladder": 10,
    "revisions-entropy": 2,
    "replanning-ladder": 10,
    "replanning-entropy": 2,
    "files": 4,
    "pictures": 250,
    "relevance-maps": 150,
    "weights": 200,
    "models": 15,
    "traces": 300,
    "queries": 60,
    "units": 300,
    "tokens": 300,
    "status-details": 200,
    "link-settings": 60,
    "transmit-ladder": 30,
    "transmit-entropy": 5,
}
_OVER_SOCKETS = {name for name in TARGETS if name.startswith("rpc-")}  # these leave a service behind in their process


def test_no_decoder_is_left_out() -> None:
    assert set(_INPUTS) == set(TARGETS) - _OVER_SOCKETS


@pytest.mark.parametrize("name", _INPUTS)
def test_every_decoder_answers(name: str) -> None:
    outcome = run(TARGETS[name](), 1, range(_INPUTS[name]))
    assert outcome.findings == []
    assert outcome.inputs == _INPUTS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(_OVER_SOCKETS))
def test_every_rpc_answers(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--target", name, "--inputs", "60", "--json", str(tmp_path / "fuzz")]
    ended = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "60 inputs, 0 of them bad" in ended.stdout


# ---- what it found ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [b"[]", b"null", b'"x"', b'{"__metadata__":5}', b'{"__metadata__":[]}', b"[" * 100_000, b'{"a":' * 50_000],
)
def test_weights_with_a_header_that_is_no_table(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "weights"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(WeightsError, match="no safetensors file"):
        read_weights(path, "tag")


@pytest.mark.parametrize(
    "tables",
    [
        np.zeros((0, CONTEXTS, len(LEVEL_BYTES)), np.uint16),
        np.full((1, CONTEXTS, len(LEVEL_BYTES)), (1 << 14) / 5, np.float64),
    ],
)
def test_level_map_tables_that_are_none_or_no_integers(tmp_path: Path, tables: np.ndarray) -> None:
    path = tmp_path / "tables"
    write_weights(path, LEVEL_MAP_FORMAT, {"frequencies": tables}, {})
    with pytest.raises(WeightsError, match="do not add up"):
        load_tables(path)


def test_a_picture_whose_colours_cannot_be_converted() -> None:
    buffer = io.BytesIO()
    Image.new("LAB", (9, 7)).save(buffer, "TIFF")
    with pytest.raises(InvalidInputError, match=r"options\.relevance_png: is damaged"):
        read_relevance(buffer.getvalue(), PatchGrid(9, 7))


@pytest.mark.parametrize("codec", ["ladder", "entropy"])
@pytest.mark.parametrize("budget", [0, 1])
def test_a_budget_of_nothing_is_too_small(codec: str, budget: int) -> None:
    prepared = load_sender(codec).prepare(photo(24, 16))
    with pytest.raises(BudgetTooSmallError):
        prepared.plan(middle(24, 16), PlanRequest(budget, 256))


@pytest.mark.parametrize("rate_bps", [math.nan, math.inf, -1.0, 0.0])
def test_a_link_that_makes_no_sense_is_unavailable(rate_bps: float) -> None:
    answer = channel_pb2.GetLinkResponse()
    answer.link.settings.rate_bps = rate_bps
    for nonsense in (answer, None):
        with pytest.raises(UnavailableError, match="makes no sense"):
            carrying._checked(nonsense)


# ---- the fuzzer itself ------------------------------------------------------------------------------


def target(decode, **settings) -> Target:
    return Target("own", [(b"abcdefgh" * 9,)], decode, (PacketError,), **settings)


def test_it_counts_answers_and_crashes() -> None:
    def decode(sample) -> None:
        if len(sample[0]) % 3 == 0:
            raise PacketError("no")
        if len(sample[0]) % 3 == 1:
            raise KeyError(sample[0][:1])

    def fails(number: int) -> bool:
        return len(bad.input(4, number)[0]) % 3 == 1

    bad = target(decode)
    outcome = run(bad, 4, range(200))
    assert outcome.accepted + outcome.refused["PacketError"] + outcome.bad == 200
    assert min(outcome.accepted, outcome.refused["PacketError"], outcome.bad) > 10
    assert {finding.kind for finding in outcome.findings} == {"crash"}
    assert outcome.bad == sum(map(fails, range(200)))
    assert all(fails(number) for finding in outcome.findings for number in finding.numbers)


def test_it_counts_hangs() -> None:
    def decode(sample) -> None:
        try:
            while len(sample[0]) % 2:
                pass
        except Exception:  # noqa: BLE001 - a decoder that catches everything is caught all the same
            pass

    outcome = run(target(decode, limit_s=0.01), 1, range(12))
    assert {finding.kind for finding in outcome.findings} == {"hang"}


def test_it_counts_memory() -> None:
    def decode(sample) -> None:
        # So much that the allocator never serves it from what it has kept of earlier tests.
        np.ones((len(sample[0]) % 2) * 100_000_000, np.uint8).sum()

    outcome = run(target(decode, limit_bytes=10_000_000), 1, range(12))
    assert [(finding.kind, finding.what) for finding in outcome.findings] == [("memory", "over 9 MiB")]
    assert outcome.most_traced_bytes >= 100_000_000 * (len(target(decode).input(1, 0)[0]) % 2)


def test_inputs_follow_from_seed_and_number() -> None:
    own = target(lambda _: None)
    assert [own.input(3, number) for number in range(50)] == [own.input(3, number) for number in range(50)]
    assert len({own.input(3, number) for number in range(50)}) > 40
    assert own.input(3, 0) != own.input(4, 0)


def test_inputs_are_shared_out_in_full() -> None:
    ranges = ranges_of(list(TARGETS), 20_000)
    for name in TARGETS:
        own = [(start, stop) for owner, start, stop in ranges if owner == name]
        assert own[0][0] == 0
        assert all(stop == start for (_, stop), (start, _) in itertools.pairwise(own))
    assert abs(sum(stop - start for _, start, stop in ranges) - 20_000) <= len(TARGETS)


def test_seals() -> None:
    rng = random.Random(1)
    for _ in range(50):
        whole = Packet(PacketKind.PATCHES, 7, 9, rng.randbytes(rng.randrange(40))).to_bytes()
        at = rng.randrange(12)
        assert seal_packet(whole[:8] + bytes(4) + whole[12:]) == whole
        if len(seal_packet(whole[:at])) < 12:
            assert seal_packet(whole[:at]) == whole[:at]
    png = png_bytes(np.zeros((4, 4, 3), np.uint8))
    damaged = bytearray(png)
    damaged[29:33] = bytes(4)  # the checksum of the first chunk
    assert seal_png(bytes(damaged)) == png
    assert read_picture(seal_png(bytes(damaged))).shape == (4, 4, 3)
