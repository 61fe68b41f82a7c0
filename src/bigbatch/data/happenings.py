"""Who had which item when: told by names of columns and by what stands in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bigbatch.data.columns import ID, guess_column
from bigbatch.data.pairs import EVENTS, holds_texts

_LABELLED = ("label", "labels", "class", "target", "click", "clicked", "sentiment")
"""Columns that say what an event was like; then rows are no mere events."""
_FEWEST_AGAIN = 2.0
"""Rows a user has, at least, and rows an item has, on average."""
_FEWEST_WORDS = 5
"""Words of a text that somebody wrote, unlike a title."""


def happened(
    columns: Mapping[str, Sequence[object]], said: Mapping[str, str], every: Callable[[str], Sequence[object]]
) -> dict[str, str] | None:
    """Role -> column of events, or of whole histories; None where the data are no such thing.

    A table of reviews has users and items, too: where a column holds texts of words, or is called like a label, rows
    are something else.

    Args:
        columns: some values of each column.
        said: role -> column, as the user has it.
        every: all values of a column.
    """
    found = {role: guess_column(role, "", list(columns)) for role in EVENTS}
    events = {role: names[0] for role, names in found.items() if names}
    if "item" in said:
        return {role: said[role] for role in EVENTS if role in said}
    if said.keys() - {ID} or not {"user", "item"} <= events.keys():
        return None
    others = [name for name in columns if name not in events.values()]
    if any(name.strip().lower() in _LABELLED for name in others):
        return None
    if any(holds_texts(columns[name], _FEWEST_WORDS) for name in others):
        return None
    if any(isinstance(value, list) for value in columns[events["item"]]):
        return events
    users, items = every(events["user"]), every(events["item"])
    again = min(len(values) / max(1, len({*map(str, values)})) for values in (users, items))
    return events if again >= _FEWEST_AGAIN else None
