"""Files by share, from the recipe to the journal: the order, epochs, blocks, a resume, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bigbatch
from bigbatch.data.mixture import MixedOrder
from bigbatch.errors import RecipeError
from tests.exact import exact_documents
from tests.jobs import lines
from tests.models import tiny

SHARES = (0.75, 0.25)
SIZES = (40, 24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("mixture")
    for name, count, seed in (("a", SIZES[0], 0), ("b", SIZES[1], 5000), ("few", 3, 7)):
        rows = [{"input_ids": ids, "labels": ids[0] % 3} for ids in exact_documents(count, seed)]
        (found / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return found


def start(folder: Path, run: Path, names: tuple[str, str] = ("a", "b"), **keys: Any):
    files = [
        {"path": str(folder / f"{name}.jsonl"), "share": share}
        for name, share in zip(names, SHARES, strict=True)
    ]
    task = {"name": "classify", "labels": ["x", "y", "z"]}
    keys = {
        "data.train": files, "task": task, "batch": 16, "epochs": 2, "optimizer.lr": 1e-2, "plan.micro_tokens": 64,
        "plan.packing": "packed", "run.checkpoint_every": "3 updates", **keys,
    }  # fmt: skip
    model = (
        tiny("gpt2", head="causal", dropout=0.1)
        if keys["task"]["name"] == "clm"
        else tiny("bert", dropout=0.1)
    )
    return bigbatch.start(model, set=keys, run_dir=run)


def ended(run) -> list[tuple[float, float]]:
    with run:
        for _ in run:
            pass
    return [(line["loss"], line["grad_norm"]) for line in lines(run.path, "update")]


def test_a_mixture_runs_in_its_order_and_goes_on_in_it(folder, tmp_path):
    run = start(folder, tmp_path / "straight")
    batches = run._parts.batches
    order = MixedOrder(SIZES, (3, 1), seed=0)
    for update in range(1, 9):
        assert (
            batches.at(16 * (update - 1), update).sample_ids_B.tolist()
            == order.ids(16 * (update - 1), 16).tolist()
        )
    said = run.plan.choices["mixture"]
    assert (
        said.value == [0.75, 0.25]
        and "96 (2.4 times its 40)" in said.reason
        and "as all have, 64" in said.reason
    )
    straight = ended(run)
    assert len(straight) == 8, "2 epochs of 64 samples"
    with start(folder, tmp_path / "stopped") as stopped:
        for record in stopped:
            if record.kind == "update" and record.step == 5:
                break
    assert ended(start(folder, tmp_path / "stopped")) == straight


def test_shares_that_do_not_sum_to_one_are_taken_in_their_ratio(folder, tmp_path):
    files = [{"path": str(folder / "a.jsonl"), "share": 3}, {"path": str(folder / "b.jsonl"), "share": 1}]
    with start(folder, tmp_path / "ratio", **{"data.train": files}) as run:
        said = run.plan.choices["mixture"]
        assert said.value == [0.75, 0.25] and "shares sum to 4" in said.reason
        assert (
            run._parts.batches.at(5, 1).sample_ids_B.tolist()
            == MixedOrder(SIZES, (3, 1), 0).ids(5, 16).tolist()
        )


def test_blocks_of_joined_documents_are_of_one_source(folder, tmp_path):
    keys = {"task": {"name": "clm", "blocks": "fixed"}, "data.max_length": 24, "data.validation": 0.2}
    with start(folder, tmp_path / "run", **keys) as run:
        train = run._parts.train
        [first, other] = [
            np.concatenate(exact_documents(count, seed)) for count, seed in ((32, 0), (19, 5000))
        ]
        blocks = [
            source[at : at + 24].tolist() for source in (first, other) for at in range(0, len(source) - 1, 24)
        ]
        assert [train.take(np.array([row])).load().ids.tolist() for row in range(len(train))] == blocks
        assert train.sources == (0, -(-(len(first) - 1) // 24))
        batch = run._parts.batches.at(0, 1)
        assert run._parts.batches.tokens_before(16) == batch.lengths_B.sum()


def test_what_makes_no_sense_is_refused_before_the_run(folder, tmp_path):
    with pytest.raises(
        RecipeError, match=r"takes about 12 samples of .*few.jsonl \(0.75 of its batch\), which has 3"
    ):
        start(folder, tmp_path / "few", names=("few", "b"))
    with pytest.raises(RecipeError, match=r"b.jsonl' has no share, and others have one"):
        start(folder, tmp_path / "x", **{"data.train": [{"path": "a.jsonl", "share": 1}, "b.jsonl"]})
    with pytest.raises(RecipeError, match="each row counts once"):
        start(folder, tmp_path / "x", **{"data.test": [{"path": "a.jsonl", "share": 1}]})
    assert not list(tmp_path.glob("*/metrics.jsonl"))
