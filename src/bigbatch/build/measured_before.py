"""What was measured of this model on this machine before, so that a second start need not try sizes again.

A hint, never a promise: the size it names is measured afresh in every start, and a damaged file is no file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from typing_extensions import TypedDict

from bigbatch.build.measured import Measured
from bigbatch.documents import checked
from bigbatch.facts import CalibrationFacts, ForwardFacts
from bigbatch.model.patterns import pattern_of
from bigbatch.samples import Packing
from bigbatch.store.durable import atomic_write_text
from bigbatch.stored import Damaged, read_object
from bigbatch.written import make_folders

_FORMAT = 3
_MOST_BYTES = 2**20
SPEEDS = ("seconds_per_token", "seconds_per_token_forward", "seconds_per_update")
_Tokens = Annotated[int, Field(gt=0, lt=2**31)]
_Seconds = Annotated[float, Field(gt=0, lt=1e6)]


class _Content(TypedDict):
    """What the file holds."""

    micro_tokens: _Tokens
    evaluation_micro_tokens: _Tokens
    tried: dict[Annotated[str, Field(pattern=r"^[1-9][0-9]{0,9}$")], _Seconds]
    attention: dict[str, _Seconds]
    seconds_per_token: _Seconds
    seconds_per_token_forward: _Seconds
    seconds_per_update: _Seconds


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """Sizes and kernels that were tried."""

    file: Path | None
    found: bool = False
    """Whether anything is known."""
    micro_tokens: int = 0
    evaluation_micro_tokens: int = 0
    tried: dict[int, float] = field(default_factory=dict)
    """Micro-batch tokens -> seconds per token."""
    attention: dict[str, float] = field(default_factory=dict)
    speeds: dict[str, float] = field(default_factory=dict)
    """The figures of `CalibrationFacts` that other work on the machine changes, from a time when there was none."""

    @property
    def known(self) -> bool:
        """Whether sizes were tried and need not be tried again."""
        return len(self.tried) > 1

    def tried_together(self, now: Mapping[int, float]) -> dict[int, float]:
        """Seconds per token by size, such that the size in use was chosen among them.

        Sizes that were tried are not tried again; the one that is, is measured on another day, and is not held against
        what the others were then.
        """
        return {**now, **self.tried} if self.known else {**self.tried, **now}

    @staticmethod
    def of(on: Measured, packing: Packing) -> Remembered:
        """What is known for this model shape, task, machine, precision, threads and mix of lengths."""
        if on.cache_dir is None:
            return Remembered(file=None)
        file = on.cache_dir / f"{_key(on, packing)}.json"
        # A user's size is measured alone, and teaches nothing about others.
        with suppress(OSError, Damaged):
            found = checked(read_object(file, most_bytes=_MOST_BYTES), _Content)
            return Remembered(
                file=file,
                found=True,
                micro_tokens=found["micro_tokens"],
                evaluation_micro_tokens=found["evaluation_micro_tokens"],
                tried={int(size): seconds for size, seconds in found["tried"].items()},
                attention=found["attention"],
                speeds={name: found[name] for name in SPEEDS},
            )
        return Remembered(file=file)

    def keep(self, facts: ForwardFacts, calibration: CalibrationFacts) -> None:
        """Write down what was measured the first time, or sizes when they are first tried. To be called when the
        machine does nothing else.
        """
        if self.file is None or (self.found and len(calibration.tried) <= len(self.tried)):
            return
        content = {
            "micro_tokens": calibration.micro_tokens,
            "evaluation_micro_tokens": calibration.evaluation_micro_tokens,
            "tried": {str(size): seconds for size, seconds in calibration.tried.items()},
            "attention": dict(facts.attention_seconds),
            **{name: getattr(calibration, name) for name in SPEEDS},
        }
        with suppress(OSError):
            make_folders(self.file.parent, ours=2)
            atomic_write_text(self.file, json.dumps(content, indent=1))


def _of_pattern(module: nn.Module) -> list[object]:
    """Nothing where all tokens see all, so that what was measured before there were patterns is still found."""
    pattern = pattern_of(module)
    return [] if pattern is None else [asdict(pattern)]


def _key(on: Measured, packing: Packing) -> str:
    module, plan, train = on.ready.module, on.recipe.plan, on.lengths
    parts: list[object] = [
        _FORMAT,
        torch.__version__,
        [
            (name, list(item.shape), str(item.dtype), item.requires_grad)
            for name, item in module.named_parameters()
        ],
        [
            (name, part.p)
            for name, part in module.named_modules()
            if isinstance(getattr(part, "p", None), float)
        ],
        [type(on.ready.task).__name__, on.hardware.device_name, on.hardware.threads, packing],
        [plan.model_dump(mode="json", exclude={"memory"})],
        # The mix of lengths, and how many samples an update has to sort.
        [{name: round(value) for name, value in train.percentiles.items()}, train.longest],
        [on.recipe.batch.samples, on.recipe.batch.tokens],
        *_of_pattern(module),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]
