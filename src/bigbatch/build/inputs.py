"""Recipe -> the rows of every split, checked, with their labels. Nothing here has seen the model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bigbatch.data.checks import check_splits
from bigbatch.data.histories import last_events, with_histories
from bigbatch.data.labels import Kind, LabelSet, class_name, find_labels, kind_of, label_role, matched
from bigbatch.data.lists import gathered
from bigbatch.data.sources import read_table
from bigbatch.data.split import last_share, stratified_share
from bigbatch.data.streamed import stream_rows
from bigbatch.data.tables import DataTable
from bigbatch.errors import DataError, Problem, UsageError
from bigbatch.metrics.watched import judged_sources
from bigbatch.model.files import folder_digest
from bigbatch.model.load import known_labels
from bigbatch.model.tensors import module_digest
from bigbatch.recipe.schema import ModelSpec, Recipe
from bigbatch.remote.addresses import is_address, is_index
from bigbatch.tasks.base import Task
from bigbatch.tasks.rank import Rank
from bigbatch.tasks.recommend import Recommend

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Live:
    """Objects of the caller's process that no recipe can name."""

    module: nn.Module | None = None
    """A torch module to train instead of one loaded by name."""
    tokenizer: Any = None
    train: object = None
    """A dataset: list of dicts, pandas, `datasets.Dataset`, map-style torch dataset, or files."""
    validation: object = None
    task: object = None
    loss: Any = None
    metrics: tuple[object, ...] = ()
    compute_metrics: Callable[..., object] | None = None
    """A function of `EvalPrediction` that names figures (`tasks.computed`)."""
    larger_is_better: bool | None = None
    """Of those figures, where one chooses the weights; None: yes."""


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
    stream_bytes: int = 0
    """Of shards of a stream that may lie on this machine."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the model's outputs."""
        return () if self.labels is None else self.labels.names

    @property
    def elsewhere(self) -> list[str]:
        """Names of the files that were fetched, without secrets: those of the hub with their commit."""
        names = {name for table in self.splits.values() for name, _ in table.origin}
        return sorted(filter(is_address, names))

    @property
    def splits(self) -> dict[str, DataTable]:
        """Every split by its name in the records."""
        test = {} if self.test is None else {"test": self.test}
        return {"train": self.train, **self.validation, **test}

    def judged(self, recipe: Recipe) -> list[str]:
        """Every name that evaluations have figures of: those of splits, and of the sources of a mixture."""
        return [*self.splits, *judged_sources(recipe, self.validation)]


def read_inputs(recipe: Recipe, task: Task, live: Live, say: Callable[[str], object] | None = None) -> Inputs:
    """Read and check all splits.

    Args:
        recipe: its `data`; a share of the training rows that is held out is drawn by `seed.data`, or the last rows
            where the task joins them.
        task: says which columns are read, and what is learnt of them.
        live: datasets of the caller's process, read instead of the recipe's files where there are any.
        say: told what is fetched from elsewhere.

    Raises:
        DataError: every problem found, with file, row and byte offset.
    """

    def read(source: object, park: Path | None = None) -> DataTable:
        table = read_table(
            source,
            base=recipe.base,
            columns=recipe.data.columns,
            roles=task.roles,
            encoding=recipe.data.encoding,
            quoting=recipe.data.quoting,
            empty_text=recipe.data.empty_text,
            say=say,
            park=park,
        )
        return gathered(table) if isinstance(task, Rank) else table

    if recipe.stages:
        names = ", ".join(stage.name for stage in recipe.stages)
        raise UsageError(
            f"this recipe has stages ({names}), and only train, plan, prepare and sweep know what to do with them: "
            "write the stage that is meant into a recipe of its own (RUN/stages/*/recipe.yaml is one)"
        )
    kind, role = kind_of(task.roles), label_role(task.roles)
    shards = recipe.data.shuffle == "shards" and live.train is None
    streamed = next((file.path for file in recipe.data.train if is_index(file.path)), None)
    if streamed is not None and live.train is None:
        train = stream_rows(streamed, recipe.base, say)
    else:
        train = read(
            live.train if live.train is not None else recipe.data.train,
            recipe.cache_folder / "rows" if shards else None,
        )
    named = _validation(recipe, live, read)
    if isinstance(recipe.data.validation, float) and live.validation is None:
        strata = role if kind in ("single", "multi") else None
        share = recipe.data.validation
        if isinstance(task, Recommend) and not train.tokenised:
            train_rows, held_out = last_events(train, share, recipe.seed.data)
        elif task.joins_rows:
            train_rows, held_out = last_share(train, share)
        else:
            train_rows, held_out = stratified_share(train, share, recipe.seed.data, strata)
        train, named = train.take(train_rows), {"main": train.take(held_out)}
    test = read(recipe.data.test) if recipe.data.test else None
    said: list[str] = []
    if isinstance(task, Recommend):
        train, named, test, said = with_histories(train, named, test)
    if not shards:
        _check_sources(recipe, train)
    _check_one_kind(train, [*named.values(), *([] if test is None else [test])], task)
    labels = _labels(recipe, task, live, train, kind)
    named = {name: matched(table, role, kind, labels, train) for name, table in named.items()}
    test = None if test is None else matched(test, role, kind, labels, train)
    train = matched(train, role, kind, labels, train)
    warnings = check_splits(
        train, named, test, kind=kind, labels=labels, roles=task.roles, doubles=not shards
    )
    warnings += said
    warnings += task.with_facts(labels=labels).data_warnings
    inputs = Inputs(
        train=train,
        validation={_split_name(name): table for name, table in named.items()},
        test=test,
        labels=labels if len(labels) else None,
        warnings=tuple(warnings),
        stream_bytes=recipe.run.stream_bytes,
    )
    return replace(inputs, digest=_digest(inputs))


def _check_sources(recipe: Recipe, train: DataTable) -> None:
    """Refuse a source of a mixture by share from which there is nothing to draw.

    Raises:
        DataError: each of them.
    """
    sizes = np.diff([*train.sources, len(train)]) if train.sources else ()
    problems = [
        Problem(where=file.path, key="data.train.share", what="no rows to draw from; leave it out")
        for file, size in zip(recipe.data.train, sizes, strict=False)
        if not size
    ]
    if problems:
        raise DataError(problems)


def _check_one_kind(train: DataTable, others: Sequence[DataTable], task: Task) -> None:
    """Refuse token ids beside text, where rows have something to learn.

    Raises:
        DataError: naming the rows that are of another kind than training's.
    """
    if all(role.is_read for role in task.roles.values()):
        return
    kinds = {True: "token ids (input_ids)", False: "text"}
    for table in others:
        if table.tokenised != train.tokenised:
            what = f"found {kinds[table.tokenised]}, but the training rows are {kinds[train.tokenised]}"
            where = table.where(0) if len(table) else "data"
            raise DataError([Problem(where=where, key="", what=f"{what}; use one kind for all splits")])


def _labels(recipe: Recipe, task: Task, live: Live, train: DataTable, kind: Kind) -> LabelSet:
    """The recipe's labels, or the data's in their own order; a model that knows the same labels keeps its order."""
    given, role = task.labels, label_role(task.roles)
    if role is None:
        return LabelSet(())
    if train.stream is not None:
        return LabelSet(tuple(train.stream.known["labels"]))
    if train.multi_hot and given:
        train = matched(train, role, kind, LabelSet(tuple(map(class_name, given))), train)
    labels = find_labels(train, role, kind, given)
    known = None if given or kind == "regression" else known_labels(local_model(recipe), live.module)
    if known is None:
        return labels
    if (
        train.tokenised and train.classes is not None
    ):  # ids elsewhere without names follow the order declared here
        return labels
    # Class ids, and places in lists of zeros and ones, may be those of the model's head.
    by_place = (train.has_class_ids or train.multi_hot) and len(known) == len(labels)
    same = {class_name(name) for name in known} == set(labels.names)
    return LabelSet(known) if same or by_place else labels


def local_model(recipe: Recipe) -> ModelSpec:
    """`recipe.model` with folders relative to the recipe made absolute; hub names stay."""
    places = {key: getattr(recipe.model, key) for key in ("name", "tokenizer")}
    folders = {key: recipe.resolve_path(place) for key, place in places.items() if place}
    found = {key: str(folder.resolve()) for key, folder in folders.items() if folder.is_dir()}
    return recipe.model.model_copy(update=found)


def _split_name(name: str) -> str:
    return "validation" if name == "main" else f"validation.{name}"


def _validation(recipe: Recipe, live: Live, read: Callable[[object], DataTable]) -> dict[str, DataTable]:
    """Named validation sets, the first one first; a single one is called `main`."""
    source = live.validation if live.validation is not None else recipe.data.validation
    if source is None or isinstance(source, float):
        return {}
    assert not isinstance(source, int)
    if isinstance(source, Mapping) and (live.validation is None or all(map(is_dataset, source.values()))):
        return {name: read(files) for name, files in source.items()}
    return {"main": read(source)}


def is_dataset(found: object) -> bool:
    """Whether a value of a mapping is a set of its own; the other mappings are one set, as columns."""
    if isinstance(found, (list, tuple)):
        return bool(found) and isinstance(found[0], (Mapping, Path))
    return isinstance(found, (str, Path)) or hasattr(found, "columns") or hasattr(found, "column_names")


def _digest(inputs: Inputs) -> str:
    parts = [f"{name}:{table.content_digest}" for name, table in inputs.splits.items()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def model_digest(recipe: Recipe, live: Live) -> str:
    """Hash of the weights that training starts from: a live module's, a local folder's, or the hub name.

    Raises:
        ModelError: a file of the folder that no model has.
    """
    if live.module is not None:
        return module_digest(live.module)
    name = recipe.model.name or ""
    folder = recipe.resolve_path(name)
    if not name or not folder.is_dir():
        return f"{name}@{recipe.model.revision or ''}"
    own = recipe.resolve_path(recipe.model.tokenizer) if recipe.model.tokenizer else folder
    return folder_digest(folder, own)
