"""What `train` is given, as a recipe and what only Python has; what people pass who come from other libraries, as what
`train` takes of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from bigbatch.errors import UsageError
from bigbatch.launch.place import place_of
from bigbatch.protocols import Metric, MetricFunction, Observer
from bigbatch.recipe.collators import task_options
from bigbatch.recipe.load import load_recipe, recipe_values
from bigbatch.recipe.pairs import LABELS as PAIR_LABELS
from bigbatch.recipe.pairs import ROLES as PAIR_ROLES
from bigbatch.recipe.pairs import columns_by_place, loss_options, refuse_other_pairs
from bigbatch.recipe.schema import Recipe
from bigbatch.recipe.sugar import LENGTH_KEYS
from bigbatch.recipe.training_arguments import translated
from bigbatch.recipe.values import AUTO

if TYPE_CHECKING:
    from torch import nn

    from bigbatch.build.inputs import Live

PathOrText = str | PathLike[str]
SHORT = {
    "epochs": "epochs",
    "batch_size": "batch",
    "lr": "optimizer.lr",
    "columns": "data.columns",
    "run_dir": "run.dir",
}
"""Arguments of `train` that are another spelling of a recipe key."""

_EAGER: Mapping[bool, Mapping[str, object]] = {
    True: {"plan.compile": "off", "plan.lazy": False, "plan.packing": "padded"},
    False: {"plan.compile": "blocks"},
}
"""`computation_eager`: the model's own operations one by one, on padded batches; or compiled blocks."""


def usual(
    asked: Mapping[str, Any], *, ranks: int | str | None = None, nodes: int = 0
) -> tuple[dict[str, Any], list[str]]:
    """The arguments of `train` as `recipe_and_live` takes them, and what of them could not be done as it says.

    Args:
        asked: as they were given, by name.
        ranks: processes that will share an update, where the caller names them.
        nodes: machines that will, where the caller names them.

    Raises:
        UsageError: what cannot be meant, with what to use instead.
    """
    found = _unwrapped(asked)
    args, eager = found.pop("args", None), found.pop("computation_eager", None)
    refuse_callbacks(found.pop("callbacks", None))
    if eager is not None:
        if not isinstance(eager, bool):
            raise UsageError(f"computation_eager: found {eager!r}; expected True, False or None")
        found["set"] = {**_EAGER[eager], **(found.get("set") or {})}
    if args is None:
        return found, []
    _check(args, found["model_or_recipe"])
    if "data.validation" not in (found.get("set") or {}):
        _refuse_unevaluated(args, found.get("val_dataset"))
    counted = ranks if ranks is not None else (found.get("set") or {}).get("plan.ranks")
    # Without accelerators transformers may not count the processes that torchrun has started.
    here = None if (place := place_of()) is None else place.size
    said = translated(args, devices=here or (counted if isinstance(counted, int) else nodes or None))
    best = _best(args, found.get("val_dataset"))
    lost = list(said.lost)
    rows, asked_samples = _rows(found.get("train_dataset")), said.values["batch"]["samples"]
    if rows and rows < asked_samples:  # there an epoch's last batch is what is left of the rows
        said.values["batch"]["samples"] = rows
        lost.append(f"the global batch is {rows} samples, all rows there are: {asked_samples} were asked for")
    found["defaults"] = said.values | ({"best": best} if best else {})
    found["larger_is_better"] = getattr(args, "greater_is_better", None)
    if nodes and not isinstance(counted, int):
        samples = said.values["batch"]["samples"]
        lost.append(
            f"the global batch is {samples} samples, as of one device a node; where nodes have several, say ranks="
        )
    return found, lost


def _unwrapped(asked: Mapping[str, Any]) -> dict[str, Any]:
    """A `SentenceTransformer` as the model, tokenizer and task that it stands for; other models as they are.

    Raises:
        ModelError: it has parts that are not built here.
    """
    found = dict(asked)
    model = found["model_or_recipe"]
    if not is_module(model):
        return found
    from bigbatch.model.sentence import is_sentence_model, sentence_model

    if not is_sentence_model(model):
        return found
    whole = sentence_model(model)
    task = found.get("task") or {}
    if task == "match" or isinstance(task, Mapping):
        named = {} if isinstance(task, str) else task
        found["task"] = {"name": "match", **whole.options, **named}
    if whole.max_length is not None:
        found["set"] = {"data.max_length": whole.max_length, **(found.get("set") or {})}
    found["tokenizer"] = found.get("tokenizer") or whole.tokenizer
    return found | {"model_or_recipe": whole.module}


def _check(args: object, model: object) -> None:
    if not hasattr(args, "per_device_train_batch_size"):
        raise UsageError(
            f"args: found {type(args).__name__}; expected transformers.TrainingArguments, or leave it out and pass "
            "epochs=, batch_size=, lr= and set={…}"
        )
    path = isinstance(model, (str, os.PathLike)) and Path(model).suffix in (".yaml", ".yml")
    if path or isinstance(model, (Recipe, Mapping)):
        raise UsageError(
            "args beside a recipe: both say how to train; pass a model instead of the recipe, or leave args out and "
            "change keys of the recipe with set={…}"
        )


def _refuse_unevaluated(args: object, validation: object) -> None:
    asked = getattr(args, "eval_strategy", None) or "no"
    asked = str(getattr(asked, "value", asked))
    if validation is None and asked != "no":
        raise UsageError(
            f"args.eval_strategy: {asked} asks for evaluations, and there is no data to evaluate on; pass it "
            "(eval_dataset= of a Trainer, val_dataset= of train), or eval_strategy='no'"
        )


def _rows(data: object) -> int | None:
    """Rows of a dataset in memory; None of files."""
    from bigbatch.data.objects import names_files

    if isinstance(data, Mapping):
        return len(next(iter(data.values()), ()))
    return len(data) if isinstance(data, Sized) and not names_files(data) else None


def _best(args: object, validation: object) -> str | None:
    """`metric_for_best_model` as `best` names it; None for the loss, and where there is nothing to validate on."""
    metric = str(getattr(args, "metric_for_best_model", None) or "loss").removeprefix("eval_")
    if validation is None or metric == "loss":
        return None
    for name in validation if isinstance(validation, Mapping) else ():
        if metric.startswith(f"{name}_"):
            return f"{name}.{metric.removeprefix(f'{name}_')}"
    return metric


_INSTEAD = {
    "EarlyStoppingCallback": 'set={"early_stopping.patience": "3 evaluations"}',
    "ProgressCallback": "nothing: progress is printed (quiet=True silences it)",
    "PrinterCallback": "nothing: progress is printed (quiet=True silences it)",
    "DefaultFlowCallback": "nothing: set={'run.evaluate_every': …, 'run.checkpoint_every': …} say when",
}
_WATCH = "observers=[function]: it is given every record, and may answer with Stop, Save or Evaluate"


def refuse_callbacks(callbacks: object) -> None:
    """Callbacks change a loop that is not here.

    Raises:
        UsageError: each with what does its work.
    """
    if not callbacks:
        return
    given = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
    names = [each.__name__ if isinstance(each, type) else type(each).__name__ for each in given]
    instead = "; ".join(f"instead of {name}: {_INSTEAD.get(name, _WATCH)}" for name in dict.fromkeys(names))
    raise UsageError(f"callbacks: they are called by another loop than this one. {instead}")


def task_and_columns(
    model: nn.Module, collator: object, rows: Any, loss: object, args: object
) -> tuple[dict[str, Any], dict[str, str]]:
    """The task of the model's head, with what collator and loss say of it; and role -> column.

    Args:
        model: with a head that says what is learnt, or without one: then pairs of texts are matched.
        collator: may mask tokens; None: the usual one.
        rows: of the training data; the first ones show what labels are like.
        loss: of sentence-transformers, for pairs; None: the task's own.
        args: `TrainingArguments`: names of label columns.

    Raises:
        UsageError: a head without a task here, or a collator or loss that does not go with it.
        ModelError: a `SentenceTransformer` with parts that are not built.
    """
    from bigbatch.data.first import task_by_rows
    from bigbatch.model.sentence import is_sentence_model, sentence_model
    from bigbatch.tasks.catalog import task_of_module

    found: dict[str, Any] | None = task_by_rows(task_of_module(model), rows)
    if is_sentence_model(model):
        found = {"name": "match", **sentence_model(model).options}
    elif found is None and getattr(model, "base_model", None) is model:
        found = {"name": "match"}
    if found is None:
        raise UsageError(
            f"Trainer: {type(model).__name__} has no head that a task here has: expected an AutoModelFor"
            "SequenceClassification, TokenClassification, MaskedLM or CausalLM, or a model without head to match texts"
        )
    if found["name"] == "match":
        return {**found, **task_options(collator, "match"), **loss_options(loss)}, _pairs(rows)
    if loss is not None:
        raise UsageError(
            "Trainer: loss is for pairs of texts; for another loss: bigbatch.train(…, loss=function)"
        )
    columns = _columns(args)
    label = _first_label(rows, columns)
    if found == {"name": "classify"} and label.ndim == 1 and label.dtype.kind == "f":
        found = {"name": "classify", "kind": "multi"}  # zeros and ones with a decimal point say so there
    if (
        found["name"] in ("classify", "tag")
        and found.get("kind") != "regression"
        and label.dtype.kind in "iufb"
    ):
        found["labels"] = _names_of_outputs(model, rows, columns)
    return {**found, **task_options(collator, found["name"])}, columns


def by_place(rows: Any, columns: Mapping[str, str]) -> Any:
    """Rows of token ids whose class ids are places among the model's outputs, whatever their dataset calls them."""
    from bigbatch.data.objects import without_class_names
    from bigbatch.data.tables import TOKENISED_COLUMNS

    wanted = [*TOKENISED_COLUMNS, "label", *columns.values()]
    if isinstance(rows, Mapping) and type(rows).__module__.partition(".")[0] != "datasets":
        return {name: without_class_names(each, wanted) for name, each in rows.items()}
    return without_class_names(rows, wanted)


def _pairs(rows: Any) -> dict[str, str]:
    """Role -> column of pairs or triplets, by their place."""
    from bigbatch.data.objects import names_files, read_object

    if rows is None or names_files(rows):
        return {}

    raw = read_object(rows, PAIR_ROLES)
    named = [name for name in raw.columns if name.lower() in PAIR_LABELS]
    loaded = raw.load(named)
    refuse_other_pairs(
        {name: found if isinstance(found, list) else found.to_pylist() for name, found in loaded.items()}
    )
    return columns_by_place(raw.columns)


def _first_label(rows: Any, columns: Mapping[str, str]) -> np.ndarray:
    """The label of the first row, where that is one of token ids; else of no kind."""
    try:
        first = rows[0]
        name = next(name for name in (*columns.values(), "labels", "label") if name in first)
        return np.asarray(first[name] if "input_ids" in first else None)
    except (KeyError, IndexError, TypeError, ValueError, StopIteration):
        return np.asarray(None)


def _names_of_outputs(model: nn.Module, rows: Any, columns: Mapping[str, str]) -> list[str]:
    """A name for each output: the model's, else those of the dataset where there are as many, else LABEL_0, …

    There a class id is a place among the outputs, whichever ids the rows happen to have.
    """
    from bigbatch.data.objects import class_names
    from bigbatch.model.anatomy import headed_model
    from bigbatch.model.load import known_labels

    known = known_labels(None, model)
    config: Any = headed_model(model).config
    found = [class_names(rows, name) for name in (*columns.values(), "labels", "label")]
    fitting = [names for names in found if len(names) == config.num_labels]
    generic = [f"LABEL_{index}" for index in range(config.num_labels)]
    return list(known or (fitting[0] if fitting else generic))


def _columns(args: object) -> dict[str, str]:
    """`label_names`, where it names another column than the usual ones."""
    names = [name for name in getattr(args, "label_names", None) or () if name not in ("label", "labels")]
    return {"label": names[0]} if len(names) == 1 else {}


def noted(asked: Mapping[str, Any], **processes: Any) -> dict[str, Any]:
    """As `usual`, with what was lost printed, once for all processes."""
    found, notes = usual(asked, **processes)
    place = place_of()
    if not found.get("quiet") and (place is None or place.rank == 0):
        for note in notes:
            print_note(note)
    return found


def print_note(text: str) -> None:
    """For people, where there is no console."""
    print(f"bigbatch: note: {text}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- a recipe, and what only Python has


def recipe_and_live(
    model_or_recipe: object,
    train_dataset: object,
    val_dataset: object,
    *,
    task: object,
    loss: object,
    metrics: Sequence[str | MetricFunction | Metric],
    observers: Sequence[str | Observer],
    tokenizer: object,
    set: Mapping[str, object],
    defaults: Mapping[str, object] = {},
    compute_metrics: Callable[..., Mapping[str, float]] | None = None,
    larger_is_better: bool | None = None,
    **short: object,
) -> tuple[Recipe, Live]:
    """The arguments of `train` sorted: what a recipe can say goes there, what only Python has goes beside it.

    Args:
        model_or_recipe, train_dataset, val_dataset, task, loss: as `train` has them.
        metrics, observers, tokenizer, set, compute_metrics: as `train` has them.
        defaults: keys of a recipe that every other argument may overrule.
        larger_is_better: of the figures of `compute_metrics`, where one chooses the weights; None: yes.
        **short: further ones of `train` that `SHORT` has a key of the recipe for.
    """
    keys: dict[str, object] = {
        SHORT[name]: _plain(value) for name, value in short.items() if value is not None
    }
    keys |= {"task": task} if isinstance(task, (str, Mapping)) else {}
    keys |= {"loss": loss} if isinstance(loss, (str, Mapping)) else {}
    names = [metric for metric in metrics if isinstance(metric, str)]
    keys |= {"metrics": names} if names else {}
    references = [observer for observer in observers if isinstance(observer, str)]
    keys |= {"observers": references} if references else {}
    if isinstance(val_dataset, float):
        keys["data.validation"] = val_dataset
    from bigbatch.build.inputs import Live

    module = model_or_recipe if is_module(model_or_recipe) else None
    if task is None and not any(key.partition(".")[0] == "task" for key in {**defaults, **set}):
        keys |= _task_of_head(module, train_dataset, short.get("columns") or set.get("data.columns"))
    live = Live(
        module=module,
        tokenizer=tokenizer,
        train=train_dataset,
        validation=None if isinstance(val_dataset, float) else val_dataset,
        task=None if isinstance(task, (str, Mapping)) else task,
        loss=None if isinstance(loss, (str, Mapping)) else loss,
        metrics=tuple(metric for metric in metrics if not isinstance(metric, str)),
        compute_metrics=compute_metrics,
        larger_is_better=larger_is_better,
    )
    return _recipe(model_or_recipe, live, {**keys, **set}, defaults), live


def _task_of_head(module: nn.Module | None, rows: object, columns: object) -> dict[str, object]:
    """What a live model's head is for, where nobody names a task and it is not the usual one."""
    from bigbatch.data.first import task_by_rows
    from bigbatch.tasks.catalog import task_of_module

    found = None if module is None else task_by_rows(task_of_module(module), rows, columns)
    return {} if found in (None, {"name": "classify"}) else {"task": found}


def launch_recipe(model_or_recipe: object, train_dataset: object, arguments: Mapping[str, Any]) -> Recipe:
    """The recipe that the arguments of `train` stand for, as far as starting processes needs it.

    Args:
        model_or_recipe: as `train` has it.
        train_dataset: as `train` has it.
        arguments: the others, by name; only those that a recipe can say are read.
    """
    from bigbatch.build.inputs import Live

    keys = {
        SHORT[name]: _plain(value) for name, value in arguments.items() if name in SHORT and value is not None
    }
    live = Live(module=model_or_recipe if is_module(model_or_recipe) else None, train=train_dataset)
    return _recipe(model_or_recipe, live, {**keys, **arguments.get("set", {})}, arguments.get("defaults", {}))


def _plain(value: object) -> object:
    return str(value) if isinstance(value, PathLike) else dict(value) if isinstance(value, Mapping) else value


def is_module(found: object) -> TypeGuard[nn.Module]:
    """Whether it is a live model."""
    return hasattr(found, "parameters") and hasattr(found, "forward")


def _recipe(found: Any, live: Live, keys: Mapping[str, object], defaults: Mapping[str, object]) -> Recipe:
    """The recipe that a file, a mapping, a model name or a live model stands for."""
    if isinstance(found, Recipe):
        return load_recipe(recipe_values(found), keys).from_source(found.source) if keys else found
    if isinstance(found, Mapping):
        return load_recipe(found, keys)
    if live.module is None and not _names_a_model(found, live):
        return load_recipe(found, keys)
    model: dict[str, object] = {"name": None if live.module is not None else str(found)}
    left_open = _left_open([*keys, *defaults])
    base: dict[str, object] = {**left_open, **defaults, "model": model, "data": {"train": []}}
    return load_recipe(base, keys)


def _left_open(keys: Iterable[str]) -> dict[str, object]:
    """What the caller says nothing of is decided by the run: length, batch, learning rate."""
    first = {key.partition(".")[0] for key in keys}
    found: dict[str, object] = {}
    if "sync" in first:  # replicas that train apart need numbers
        return found
    if not first & {*LENGTH_KEYS, "schedule"}:
        found["epochs"] = AUTO
    if "batch" not in first:
        found["batch"] = AUTO
    if "optimizer" not in first:
        found["optimizer"] = {"lr": AUTO}
    return found


def _names_a_model(found: PathOrText, live: Live) -> bool:
    """A folder, or a name without a recipe's ending when the data comes from Python."""
    path = Path(found)
    if path.suffix in (".yaml", ".yml"):
        return False
    if live.train is None:
        raise UsageError(f"{found}: expected a recipe (.yaml), or a model together with train_dataset")
    return True
