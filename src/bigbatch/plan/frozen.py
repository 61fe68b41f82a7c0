"""The plan itself: named choices, frozen, as they stand in `plan.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from html import escape
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from bigbatch.documents import PLAN, checked
from bigbatch.facts import Choice
from bigbatch.plan.forward import (
    Attention,
    Compile,
    DropoutMasks,
    EmbeddingGradients,
    LastBlock,
    Precision,
    Recompute,
)
from bigbatch.samples import Packing

_WARNINGS = "warnings"
_Tokens = Annotated[int, Field(gt=0, lt=2**31)]
_Processes = Annotated[int, Field(gt=0, lt=2**16)]


class _Values(TypedDict, total=False):
    """Values that a run goes on with; those of other choices only tell."""

    packing: Packing
    attention: Attention
    last_block: LastBlock
    embedding_gradients: EmbeddingGradients
    dropout_masks: DropoutMasks
    recompute: Recompute
    recomputed_blocks: Annotated[int, Field(ge=0, lt=2**16)]
    compile: Compile
    precision: Precision
    keep_fp32: list[str]
    allow_low: list[str]
    micro_tokens: _Tokens
    evaluation_micro_tokens: _Tokens
    threads: _Processes
    ranks: _Processes
    auto_batch: Annotated[list[_Tokens], Field(min_length=2, max_length=2)]
    auto_epochs: Annotated[float, Field(gt=0, le=1e6)]
    auto_lr: Annotated[float, Field(gt=0, lt=1e6)]
    warnings: list[str]


_PREDICTED = ("train_seconds", "evaluate_seconds", "peak_memory_bytes")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the recipe is computed. Values are plain JSON, so that a plan read back equals the one written."""

    choices: Mapping[str, Choice]
    """By name, in the order of `explain`."""
    warnings: tuple[str, ...] = ()
    """Sentences that the user should read before the run."""

    def value(self, name: str) -> Any:
        """The value of a choice, such as `plan.value("micro_tokens")`."""
        return self.choices[name].value

    def predictions(self) -> dict[str, float]:
        """What is held against the measurement: `train_seconds`, `evaluate_seconds`, `peak_memory_bytes`."""
        found = {name: self.choices[name].prediction for name in _PREDICTED if name in self.choices}
        return {name: value for name, value in found.items() if value is not None}

    def changed(self, name: str, value: object, reason: str) -> Plan:
        """A new plan with one measured choice replaced: what happens after running out of memory, say.

        Args:
            name: of the choice; it is in the plan.
            value: the new one.
            reason: the plan's sentence about it.
        """
        choice = replace(self.choices[name], value=value, reason=reason, source="measured")
        return replace(self, choices={**self.choices, name: choice})

    def led_by(self, choices: Mapping[str, Choice]) -> Plan:
        """A new plan that tells these choices first."""
        return replace(self, choices={**choices, **self.choices})

    def _repr_html_(self) -> str:
        """A notebook's cell: each choice with its reason."""
        rows = [(name, choice.value, choice.reason, choice.source) for name, choice in self.choices.items()]
        cells = [
            [escape(str(cell)) for cell in row] for row in [("choice", "value", "reason", "source"), *rows]
        ]
        return "<table>" + "".join(f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in cells) + "</table>"

    def to_json(self) -> dict[str, object]:
        """The content of `plan.json`: `{choice: {value, reason, source, prediction, unit}}`."""
        told = Choice(value=list(self.warnings), reason="worth reading before the run", source="derived")
        return {name: asdict(choice) for name, choice in {**self.choices, _WARNINGS: told}.items()}

    @staticmethod
    def from_json(content: Mapping[str, object]) -> Plan:
        """The plan that `to_json` described.

        Raises:
            Damaged: a choice has another form, or a value that no plan gives it.
        """
        entries = checked(content, PLAN)
        checked({name: entry["value"] for name, entry in entries.items()}, _Values)
        choices = {
            name: Choice(
                value=entry["value"],
                reason=entry["reason"],
                source=entry["source"],
                prediction=entry.get("prediction"),
                unit=entry.get("unit"),
            )
            for name, entry in entries.items()
        }
        warnings = choices.pop(_WARNINGS, None)
        return Plan(choices=choices, warnings=tuple(warnings.value) if warnings else ())
