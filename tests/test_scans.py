"""Plans in several scans: the first part of all bodies first, so that a tail that does not come costs fineness only."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from receiver_fakes import ID, assembled, decoded, receivers, sent

from receiver.assembly import Assembly
from receiver.codecs import load_receiver
from receiver.contract import ReceiverCodec, by_number
from receiver.entropy_receiver import DecodedEntropy
from shared.arrays import Float32Array, Int16Array
from shared.codec.entropy.codec import COUNT_BYTES, beginning, goes_on, joined, parts_needed, parts_of, patches_in
from shared.codec.entropy.levels import sending_order
from shared.errors import InvalidInputError, StreamError
from shared.packets import SCAN_TABLE, Packet, PacketKind, StreamHeader
from shared.patches import PatchGrid
from shared.reports import ReportOutcome
from transmitter.codecs import load_sender
from transmitter.packing import pack, pack_revision
from transmitter.planning import Earlier, Plan, PlanRequest, PreparedPicture, earlier_plans

PHOTO = skimage.data.chelsea()[60:140, 100:220]
MAP = np.zeros(PHOTO.shape[:2], np.float32)
MAP[20:60, 30:90] = 1
REQUEST = PlanRequest(2_000, 256, scans=4)


# ---- bodies ----------------------------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=600), st.integers(1, 0x7FFF), st.integers(10, 700))
def test_the_parts_of_a_body_fit_and_make_the_body_again(string: bytes, patches: int, limit: int) -> None:
    body = patches.to_bytes(COUNT_BYTES, "big") + string
    parts = parts_of(body, limit)
    assert len(parts) == parts_needed(len(body), limit)
    assert max(map(len, parts)) <= limit
    assert [goes_on(part) for part in parts] == [True] * (len(parts) - 1) + [False]
    assert {patches_in(part) for part in parts} == {patches}
    assert joined(parts) == body
    for count in range(1, len(parts)):
        assert joined(parts[:count]) == beginning(body[: len(joined(parts[:count]))])


# ---- plans -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared() -> PreparedPicture:
    return load_sender("entropy").prepare(PHOTO)


@pytest.fixture(scope="module")
def plan(prepared: PreparedPicture) -> Plan:
    return prepared.plan(MAP, REQUEST)


@pytest.fixture(scope="module")
def entropy() -> ReceiverCodec:
    return load_receiver("entropy")


@pytest.fixture(scope="module")
def whole(entropy: ReceiverCodec, plan: Plan) -> Int16Array:
    """(patches,) qualities when all has arrived."""
    return decoded(entropy, pack(plan, ID)).qualities


def error(found: DecodedEntropy, weights: Float32Array = MAP) -> float:
    return float((np.square(PHOTO.astype(float) - found.paint()).sum(axis=2) * weights).sum())


@pytest.mark.parametrize(("budget", "packet_bytes", "scans"), [(600, 256, 4), (2_000, 256, 2), (9_000, 400, 4)])
def test_the_budget_is_kept_and_used_and_packets_fit(
    prepared: PreparedPicture, budget: int, packet_bytes: int, scans: int
) -> None:
    plan = prepared.plan(MAP, PlanRequest(budget, packet_bytes, scans=scans))
    packets = pack(plan, ID)
    assert 0.92 * budget < plan.wire_bytes <= budget
    assert sum(map(len, packets)) == plan.wire_bytes
    assert max(map(len, packets)) <= packet_bytes
    assert 1 <= len(plan.scans) < scans


def test_exact_patches_are_not_cut(prepared: PreparedPicture) -> None:
    plan = prepared.plan(MAP, PlanRequest(40_000, 256, scans=4))
    assert not plan.scans
    assert max(map(len, pack(plan, ID))) <= 256


def test_all_scans_are_as_good_as_one(entropy: ReceiverCodec, prepared: PreparedPicture, plan: Plan) -> None:
    one = prepared.plan(MAP, dataclasses.replace(REQUEST, scans=1))
    assert error(decoded(entropy, pack(plan, ID))) < 1.03 * error(decoded(entropy, pack(one, ID)))


@pytest.mark.parametrize("missing", [0.15, 0.3, 0.5])
def test_without_its_end_a_plan_in_scans_shows_much_more(
    entropy: ReceiverCodec, prepared: PreparedPicture, plan: Plan, missing: float
) -> None:
    one = prepared.plan(MAP, dataclasses.replace(REQUEST, scans=1))
    errors = [
        error(decoded(entropy, _first(pack(each, ID), (1 - missing) * REQUEST.budget_bytes))) for each in (plan, one)
    ]
    assert errors[0] < 0.5 * errors[1]


def _first(packets: Sequence[bytes], size: float) -> list[bytes]:
    ends = np.cumsum([len(data) for data in packets])
    return [data for data, end in zip(packets, ends, strict=True) if end <= size]


# ---- what arrives ----------------------------------------------------------------------------------


def _parts_there(plan: Plan, there: set[bytes]) -> dict[int, int]:
    """Position of each body that arrived: how many of its parts did, from the first on."""
    packed = pack_revision(plan, ID, 0)
    counts: dict[int, int] = {}
    for number, scan in enumerate((packed, *packed.scans)):
        if not set(scan.header) <= there:
            break
        for packet in scan.patches:
            if packet.data in there and counts.get(packet.position, 0) == number:
                counts[packet.position] = number + 1
    return counts


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_packets_in_any_order_show_each_body_as_far_as_it_came(
    entropy: ReceiverCodec, plan: Plan, whole: Int16Array, data: st.DataObject
) -> None:
    packets = pack(plan, ID)
    lost = data.draw(st.sets(st.integers(0, len(packets) - 1), max_size=len(packets) // 2))
    kept = [packet for number, packet in enumerate(packets) if number not in lost]
    order = data.draw(st.permutations(kept))
    assembly = assembled(entropy, [*order, *order[:3]])
    assert (assembly.outcome is ReportOutcome.COMPLETE) is (not lost)
    arrived = assembly.snapshot()
    if not set(pack_revision(plan, ID, 0).header) <= set(kept):
        assert arrived is None
        return
    assert arrived is not None
    numbers, found = sending_order(plan.levels, plan.header.grid), arrived.decode()
    assert isinstance(found, DecodedEntropy)
    parts = _parts_there(plan, set(kept))
    for body in plan.bodies:
        place = numbers[body.position : body.position + body.patches]
        needed = 1 + sum(any(other.position == body.position for other in scan) for scan in plan.scans)
        if body.position not in parts:
            assert (found.levels[place] == 0).all()
        elif parts[body.position] == needed:
            assert (found.qualities[place] == whole[place]).all()
        else:
            assert (found.qualities[place] > whole[place]).all()  # counts as coarser than it would be


def test_it_is_complete_only_when_every_part_of_every_body_is_there(entropy: ReceiverCodec, plan: Plan) -> None:
    packed = pack_revision(plan, ID, 0)
    middle = next(packet.data for packet in packed.scans[0].patches)
    packets = pack(plan, ID)
    without = assembled(entropy, [packet for packet in packets if packet != middle])
    assert without.outcome is ReportOutcome.RECEIVING
    assert without.received_patches == without.expected_patches
    without.accept(Packet.from_bytes(middle), 1.0)
    assert without.outcome is ReportOutcome.COMPLETE


def test_a_whole_coarse_patch_is_shown_rather_than_the_beginning_of_a_fine_one(
    entropy: ReceiverCodec, prepared: PreparedPicture
) -> None:
    coarse = prepared.plan(MAP, PlanRequest(1_200, 256))
    everything = np.ones(np.count_nonzero(coarse.levels), np.bool_)
    fine = prepared.replan(MAP, PlanRequest(2_600, 256, scans=4), [Earlier(coarse, everything)])
    assert fine is not None
    first, packed = pack(coarse, ID), pack_revision(fine, ID, 1)
    scans = [[*scan.header, *(packet.data for packet in scan.patches)] for scan in (packed, *packed.scans)]
    errors = [
        error(decoded(entropy, [*first, *(data for scan in scans[:count] for data in scan)]))
        for count in range(len(scans) + 1)
    ]
    assert errors[1] < 1.02 * errors[0]
    assert errors[-1] < 0.6 * errors[0]


# ---- headers ---------------------------------------------------------------------------------------


def _scan_header(codec: ReceiverCodec, level_map: bytes = b"") -> bytes:
    grid = PatchGrid(PHOTO.shape[1], PHOTO.shape[0])
    return StreamHeader(codec.entry.number, codec.weights_hash, grid, b"", level_map, SCAN_TABLE).to_bytes()


def _accept_header(assembly: Assembly, section: bytes, revision: int) -> None:
    assembly.accept(Packet(PacketKind.HEADER, ID, 0, section, revision), 0.0)


def test_a_scan_waits_for_the_revision_that_it_goes_on_with(entropy: ReceiverCodec, plan: Plan) -> None:
    packed = pack_revision(plan, ID, 0)
    scan, later = packed.scans[:2]
    backwards = [*later.header, *scan.header, *(packet.data for packet in (*later.patches, *scan.patches))]
    assembly = assembled(entropy, backwards)
    assert assembly.headers == 0
    for data in (*packed.header, *(packet.data for packet in packed.patches)):
        assembly.accept(Packet.from_bytes(data), 0.0)
    assert assembly.headers == 3


def test_a_scan_of_nothing_is_forgotten(entropy: ReceiverCodec, plan: Plan) -> None:
    with pytest.raises(StreamError, match="scan of nothing"):
        _accept_header(Assembly(ID, by_number(entropy), 0.0), _scan_header(entropy), 0)
    assembly = assembled(entropy, pack_revision(plan, ID, 0).header)
    with pytest.raises(StreamError, match="scan of nothing"):
        _accept_header(assembly, _scan_header(entropy, b"map"), 1)
    _accept_header(assembly, _scan_header(entropy), 2)  # of revision 1, which may come yet
    assert assembly.headers == 1


def test_a_codec_without_scans_takes_none() -> None:
    ladder = next(iter(receivers().values()))
    assembly = assembled(ladder, sent(ID, size=(PHOTO.shape[1], PHOTO.shape[0])).packets)
    assert assembly.headers == 1
    with pytest.raises(StreamError, match="scan of nothing"):
        _accept_header(assembly, _scan_header(ladder), 1)
    assert assembly.headers == 1


# ---- planning anew ---------------------------------------------------------------------------------


def _served(plan: Plan, scans: int) -> list[np.ndarray]:
    """All patches of the first scans are there, nothing of the others."""
    expected = np.count_nonzero(plan.levels)
    return [np.full(expected, number < scans) for number in range(1 + len(plan.scans))]


def test_what_is_served_of_each_scan_becomes_what_is_missing_of_the_plan(plan: Plan) -> None:
    [whole] = earlier_plans([plan], _served(plan, 1 + len(plan.scans)))
    assert not np.any(whole.missing_scans)
    [begun] = earlier_plans([plan], _served(plan, 1))
    assert begun.served.all()
    parts = np.array(
        [sum(any(part.position == body.position for part in scan) for scan in plan.scans) for body in plan.bodies]
    )
    assert np.array_equal(begun.missing_scans, parts.repeat([body.patches for body in plan.bodies]))
    with pytest.raises(ValueError, match="scans"):
        earlier_plans([plan], _served(plan, 1)[:-1])


def test_patches_of_which_scans_are_missing_are_worth_sending_again(prepared: PreparedPicture, plan: Plan) -> None:
    """With as many bytes as the plan had, what is whole stays as it is, and what was begun is sent anew."""
    request = dataclasses.replace(REQUEST, scans=1)
    begun = prepared.replan(MAP, request, earlier_plans([plan], _served(plan, 1)))
    whole = prepared.replan(MAP, request, earlier_plans([plan], _served(plan, 1 + len(plan.scans))))
    assert begun is not None
    inside = plan.levels > 0
    assert np.count_nonzero(begun.levels[inside]) > 0.8 * np.count_nonzero(inside)
    assert whole is None or np.count_nonzero(whole.levels[inside]) < 0.6 * np.count_nonzero(begun.levels[inside])


def test_served_must_fit_the_plan(prepared: PreparedPicture, plan: Plan) -> None:
    with pytest.raises(InvalidInputError):
        prepared.replan(MAP, REQUEST, [Earlier(plan, np.ones(3, np.bool_))])
