"""Where a run is: everything that a checkpoint's state.json holds beside the tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from bigbatch.records import Eval, Update
from bigbatch.rules.clocks import Clock


@dataclass(kw_only=True)
class Best:
    """The best evaluation so far."""

    metric: str
    value: float
    step: int


@dataclass(kw_only=True)
class Progress:
    """Position and clocks of a run. Mutable: the loop moves it forward, one update at a time."""

    update: int = 0
    """Updates done."""
    position: int = 0
    """Samples consumed: the one integer that fixes what comes next."""
    tokens: int = 0
    """Real tokens consumed."""
    evaluations: int = 0
    stale_evaluations: int = 0
    """Evaluations since the early-stopping metric last improved."""
    stop_best: float | None = None
    """Best value of the early-stopping metric."""
    target_reached: bool = False
    """The early-stopping metric has reached its target."""
    best: Best | None = None
    scores: dict[str, np.ndarray] = field(default_factory=dict, init=False)
    """Row scores of evaluations to come back to (`run.choice`): tensors of a checkpoint, not of its state.json."""
    evaluated_update: int | None = None
    """Update of the latest evaluation that counts; None: none yet, or an earlier version did not say."""
    figures: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Latest loss and metrics of each split; None where one is not finite or does not exist."""
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    evaluated_samples: int = 0
    computed_tokens: float = 0.0
    """Tokens that training ran through the model, padding included."""
    evaluation_due: bool = False
    """An update called for an evaluation that has not been completed."""
    journal_records: int = 0
    """Lines of metrics.jsonl at this moment; a resume moves later ones away."""
    peak_memory_bytes: int = 0
    batch_stage: int = 0
    """Where a ramp has brought the batch: the index of its size."""
    batch_votes: int = 0
    """Measurements in a row that spoke for a larger one."""
    noise: dict[str, object] = field(default_factory=dict)
    """Averages of the gradient noise (`rules.noise_scale.State`)."""
    cool_down: list[int] | None = None
    """Samples at which the cool-down of `epochs: auto` began and will end; None: it has not begun."""
    warm_again: int | None = None
    """Samples at which a run that had begun to cool down was carried on with other settings; None: it was not."""
    stale_plateau: int = 0
    """Evaluations in a row that `run.plateau` holds to be no improvement."""
    stopped: str | None = None
    """Why the run was asked to stop: after a kill it does not train on."""

    def after_update(self, record: Update) -> None:
        """Move past one update."""
        self.update = record.step
        self.position = record.samples
        self.tokens = record.tokens
        self.train_seconds += record.seconds
        self.computed_tokens += record.batch_tokens / max(1 - record.padding_share, 1e-9)
        self.peak_memory_bytes = max(self.peak_memory_bytes, record.peak_memory_bytes)

    def after_evaluation(self, record: Eval, samples: int) -> None:
        """Count one evaluated split."""
        self.evaluate_seconds += record.seconds
        self.evaluated_samples += samples
        figures = {"loss": record.loss, **record.metrics}
        self.figures[record.split] = {
            name: value if value is not None and math.isfinite(value) else None
            for name, value in figures.items()
        }

    def carry_on(self, *, changed: bool) -> None:
        """Forget what ended the run: its settings were changed on purpose.

        Where none was, a cool-down goes on to its end: what is computed from here on is what it was.
        """
        if self.cool_down is not None and changed:
            self.cool_down, self.warm_again = None, self.position
        self.stopped = self.stop_best = None
        self.stale_plateau = 0
        self.scores = {name: each for name, each in self.scores.items() if name == "best"}
        self.stale_evaluations = 0
        self.target_reached = False

    def clock(self, seconds: float) -> Clock:
        """How far the run is, at this moment of the process."""
        return Clock(
            updates=self.update,
            samples=self.position,
            tokens=self.tokens,
            evaluations=self.evaluations,
            seconds=seconds,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, of all but the scores of rows."""
        state = asdict(self)
        del state["scores"]
        return state

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Progress:
        """The inverse of `to_dict`."""
        best = state.get("best")
        return cls(**{**state, "best": Best(**best) if best else None})
