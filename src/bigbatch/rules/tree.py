"""Sums whose bits do not depend on who adds what: the order of additions is that of a binary tree over positions.

A node joins the sums of two halves of an aligned block of positions; a half without items adds nothing. Whoever holds
an aligned block can sum it alone, and the sums of blocks are joined by the same rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class TreeSum(Generic[Item]):
    """Adds items that come in ascending order of position; holds at most one sum for each level of the tree.

    Example:
        >>> left, right = TreeSum(lambda a, b: f"({a}{b})"), TreeSum(lambda a, b: f"({a}{b})")
        >>> for position, item in enumerate("abc"):
        ...     left.add(position, item)
        >>> left.total()
        '((ab)c)'
    """

    def __init__(self, add: Callable[[Item, Item], Item]) -> None:
        """`add(earlier, later)` may change and return `earlier`."""
        self._add = add
        self._held: list[tuple[int, Item]] = []

    def add(self, position: int, item: Item) -> None:
        """Take the next item in.

        Args:
            position: larger than all before it.
            item: what is added; it may be changed.
        """
        held = self._held
        while len(held) > 1 and _level(held[-2][0], held[-1][0]) < _level(held[-1][0], position):
            self._join()
        held.append((position, item))

    def total(self) -> Item | None:
        """The sum of all items; None when there were none. Nothing is held afterwards."""
        while len(self._held) > 1:
            self._join()
        return self._held.pop()[1] if self._held else None

    def _join(self) -> None:
        _, later = self._held.pop()
        position, earlier = self._held.pop()
        self._held.append((position, self._add(earlier, later)))


def tree_total(items: Iterable[tuple[int, Item]], add: Callable[[Item, Item], Item]) -> Item | None:
    """The sum of (position, item) pairs in ascending order of position."""
    found = TreeSum(add)
    for position, item in items:
        found.add(position, item)
    return found.total()


def _level(one: int, other: int) -> int:
    """Height of the node at which two positions meet."""
    return (one ^ other).bit_length()
