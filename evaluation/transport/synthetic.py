"""A photo that is none: packets of the right sizes, and a quality that follows from which patches came how finely.

Planning and painting a photo takes a second; this takes a millisecond, so that rare events show in thousands of
transmissions. The region's patches, when B bytes were spread over all of them, have the PSNR that a photo of the
paper's size had when it was measured (`_CURVE`); a patch that did not come has that of the background.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Final

import numpy as np

from receiver.contract import ArrivedPatches, DecodedPatches, Layout, Piece, ReceiverCodecs, by_number
from receiver.whole_bodies import scanned, whole_body
from shared.arrays import Float64Array, Int64Array, UInt8Array
from shared.codec.registry import ENTROPY, CodecEntry
from shared.errors import BudgetTooSmallError, StreamError
from shared.packets import PACKET_HEADER_BYTES, SECTION_HEADER_BYTES, StreamHeader
from shared.patches import PatchGrid
from transmitter.planning import Body, Earlier, Plan, PlanRequest, wire_bytes

GREY_DB: Final = 12.0
"""Without any picture."""

BACKGROUND_DB: Final = 16.0
"""Of patches of which only the background came."""

_CURVE: Final = ((1_000, 23.4), (2_304, 27.3), (4_608, 30.7), (9_216, 34.7), (23_040, 40.8), (46_080, 46.7))
_MOST_DB: Final = 50.0
_CUTTING: Final = ((256, 0.45), (400, 0.2), (600, 0.1), (900, 0.02), (1_200, 0.0))  # dB that small packets cost
_CUT_DB: Final = ((0.0, 20.0), (0.25, 14.0), (0.5, 9.0), (0.75, 4.7), (1.0, 0.0))  # that part of a body costs

_GRID: Final = PatchGrid(480, 320)
_REGION: Final = 840
_FULL: Final = struct.Struct(">f")  # begins the level map: bytes, were all of the region this fine
_COUNT: Final = struct.Struct(">H")  # begins a body
_GOES_ON: Final = 0x8000  # likewise, where the next scan goes on with it
_HASH: Final = b"none"
_LEVEL: Final = 1
_SCAN: Final = 0.75  # octaves by which a missing scan makes patches coarser
_FINER: Final = 1.5  # patches that are there are worth sending again with so many times the bytes
_LEAST_BYTES: Final = 40


@dataclass(frozen=True)
class _Codec:
    """The receiving half; nothing can be painted."""

    entry: ClassVar[CodecEntry] = ENTROPY
    weights_hash: ClassVar[bytes] = _HASH
    scans: ClassVar[bool] = True

    def open(self, header: StreamHeader) -> UInt8Array:
        """The patches of the level map."""
        try:
            packed = zlib.decompressobj().decompress(header.level_map[_FULL.size :], header.grid.count)
        except zlib.error as error:
            raise StreamError("level map is damaged") from error
        flags = np.unpackbits(np.frombuffer(packed, np.uint8), count=header.grid.count)
        return flags * np.uint8(_LEVEL)

    def order(self, levels: UInt8Array, grid: PatchGrid) -> Int64Array:  # noqa: ARG002 - as every codec
        """Raster order."""
        return np.flatnonzero(levels)

    def pieces(self, layout: Layout, position: int, body: bytes) -> list[Piece]:
        """The body as it is."""
        count = _COUNT.unpack_from(body)[0] if len(body) >= _COUNT.size else 0
        return whole_body(layout, position, body, count & ~_GOES_ON, goes_on=bool(count & _GOES_ON))

    def usable(self, layout: Layout, position: int, body: bytes) -> bytes:  # noqa: ARG002 - as every codec
        """Nothing of a part."""
        return b""

    def decode(self, arrived: ArrivedPatches) -> DecodedPatches:
        """There are no pixels."""
        raise NotImplementedError

    def merge(self, earlier: DecodedPatches, later: DecodedPatches) -> DecodedPatches:
        """There are no pixels."""
        raise NotImplementedError

    def paint(self, decoded: DecodedPatches) -> UInt8Array:
        """There are no pixels."""
        raise NotImplementedError

    def warm_up(self) -> None:
        """Nothing is cold."""


class SyntheticPhoto:
    """Implements `evaluation.transport.trials.Subject`.

    Args:
        name: what tables call it.
    """

    raw_bytes = _GRID.raw_bytes

    def __init__(self, name: str = "synthetic") -> None:
        self.name = name

    @property
    def receivers(self) -> ReceiverCodecs:
        """As an assembly takes them."""
        return by_number(_Codec())

    # ---- plans -------------------------------------------------------------------------------------

    def plan(self, request: PlanRequest) -> Plan:
        """All of the region, as finely as the budget allows.

        Raises:
            BudgetTooSmallError: not even the stream header fits.
        """
        sketch = bytes(min(request.budget_bytes // 40, 600))
        plan = _planned(np.arange(_REGION), request, sketch)
        if plan is None:
            raise BudgetTooSmallError("budget", f"{request.budget_bytes} bytes")
        return plan

    def replan(self, request: PlanRequest, earlier: Sequence[Earlier]) -> Plan | None:
        """What is not there; where that leaves bytes for it, the coarsest of what is there as well."""
        fineness = _planned_bytes(earlier)
        missing = np.flatnonzero(fineness == 0)
        there = np.flatnonzero(fineness)
        there = there[np.argsort(fineness[there], kind="stable")]
        sure = request.budget_bytes * _REGION
        more = 0
        while more < len(there) and sure / (len(missing) + more + 1) > _FINER * fineness[there[more]]:
            more += 1
        numbers = np.sort(np.concatenate([missing, there[:more]]))
        return _planned(numbers, request, b"") if len(numbers) else None

    # ---- quality -----------------------------------------------------------------------------------

    def shown_db(self, arrived: ArrivedPatches | None) -> float:
        """PSNR of the region."""
        if arrived is None:
            return GREY_DB
        quality = np.full(_GRID.count, BACKGROUND_DB)
        for revision in (arrived, *arrived.later):
            numbers = np.flatnonzero(revision.layout.levels)
            whole = 1 + max((piece.payload[_COUNT.size] for piece in revision.pieces), default=0)
            for piece, parts in scanned(revision):
                length = whole * (len(piece.payload) - _COUNT.size)
                db = _quality_db(_full_bytes(revision.header), length) - _cut_db(len(parts) / whole)
                quality[numbers[piece.place]] = np.maximum(quality[numbers[piece.place]], db)
        return float(-10 * np.log10(np.mean(10 ** (-quality[:_REGION] / 10))))

    def oracle_db(self, budget_bytes: int, packet_bytes: int) -> float | None:
        """What one plan gives that has so many bytes and loses none; None where not even the header fits."""
        try:
            plan = self.plan(PlanRequest(budget_bytes, packet_bytes))
        except BudgetTooSmallError:
            return None
        return _quality_db(_full_bytes(plan.header), packet_bytes)


def _planned(numbers: Int64Array, request: PlanRequest, sketch: bytes) -> Plan | None:
    """A plan for these patches, all alike; None where the budget has no room for any."""
    levels = np.zeros(_GRID.count, np.uint8)
    levels[numbers] = _LEVEL
    packed = zlib.compress(np.packbits(levels).tobytes(), 9)
    level_map = _FULL.pack(request.budget_bytes * _REGION / len(numbers)) + packed
    if sketch:  # those of photos tell levels apart
        level_map += bytes(max(min(request.budget_bytes // 60, 260) + 20 - len(level_map), 0))
    header = StreamHeader(ENTROPY.number, _HASH, _GRID, sketch, level_map, 0)
    left = request.budget_bytes - wire_bytes(len(header.to_bytes()), [], request)
    if left < PACKET_HEADER_BYTES + _LEAST_BYTES:
        return None
    packets = min(-(-left // request.packet_bytes), len(numbers))
    scans = min(request.scans, packets)
    left -= (scans - 1) * (SECTION_HEADER_BYTES + PACKET_HEADER_BYTES)
    count = -(-packets // scans)
    size = min(left // (count * scans), request.packet_bytes) - PACKET_HEADER_BYTES - _COUNT.size
    if size < _LEAST_BYTES:
        return None
    edges = np.linspace(0, len(numbers), count + 1).round().astype(int)
    first, *others = (
        tuple(
            Body(start, end - start, _part(end - start, scans - 1 - scan, size))
            for start, end in pairwise(edges.tolist())
        )
        for scan in range(scans)
    )
    return Plan(header, levels, first, request.packet_bytes, scans=tuple(others))


def _part(patches: int, following: int, size: int) -> bytes:
    """A body, or a part of one: says in how many scans it goes on."""
    return _COUNT.pack(patches | (_GOES_ON if following else 0)) + bytes([following]).ljust(size, b"\0")


def _cut_db(share: float) -> float:
    shares, costs = zip(*_CUT_DB, strict=True)
    return float(np.interp(share, shares, costs))


def _full_bytes(header: StreamHeader) -> float:
    return float(_FULL.unpack_from(header.level_map)[0])


def _planned_bytes(earlier: Sequence[Earlier]) -> Float64Array:
    """(region,) how finely each patch is there or on its way: bytes, were all so fine."""
    finest = np.zeros(_GRID.count)
    for revision in earlier:
        numbers = np.flatnonzero(revision.plan.levels)[revision.served]
        missing = np.broadcast_to(revision.missing_scans, revision.served.shape)[revision.served]
        finest[numbers] = np.maximum(finest[numbers], _full_bytes(revision.plan.header) / 2.0 ** (_SCAN * missing))
    return finest[:_REGION]


def _quality_db(full_bytes: float, packet_bytes: int) -> float:
    sizes, qualities = zip(*_CURVE, strict=True)
    place = np.log2(max(full_bytes, 1))
    slope = (qualities[-1] - qualities[-2]) / np.log2(sizes[-1] / sizes[-2])
    inside = np.interp(place, np.log2(sizes), qualities)
    beyond = max(place - np.log2(sizes[-1]), 0) * slope
    below = min(place - np.log2(sizes[0]), 0) * (qualities[1] - qualities[0]) / np.log2(sizes[1] / sizes[0])
    lengths, costs = zip(*_CUTTING, strict=True)
    cost = np.interp(packet_bytes, lengths, costs)
    return float(np.clip(inside + beyond + below - cost, BACKGROUND_DB, _MOST_DB))
