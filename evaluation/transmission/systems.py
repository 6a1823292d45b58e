"""The systems by name: `[RELEVANCE:]CODEC`, as in `oracle:ladder` or `avif-blur`.

A further codec is one more line in `CODECS`; a further extractor is one more name in `transmitter.relevance`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from evaluation.transmission.blur import blur_sender
from evaluation.transmission.contract import Codec
from evaluation.transmission.patches import patch_sender
from evaluation.transmission.photo import Photo, Question
from evaluation.transmission.sources import DEFAULT_SOURCE, SOURCES, WRONG_QUERY
from evaluation.transmission.stills import STILLS, still_sender
from shared.errors import InvalidInputError
from shared.packets import DEFAULT_PACKET_BYTES, MAX_PACKET_BYTES
from transmitter.planning import RATE_DISTORTION
from transmitter.relevance import EXTRACTORS, Relevance

_FIELD: Final = "--systems"


def _codecs() -> Iterator[Codec]:
    for name, strategy in {"ladder": RATE_DISTORTION, "greedy": "greedy", "vit-sc": "vit-sc"}.items():
        yield Codec(name, patch_sender("ladder", strategy, DEFAULT_PACKET_BYTES), uses_relevance=True)
    for name, packet_bytes in {"entropy": MAX_PACKET_BYTES, "entropy-1200": DEFAULT_PACKET_BYTES}.items():
        yield Codec(name, patch_sender("entropy", RATE_DISTORTION, packet_bytes), uses_relevance=True)
    for name in STILLS:
        yield Codec(name, still_sender(name), uses_relevance=False)
        yield Codec(f"{name}-blur", blur_sender(name), uses_relevance=True)


CODECS: Final[dict[str, Codec]] = {codec.name: codec for codec in _codecs()}
"""By name: the project's own with its allocations, whole photos, and photos with the background blurred first."""

DEFAULT_SYSTEMS: Final = (
    "ladder,oracle:ladder,query-free:ladder,greedy,vit-sc,"
    "avif,webp,jpeg,jxl,avif-blur,oracle:avif-blur,webp-blur,jpeg-blur,jxl-blur"
)
"""What is compared when nobody says otherwise; it needs no weights but the project's own."""


@dataclass(frozen=True)
class System:
    """One way to send a photo: a codec, and where its relevance comes from."""

    codec: Codec
    source: str
    """A key of SOURCES; of no effect for a codec that uses no relevance."""

    @property
    def name(self) -> str:
        """As in results: without the source where that is the usual one."""
        plain = self.source == DEFAULT_SOURCE or not self.codec.uses_relevance
        return self.codec.name if plain else f"{self.source}:{self.codec.name}"

    @property
    def extractor(self) -> str | None:
        """The extractor that its relevance comes from, if any."""
        if not self.codec.uses_relevance or self.source == "oracle":
            return None
        return self.source if self.source in EXTRACTORS else DEFAULT_SOURCE

    @property
    def asks_wrong_query(self) -> bool:
        """Whether it needs a query for nothing in the photo."""
        return self.codec.uses_relevance and self.source == WRONG_QUERY

    def relevance(self, photo: Photo, question: Question) -> Relevance:
        """What it works with; nothing for a codec that looks at the photo alone."""
        if not self.codec.uses_relevance:
            return Relevance(np.zeros(photo.image.shape[:2], np.float32), present=False)
        return SOURCES[self.source](photo, question)


def parse_systems(text: str) -> tuple[System, ...]:
    """Reads a list of names, separated by commas; what is named twice counts once.

    Raises:
        InvalidInputError: a name is unknown, or gives a relevance to a codec that uses none, or no name is given,
            or what a name needs is not installed.
    """
    systems = {system.name: system for system in map(parse_system, filter(None, map(str.strip, text.split(","))))}
    if not systems:
        raise InvalidInputError(_FIELD, f"names none; {known()}")
    for name in STILLS:
        if any(system.codec.name.split("-")[0] == name for system in systems.values()):
            STILLS[name](0)
    return tuple(systems.values())


def parse_system(name: str) -> System:
    """Reads one name.

    Raises:
        InvalidInputError: it is unknown, or gives a relevance to a codec that uses none.
    """
    source, colon, codec_name = name.rpartition(":")
    codec = CODECS.get(codec_name)
    if codec is None or (colon and source not in SOURCES):
        raise InvalidInputError(_FIELD, f"unknown system {name!r}; {known()}")
    if colon and not codec.uses_relevance:
        raise InvalidInputError(_FIELD, f"{name!r}: {codec_name} sends the whole photo and takes no relevance")
    return System(codec, source or DEFAULT_SOURCE)


def known() -> str:
    """The names there are, in one line."""
    plain = [codec.name for codec in CODECS.values() if not codec.uses_relevance]
    relevant = [codec.name for codec in CODECS.values() if codec.uses_relevance]
    return f"there are: {', '.join(plain)}; [{'|'.join(SOURCES)}:] before {', '.join(relevant)}"


def needed_extractors(systems: Sequence[System], judge: str | None) -> tuple[str, ...]:
    """The extractors that a run will ask."""
    names = [*(system.extractor for system in systems), judge]
    return tuple(dict.fromkeys(name for name in names if name is not None))
