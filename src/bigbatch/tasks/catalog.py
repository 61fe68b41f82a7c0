"""From a recipe to its task, loss and metrics; import references allowed for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from bigbatch.errors import ModelError, Problem, RecipeError
from bigbatch.protocols import Metric, Task
from bigbatch.recipe.learning import PLANNED_TASKS
from bigbatch.recipe.references import is_reference, resolve_reference
from bigbatch.tasks.classify import PROBLEM_TYPES, Classify
from bigbatch.tasks.clm import CausalLM
from bigbatch.tasks.heads import told
from bigbatch.tasks.losses import Kind, check_weighable, default_loss, resolve_loss
from bigbatch.tasks.match import Match
from bigbatch.tasks.mlm import MaskedLM
from bigbatch.tasks.states import WholeMetric
from bigbatch.tasks.tag import Tag

TASKS: Mapping[str, type] = {
    "classify": Classify,
    "tag": Tag,
    "mlm": MaskedLM,
    "clm": CausalLM,
    "match": Match,
}
_HEADS: Mapping[str, str] = {
    "ForSequenceClassification": "classify",
    "ForTokenClassification": "tag",
    "ForMaskedLM": "mlm",
    "ForCausalLM": "clm",
    "LMHeadModel": "clm",
}
"""What the names of a head's classes end in -> its task."""


def task_named_by(head: str) -> str | None:
    """The task that a class of transformers is for; None for one whose head no task here has.

    Example:
        >>> task_named_by("BertForTokenClassification"), task_named_by("T5ForConditionalGeneration")
        ('tag', None)
    """
    return next((task for suffix, task in _HEADS.items() if head.endswith(suffix)), None)


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


def task_from_recipe(recipe: Any) -> Task:
    """The task of a recipe, with its loss, metrics and `data.max_length`; labels come from the data later.

    Raises:
        RecipeError: unknown task, option, loss or metric.
    """
    folder: Path = recipe.source.parent if recipe.source else Path.cwd()
    where = recipe.source.name if recipe.source else "recipe"
    task = build_task(recipe.task.name, recipe.task.args or {}, folder, where=where)
    return with_settings(task, recipe)


def with_settings(task: Any, recipe: Any) -> Task:
    """The task with the recipe's loss, metrics and `data.max_length`, as far as it has fields for them.

    What a task object of Python was given itself stays, unless the recipe names another.

    Raises:
        RecipeError: unknown loss or metric; class weights for another kind than single.
    """
    folder: Path = recipe.source.parent if recipe.source else Path.cwd()
    where = recipe.source.name if recipe.source else "recipe"
    settings: dict[str, Any] = {"max_length": recipe.data.max_length or getattr(task, "max_length", None)}
    if hasattr(task, "unit_loss"):
        settings |= _loss_settings(task, recipe.loss, folder, where)
    elif hasattr(task, "check_loss"):
        task.check_loss(recipe.loss, where=where)
    if hasattr(task, "chosen_metrics"):
        metrics = tuple(_metric(name, task, folder, where) for name in recipe.metrics)
        settings["chosen_metrics"] = metrics or task.chosen_metrics
    return told(task, **settings)


def _loss_settings(task: Any, loss: Any, folder: Path, where: str) -> dict[str, Any]:
    """The recipe's `loss:` for the fields of a task that has one of ours; classes are what most tasks predict."""
    kind: Kind = getattr(task, "kind", "single")
    weights = loss.class_weights or "none"
    unit_loss = resolve_loss(loss, folder, kind=kind, where=where)
    if weights != "none":
        check_weighable(kind, unit_loss, where=where)
    own_is_better = task.unit_loss is not None and unit_loss == default_loss(kind)
    own_weights = getattr(task, "class_weight_setting", "none")
    return {
        "unit_loss": task.unit_loss if own_is_better else unit_loss,
        "class_weight_setting": own_weights if weights == "none" else weights,
    }


def build_task(name: str, args: Mapping[str, Any], base: Path, *, where: str = "recipe") -> Task:
    """The task of this name, or of this import reference, with its options.

    Raises:
        RecipeError: unknown name or option; a reference to something that is no task.
    """
    if is_reference(name):
        found = resolve_reference(name, base)
        if not isinstance(found, type):
            return _checked(found, name, where)
        kind: type = found
    elif name in TASKS:
        kind = TASKS[name]
    else:
        raise RecipeError([Problem(where=where, key="task", what=_unknown_task(name))])
    _check_options(kind, args, where)
    return _checked(kind(**args), name, where)


def _unknown_task(name: str) -> str:
    if name in PLANNED_TASKS:
        return f"{name} is planned, not built yet (built: {', '.join(TASKS)})"
    near = get_close_matches(name, [*TASKS, *PLANNED_TASKS], 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown task {name!r}{hint} (known: {', '.join(TASKS)}, or a reference such as tasks.py:Mine)"


def _check_options(kind: type, args: Mapping[str, Any], where: str) -> None:
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


def _checked(task: Any, name: str, where: str) -> Task:
    missing = [
        part for part in ("roles", "encode", "denominators", "loss", "decode") if not hasattr(task, part)
    ]
    if missing:
        what = f"{name} is no task: it has no {', '.join(missing)}"
        raise RecipeError([Problem(where=where, key="task", what=what)])
    return task


def _metric(name: str, task: Any, base: Path, where: str) -> str | Metric:
    """A reference as its metric; a name as it is, once the task knows it as far as labels are known."""
    if is_reference(name):
        found = resolve_reference(name, base)
        return as_metric(found() if isinstance(found, type) else found, name, where=where)
    task.check_metric(name, where=where)
    return name


def as_metric(found: Any, name: str, *, where: str = "recipe") -> Metric:
    """A metric object as it is; a function `fn(predictions, targets) -> float` as a metric of the whole split.

    The function's attribute `larger_is_better` says its direction (True when it has none).

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
