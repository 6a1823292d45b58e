"""Gathers a header section from fragments that come in any order, twice, or forged, and judges whether it is of use."""

from dataclasses import replace
from typing import Final

import numpy as np

from receiver.contract import ReceiverCodec, ReceiverCodecs
from shared.arrays import BoolArray, UInt8Array
from shared.errors import PacketError, StreamError
from shared.packets import SECTION_HEADER_BYTES, StreamHeader, max_sketch_bytes, section_bytes
from shared.patches import MAX_PIXELS, MAX_SIDE, PATCH_SIZE

# Padding adds at most 7 pixels to each side, and a level map takes at most a byte per patch and 64 more.
_MAX_PATCHES: Final = (MAX_PIXELS + 14 * MAX_SIDE + 49) // PATCH_SIZE**2

MAX_SECTION_BYTES: Final = SECTION_HEADER_BYTES + max_sketch_bytes(_MAX_PATCHES) + _MAX_PATCHES + 64
"""No header section of a legal picture is larger."""


class HeaderSection:
    """The bytes of the section that have arrived so far; the first to arrive at a place stay."""

    def __init__(self) -> None:
        self._bytes: UInt8Array = np.zeros(0, np.uint8)
        self._arrived: BoolArray = np.zeros(0, np.bool_)

    @property
    def stored_bytes(self) -> int:
        """Memory that the section takes."""
        return self._bytes.nbytes + self._arrived.nbytes

    def add(self, position: int, body: bytes) -> bool:
        """Adds a fragment.

        Args:
            position: offset of the fragment within the section.
            body: the fragment.

        Returns:
            False if all of it had arrived before.

        Raises:
            PacketError: it is empty, out of any legal section, or contradicts what arrived before it.
        """
        end = position + len(body)
        if not body or end > min(self._announced(), MAX_SECTION_BYTES):
            raise PacketError("fragment lies outside the header section")
        self._grow(end)
        place, fragment = slice(position, end), np.frombuffer(body, np.uint8)
        known = self._arrived[place]
        if (known & (self._bytes[place] != fragment)).any():
            raise PacketError("fragment contradicts an earlier one")
        fresh = not known.all()
        self._bytes[place] = fragment
        self._arrived[place] = True
        return fresh

    def whole(self) -> bytes | None:
        """The section if every byte of it has arrived.

        Raises:
            StreamError: it announces a size that no legal picture needs.
        """
        total = self._announced()
        if total > MAX_SECTION_BYTES:
            if self._starts():
                raise StreamError(f"header announces a section of {total} bytes")
            return None
        if len(self._arrived) < total or not self._arrived[:total].all():
            return None
        return self._bytes[:total].tobytes()

    def _starts(self) -> bool:
        start = self._arrived[:SECTION_HEADER_BYTES]
        return len(start) == SECTION_HEADER_BYTES and bool(start.all())

    def _announced(self) -> int:
        """Size of the section; beyond all bounds while its start has not arrived."""
        if not self._starts():
            return MAX_SECTION_BYTES + 1
        return section_bytes(self._bytes[:SECTION_HEADER_BYTES].tobytes())

    def _grow(self, size: int) -> None:
        more = size - len(self._bytes)
        if more > 0:
            self._bytes = np.concatenate([self._bytes, np.zeros(more, np.uint8)])
            self._arrived = np.concatenate([self._arrived, np.zeros(more, np.bool_)])


def readable(section: bytes, first: StreamHeader | None, codecs: ReceiverCodecs) -> tuple[StreamHeader, ReceiverCodec]:
    """Reads a whole section.

    Args:
        section: of any content.
        first: the header of the transmission's first revision; None where this is it.
        codecs: those at hand.

    Returns:
        The header, of a later revision with the sketch that all share, and the codec that it names.

    Raises:
        StreamError: it is damaged, cannot be decoded here, or does not agree with the first one.
    """
    header = StreamHeader.from_bytes(section)
    codec = codecs.get(header.codec)
    if codec is None or header.weights_hash != codec.weights_hash:
        raise StreamError(f"codec {header.codec} with weights {header.weights_hash.hex()} is not known here")
    if header.scan and (first is None or header.level_map or not codec.scans):
        raise StreamError("header announces a scan of nothing")
    if first is None:
        return header, codec
    if header.sketch:
        raise StreamError("a later revision has a sketch of its own")
    if (header.codec, header.grid) != (first.codec, first.grid):
        raise StreamError("a later revision is of another picture or codec")
    return replace(header, sketch=first.sketch), codec
