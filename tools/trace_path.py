"""Which of our functions are on the stack when a run takes a gradient and when it calls its optimiser.

    python tools/trace_path.py         # with src and the root on the path; prints JSON: {"gradient": …, "optimizer": …}

A real `bigbatch train` of two updates with a tiny random model; the last update counts.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

RECIPE = """
model: model
task: classify
data: {train: train.csv}
batch: 16
updates: 2
plan: {micro_tokens: 64, packing: packed}
"""


def stack() -> list[tuple[str, int, str]]:
    """(file, line of its definition, name) of each function of the package, the command line's first."""
    import bigbatch

    package = Path(bigbatch.__file__).parent
    frame, found = sys._getframe(1), []
    while frame is not None:
        name = Path(frame.f_code.co_filename)
        if name.is_relative_to(package):
            qualified = getattr(frame.f_code, "co_qualname", frame.f_code.co_name)
            found.append((name.relative_to(package).as_posix(), frame.f_code.co_firstlineno, qualified))
        frame = frame.f_back
    return found[::-1]


def main() -> None:
    """Run, and print what was seen."""
    from bigbatch.cli.app import main as bigbatch
    from tests.models import tiny_folder

    seen: dict[str, Any] = {}
    backward = torch.Tensor.backward

    def watched(tensor: torch.Tensor, *words: Any, **options: Any) -> Any:
        seen["gradient"] = stack()
        return backward(tensor, *words, **options)

    torch.Tensor.backward = watched
    register_optimizer_step_pre_hook(lambda *_: seen.update(optimizer=stack()))
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        # Neither the settings nor the caches of the person who asks.
        os.environ.update(HOME=folder, XDG_CONFIG_HOME=f"{folder}/.config", XDG_CACHE_HOME=f"{folder}/.cache")
        tiny_folder(Path("model"))
        rows = [f"the flight was {word},{word}" for word in ("good", "bad") * 40]
        Path("train.csv").write_text("\n".join(["text,label", *rows]) + "\n")
        Path("recipe.yaml").write_text(RECIPE)
        try:
            bigbatch(["train", "recipe.yaml"])
        except SystemExit as end:
            if end.code:
                raise
        os.chdir("/")
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
