"""A line on which things spend time; they keep their order, but for those that are held back."""

import heapq
import math
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class DelayLine(Generic[_Item]):
    """Gives out items when they are due, first in, first out: none overtakes, even when the delay shrinks.

    Except that an item may be held back beyond that; whatever comes after it may overtake it then.
    """

    def __init__(self) -> None:
        self._items: deque[tuple[float, _Item]] = deque()
        self._held: list[tuple[float, int, _Item]] = []
        self._holds = 0
        self._last_due_s = -math.inf

    def put(self, item: _Item, due_s: float, held_s: float = 0.0) -> float:
        """Adds an item; gives the time at which it will be due: not before the item ahead of it, and held_s later."""
        self._last_due_s = max(due_s, self._last_due_s)
        if held_s:
            self._hold(item, self._last_due_s + held_s)
        else:
            self._items.append((self._last_due_s, item))
        return self._last_due_s + held_s

    def take(self, now: float) -> list[tuple[float, _Item]]:
        """Removes and returns what is due, in the order of the times at which it was, each with that time."""
        if self._held:
            return self._merged(now)
        items = self._items
        taken = []
        while items and items[0][0] <= now:
            taken.append(items.popleft())
        return taken

    def put_after(self, item: _Item, due_s: float, after_s: float) -> None:
        """Adds an item that must come out later than after_s, at which something held back is due."""
        self._last_due_s = max(due_s, self._last_due_s)
        if after_s < self._last_due_s:
            self._items.append((self._last_due_s, item))
        else:
            self._hold(item, math.nextafter(after_s, math.inf))

    def remove(self, unwanted: Callable[[_Item], bool]) -> list[_Item]:
        """Removes and returns the unwanted items."""
        removed = [item for _, item in self._items if unwanted(item)]
        removed += [item for _, _, item in self._held if unwanted(item)]
        self._items = deque((due_s, item) for due_s, item in self._items if not unwanted(item))
        self._held = [entry for entry in self._held if not unwanted(entry[2])]
        heapq.heapify(self._held)
        return removed

    @property
    def next_due_s(self) -> float:
        """When the next item is due; infinity when there is none."""
        next_s = self._items[0][0] if self._items else math.inf
        return min(next_s, self._held[0][0]) if self._held else next_s

    def _hold(self, item: _Item, due_s: float) -> None:
        self._holds += 1  # among equals, first in is first out
        heapq.heappush(self._held, (due_s, self._holds, item))

    def _merged(self, now: float) -> list[tuple[float, _Item]]:
        taken = []
        while (due_s := self.next_due_s) <= now and due_s < math.inf:
            if self._items and self._items[0][0] == due_s:
                taken.append(self._items.popleft())
            else:
                _, _, item = heapq.heappop(self._held)
                taken.append((due_s, item))
        return taken
