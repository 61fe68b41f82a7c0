"""Train any Transformer in large batches, and get the same model whichever way the work was split.

::

    run = bigbatch.train("recipe.yaml")
    run = bigbatch.train(model, train_dataset, val_dataset, epochs=3, batch_size=256)

The names below are loaded when they are first used: importing bigbatch is fast and does not load torch.
"""

import sys

if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:
    # `python -m bigbatch`: Python looks for modules in the folder that the user happens to be in first, where a file
    # json.py would be run instead of the real one. Nothing may be imported before this.
    del sys.path[0]

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bigbatch import caches as caches  # sets what torch reads when it is loaded
from bigbatch import errors as errors
from bigbatch import waiting as waiting  # the same
from bigbatch.frames import said_plainly

__version__ = "0.1.0"

if TYPE_CHECKING:
    from bigbatch.answers import evaluate, export, generate, mine, predict
    from bigbatch.api import distributed_train, start, train, train_model
    from bigbatch.commands import compare, plan, prepare, read, report
    from bigbatch.recipe.schema import Recipe
    from bigbatch.trainer import Trainer

__all__ = [
    "Recipe",
    "Trainer",
    "compare",
    "distributed_train",
    "evaluate",
    "export",
    "generate",
    "mine",
    "plan",
    "predict",
    "prepare",
    "read",
    "report",
    "start",
    "train",
    "train_model",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'bigbatch' has no attribute {name!r}")
    return getattr(import_module(_PLACES.get(name, "bigbatch.api")), name)


_PLACES = {
    "Recipe": "bigbatch.recipe.schema",
    "Trainer": "bigbatch.trainer",
    **dict.fromkeys(("evaluate", "export", "generate", "mine", "predict"), "bigbatch.answers"),
    **dict.fromkeys(("compare", "plan", "prepare", "read", "report"), "bigbatch.commands"),
}
"""Where names are that are not api.py's."""


class _Room(ModuleType):
    """A room that is called like a function of ours: `bigbatch.plan(…)` works whatever of it is imported."""

    @said_plainly
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return __getattr__(self.__name__.rpartition(".")[2])(*arguments, **options)


class _Package(ModuleType):
    """This package: importing a room puts it here, over the function of its name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in __all__ and isinstance(value, ModuleType):
            value.__class__ = _Room
        super().__setattr__(name, value)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


sys.modules[__name__].__class__ = _Package
