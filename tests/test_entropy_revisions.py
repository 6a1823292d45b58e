"""Several revisions of the entropy codec, whose levels mean something else in each of them."""

import dataclasses

import numpy as np
import pytest
import skimage.data
from receiver_fakes import ID, decoded

from client.files import decode_file, stream_header
from receiver.codecs import load_receiver
from receiver.contract import ReceiverCodec
from receiver.entropy_receiver import DecodedEntropy
from shared.codec.entropy.levels import QUALITY_EXACT, QUALITY_SKIPPED
from shared.container import FILE_ID, read_frames, write_frames
from shared.packets import Packet, StreamHeader
from shared.patches import PatchGrid
from transmitter.codecs import load_sender
from transmitter.packing import pack_revision
from transmitter.pipeline import StageClock
from transmitter.planning import Plan, PlanRequest

PHOTO = skimage.data.chelsea()[60:140, 100:220]
MAP = np.zeros(PHOTO.shape[:2], np.float32)
MAP[27:54, 34:83] = 1


@pytest.fixture(scope="module")
def entropy() -> ReceiverCodec:
    return load_receiver("entropy")


@pytest.fixture(scope="module")
def plans() -> dict[str, Plan]:
    """All patches coarsely, and a part of them finely."""
    prepared = load_sender("entropy").prepare(PHOTO)
    whole = prepared.plan(0.2 + 0.6 * MAP, PlanRequest(3_000, 600))
    part = prepared.plan(MAP, PlanRequest(2_000, 600))
    assert whole.header.sketch == part.header.sketch
    return {"whole": whole, "part": part}


def packets_of(plan: Plan, revision: int) -> list[bytes]:
    packed = pack_revision(dataclasses.replace(plan, header=_without_sketch(plan.header, revision)), ID, revision)
    return [*packed.header, *(packet.data for packet in packed.patches)]


def _without_sketch(header: StreamHeader, revision: int) -> StreamHeader:
    return dataclasses.replace(header, sketch=b"") if revision else header


@pytest.mark.parametrize(("first", "second"), [("whole", "part"), ("part", "whole")])
def test_the_finer_quantiser_counts_whatever_its_level(
    entropy: ReceiverCodec, plans: dict[str, Plan], first: str, second: str
) -> None:
    alone = {name: decoded(entropy, packets_of(plan, 0)) for name, plan in plans.items()}
    packets = packets_of(plans[first], 0) + packets_of(plans[second], 1)
    merged = decoded(entropy, reversed(packets))
    fine = plans["part"].levels > 0
    assert (alone["part"].qualities[fine] < alone["whole"].qualities[fine]).all()
    for name, chosen in (("part", fine), ("whole", ~fine)):
        for field in ("patches", "levels", "qualities"):
            assert (getattr(merged, field)[chosen] == getattr(alone[name], field)[chosen]).all()
    assert merged.read_patches == np.count_nonzero(plans["whole"].levels)
    assert merged.paint().shape == PHOTO.shape


@pytest.mark.parametrize("cut", [0, 700])
def test_a_file_may_hold_revisions(entropy: ReceiverCodec, plans: dict[str, Plan], cut: int) -> None:
    packets = [
        Packet.from_bytes(data) for number, plan in enumerate(plans.values()) for data in packets_of(plan, number)
    ]
    data = write_frames(dataclasses.replace(packet, transmission_id=FILE_ID).to_bytes() for packet in packets)
    contents = read_frames(data[: len(data) - cut])
    assert stream_header(contents) == plans["whole"].header
    file = decode_file(contents, entropy, StageClock(lambda: 0.0))
    assert file.complete is not bool(cut)
    assert file.read_patches == file.expected_patches == np.count_nonzero(plans["whole"].levels)


def test_of_two_qualities_the_finer_is_taken_and_of_alike_ones_the_later(entropy: ReceiverCodec) -> None:
    qualities = [QUALITY_SKIPPED, QUALITY_EXACT, 0, 30, 159]
    pairs = [(earlier, later) for earlier in qualities for later in qualities]
    finest = [QUALITY_EXACT, 0, 30, 159, QUALITY_SKIPPED]
    grid = PatchGrid(8 * len(pairs), 8)
    header = StreamHeader(entropy.entry.number, entropy.weights_hash, grid, b"", b"", 0)
    sides = [
        DecodedEntropy(
            entropy,
            header,
            np.full((len(pairs), 8, 8, 3), side, np.uint8),
            np.full(len(pairs), side, np.uint8),
            np.array([pair[side] for pair in pairs], np.int16),
            np.zeros((len(pairs), 3), np.uint8),
        )
        for side in (0, 1)
    ]
    merged = entropy.merge(*sides)
    taken = [finest.index(later) <= finest.index(earlier) and later != QUALITY_SKIPPED for earlier, later in pairs]
    assert merged.levels.tolist() == merged.patches[:, 0, 0, 0].tolist() == taken
