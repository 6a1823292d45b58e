"""Checks of settings: each failure names the field, and a part of a larger setting is named by its path."""

from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import InvalidInputError


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Refuses what is not within low to high, NaN included.

    Raises:
        InvalidInputError: naming `name`.
    """
    if not low <= value <= high:  # not so for NaN either
        raise InvalidInputError(name, f"{value!r} is not in {low:,g} to {high:,g}")


@contextmanager
def naming(prefix: str) -> Iterator[None]:
    """Puts `prefix.` before the field that an error names."""
    try:
        yield
    except InvalidInputError as error:
        raise InvalidInputError(f"{prefix}.{error.field}", error.description) from error
