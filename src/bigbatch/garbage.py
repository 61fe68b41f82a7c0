"""How often Python looks for objects that refer to each other in circles and to which nothing else refers.

A full look goes through all objects there are: about a million once torch and transformers are imported, a quarter of a
second. By default there is one whenever a few tens of thousands of objects are added, so that importing those libraries
and tokenising 20,000 rows lost a fifth of its time, though next to nothing that they make is such a circle.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

OBJECTS = 100_000
"""Made and not yet freed, before the youngest are looked through."""


@contextmanager
def looked_for_seldom() -> Iterator[None]:
    """Inside, circles are looked for 140 times less often than usual; never oftener than it was asked for outside.

    For what makes many objects that stay, or that go by themselves. As a decorator: around each call.
    """
    before = gc.get_threshold()
    if before[0]:  # 0: switched off, and stays off
        gc.set_threshold(max(OBJECTS, before[0]), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
