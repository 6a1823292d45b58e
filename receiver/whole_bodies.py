"""Bodies that cannot be cut at patch boundaries: they say how many patches they hold, and are kept as they came.

Whether the rest of a body makes sense is known only when it is decoded.
"""

from receiver.contract import Layout, Piece
from shared.errors import PacketError


def whole_body(layout: Layout, position: int, body: bytes, patches: int) -> list[Piece]:
    """The one piece that a body is.

    Args:
        layout: the transmission's.
        position: ordinal of the body's first patch.
        body: of any content.
        patches: how many it says that it holds; 0 if it is too short to say.

    Raises:
        PacketError: it holds no patches, or claims patches beyond those that were announced.
    """
    if not patches:
        raise PacketError("body holds no patches")
    if position + patches > layout.expected:
        raise PacketError("patches lie outside the picture")
    return [Piece(position, patches, body, sized=False)]
