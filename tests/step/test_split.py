"""The first promise: loss and gradient do not depend on how the batch was split. And the wrong ways do."""

from __future__ import annotations

import pytest
import torch

from tests.models import tiny
from tests.split import assert_equal, parts_of, rows_of, train_reference, train_split

KINDS = ("single", "weighted", "multi", "regression", "pairs")
SPLITS = [
    (512, "packed"),
    (2048, "packed"),
    (16384, "packed"),
    (512, "padded"),
    (2048, "padded"),
    (16384, "padded"),
]
COUNT = 200
INIT = 0.05
"""At 0.2 the fp32 oracle's own rounding of the (exactly zero) key-bias gradients exceeds the contract's bound."""


def job(name: str):
    """Rows, kind, outputs and recipe keys of one of the five jobs."""
    kind = name if name in ("multi", "regression") else "single"
    rows = rows_of(kind, COUNT, pairs=name == "pairs", seed=KINDS.index(name))
    keys = {"loss": {"class_weights": {"a": 0.3, "b": 2.0, "c": 1.0}}} if name == "weighted" else {}
    return rows, kind, 1 if kind == "regression" else 3, keys


@pytest.fixture(scope="module")
def references():
    """The oracle's 20 updates of each job and dtype, computed once."""
    found = {}

    def get(name: str, dtype: torch.dtype):
        if (name, dtype) not in found:
            rows, kind, outputs, keys = job(name)
            module = tiny("bert", num_labels=outputs, problem_type=PROBLEMS[kind], initializer_range=INIT).to(
                dtype
            )
            parts = parts_of(module, rows, kind, micro_tokens=2048, packing="padded", **keys)
            found[name, dtype] = module, train_reference(module, parts, rows, kind)
        return found[name, dtype]

    return get


PROBLEMS = {
    "single": "single_label_classification",
    "multi": "multi_label_classification",
    "regression": "regression",
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
@pytest.mark.parametrize(("micro_tokens", "packing"), SPLITS)
@pytest.mark.parametrize("name", KINDS)
def test_every_split_equals_the_whole_batch(references, name, micro_tokens, packing, dtype):
    rows, kind, _, keys = job(name)
    module, expected = references(name, dtype)
    parts = parts_of(module, rows, kind, micro_tokens=micro_tokens, packing=packing, **keys)
    found = train_split(parts)
    assert_equal(found, expected, dtype)
    assert (max(found.micro_batches) == 1) == (micro_tokens == 16384)
