"""What every relevance extractor must offer; the pipeline knows no more than this."""

from dataclasses import dataclass
from typing import Protocol

from shared.arrays import Float32Array, UInt8Array


@dataclass(frozen=True)
class Relevance:
    """The answer of an extractor to one picture and one query."""

    map: Float32Array
    """(height, width), 0 to 1: confidence that a pixel belongs to what the query asks for (paper eq. 7)."""

    present: bool
    """False where the extractor found nothing of what was asked; the map is then low and flat."""


class RelevanceExtractor(Protocol):
    """Computes the relevance map S_inf of a picture under a free-text query (paper eq. 7)."""

    name: str
    """What the `extractor` option of a request and the events call it."""

    def __call__(self, image: UInt8Array, query: str) -> Relevance:
        """Relevance of each pixel.

        Args:
            image: (height, width, 3) RGB, 0 to 255, any size from 1x1.
            query: any text; empty means "whatever is salient".

        Returns:
            A map of the picture's own size.
        """
        ...
