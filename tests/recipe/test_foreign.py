from __future__ import annotations

import pytest

from bigbatch.recipe.foreign import TABLE, find, hint_for
from bigbatch.recipe.keys import all_keys
from bigbatch.recipe.sugar import ROLE_SUGAR
from bigbatch.recipe.values import Built

DATA_ROLES = {f"data.{role}" for role in ROLE_SUGAR} | {f"data.columns.{role}" for role in ROLE_SUGAR}


def test_every_row_points_to_a_key_that_exists_or_says_why_not():
    lost = [row for row in TABLE if row.ours and row.ours not in all_keys() and row.ours not in DATA_ROLES]
    assert lost == []
    assert [row for row in TABLE if not row.ours and not row.why] == []


def _planned(key: str) -> bool:
    """Whether the schema knows the key and refuses every value but the one that it has by itself."""
    info = all_keys().get(key)
    if info is None:
        return False
    known = [each.func.values for each in info.metadata if isinstance(getattr(each, "func", None), Built)]
    return any(len(values) == 1 and values[0] == info.default for values in known)


def test_planned_is_said_of_what_the_schema_refuses_and_of_nothing_else():
    assert _planned("plan.mesh.pipeline") and not _planned("plan.mesh.shard")
    wrong = [row for row in TABLE if ("planned" in row.why) != _planned(row.ours)]
    assert wrong == []


def test_no_name_is_listed_twice_by_one_tool():
    pairs = [(row.tool, row.name) for row in TABLE]
    assert len(pairs) == len(set(pairs))


@pytest.mark.parametrize(
    ("typed", "ours"),
    [
        ("learning_rate", "optimizer.lr"),
        ("optimizer.learning_rate", "optimizer.lr"),
        ("per-device-train-batch-size", "batch.samples"),
        ("train_batch_size", "batch.samples"),
        ("training.local_batch_size", "plan.micro_tokens"),
        ("max_duration", "epochs"),
        ("MIXED_PRECISION", "plan.precision"),
    ],
)
def test_a_name_is_found_however_it_is_typed(typed, ours):
    row = find(typed)
    assert row is not None and row.ours == ours
    assert hint_for(typed).startswith(f"here it is {ours}")


def test_a_name_without_counterpart_says_why():
    assert hint_for("gradient_accumulation_steps").startswith(
        "not a key here: batch.samples is the global batch"
    )
    assert hint_for("no_such_name_anywhere") == ""


def test_no_key_of_ours_is_shadowed_by_another_tools_name():
    taken = {row.name for row in TABLE if "." not in row.name}
    top = {key for key in all_keys() if "." not in key}
    assert taken & top == set()
