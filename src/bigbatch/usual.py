"""The usual calls: what people pass who come from other libraries, as what `train` takes of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigbatch.errors import UsageError
from bigbatch.launch.place import place_of
from bigbatch.opening import exhaust, is_module, open_sorted, print_note
from bigbatch.recipe.schema import Recipe
from bigbatch.recipe.training_arguments import translated
from bigbatch.track.console import ConsoleObserver

if TYPE_CHECKING:
    from bigbatch.run.run import Run

_EAGER: Mapping[bool, Mapping[str, Any]] = {
    True: {"plan.compile": "off", "plan.lazy": False, "plan.packing": "padded"},
    False: {"plan.compile": "blocks"},
}
"""`computation_eager`: the model's own operations one by one, on padded batches; or compiled blocks."""


def usual(asked: Mapping[str, Any], *, ranks: int | None = None) -> tuple[dict[str, Any], list[str]]:
    """The arguments of `train` as `opening.open_sorted` takes them, and what of them could not be done as it says.

    Args:
        asked: as they were given, by name.
        ranks: processes that will share an update, where the caller names them.

    Raises:
        UsageError: what cannot be meant, with what to use instead.
    """
    found = dict(asked)
    args, eager = found.pop("args", None), found.pop("computation_eager", None)
    refuse_callbacks(found.pop("callbacks", None))
    if eager is not None:
        if not isinstance(eager, bool):
            raise UsageError(f"computation_eager: found {eager!r}; expected True, False or None")
        found["set"] = {**_EAGER[eager], **(found.get("set") or {})}
    if args is None:
        return found, []
    _check(args, found["model_or_recipe"])
    said = translated(args, devices=ranks)
    best = _best(args, found.get("val_dataset"))
    found["defaults"] = said.values | ({"best": best} if best else {})
    found["larger_is_better"] = getattr(args, "greater_is_better", None)
    return found, said.lost


def _check(args: Any, model: Any) -> None:
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


def _best(args: Any, validation: Any) -> str | None:
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


def refuse_callbacks(callbacks: Any) -> None:
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


def noted(asked: Mapping[str, Any], ranks: int | None = None) -> dict[str, Any]:
    """As `usual`, with what was lost printed, once for all processes."""
    found, notes = usual(asked, ranks=ranks)
    place = place_of()
    if not found.get("quiet") and (place is None or place.rank == 0):
        for note in notes:
            print_note(note)
    return found


def trained(asked: Mapping[str, Any]) -> Run:
    """`bigbatch.train` with all its arguments by name."""
    arguments, place = noted(asked), place_of()
    with_ = " with resume=True" if is_module(arguments["model_or_recipe"]) else ""
    return exhaust(
        lambda console: open_sorted(console=console, place=place, **arguments),
        None if arguments["quiet"] else ConsoleObserver(),
        f"the same call{with_} goes on",
    )
