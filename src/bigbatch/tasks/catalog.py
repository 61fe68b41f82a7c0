"""From a recipe to its task, loss and metrics; import references allowed for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from typing_extensions import override

from bigbatch.errors import ModelError, Problem, RecipeError
from bigbatch.metrics.states import WholeMetric
from bigbatch.model.heads import Head, head_named_by
from bigbatch.protocols import Metric, Role, Row, Tokenizer
from bigbatch.recipe.references import is_reference, resolve_reference
from bigbatch.recipe.tasks import PLANNED_TASKS
from bigbatch.samples import Predictions, Sample, Table, Targets
from bigbatch.tasks.base import Task
from bigbatch.tasks.chat import Chat
from bigbatch.tasks.classify import PROBLEM_TYPES, Classify
from bigbatch.tasks.clm import CausalLM
from bigbatch.tasks.contact import Contact
from bigbatch.tasks.detect import Detect
from bigbatch.tasks.diffuse import Diffuse
from bigbatch.tasks.facts import NOT_AN_OPTION, options_of
from bigbatch.tasks.image import Image
from bigbatch.tasks.losses import Kind
from bigbatch.tasks.match import Match
from bigbatch.tasks.mlm import MaskedLM
from bigbatch.tasks.prefer import Prefer
from bigbatch.tasks.rank import Rank
from bigbatch.tasks.recommend import Recommend
from bigbatch.tasks.reward import Reward
from bigbatch.tasks.seq2seq import Seq2Seq
from bigbatch.tasks.span import Span
from bigbatch.tasks.tag import Tag

if TYPE_CHECKING:
    from bigbatch.model.pooling import Pooling
    from bigbatch.recipe.schema import Recipe

TASKS: Mapping[str, type[Task]] = {
    "classify": Classify,
    "tag": Tag,
    "mlm": MaskedLM,
    "clm": CausalLM,
    "match": Match,
    "seq2seq": Seq2Seq,
    "prefer": Prefer,
    "reward": Reward,
    "chat": Chat,
    "span": Span,
    "image": Image,
    "detect": Detect,
    "contact": Contact,
    "recommend": Recommend,
    "diffuse": Diffuse,
    "rank": Rank,
}


def task_named_by(head: str) -> str | None:
    """The task that a class of transformers is for; None for one whose head no task here has.

    Example:
        >>> task_named_by("BertForTokenClassification"), task_named_by("T5ForConditionalGeneration")
        ('tag', 'seq2seq')
    """
    kind = head_named_by(head)
    return next((name for name, task in TASKS.items() if kind is not None and task().head.kind == kind), None)


def task_of_module(module: Any) -> dict[str, Any] | None:
    """The task of a live model's head, as a recipe has it; None where the head does not say.

    One output without a word about it is a number, as transformers decides.
    """
    from bigbatch.model.anatomy import headed_model

    try:
        outer: Any = headed_model(module)
    except ModelError:
        return None
    name = task_named_by(type(outer).__name__)
    if name != "classify":
        return None if name is None else {"name": name}
    said = [
        kind
        for kind, problem in PROBLEM_TYPES.items()
        if problem == getattr(outer.config, "problem_type", None)
    ]
    kind = said[0] if said else "regression" if outer.config.num_labels == 1 else "single"
    return {"name": name} if kind == "single" else {"name": name, "kind": kind}


def task_from_recipe(recipe: Recipe) -> Task:
    """The task of a recipe, with its loss, metrics and `data.max_length`; labels come from the data later.

    Raises:
        RecipeError: unknown task, option, loss or metric.
    """
    folder = recipe.source.parent if recipe.source else Path.cwd()
    where = recipe.source.name if recipe.source else "recipe"
    task = build_task(recipe.task.name, recipe.task.args or {}, folder, where=where)
    return with_settings(task, recipe)


def with_settings(found: Any, recipe: Recipe) -> Task:
    """A task with the recipe's loss, metrics and `data.max_length`.

    What a task object of Python was given itself stays, unless the recipe names another.

    Raises:
        RecipeError: unknown loss or metric; class weights for another kind than single.
    """
    folder = recipe.source.parent if recipe.source else Path.cwd()
    where = recipe.source.name if recipe.source else "recipe"
    task = as_task(found).with_loss(recipe.loss, folder, where=where)
    metrics = tuple(_metric(name, task, folder, where) for name in recipe.metrics)
    return task.with_facts(
        max_length=recipe.data.max_length or task.facts.max_length, metrics=metrics or task.facts.metrics
    )


def build_task(name: str, args: Mapping[str, Any], base: Path, *, where: str = "recipe") -> Task:
    """The task of this name, or of this import reference, with its options.

    Args:
        name: `classify`, or a reference such as `tasks.py:Hardness`.
        args: the other keys under `task:`.
        base: folder that references are relative to.
        where: the place that a message names: a file, say.

    Raises:
        RecipeError: unknown name or option; a reference to something that is no task.
    """
    if is_reference(name):
        found = resolve_reference(name, base)
        if not isinstance(found, type):
            return as_task(found, name, where=where)
        kind: type = found
    elif name in TASKS:
        kind = TASKS[name]
    else:
        raise RecipeError([Problem(where=where, key="task", what=_unknown_task(name))])
    _check_options(kind, args, where)
    return as_task(kind(**args), name, where=where)


def _unknown_task(name: str) -> str:
    if name in PLANNED_TASKS:
        return f"{name} is planned, not built yet (built: {', '.join(TASKS)})"
    near = get_close_matches(name, [*TASKS, *PLANNED_TASKS], 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown task {name!r}{hint} (known: {', '.join(TASKS)}, or a reference such as tasks.py:Mine)"


def _check_options(kind: type, args: Mapping[str, Any], where: str) -> None:
    missing: list[str] = sorted(getattr(kind, "__abstractmethods__", ()))
    if issubclass(kind, Task) and (kind.encode, kind.encode_batch) == (Task.encode, Task.encode_batch):
        missing.append("encode")
    if missing:
        raise RecipeError([Problem(where=where, key="task", what=_no_task(kind.__name__, missing))])
    if not is_dataclass(kind):
        return
    options = [entry.name for entry in fields(kind) if entry.init and entry.metadata.get("option", True)]
    problems = []
    for name in args:
        if name not in options:
            near = get_close_matches(name, options, 1)
            hint = f"; did you mean task.{near[0]}?" if near else f" (options: {', '.join(options)})"
            problems.append(Problem(where=where, key=f"task.{name}", what=f"unknown option{hint}"))
    if problems:
        raise RecipeError(problems)


def _no_task(name: str, missing: Sequence[str]) -> str:
    return f"{name} is no task: it has no {', '.join(missing)}"


def as_task(found: Any, name: str | None = None, *, where: str = "recipe") -> Task:
    """A task as it is; one of the user's own that does not extend `tasks.base.Task` is wrapped.

    Args:
        found: an object of the user's.
        name: its reference, for messages; None: that of its class.
        where: the place that a message names.

    Raises:
        RecipeError: it is none.
    """
    if isinstance(found, Task):
        return found
    missing = [part for part in _LEAST if not hasattr(found, part)]
    if missing:
        what = _no_task(name or type(found).__name__, missing)
        raise RecipeError([Problem(where=where, key="task", what=what)])
    return Foreign(own=found)


_LEAST = ("roles", "encode", "denominators", "loss", "decode")
_OPTIONAL = frozenset({
    "arrange", "build", "clock", "couples", "data_warnings", "files", "fixed", "joins_rows", "keep", "kept_loss",
    "label_names", "labels", "nothing", "perfect", "predict", "sequences", "view", "weigh",
})  # fmt: skip
"""What a task of the user's own may have as `tasks.base.Task` has it."""
_FILLED = {"labels": "label_set", "pools": "pool"} | {
    name: name for name in ("max_length", "block_length", "vocabulary", "data_seed", "pooling")
}
"""Fact -> the field of such a task that it is put into, where there is one."""


@dataclass(frozen=True, kw_only=True)
class Foreign(Task[Any]):
    """A task of the user's own that does not extend the base class, and has what `protocols.Task` has.

    The one place that asks what else it may have.
    """

    own: Any = field(metadata=NOT_AN_OPTION)

    def __getattribute__(self, name: str) -> Any:
        """What it has of `_OPTIONAL` is its own; the rest are the base's defaults."""
        if name in _OPTIONAL and hasattr(self.own, name):
            return getattr(self.own, name)
        return super().__getattribute__(name)

    def with_facts(self, **facts: Any) -> Foreign:
        """Those that it has a field for reach it."""
        own: Any = self.own
        known = {each.name for each in fields(self.own)} if is_dataclass(self.own) else set()
        filled = {_FILLED[name]: fact for name, fact in facts.items() if _FILLED.get(name) in known}
        told = super().with_facts(**facts)
        return replace(told, own=replace(own, **filled)) if filled else told

    @property
    def options(self) -> Mapping[str, Any]:
        """What the user chose under `task:`."""
        if not is_dataclass(self.own):
            return dict(getattr(self.own, "__dict__", {}))
        return options_of(self.own)

    @property
    def written_in(self) -> type:
        """The user's class."""
        return type(self.own)

    @property
    def roles(self) -> Mapping[str, Role]:
        """Its own."""
        return self.own.roles

    @property
    def kind(self) -> Kind:
        """What it says, whatever its columns hold."""
        return getattr(self.own, "kind", "single")

    @property
    def head(self) -> Head:
        """Its own; one that does not say needs one output for a sample."""
        found = getattr(self.own, "head", None) or Head(kind="sequence")
        return found if isinstance(found, Head) else Head(**found)

    @property
    def title(self) -> str:
        """Nobody knows what the model of a task without a head does."""
        return super().title if hasattr(self.own, "head") else "Model"

    @property
    def pooled_by(self) -> Pooling | None:
        """Its own."""
        return getattr(self.own, "pooling", None)

    @property
    def longest(self) -> int | None:
        """Its own."""
        return getattr(self.own, "max_length", None)

    @property
    def has_view(self) -> bool:
        """Whether it has one."""
        return hasattr(self.own, "view")

    @property
    def usual_metrics(self) -> tuple[Metric, ...]:
        """Its own."""
        return tuple(getattr(self.own, "metrics", ()))

    def encode(self, row: Row, tokenizer: Tokenizer | None) -> Sample:
        """Its own."""
        return self.own.encode(row, tokenizer)

    @override
    def encode_batch(
        self, rows: Sequence[Row], tokenizer: Tokenizer | None, *, labelled: bool = True
    ) -> list[Sample]:
        """Its own, for rows to learn from; else one by one."""
        if labelled and hasattr(self.own, "encode_batch"):
            return self.own.encode_batch(rows, tokenizer)
        return [self.own.encode(row, tokenizer) for row in rows]

    def fit(self, train: Table) -> Foreign:
        """The same task, knowing what its own says."""
        return replace(self, own=self.own.fit(train)) if hasattr(self.own, "fit") else self

    def denominators(self, targets: Targets) -> dict[str, float]:
        """Its own."""
        return self.own.denominators(targets)

    def loss(self, outputs: Any, targets: Targets) -> dict[str, Tensor]:
        """Its own."""
        return self.own.loss(outputs, targets)

    def decode(self, kept: np.ndarray) -> Predictions:
        """Its own."""
        return self.own.decode(kept)


def _metric(name: str, task: Task, base: Path, where: str) -> str | Metric:
    """A reference as its metric; a name as it is, once the task knows it as far as labels are known."""
    if is_reference(name):
        found = resolve_reference(name, base)
        return as_metric(found() if isinstance(found, type) else found, name, where=where)
    task.check_metric(name, where=where)
    return name


def as_metric(found: Any, name: str, *, where: str = "recipe") -> Metric:
    """A metric object as it is; a function `fn(predictions, targets) -> float` as a metric of the whole split.

    The function's attribute `larger_is_better` says its direction (True when it has none).

    Args:
        found: an object of the user's.
        name: its reference; a function is called by its own name.
        where: the place that a message names.

    Raises:
        RecipeError: it is neither.
    """
    if all(hasattr(found, part) for part in ("name", "larger_is_better", "add", "merge", "value")):
        return found
    if not callable(found):
        what = f"{name} is neither a function of (predictions, targets) nor a metric object"
        raise RecipeError([Problem(where=where, key="metrics", what=what)])
    larger = bool(getattr(found, "larger_is_better", True))
    function: Any = found
    name = getattr(found, "__name__", name)
    return WholeMetric(name=name, figure=function, larger_is_better=larger, own=True)
