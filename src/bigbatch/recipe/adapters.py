"""The section model.adapter: what is trained beside a model that stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, PlainValidator, field_validator

from bigbatch.recipe.values import AUTO, Count, Number, PositiveNumber, Section, show

ADAPTER_LR: Mapping[str, float] = {
    "adamw": 5e-4,
    "schedule_free": 1e-3,
    "lion": 1e-4,
    "muon": 5e-4,
    "sgd": 1e-1,
}
"""Optimizer -> its usual rate where only adapters and a head are trained: ten times that of whole models. Hu et al.
2021, appendix D, have 4e-4 and 5e-4 for RoBERTa-base and 2e-4 for GPT-3; Schulman et al. 2025, "LoRA Without Regret",
found a factor of about 10 to whole models. LAMB and LARS step as far as a matrix is long: theirs stays."""
_FLAGS = {
    "dora": "expected name: lora with dora: true",
    "rslora": "expected name: lora with rslora: true",
    "qlora": "expected name: lora with base: 4bit",
}


def _targets(value: object) -> object:
    if value == AUTO:
        return value
    if isinstance(value, list) and value and all(isinstance(item, str) and item for item in value):
        return value
    raise ValueError(
        f"found {show(value)}; expected auto | a list of patterns of layers, such as ['*.query']"
    )


class AdapterSpec(Section):
    """Low-rank adapters (LoRA): the model stays as it is, and small matrices beside its products are trained, with the
    head of the task. In YAML a name alone is enough.
    """

    name: Literal["lora"] = "lora"
    """`lora`: y = W x + (alpha / r) B A x, with A (r, in) and B (out, r); B begins at zero."""
    r: Annotated[Count, Field(le=65536)] = 16
    """Rank: rows of A, columns of B."""
    alpha: PositiveNumber = 32.0
    """The adapters' part is multiplied by alpha / r."""
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Of what A is given; `regularise.dropout` is the model's own."""
    targets: Annotated[Literal["auto"] | list[str], PlainValidator(_targets)] = AUTO
    """`auto`: every linear layer of the blocks. Or patterns of their names (`*` matches anything)."""
    init: Literal["kaiming", "gaussian", "orthogonal"] = "kaiming"
    """How A begins, from seed.model. `kaiming`, `gaussian`: B is zero; `orthogonal`: B A is zero, neither is."""
    base: Literal["fp32", "8bit", "4bit"] = "fp32"
    """What the weights of the blocks' linear layers are kept in (QLoRA): `8bit` as torchao rounds them, `4bit` as
    bitsandbytes does (nf4). `plan.precision` says in what they are multiplied."""
    rslora: bool = False
    """alpha / sqrt(r) instead of alpha / r, for large ranks."""
    dora: bool = False
    """Length and direction of W's rows apart: the length is trained as it is, the direction by B A."""

    @field_validator("name", mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        if isinstance(value, str) and value != "lora":
            raise ValueError(f"found {show(value)}; {_FLAGS.get(value, 'expected lora')}")
        return value


def with_adapter_rate(values: dict[str, object]) -> dict[str, object]:
    """A recipe's values, with the rate of adapters where they are trained and nobody named one.

    Args:
        values: in long form.
    """
    model, optimizer = values.get("model"), values.get("optimizer", {})
    trains = isinstance(model, Mapping) and model.get("adapter") is not None
    if not trains or not isinstance(optimizer, Mapping) or "lr" in optimizer:
        return values
    rate = ADAPTER_LR.get(str(optimizer.get("name", "adamw")))
    return values if rate is None else {**values, "optimizer": {**optimizer, "lr": rate}}
