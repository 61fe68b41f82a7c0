"""Recipe -> the rows of every split, checked, with their labels. Nothing here has seen the model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bigbatch.data.checks import check_splits
from bigbatch.data.fingerprint import fingerprint
from bigbatch.data.labels import LabelSet, find_labels
from bigbatch.data.sources import read_table
from bigbatch.data.split import stratified_share
from bigbatch.data.tables import DataTable
from bigbatch.model.names import module_digest
from bigbatch.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class Live:
    """Objects of the caller's process that no recipe can name."""

    module: Any = None
    """A torch module to train instead of one loaded by name."""
    tokenizer: Any = None
    train: Any = None
    """A dataset: list of dicts, pandas, `datasets.Dataset`, map-style torch dataset, or files."""
    validation: Any = None
    task: Any = None
    loss: Any = None
    metrics: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The rows of a run."""

    train: DataTable
    validation: Mapping[str, DataTable]
    """Split name as in the records (`validation`, `validation.hard`) -> rows."""
    test: DataTable | None
    labels: LabelSet | None
    warnings: tuple[str, ...] = ()
    digest: str = ""
    """Hash of the content of all splits."""

    @property
    def splits(self) -> dict[str, DataTable]:
        """Every split by its name in the records."""
        test = {} if self.test is None else {"test": self.test}
        return {"train": self.train, **self.validation, **test}


def read_inputs(recipe: Recipe, task: Any, live: Live) -> Inputs:
    """Read and check all splits.

    Raises:
        DataError: every problem found, with file, row and byte offset.
    """

    def read(source: Any) -> DataTable:
        return read_table(
            source,
            base=recipe.base,
            columns=recipe.data.columns,
            roles=task.roles,
            encoding=recipe.data.encoding,
        )

    train = read(live.train if live.train is not None else recipe.data.train)
    validation = _validation(recipe, live, train, read)
    if isinstance(recipe.data.validation, float) and live.validation is None:
        train_rows, held_out = stratified_share(train, recipe.data.validation, recipe.seed.data, task.label_role)
        train, validation = train.take(train_rows), {"validation": train.take(held_out)}
    test = read(recipe.data.test) if recipe.data.test else None
    labels = None
    if task.kind != "regression":
        labels = find_labels(train, role=task.label_role, kind=task.kind, keep=task.labels)
    checked = check_splits(
        train, validation, test, kind=task.kind, labels=labels, empty_text=recipe.data.empty_text
    )
    inputs = Inputs(
        train=checked.train,
        validation=checked.validation,
        test=checked.test,
        labels=labels,
        warnings=tuple(checked.warnings),
    )
    return replace(inputs, digest=_digest(inputs))


def _validation(recipe: Recipe, live: Live, train: DataTable, read: Any) -> dict[str, DataTable]:
    source = live.validation if live.validation is not None else recipe.data.validation
    if source is None or isinstance(source, float):
        return {}
    if not isinstance(source, Mapping):
        return {"validation": read(source)}
    return {"validation" if name == "main" else f"validation.{name}": read(files) for name, files in source.items()}


def _digest(inputs: Inputs) -> str:
    parts = [f"{name}:{fingerprint(table)}" for name, table in inputs.splits.items()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def model_digest(recipe: Recipe, live: Live) -> str:
    """Hash of the weights that training starts from: a live module's, a local folder's, or the hub name."""
    if live.module is not None:
        return module_digest(live.module)
    name = recipe.model.name or ""
    folder = recipe.resolve_path(name)
    if not name or not folder.is_dir():
        return f"{name}@{recipe.model.revision or ''}"
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".json"))
    parts = [f"{path.name}:{file_digest(path)}" for path in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
