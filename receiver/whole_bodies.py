"""Bodies that cannot be cut at patch boundaries: they say how many patches they hold, and are kept as they came.

```
body   patches:u16 │ string                                    (big endian)
```
Whether the string makes sense is known only when it is decoded.
"""

from typing import Final

from receiver.contract import Layout, Piece
from shared.errors import PacketError

_COUNT_BYTES: Final = 2


def whole_body(layout: Layout, position: int, body: bytes) -> list[Piece]:
    """The one piece that a body is.

    Args:
        layout: the transmission's.
        position: ordinal of the body's first patch.
        body: of any content.

    Raises:
        PacketError: it is too short, holds no patches, or claims patches beyond those that were announced.
    """
    patches = int.from_bytes(body[:_COUNT_BYTES], "big")
    if len(body) <= _COUNT_BYTES or not patches:
        raise PacketError("body holds no patches")
    if position + patches > layout.expected:
        raise PacketError("patches lie outside the picture")
    return [Piece(position, patches, body, sized=False)]
