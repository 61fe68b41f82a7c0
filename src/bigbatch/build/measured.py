"""What measuring before a run needs, and how long it may take: 3 % of the run or 10 seconds, whichever is more.

What does not fit is left out, and a default takes its place, with that reason in the plan.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bigbatch.data.batches import Batches
from bigbatch.data.packs import micro_batches
from bigbatch.facts import HardwareFacts, LengthFacts, ModelFacts
from bigbatch.recipe.schema import Recipe
from bigbatch.rules.clocks import Length
from bigbatch.rules.ramp import Ramp
from bigbatch.samples import MicroBatch, Packing, Table
from bigbatch.tasks.ready import Ready
from bigbatch.units import show_seconds

if TYPE_CHECKING:
    from torch.optim import Optimizer


SHARE = 0.03
LEAST_SECONDS = 10.0


class Budget:
    """Begins when it is made."""

    def __init__(self, run_tokens: float, clock: Callable[[], float] = time.perf_counter) -> None:
        """`run_tokens`: that training will compute."""
        self._run_tokens = run_tokens
        self._clock = clock
        self._began = clock()

    @property
    def spent_seconds(self) -> float:
        """So far."""
        return self._clock() - self._began

    def refusal(self, seconds: float, seconds_per_token: float, *, may_save: float) -> str:
        """Why something is not measured; empty when it may be.

        Args:
            seconds: that it is expected to take.
            seconds_per_token: of training, as far as it is known.
            may_save: share of the run that it may save at best: it must not take longer than that.
        """
        run = self._run_tokens * seconds_per_token
        allowed = max(LEAST_SECONDS, SHARE * run)
        if self.spent_seconds + seconds > allowed:
            return (
                f"trying would take {show_seconds(seconds)}, and all measuring before a run of {show_seconds(run)} "
                f"may take {show_seconds(allowed)}"
            )
        if seconds > may_save * run:
            return f"trying would take {show_seconds(seconds)}, more than the {may_save:.0%} that it may save"
        return ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """What measuring needs."""

    recipe: Recipe
    hardware: HardwareFacts
    ready: Ready
    tables: Mapping[str, Table]
    batches: Batches
    lengths: LengthFacts
    length: Length
    new_optimizer: Callable[..., Optimizer]
    say: Callable[[str], None]
    model: ModelFacts
    """Sizes of the whole model."""
    recomputable_blocks: int
    """Blocks of the whole model whose activations can be computed again."""
    divided: bool = False
    """Whether ranks will hold parts of the model (`plan.mesh`); until then it waits on the CPU."""
    excerpt: bool = False
    """Whether `ready` is the model's first blocks alone (`build.excerpt`)."""
    ramp: Ramp | None = None
    """How the batch grows."""
    cache_dir: Path | None = None
    """Where measurements of this model on this machine are remembered; None: nowhere."""

    @property
    def memory_bytes(self) -> int:
        """What may be used."""
        return self.recipe.plan.memory or self.hardware.memory_bytes

    def pieces(self, packing: Packing, micro_tokens: int) -> list[MicroBatch]:
        """The first update, cut as training will cut it."""
        return list(micro_batches(self.batches.at(0, 1), micro_tokens=micro_tokens, packing=packing))
