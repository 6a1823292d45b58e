"""The paper's ladder of levels: the bytes an 8x8 RGB patch may take (arXiv 2512.15691, section III)."""

from typing import Final

LEVEL_BYTES: Final[tuple[int, ...]] = (0, 12, 24, 48, 192)
"""Bytes on the wire of one patch at level 0 (skipped) to 4 (raw and exact)."""

SKIPPED: Final = 0
"""The level of a patch of which nothing is sent."""

RAW: Final = len(LEVEL_BYTES) - 1
"""The level that carries the 192 bytes of the patch as they are."""
