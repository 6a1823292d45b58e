"""Which bodies say that they go on in the next scan, and have not been gone on with.

```
plan    ── body, body, body        each shows its patches, coarsely
scan    ──── └───── └── part       the same patches finer; the first body was whole
scan    ──────────── └─ part
```
"""

from collections.abc import Iterable
from typing import Final

from receiver.contract import Piece
from receiver.revision import Revision

_NAME_BYTES: Final = 180  # what Python needs to keep one


class OpenEnds:
    """The bodies whose next part is missing, over all revisions of a transmission."""

    def __init__(self) -> None:
        self._names: set[tuple[int, int]] = set()  # revision, ordinal of the first patch

    def __len__(self) -> int:
        return len(self._names)

    @property
    def stored_bytes(self) -> int:
        """Memory that they take."""
        return len(self._names) * _NAME_BYTES

    def arrive(self, revision: Revision, pieces: Iterable[Piece], following: Revision | None) -> None:
        """Takes pieces that have found a place.

        Args:
            revision: theirs.
            pieces: what arrived.
            following: the revision that is numbered next, if anything of it has arrived.
        """
        for piece in pieces:
            if piece.goes_on and not (following and following.scan and following.begins(piece.first)):
                self._names.add((revision.number, piece.first))
            if revision.scan:
                self._names.discard((revision.number - 1, piece.first))
