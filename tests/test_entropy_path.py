"""The entropy codec from picture to picture: files, packets, loss, forgery, and the pipeline, with its own weights."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import skimage.data
from fakes import LeftHalf, mean_sender
from hypothesis import given, settings
from hypothesis import strategies as st

from client.files import EncodedFile, decode_file, encode_exactly, encode_within
from receiver.assembly import Arrival, Assembly
from receiver.codecs import load_receiver
from receiver.contract import ArrivedPatches, ReceiverCodec, by_number
from shared.codec.entropy.background import thumbnail
from shared.codec.entropy.codec import ENTROPY_CODEC, load_entropy_codec
from shared.codec.entropy.levels import EXACT, LEVELS, sending_order
from shared.codec.registry import ENTROPY
from shared.container import read_frames
from shared.errors import BudgetTooSmallError, InvalidInputError, PacketError, StreamError
from shared.packets import Packet, PacketKind, StreamHeader
from shared.patches import PatchGrid
from shared.pictures import png_bytes
from transmitter.budget import Budget
from transmitter.codecs import load_sender
from transmitter.messages import plan_message
from transmitter.packing import pack
from transmitter.pipeline import Job, Pipeline, PlanStage, StageClock
from transmitter.planning import Plan, PlanRequest

PHOTO = skimage.data.chelsea()[60:140, 100:220]
MAP = np.zeros(PHOTO.shape[:2], np.float32)
MAP[27:54, 34:83] = 1


def clock() -> StageClock:
    return StageClock(lambda: 0.0)


@pytest.fixture(scope="module")
def receiver() -> ReceiverCodec:
    return load_receiver("entropy")


@pytest.fixture(scope="module")
def file() -> EncodedFile:
    return encode_within(PHOTO, MAP, load_sender("entropy"), limit_bytes=1_500, clock=clock())


@pytest.fixture(scope="module")
def plan() -> Plan:
    return load_sender("entropy").prepare(PHOTO).plan(0.2 + 0.6 * MAP, PlanRequest(4_000, 600))


def arrived(plan: Plan, receiver: ReceiverCodec, packets: list[bytes]) -> ArrivedPatches:
    assembly = Assembly(1, by_number(receiver), now=0.0)
    for data in packets:
        assert assembly.accept(Packet.from_bytes(data), 0.0) is Arrival.ACCEPTED
    found = assembly.snapshot()
    assert found is not None
    return found


def psnr_db(picture: np.ndarray, weights: np.ndarray) -> float:
    error = ((picture.astype(float) - PHOTO) ** 2).mean(axis=2)
    return float(10 * np.log10(255**2 / np.average(error, weights=weights)))


def test_the_registry_says_what_the_codec_is() -> None:
    assert (ENTROPY.number, ENTROPY.levels, ENTROPY.exact) == (ENTROPY_CODEC, LEVELS, EXACT)
    assert not ENTROPY.sized


def test_a_file_keeps_its_size_and_shows_what_was_asked_for(file: EncodedFile, receiver: ReceiverCodec) -> None:
    assert 0.9 * 1_500 < len(file.data) == file.plan.wire_bytes <= 1_500
    decoded = decode_file(read_frames(file.data), receiver, clock())
    assert decoded.complete
    assert decoded.levels_read[1:] == tuple(file.plan.level_counts[1:])
    assert psnr_db(decoded.picture, MAP) > psnr_db(decoded.picture, 1 - MAP) + 6


def test_a_beginning_of_a_file_shows_all_patches_more_coarsely(file: EncodedFile, receiver: ReceiverCodec) -> None:
    whole = decode_file(read_frames(file.data), receiver, clock())
    part = decode_file(read_frames(file.data[: 2 * len(file.data) // 3]), receiver, clock())
    assert part.cut
    assert not part.complete
    assert part.read_patches == part.expected_patches > 0
    assert psnr_db(part.picture, MAP) < psnr_db(whole.picture, MAP)


def test_exact_files_are_exact_and_smaller_than_raw(receiver: ReceiverCodec) -> None:
    image = np.ascontiguousarray(PHOTO[:37, :53])
    encoded = encode_exactly(image, load_sender("entropy"), clock=clock())
    decoded = decode_file(read_frames(encoded.data), receiver, clock())
    assert np.array_equal(decoded.picture, image)
    assert decoded.levels_read == (0,) * EXACT + (5 * 7,)
    assert len(encoded.data) < 0.7 * image.nbytes


def test_a_budget_below_the_headers_is_refused() -> None:
    with pytest.raises(BudgetTooSmallError, match="headers alone take"):
        load_sender("entropy").prepare(PHOTO).plan(MAP, PlanRequest(20, 1_200))


@pytest.mark.parametrize("inside", [slice(None), slice(16, 48), slice(0, 0)], ids=["all", "whole patches", "nothing"])
def test_masks_without_an_edge_within_a_patch(inside: slice) -> None:
    mask = np.zeros_like(MAP)
    mask[inside, inside] = 1
    plan = load_sender("entropy").prepare(PHOTO).plan(mask, PlanRequest(900, 1_200))
    assert 0.9 * 900 < plan.wire_bytes <= 900


def test_a_picture_of_colourful_blocks_has_a_background_that_a_receiver_takes(receiver: ReceiverCodec) -> None:
    blocks = np.random.default_rng(0).integers(0, 256, (30, 45, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    nothing = np.zeros(blocks.shape[:2], np.float32)
    plan = load_sender("entropy").prepare(blocks).plan(nothing, PlanRequest(60_000, 1_200))
    assert arrived(plan, receiver, pack(plan, 1)).decode().read_patches == 30 * 45


@pytest.mark.parametrize("halved", [True, False])
@pytest.mark.parametrize("size", [(80, 120), (72, 56), (8, 8)])
def test_the_sender_knows_the_background_that_a_receiver_sees(size: tuple[int, int], halved: bool) -> None:
    codec, image = load_entropy_codec(), np.ascontiguousarray(PHOTO[: size[0], : size[1]])
    coded = codec.encode_background(thumbnail(image), 110, halved=halved)
    np.testing.assert_array_equal(coded.colours, codec.background(coded.layer, PatchGrid.of(image)))


def test_packets_keep_their_length_and_the_plan_counts_every_byte(plan: Plan) -> None:
    packets = pack(plan, 1)
    assert max(map(len, packets)) <= 600
    assert sum(map(len, packets)) == plan.wire_bytes <= 4_000
    assert len(plan.bodies) > 3
    assert plan.level_counts.sum() == plan.header.grid.count


def test_a_lost_packet_costs_its_own_patches_and_nothing_else(plan: Plan, receiver: ReceiverCodec) -> None:
    packets = pack(plan, 1)
    whole = arrived(plan, receiver, packets).decode()
    assert (whole.levels == plan.levels).all()
    for lost in (len(packets) - 3, len(packets) - 1):
        part = arrived(plan, receiver, packets[:lost] + packets[lost + 1 :]).decode()
        there = part.levels > 0
        assert (there < (plan.levels > 0)).any()
        assert (part.patches[there] == whole.patches[there]).all()
        assert part.paint().shape == PHOTO.shape


def test_the_order_of_arrival_does_not_matter(plan: Plan, receiver: ReceiverCodec) -> None:
    packets = pack(plan, 1)
    shown = [arrived(plan, receiver, order).decode().paint() for order in (packets, packets[::-1])]
    assert (shown[0] == shown[1]).all()


def test_a_body_of_garbage_takes_nothing_with_it(plan: Plan, receiver: ReceiverCodec) -> None:
    packets = [Packet.from_bytes(data) for data in pack(plan, 1)]
    whole = arrived(plan, receiver, pack(plan, 1)).decode()
    last = packets[-1]
    packets[-1] = replace(last, body=last.body[:2] + b"\xff" * 40)
    part = arrived(plan, receiver, [packet.to_bytes() for packet in packets]).decode()
    others = np.ones(plan.header.grid.count, np.bool_)
    others[sending_order(plan.levels, plan.header.grid)[last.position :]] = False
    assert (part.patches[others] == whole.patches[others]).all()
    assert part.paint().shape == PHOTO.shape


def headers(plan: Plan) -> Iterator[StreamHeader]:
    yield replace(plan.header, weights_hash=b"else")
    yield replace(plan.header, level_map_table=16)
    yield replace(plan.header, level_map=b"")
    yield replace(plan.header, level_map=plan.header.level_map[:2])
    yield replace(plan.header, level_map=plan.header.level_map[:2] + b"\xff" * 60)


def test_a_header_that_cannot_be_decoded_is_a_typed_error(plan: Plan, receiver: ReceiverCodec) -> None:
    for header in headers(plan):
        assembly = Assembly(1, by_number(receiver), now=0.0)
        with pytest.raises(StreamError):
            assembly.accept(Packet(PacketKind.HEADER, 1, 0, header.to_bytes()), 0.0)


@settings(deadline=None, max_examples=40)
@given(st.binary(max_size=80), st.lists(st.tuples(st.integers(0, 160), st.binary(max_size=60)), max_size=4))
def test_any_sketch_and_bodies_give_a_picture(sketch: bytes, bodies: list[tuple[int, bytes]]) -> None:
    receiver = load_receiver("entropy")
    image = PHOTO[:40, :64]
    header = load_sender("entropy").plan_exactly(image, packet_bytes=65_000).header
    assembly = Assembly(1, by_number(receiver), now=0.0)
    assembly.accept(Packet(PacketKind.HEADER, 1, 0, replace(header, sketch=sketch).to_bytes()), 0.0)
    for position, content in bodies:
        try:
            assembly.accept(Packet(PacketKind.PATCHES, 1, position, content), 0.0)
        except PacketError:
            continue
    found = assembly.snapshot()
    assert found is not None
    decoded = found.decode()
    assert decoded.read_patches <= found.patches
    assert decoded.paint().shape == image.shape


def test_the_pipeline_sends_by_the_codec_that_is_asked_for() -> None:
    pipeline = Pipeline({"ladder": mean_sender(), "entropy": load_sender("entropy")}, {"left-half": LeftHalf()})
    job = Job(png_bytes(PHOTO), "left", Budget("wire_bytes", 1_500), 1, codec="entropy")
    *_, stage = pipeline.run(job, 1.0, clock())
    assert isinstance(stage, PlanStage)
    event = plan_message(stage, "00000001", with_map=True)
    assert (event.codec, len(event.levels)) == ("entropy", LEVELS)
    assert not any(count.patch_bytes for count in event.levels)
    assert event.content_bytes < event.wire_bytes <= 1_500
    levels = stage.plan.levels.reshape(10, 15)
    assert levels[:, :7].mean() > levels[:, 8:].mean()
    with pytest.raises(InvalidInputError, match=r"options.allocation: the entropy codec has no 'greedy'"):
        list(pipeline.run(replace(job, strategy="greedy"), 1.0, clock()))
