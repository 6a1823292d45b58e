"""What the ladder offers to both of its halves: levels of fixed size, each patch coded on its own."""

from dataclasses import dataclass
from typing import Protocol

from shared.arrays import Float32Array, UInt8Array


@dataclass(frozen=True)
class EncodedPatches:
    """Every patch of a picture at every level, and what each would cost in quality."""

    payloads: tuple[UInt8Array, ...]
    """Per level: (patches, LEVEL_BYTES[level]) bytes on the wire; level 0 is (patches, 0)."""

    errors: Float32Array
    """(patches, levels): sum of squared errors over the patch's 192 samples (0..255 scale) after decoding.

    Column 0 (skipped) is left at +inf: what a skipped patch looks like is not the codec's business.
    """


class PatchCodec(Protocol):
    """Encodes 8x8 RGB patches at fixed-size levels; a decoder needs nothing but the bytes and the level."""

    @property
    def weights_hash(self) -> bytes:
        """First 4 bytes of the SHA-256 of the weights file; the stream header carries it."""
        ...

    def encode(self, patches: UInt8Array) -> EncodedPatches:
        """Encodes (patches, 8, 8, 3) RGB at every level."""
        ...

    def decode(self, level: int, payload: UInt8Array) -> UInt8Array:
        """Decodes (n, LEVEL_BYTES[level]) bytes of a level >= 1 to (n, 8, 8, 3) RGB, whatever the bytes."""
        ...
