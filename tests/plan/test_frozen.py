"""plan.json there and back."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import pytest

from bigbatch.facts import Choice
from bigbatch.plan.frozen import Plan

PLAN = Plan(
    choices={
        "device": Choice(value="cpu", reason="no accelerator was found", source="derived"),
        "betas": Choice(value=[0.6, 0.1 + 0.2], reason="sde", source="derived"),
        "train_seconds": Choice(value="4 min", reason="…", source="measured", prediction=240.7, unit="s"),
        "micro_tokens": Choice(value=2048, reason="fast", source="default", unit="tokens"),
    },
    warnings=("only 44 updates",),
)


def test_written_and_read_back_it_is_equal() -> None:
    assert Plan.from_json(json.loads(json.dumps(PLAN.to_json()))) == PLAN


def test_the_file_has_the_contracts_shape() -> None:
    content = PLAN.to_json()
    assert content["train_seconds"] == {
        "value": "4 min", "reason": "…", "source": "measured", "prediction": 240.7, "unit": "s",
    }  # fmt: skip
    assert all(
        set(entry) == {"value", "reason", "source", "prediction", "unit"} for entry in content.values()
    )
    assert content["warnings"]["value"] == ["only 44 updates"]


def test_a_change_makes_a_new_plan() -> None:
    smaller = PLAN.changed("micro_tokens", 1024, "2,048 ran out of memory at update 7")
    assert (smaller.value("micro_tokens"), PLAN.value("micro_tokens")) == (1024, 2048)
    assert smaller.choices["micro_tokens"].source == "measured"
    assert smaller.choices["micro_tokens"].unit == "tokens"
    with pytest.raises(FrozenInstanceError):
        PLAN.warnings = ()  # type: ignore[misc]


def test_predictions_are_what_can_be_measured() -> None:
    assert PLAN.predictions() == {"train_seconds": 240.7}
