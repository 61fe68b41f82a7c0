"""The model that a run started from, for tasks that hold the trained one against it (`Task.needs`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bigbatch.data.tables import DataTable
from bigbatch.errors import UsageError
from bigbatch.infer.embed import guide_digest, guide_folder
from bigbatch.infer.forwards import run_forward
from bigbatch.model.adapter_folder import is_adapter_folder
from bigbatch.model.files import folder_digest
from bigbatch.protocols import Forward
from bigbatch.samples import UNITS, Table
from bigbatch.store.identity import read_identity
from bigbatch.tasks.derived import Derived, Guide, sums_of, with_columns

if TYPE_CHECKING:
    from bigbatch.recipe.learning import ModelSpec
    from bigbatch.recipe.schema import Recipe

_MICRO_TOKENS = 4096


def deriving(
    needs: tuple[Derived, ...],
    opened: Callable[[], Forward],
    judged: Callable[[Guide, DataTable], np.ndarray],
) -> Callable[[Table, DataTable | None], Table]:
    """Table, as evaluations see it, and its rows -> the same table with derived columns.

    Args:
        needs: the columns.
        opened: opens the model that the run started from, padded; called once, when a table is given first.
        judged: what a guide says of each text of the rows (K, E).
    """
    start = cache(opened)

    def derive(table: Table, rows: DataTable | None) -> Table:
        columns = {}
        for need in needs:
            if need.guide is not None:
                assert rows is not None, "a guide reads texts"
                columns[need.name] = judged(need.guide, rows)
                continue
            found_U1 = run_forward(start(), table, micro_tokens=_MICRO_TOKENS, keep=need.compute)
            columns[need.name] = np.repeat(sums_of(found_U1[:, 0], table), table[UNITS].lengths)
        return with_columns(table, columns)

    return derive


def guide_of(run: Path, recipe: Recipe, guide: Guide) -> Path:
    """Where the guide of a run is, known by its content.

    Args:
        run: the directory; a relative folder is looked for beside its parents, and here.
        recipe: of the run.
        guide: as the recipe names it.

    Raises:
        UsageError: it is not where it was, or another model now.
    """
    identity = read_identity(run)
    expected = None if identity is None else identity.fingerprint.what.get("data.contents.guide")
    bases = (recipe.base, Path.cwd(), *run.resolve().parents)
    there = [folder for base in bases if (folder := base / Path(guide.folder).expanduser()).is_dir()]
    for folder in dict.fromkeys(there):
        if expected is None or guide_digest(folder) == expected:
            return guide_folder(folder)
    found = f"{there[0]} is another model now" if there else "there is no such folder here"
    raise UsageError(
        f"{run}: this run's loss is told by the guide {guide.folder}, and {found}: bring it back, or call this from "
        "the folder that it is relative to"
    )


def base_of(run: Path, recipe: Recipe) -> ModelSpec | None:
    """Where the base model of a run's adapters is; None: where their folder says.

    Args:
        run: the directory.
        recipe: of the run.

    Raises:
        UsageError: it is not where it was, or another model now.
    """
    if recipe.model.name is None:
        return None
    start = start_of(run, recipe)
    if is_adapter_folder(start.name):
        return None
    return start.model_copy(update={"adapter": None})


def start_of(run: Path, recipe: Recipe) -> ModelSpec:
    """Where the model is that a run started from: a name of the hub, or a folder, known by its content.

    Args:
        run: the directory; a relative folder is looked for beside its parents, and here.
        recipe: of the run.

    Raises:
        UsageError: it was a live model, or its folder is not where it was.
    """
    spec, identity = recipe.model, read_identity(run)
    if spec.name is None:
        raise UsageError(
            f"{run}: this run started from a live model, which is not kept, and its figures are told by that: save the "
            "model, name its folder (model: FOLDER), and train anew"
        )
    # Adapters begin as if they were not there: the model that the run started from has none. One whose base is
    # rounded has some that are zero, since they stand for that.
    adapter = spec.adapter
    rounded = adapter is not None and adapter.base != "fp32"
    spec = spec.model_copy(
        update={"adapter": adapter.model_copy(update={"init": "kaiming"}) if adapter and rounded else None}
    )
    assert spec.name is not None
    expected = None if identity is None else identity.fingerprint.what.get("data.contents.model")
    if expected == f"{spec.name}@{spec.revision or ''}":
        return spec
    bases = (recipe.base, Path.cwd(), *run.resolve().parents)
    there = [folder for base in bases if (folder := base / Path(spec.name).expanduser()).is_dir()]
    for folder in dict.fromkeys(there):
        beside = [base / Path(spec.tokenizer).expanduser() for base in bases] if spec.tokenizer else [folder]
        if expected is None or any(folder_digest(folder, own) == expected for own in dict.fromkeys(beside)):
            return spec.model_copy(update={"name": str(folder.resolve())})
    found = f"{there[0]} is another model now" if there else "there is no such folder here"
    raise UsageError(
        f"{run}: this run started from {spec.name}, by which its figures are told, and {found}: bring it back, or call "
        "this from the folder that it is relative to"
    )
