"""Where a model predicts and evaluates: as asked for, else as its run was planned, else on every accelerator."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bigbatch.errors import RecipeError, UsageError
from bigbatch.probe.hardware import choose_device


def devices_of(asked: str | None, planned: str | None = None) -> tuple[str, ...]:
    """The devices that share the work; the model's first copy is on the first.

    Args:
        asked: `cpu`, `cuda` (all of them), `cuda:1`, `mps`, `auto`, or several with commas; None: what was planned.
        planned: `plan.device` of the run; where this machine has no such device, any will do.

    Raises:
        UsageError: a device that torch does not see here.
    """
    if asked is None and planned is not None:
        try:
            return _named(planned)
        except RecipeError:
            asked = "auto"
    try:
        return tuple(device for name in (asked or "auto").split(",") for device in _named(name.strip()))
    except RecipeError as error:
        problem = error.problems[0].what
        raise UsageError(f"device: {problem}; or auto, or several with commas") from error


def _named(name: str) -> tuple[str, ...]:
    device = choose_device(None if name == "auto" else name)
    if device.startswith("cuda") and name in ("auto", "cuda"):
        return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
    return (device,)


def only_cpu(devices: Sequence[str]) -> bool:
    """Whether no accelerator takes part."""
    return all(device == "cpu" for device in devices)
