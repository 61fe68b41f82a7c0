"""What Python brings and no recipe can name: how it counts in the fingerprint, and what a live model gets back."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any

from torch import nn

from bigbatch.build.inputs import Inputs, Live
from bigbatch.data.tokens import tokenizer_fingerprint
from bigbatch.documents import readable
from bigbatch.errors import CheckpointError, UsageError
from bigbatch.infer.origin import tokenizer_of
from bigbatch.model.heads import HEADS
from bigbatch.recipe.schema import Recipe
from bigbatch.store.checkpoints import list_checkpoints, read_checkpoint
from bigbatch.store.directory import RunDirectory
from bigbatch.store.tensors import load_weights
from bigbatch.tasks.base import Task
from bigbatch.tasks.catalog import as_metric, task_from_recipe, with_settings
from bigbatch.tasks.computed import computed_metrics
from bigbatch.tasks.labelled import Labelled
from bigbatch.tasks.losses import own_loss

_DEPTH = 6
"""How far a loss is followed into what it closes over or holds."""


def live_task(recipe: Recipe, live: Live) -> Task:
    """The recipe's task, or the caller's own, with the caller's loss and metrics.

    Raises:
        UsageError: `compute_metrics` of a task that has nothing to give it, or a loss for one that has its own.
    """
    task = task_from_recipe(recipe) if live.task is None else with_settings(live.task, recipe)
    if live.loss is not None:
        if not isinstance(task, Labelled):
            raise UsageError(f"loss: {task.loss_is_own}")
        task = task.with_facts(loss=own_loss(live.loss, recipe.loss.args))
    own = [as_metric(metric, getattr(metric, "__name__", "metric")) for metric in live.metrics]
    if live.compute_metrics is not None:
        own.append(computed_metrics(live.compute_metrics, task, live.larger_is_better))
    return task.with_facts(metrics=(*task.facts.metrics, *own)) if own else task


def live_digests(live: Live) -> dict[str, str]:
    """`python.loss`, `python.task` and `python.tokenizer`: hashes of what the caller brought of them.

    Code is compared by its text, so that editing a loss in a notebook gives another run.
    """
    found = {}
    for name, brought in (("loss", live.loss), ("task", live.task)):
        if brought is not None:
            text = "\n".join(_described(brought, _DEPTH))
            found[f"python.{name}"] = hashlib.sha256(text.encode()).hexdigest()
    if live.tokenizer is not None:
        found["python.tokenizer"] = tokenizer_fingerprint(live.tokenizer)
    return found


def with_its_tokenizer(
    recipe: Recipe, task: Task, inputs: Inputs, live: Live, say: Callable[[str], None]
) -> Live:
    """A live model that came without a tokenizer with the one of the place that it was loaded from, where there is one.

    Rows of token ids need none, unless the task asks which of them are special.

    Args:
        recipe: a tokenizer that it names goes first.
        task: may need the special tokens of one even for rows of ids.
        inputs: the rows: text, or token ids.
        live: what the caller passed.
        say: told whose tokenizer is taken.
    """
    kind = HEADS[task.head.kind]
    needed = kind.wants_tokenizer or (kind.reads_text and not inputs.train.tokenised)
    if live.module is None or live.tokenizer is not None or recipe.model.tokenizer or not needed:
        return live
    name, tokenizer = tokenizer_of(live.module)
    if tokenizer is None:
        return live
    say(f"tokenizer: that of {name}, where the model comes from; tokenizer= takes another")
    return replace(live, tokenizer=tokenizer)


def _described(found: object, depth: int) -> Iterator[str]:
    """Lines that change when what `found` computes changes; nothing in them depends on the process."""
    if found is None or isinstance(found, (bool, int, float, complex, str, bytes)):
        yield repr(found)
    elif depth == 0:
        yield type(found).__qualname__
    elif isinstance(found, (list, tuple)):
        for item in found:
            yield from _described(item, depth - 1)
    elif isinstance(found, Mapping):
        for key in sorted(found, key=str):
            yield f"{key}:"
            yield from _described(found[key], depth - 1)
    elif isinstance(found, functools.partial):
        yield from _described([found.func, found.args, found.keywords], depth - 1)
    elif isinstance(found, MethodType):
        yield from _described([found.__func__, found.__self__], depth - 1)
    elif isinstance(found, FunctionType):
        yield from _function(found, depth)
    elif isinstance(found, type):
        yield f"{found.__module__}.{found.__qualname__}"
        yield _source(found) or ""
    else:
        yield from _described(type(found), depth - 1)
        yield from _described(getattr(found, "__dict__", {}), depth - 1)


def _function(found: FunctionType, depth: int) -> Iterator[str]:
    yield _source(found) or "\n".join(_bytecode(found.__code__))
    cells = list(inspect.getclosurevars(found).nonlocals.values())
    yield from _described([found.__defaults__, found.__kwdefaults__, cells], depth - 1)


def _source(found: Any) -> str | None:
    try:
        return inspect.getsource(found)
    except (OSError, TypeError):
        return None


def _bytecode(code: CodeType) -> Iterator[str]:
    """For code without a file: typed into an interpreter."""
    yield f"{code.co_code.hex()} {code.co_names}"
    for constant in code.co_consts:
        yield from _bytecode(constant) if isinstance(constant, CodeType) else [repr(constant)]


def give_back(run: Path, module: nn.Module, say: Callable[[str], None]) -> None:
    """Put the weights that a finished run kept into a live model: `train` leaves it with them, then as now.

    Args:
        run: the directory of the run.
        module: the live model; changed in place, unless the checkpoint is gone or cannot be read.
        say: told why the model keeps the weights that it has.
    """
    directory = RunDirectory(run)
    result = readable(directory.result) or {}
    # Runs of earlier versions kept the best evaluation's.
    best = (result.get("best") or {}).get("step", result.get("updates"))
    step = (result.get("kept") or {}).get("update", best)
    why = "their checkpoint is gone"
    for path in list_checkpoints(directory.checkpoints):
        if path.name == f"step-{step:06d}":
            try:
                load_weights(module, read_checkpoint(path))
            except CheckpointError as error:
                why = str(error)
            else:
                return
    say(f"the live model does not get the weights of {run} ({why}): use run.model")
