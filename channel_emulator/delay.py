"""A line on which things spend time and keep their order."""

import math
from collections import deque
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class DelayLine(Generic[_Item]):
    """Gives out items when they are due, first in, first out: none overtakes, even when the delay shrinks."""

    def __init__(self) -> None:
        self._items: deque[tuple[float, _Item]] = deque()
        self._last_due_s = -math.inf

    def put(self, item: _Item, due_s: float) -> float:
        """Adds an item; gives the time at which it will be due, which is not before the item ahead of it."""
        self._last_due_s = max(due_s, self._last_due_s)
        self._items.append((self._last_due_s, item))
        return self._last_due_s

    def take(self, now: float) -> list[tuple[float, _Item]]:
        """Removes and returns what is due, each with the time at which it was due."""
        taken = []
        while self._items and self._items[0][0] <= now:
            taken.append(self._items.popleft())
        return taken

    def clear(self) -> list[tuple[float, _Item]]:
        """Removes and returns everything."""
        items = list(self._items)
        self._items.clear()
        return items

    @property
    def next_due_s(self) -> float:
        """When the next item is due; infinity when there is none."""
        return self._items[0][0] if self._items else math.inf
