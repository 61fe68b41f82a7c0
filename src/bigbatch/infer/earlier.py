"""What a run's own splits say of the users that it is evaluated on: their history."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from bigbatch.data.histories import grouped
from bigbatch.data.sources import read_table
from bigbatch.data.tables import DataTable
from bigbatch.errors import DataError
from bigbatch.infer.load import Loaded
from bigbatch.recipe.inputs import DataFile


def with_run_histories(
    opened: Loaded, table: DataTable, say: Callable[[str], object] | None = None
) -> DataTable:
    """Events to evaluate as a row a user, with what the run's training and validation files say of them in front.

    Args:
        opened: of a run; of a plain folder there is nothing in front.
        table: events; rows of token ids stay.
        say: told where the run's files are not where they were.
    """
    if table.tokenised:
        return table
    said: list[str] = []
    found = grouped(table, _earlier(opened, table, say), said, "these rows")
    for each in said:
        if say is not None:
            say(f"warning: {each}")
    return found


def _earlier(opened: Loaded, own: DataTable, say: Callable[[str], object] | None) -> list[DataTable]:
    recipe, found = opened.recipe, []
    if recipe is None:
        return []
    named = recipe.data.validation if isinstance(recipe.data.validation, Mapping) else {}
    bases = (recipe.base, Path.cwd(), *recipe.base.resolve().parents)
    for files in (recipe.data.train, *named.values()):
        table = next((each for base in bases if (each := _read(files, base, opened)) is not None), None)
        if table is None:
            names = ", ".join(file.path for file in files)
            if say is not None:
                say(f"note: {names} of the run is not here: what it says of these users is not known")
        elif table.content_digest != replace(own, digest="").content_digest:
            found.append(table)
    return found


def _read(files: list[DataFile], base: Path, opened: Loaded) -> DataTable | None:
    if not files or not all((base / Path(file.path).expanduser()).exists() for file in files):
        return None
    try:
        return read_table(
            files,
            base=base,
            columns=opened.columns,
            roles=opened.task.roles,
            encoding=opened.encoding,
            quoting=opened.quoting,
            empty_text="drop",
        )
    except DataError:
        return None
