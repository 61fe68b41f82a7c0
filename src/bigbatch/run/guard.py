"""Ends a run that diverged: counts updates that were skipped because loss or gradient was not finite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bigbatch.errors import Diverged
from bigbatch.records import Update


@dataclass(kw_only=True)
class Guard:
    """Watches update records; its history is part of a checkpoint, so that a resume does not forget.

    Example:
        >>> guard = Guard(patience=5)
        >>> guard.to_state()["skipped_in_a_row"]
        []
    """

    patience: int = 5
    """Skipped updates in a row that end the run."""
    on_nonfinite: Literal["skip", "stop"] = "skip"
    """`stop` ends the run at the first one."""
    skipped_in_a_row: list[int] = field(default_factory=list)
    """Steps of the current row."""
    skipped_updates: int = 0
    """Since the start of the run."""
    last_finite: dict[str, float | None] | None = None
    """`step`, `loss`, `grad_norm` of the last update that was applied."""

    def see(self, update: Update) -> None:
        """Take note of one update; one in which nothing counts says nothing of the run's health.

        Raises:
            Diverged: this one completes a row of `patience`, or `on_nonfinite` is `stop`.
        """
        if update.empty:
            return
        if not update.skipped:
            self.skipped_in_a_row = []
            self.last_finite = {"step": update.step, "loss": update.loss, "grad_norm": update.grad_norm}
            return
        self.skipped_in_a_row.append(update.step)
        self.skipped_updates += 1
        if self.on_nonfinite == "stop" or len(self.skipped_in_a_row) >= self.patience:
            raise Diverged(self._explain(update))

    def to_state(self) -> dict[str, object]:
        """The history as strict JSON."""
        return {
            "skipped_in_a_row": list(self.skipped_in_a_row),
            "skipped_updates": self.skipped_updates,
            "last_finite": self.last_finite,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over the history of a checkpoint; the settings stay the recipe's."""
        self.skipped_in_a_row = list(state["skipped_in_a_row"])
        self.skipped_updates = state["skipped_updates"]
        self.last_finite = state["last_finite"]

    def _explain(self, update: Update) -> str:
        row = self.skipped_in_a_row
        which = f"update {row[0]}"
        if len(row) > 1:
            which = f"{len(row)} updates in a row ({row[0]} to {row[-1]})"
        before = "no update before had finite ones"
        if self.last_finite:
            before = "the last finite ones were {loss:.4g} and {grad_norm:.4g} at update {step}".format(
                **self.last_finite
            )
        rule = f"guard.patience is {self.patience}"
        if self.on_nonfinite == "stop":
            rule = "guard.on_nonfinite is stop"
        return (
            f"{which} had a non-finite loss or gradient norm (loss {update.loss}, gradient norm "
            f"{update.grad_norm}, learning rate {update.lr:g}); {before}; {rule}. Skipped updates did "
            "not touch the weights. Try a lower optimizer.lr, a longer schedule.warmup, or clip: 1.0; the "
            "events named nonfinite in metrics.jsonl list the samples to look at"
        )
