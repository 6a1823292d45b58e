"""The classes of a training set: their names, and the numbers that stand for them in label maps."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from shared.errors import InvalidInputError
from transmitter.relevance.prompts import PhraseEncoder

IGNORED: Final = 255
"""Pixels of this value belong to no class."""

_LINE: Final = re.compile(r"(?:(\d+)\s*:)?(.*)")
_PHRASES_AT_ONCE: Final = 16


@dataclass(frozen=True)
class Classes:
    """The classes, numbered in order."""

    synonyms: tuple[tuple[str, ...], ...]
    """Per class, its names; one at least."""

    values: tuple[int, ...]
    """Per class, the value of its pixels in a label map, 0 to 254."""

    def __len__(self) -> int:
        """How many classes there are."""
        return len(self.synonyms)

    @property
    def names(self) -> tuple[str, ...]:
        """The first name of every class."""
        return tuple(names[0] for names in self.synonyms)


@dataclass(frozen=True)
class ClassText:
    """What the text tower says of the classes."""

    vectors: Tensor
    """(synonyms, channels) unit vectors, class by class."""

    counts: tuple[int, ...]
    """Synonyms of each class."""


def read_names(path: Path) -> Classes:
    """Reads a names file.

    One class per line, its synonyms between commas: `person, child, man`. Lines count from 0, which is the value of
    the class's pixels; a line may say its own value: `17: cat`. Empty lines, and those that begin with `#`, do not
    count.

    Raises:
        InvalidInputError: the file is missing, is no text, has no class, or one without a name, twice the same
            value, or one above 254.
    """
    lines = [line.strip() for line in _text(path).splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    rows = [_class(line, number, path) for number, line in enumerate(lines)]
    if not rows:
        raise InvalidInputError("names", f"{path} names no class")
    values = [value for value, _ in rows]
    if len(set(values)) < len(values):
        twice = next(value for value in values if values.count(value) > 1)
        raise InvalidInputError("names", f"{path} gives the value {twice} to two classes")
    return Classes(tuple(names for _, names in rows), tuple(values))


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise InvalidInputError("names", f"{path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError("names", f"{path} is no UTF-8 text") from error


def _class(line: str, number: int, path: Path) -> tuple[int, tuple[str, ...]]:
    found = _LINE.fullmatch(line)
    assert found is not None
    value = int(found.group(1) or number)
    names = tuple(" ".join(name.split()) for name in found.group(2).split(",") if name.strip())
    if not names:
        raise InvalidInputError("names", f"{path}: {line!r} has no name")
    if value >= IGNORED:
        raise InvalidInputError("names", f"{path}: {line!r} stands for {value}, and 254 is the highest value")
    return value, names


def class_text(classes: Classes, encode: Callable[[list[str]], Tensor]) -> ClassText:
    """Asks the text tower about every synonym, in all templates.

    Args:
        classes: the classes.
        encode: a text tower: prompts to (prompts, channels), of any length.
    """
    phrases = [name for names in classes.synonyms for name in names]
    vectors = torch.cat([PhraseEncoder(encode)(part) for part in _parts(phrases)])
    return ClassText(vectors, tuple(len(names) for names in classes.synonyms))


def _parts(phrases: Sequence[str]) -> list[Sequence[str]]:
    return [phrases[start : start + _PHRASES_AT_ONCE] for start in range(0, len(phrases), _PHRASES_AT_ONCE)]
