"""At what settings a codec is measured, and how: qualities of a file format, budgets of the project's own.

Every format of `evaluation.transmission.stills` and every codec of `evaluation.transmission.systems` that sends
our own packets is here by its own name; a further one needs no line in this package.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from evaluation.transmission.measure import budget_bytes
from evaluation.transmission.patches import PatchSender
from evaluation.transmission.photo import Photo
from evaluation.transmission.stills import STILLS, Files, StillFormat, decoded
from evaluation.transmission.systems import CODECS
from shared.arrays import UInt8Array
from shared.errors import InvalidInputError
from transmitter.relevance import Relevance

REFERENCE: Final = "avif"
"""What everything is compared with."""

LOSSLESS: Final = "lossless"
"""The setting at the top of a codec that has an exact level."""

DEFAULT_CODECS: Final = "ladder,avif,jxl,webp,jpeg"
"""What is compared when nobody says otherwise."""

QUALITIES: Final = 14
"""How many of a format's lossy qualities are measured, spread evenly over them."""

PERCENTS: Final = (0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.5, 8.0, 10.0, 15.0, 25.0, 50.0)
"""The budgets of our own codecs, of the raw size; 1 to 8.3 % are 0.25 to 2 bits per pixel."""

OWN: Final = tuple(name for name in CODECS if name.partition("-")[0] not in STILLS)
"""The project's own codecs, which are asked for budgets; blurred formats need a question and are left out."""

_FIELD: Final = "--codecs"


@dataclass(frozen=True)
class Coded:
    """One picture at one setting."""

    picture: UInt8Array
    """(height, width, 3) RGB as a receiver shows it."""
    size_bytes: int
    """Of the file, or of all packets."""
    budget_bytes: int | None = None
    """What was allowed; none for a file, which has a quality instead."""
    fits: bool = True
    """False where the budget cannot hold even the headers."""


Encode = Callable[[Photo], Coded]
"""Codes a picture at one setting; what its settings share is kept with the photo."""


def parse_codecs(text: str) -> tuple[str, ...]:
    """Reads a list of names, separated by commas; what is named twice counts once.

    Raises:
        InvalidInputError: a name is unknown, or none is given, or what a format needs is not installed.
    """
    names = tuple(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))
    known = (*OWN, *STILLS)
    if not names:
        raise InvalidInputError(_FIELD, f"names none; there are: {', '.join(known)}")
    for name in names:
        if name not in known:
            raise InvalidInputError(_FIELD, f"unknown codec {name!r}; there are: {', '.join(known)}")
        try:
            settings_of(name, 0)
        except InvalidInputError as error:
            raise InvalidInputError(_FIELD, error.description) from error
    return names


def settings_of(codec: str, avif_speed: int) -> Mapping[str, Encode]:
    """The settings of a codec by their names, from the least bytes to the most.

    Args:
        codec: one of OWN or STILLS.
        avif_speed: libaom's effort.

    Raises:
        InvalidInputError: what the format needs is not installed.
    """
    if codec in OWN:
        budgets: dict[str, float | None] = {f"{percent:g} % of raw": percent for percent in PERCENTS}
        return {name: partial(_sent, codec, percent) for name, percent in (budgets | {LOSSLESS: None}).items()}
    form = STILLS[codec](avif_speed)
    top = len(form.steps) - 1
    exact = bool(form.steps[top].get("lossless"))
    lossy = np.linspace(0, top - exact, QUALITIES).round().astype(int).tolist()
    qualities = {form.setting(step): step for step in lossy} | ({LOSSLESS: top} if exact else {})
    return {name: partial(_filed, codec, form, step) for name, step in qualities.items()}


def _filed(codec: str, form: StillFormat, step: int, photo: Photo) -> Coded:
    files = photo.once(("files", codec), lambda: Files(photo.image, form))
    data, _ = files.file(step)
    return Coded(decoded(data), len(data))


def _sent(codec: str, percent: float | None, photo: Photo) -> Coded:
    """Through the transmitter's packets and the receiver; None means as many bytes as it takes."""
    sender = photo.once(("sender", codec), lambda: _sender(codec, photo))
    if percent is None:
        exact = sender.send_exactly()
        return Coded(exact.picture, exact.wire_bytes)
    limit_bytes = budget_bytes(photo.image, percent)
    outcome = sender.send(limit_bytes)
    return Coded(outcome.picture, outcome.wire_bytes, limit_bytes, outcome.fits)


def _sender(codec: str, photo: Photo) -> PatchSender:
    """Nobody asks for anything: content alone decides who gets the bytes."""
    height, width = photo.image.shape[:2]
    sender = CODECS[codec].prepare(photo, Relevance(np.zeros((height, width), np.float32), present=False))
    assert isinstance(sender, PatchSender)
    return sender
