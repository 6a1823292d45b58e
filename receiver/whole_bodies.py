"""Bodies that cannot be cut at patch boundaries: they say how many patches they hold, and are kept as they came.

Whether the rest of a body makes sense is known only when it is decoded.
"""

from collections.abc import Iterator

from receiver.contract import ArrivedPatches, Layout, Piece
from shared.errors import PacketError


def whole_body(layout: Layout, position: int, body: bytes, patches: int, *, goes_on: bool = False) -> list[Piece]:
    """The one piece that a body is.

    Args:
        layout: the transmission's.
        position: ordinal of the body's first patch.
        body: of any content.
        patches: how many it says that it holds; 0 if it is too short to say.
        goes_on: whether it says that more of the same comes in the next scan.

    Raises:
        PacketError: it holds no patches, or claims patches beyond those that were announced.
    """
    if not patches:
        raise PacketError("body holds no patches")
    if position + patches > layout.expected:
        raise PacketError("patches lie outside the picture")
    return [Piece(position, patches, body, sized=False, goes_on=goes_on)]


def scanned(arrived: ArrivedPatches) -> Iterator[tuple[Piece, list[bytes]]]:
    """Every piece of the first scan with what came of it, scan after scan as far as none is missing."""
    scans = [{piece.first: piece for piece in pieces} for pieces in arrived.scans]
    for piece in arrived.pieces:
        parts = [piece]
        for scan in scans:
            following = scan.get(piece.first)
            if following is None or following.patches != piece.patches or not parts[-1].goes_on:
                break
            parts.append(following)
        yield piece, [part.payload for part in parts]
