"""Short runs in this process: tiny models, tokenised rows, a loss that can be made to fail while a run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import bigbatch
from bigbatch.optim.state import optimizer_state
from bigbatch.run.run import Run
from tests.models import tiny
from tests.split import rows_of

ROWS = rows_of("single", 64, longest=20)
HELD_OUT = rows_of("single", 24, longest=20, seed=1)
QUICK = {"updates": 4, "batch": 16, "plan.micro_tokens": 64, "plan.packing": "padded", "optimizer.lr": 1e-3}


def start(
    folder: Path, module: Any = None, *, rows: Any = None, validation: Any = None, **options: Any
) -> Run:
    """A run of four updates; `options` are those of `bigbatch.start`, with `set` on top of `QUICK`."""
    keys = {**QUICK, **options.pop("set", {})}
    if any(key in keys for key in ("epochs", "samples", "tokens")):
        keys.pop("updates")
    return bigbatch.start(
        module if module is not None else tiny("bert", dropout=0.1),
        rows if rows is not None else ROWS,
        validation,
        set=keys,
        run_dir=folder,
        **options,
    )


def exhaust(run: Run) -> Run:
    """The run, ended."""
    with run:
        for _ in run:
            pass
    return run


def weights(run: Run) -> dict[str, Tensor]:
    """A copy of the model's tensors and of the optimizer's state."""
    assert run._parts is not None
    found = {**run.model.state_dict(), **optimizer_state(run._parts.strategy.optimizer)}
    return {name: tensor.clone() for name, tensor in found.items()}


def differing(left: dict[str, Tensor], right: dict[str, Tensor]) -> list[str]:
    """Names of tensors that are not equal bit for bit."""
    assert left.keys() == right.keys()
    return [name for name, tensor in left.items() if not torch.equal(tensor, right[name])]


def lines(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Records of a run directory, of one kind."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if kind is None or line["kind"] == kind]


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    """Events of this name."""
    return [line for line in lines(folder, "event") if line["event"] == name]


def document(folder: Path, name: str) -> dict[str, Any]:
    """A JSON file of a run directory."""
    return json.loads((folder / name).read_text())


class Faulty:
    """Cross-entropy per unit; `fault`, when set, changes its values in training."""

    __name__ = "faulty"

    def __init__(self) -> None:
        self.fault: Callable[[Tensor], Tensor] | None = None

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        losses_U = functional.cross_entropy(logits, targets, reduction="none")
        return losses_U if self.fault is None or not torch.is_grad_enabled() else self.fault(losses_U)
