"""The head that a task needs, and the model that has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bigbatch.records import TokenTable


def build_model(spec: Any, head: Mapping[str, Any], facts: Mapping[str, Any]) -> nn.Module:
    """The model of `recipe.model` with this head: what `Task.build` gives.

    Args:
        spec: `recipe.model`.
        head: the task's `head`: `kind` (sequence, tokens, masked, causal, states), and for those with labels `outputs`,
            `id2label` and `problem_type`, as `model.load.load_model` has them.
        facts: `seed`, `dropout`, `module` (a live one, or None) and `note`, told what the user should know.

    Raises:
        ModelError: it cannot be had.
    """
    from bigbatch.model.load import load_model

    options = {name: value for name, value in facts.items() if name != "note"}
    loaded = load_model(spec, **head, **options)
    note = facts.get("note", str)
    for sentence in loaded.notes:
        note(sentence)
    return loaded.module


def extra_files(task: Any, module: nn.Module) -> dict[str, str]:
    """Files of the model folder beside transformers' own: path -> content."""
    return task.folder_files(module) if hasattr(task, "folder_files") else {}


def head_kind(task: Any) -> str:
    """`sequence`, `tokens`, `masked`, `causal` or `states`; a task of the user's own that does not say is the first."""
    return getattr(task, "head", {}).get("kind", "sequence")


def is_coupled(task: Any) -> bool:
    """Whether the loss needs all outputs of a batch."""
    return getattr(task, "couples", "sample") == "batch"


def measured_as(task: Any) -> Any:
    """The task that is run to measure speed, memory and number formats: itself, unless its loss needs a whole batch."""
    return SumOfOutputs() if is_coupled(task) else task


class SumOfOutputs:
    """A stand-in with a gradient for every output: any micro-batch can be run with it alone."""

    metrics: tuple[Any, ...] = ()

    def loss(self, outputs: Tensor, targets: Any) -> dict[str, Tensor]:
        """Outputs along one fixed direction, one value a unit (U,)."""
        del targets
        wide_UC = outputs.double() if outputs.dtype.itemsize == 8 else outputs.float()
        return {
            "sum": wide_UC @ torch.arange(outputs.shape[-1], device=outputs.device).to(wide_UC.dtype).sin()
        }

    def denominators(self, targets: Any) -> dict[str, float]:
        """Number of units (numpy)."""
        return {"sum": float(len(targets.weights))}


def told(task: Any, **fields: Any) -> Any:
    """The task with the fields that it has; a task of the user's own need not have them all."""
    known = {name: value for name, value in fields.items() if hasattr(task, name)}
    return replace(task, **known) if known and is_dataclass(task) and not isinstance(task, type) else task


def arranged(task: Any, table: TokenTable, *, evaluation: bool) -> TokenTable:
    """A tokenised split as this task trains on it, or as it evaluates it; most tasks leave it as it is.

    Args:
        task: may have `arrange` (which samples there are) and `fixed` (what evaluations see of them).
        table: as the token cache keeps it.
        evaluation: whether the split is evaluated; training sees it through `task.view`, if there is one.
    """
    arrange, fixed = getattr(task, "arrange", None), getattr(task, "fixed", None)
    found = arrange(table) if arrange else table
    return fixed(found) if fixed and evaluation else found
