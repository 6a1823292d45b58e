"""One photo, with everything that several systems and budgets share computed once."""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

from evaluation.transmission.tools import Tools
from shared.arrays import BoolArray, UInt8Array
from shared.pictures import png_bytes
from transmitter.planning import PreparedPicture
from transmitter.relevance import Relevance

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked of a photo, and the truth about it; equal only to itself, for masks do not compare."""

    query: str
    """Free text."""

    wrong_query: str | None
    """A query for nothing that the photo shows; none where the dataset has none."""

    mask: BoolArray
    """(height, width): what the query asks for; at least one pixel."""


class Photo:
    """A photo on its way through all systems.

    Args:
        image: (height, width, 3) RGB.
        tools: the models.
    """

    def __init__(self, image: UInt8Array, tools: Tools) -> None:
        self.image, self.tools = image, tools
        self._kept: dict[Hashable, Any] = {}

    def once(self, key: Hashable, compute: Callable[[], _T]) -> _T:
        """What `compute` gives, computed at the first call with this key."""
        if key not in self._kept:
            self._kept[key] = compute()
        kept: _T = self._kept[key]
        return kept

    @property
    def png(self) -> bytes:
        """The photo as an upload."""
        return self.once("png", lambda: png_bytes(self.image))

    def relevance(self, extractor: str, query: str) -> Relevance:
        """The relevance map of an extractor for a query."""
        return self.once(("relevance", extractor, query), lambda: self.tools.extractor(extractor)(self.image, query))

    def prepared(self, codec: str) -> tuple[PreparedPicture, float]:
        """The photo as far as a codec of ours prepares it, and the seconds that this took."""
        return self.once(("prepared", codec), lambda: self._prepare(codec))

    def _prepare(self, codec: str) -> tuple[PreparedPicture, float]:
        sender = self.tools.sender(codec)
        start_s = time.perf_counter()
        prepared = sender.prepare(self.image)
        return prepared, time.perf_counter() - start_s
