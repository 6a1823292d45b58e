"""The patch codecs by name, as far as both ends must agree on them; the stream header names them by number.

What each end does with a codec is its own: `transmitter.codecs` and `receiver.codecs` load the halves.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shared.errors import InvalidInputError, StreamError
from shared.levels import LEVEL_BYTES
from shared.packets import LADDER_CODEC

ALL_LEVELS: Final = "all"
"""How metrics name the levels of a codec whose bytes cannot be told apart by level."""


@dataclass(frozen=True)
class CodecEntry:
    """A codec that can be asked for."""

    name: str
    """What options call it."""
    number: int
    """What the stream header calls it, version included; 0 to 255."""
    description: str
    """One line for people."""
    patch_bytes: tuple[int, ...]
    """Per level, 0 (skipped) to the exact one: bytes of one patch; 0 where patches have no size of their own."""

    @property
    def levels(self) -> int:
        """How many there are; 0 is skipped, the last is exact."""
        return len(self.patch_bytes)

    @property
    def exact(self) -> int:
        """The level at which a patch comes out as it was."""
        return self.levels - 1

    @property
    def sized(self) -> bool:
        """Whether the level says how many bytes a patch takes."""
        return any(self.patch_bytes)

    @property
    def byte_labels(self) -> tuple[str, ...]:
        """How metrics name what bytes are counted by."""
        return tuple(map(str, range(self.levels))) if self.sized else (ALL_LEVELS,)


DEFAULT_CODEC: Final = "entropy"
"""What is taken where nobody asks for another."""

LADDER: Final = CodecEntry("ladder", LADDER_CODEC, "the paper's fixed-size levels", LEVEL_BYTES)

ENTROPY: Final = CodecEntry("entropy", 2, "entropy-coded levels", (0,) * 8)

_ENTRIES: Final = (LADDER, ENTROPY)

CODECS: Final[Mapping[str, CodecEntry]] = {entry.name: entry for entry in _ENTRIES}
"""Every codec by its name."""


def codec_named(name: str, field: str = "codec") -> CodecEntry:
    """The codec of that name.

    Args:
        name: a key of CODECS.
        field: the request's field, for the error.

    Raises:
        InvalidInputError: there is no such codec.
    """
    if name not in CODECS:
        raise InvalidInputError(field, f"unknown codec {name!r}; there are: {', '.join(CODECS)}")
    return CODECS[name]


def codec_numbered(number: int) -> CodecEntry:
    """The codec that a stream header names.

    Raises:
        StreamError: there is no codec of that number and version.
    """
    for entry in CODECS.values():
        if entry.number == number:
            return entry
    raise StreamError(f"codec {number} is not known here")
