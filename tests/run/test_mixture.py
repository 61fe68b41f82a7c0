"""Files by share, from the recipe to the journal: the order, epochs, blocks, a resume, and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.nn.functional import cross_entropy

import bigbatch
from bigbatch.cli.app import main
from bigbatch.data.mixture import MixedOrder
from bigbatch.errors import RecipeError
from tests.exact import exact_documents
from tests.jobs import lines
from tests.models import tiny
from tests.ranks import RankFailed

SHARES = (0.75, 0.25)
SIZES = (40, 24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("mixture")
    for name, count, seed in (("a", SIZES[0], 0), ("b", SIZES[1], 5000), ("few", 3, 7)):
        rows = [{"input_ids": ids, "labels": ids[0] % 3} for ids in exact_documents(count, seed)]
        (found / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return found


def start(folder: Path, run: Path, names: tuple[str, str] = ("a", "b"), model: Any = None, **keys: Any):
    files = [
        {"path": str(folder / f"{name}.jsonl"), "share": share}
        for name, share in zip(names, SHARES, strict=True)
    ]
    task = {"name": "classify", "labels": ["x", "y", "z"]}
    keys = {
        "data.train": files, "task": task, "batch": 16, "epochs": 2, "optimizer.lr": 1e-2, "plan.micro_tokens": 64,
        "plan.packing": "packed", "run.checkpoint_every": "3 updates", **keys,
    }  # fmt: skip
    if "updates" in keys:
        del keys["epochs"]
    model = model or (
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


# ---------------------------------------------------------------- figures by source


def own_loss(module, rows: list[dict[str, Any]]) -> float:
    """Mean loss of some rows, one at a time: plain torch."""
    with torch.no_grad():
        return float(
            np.mean(
                [
                    float(
                        cross_entropy(
                            module(input_ids=torch.tensor([row["input_ids"]])).logits.double(),
                            torch.tensor([row["labels"]]),
                        )
                    )
                    for row in rows
                ]
            )
        )


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Those of both sources, one behind the other."""
    return [json.loads(line) for name in "ab" for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def test_training_says_what_each_source_lost(folder, tmp_path):
    module = tiny("bert")
    keys = {"regularise.dropout": 0.0, "updates": 2}
    reference, rows = copy.deepcopy(module).eval(), read_rows(folder)
    with start(folder, tmp_path / "run", model=module, **keys) as run:
        for record in run:
            if record.kind == "update":
                break
    line = lines(run.path, "update")[0]
    ids = MixedOrder(SIZES, (3, 1), 0).ids(0, 16)
    for name, own in (("a", ids[ids < SIZES[0]]), ("b", ids[ids >= SIZES[0]])):
        assert line[f"loss.source.{name}"] == pytest.approx(
            own_loss(reference, [rows[at] for at in own]), rel=2e-5
        )
    shares = {"a": 12 / 16, "b": 4 / 16}
    assert line["loss"] == pytest.approx(sum(shares[name] * line[f"loss.source.{name}"] for name in shares))


def test_a_token_loss_is_divided_by_each_sources_own_tokens(folder, tmp_path):
    module = tiny("gpt2", head="causal")
    reference = copy.deepcopy(module).eval()
    keys = {"task": {"name": "clm", "blocks": "documents"}, "regularise.dropout": 0.0, "updates": 1}
    with start(folder, tmp_path / "run", model=module, **keys) as run:
        for record in run:
            if record.kind == "update":
                break
    line, rows = lines(run.path, "update")[0], read_rows(folder)
    sums: dict[str, list[float]] = {"a": [0.0, 0], "b": [0.0, 0]}
    for at in MixedOrder(SIZES, (3, 1), 0).ids(0, 16).tolist():
        ids = torch.tensor([rows[at]["input_ids"]])
        with torch.no_grad():
            logits = reference(input_ids=ids).logits.double()
        own = sums["a" if at < SIZES[0] else "b"]
        own[0] += float(cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum"))
        own[1] += ids.shape[1] - 1
    for name, (lost, count) in sums.items():
        assert line[f"loss.source.{name}"] == pytest.approx(lost / count, rel=2e-5)
    assert line["loss"] == pytest.approx(
        sum(own[0] for own in sums.values()) / sum(own[1] for own in sums.values()), rel=2e-5
    )


def test_a_share_for_validation_is_judged_source_by_source(folder, tmp_path):
    keys = {"data.validation": 0.25, "run.evaluate_every": "4 updates", "metrics": ["accuracy"]}
    run = start(folder, tmp_path / "run", **keys)
    ended(run)
    evaluations = lines(run.path, "eval")
    splits = ["validation", "validation.a", "validation.b"]
    assert [line["split"] for line in evaluations[-3:]] == splits
    result = json.loads((run.path / "result.json").read_text())
    tables, rows = run._parts.tables, run._parts.rows["validation"]
    assert rows.sources == tables["validation"].sources == (0, 11), "labels are held out alike"
    model = run.model.eval()
    found = [{"input_ids": row["input_ids"], "labels": int(row["labels"])} for row in rows.rows.to_pylist()]
    for name, own in (("validation.a", found[:11]), ("validation.b", found[11:])):
        assert result["final"][name]["loss"] == pytest.approx(own_loss(model, own), rel=2e-5)
    report = (run.path / "report.html").read_text()
    assert "Loss by source" in report and "validation.b" in report
    whole, a, b = (result["final"][split]["accuracy"] for split in splits)
    assert whole == pytest.approx((11 * a + (len(found) - 11) * b) / len(found))


@pytest.mark.world_size(2)
@pytest.mark.parametrize("mesh", [pytest.param(None, marks=pytest.mark.stress), {"shard": 2}])
def test_ranks_of_a_mixture_are_one_also_after_a_kill(folder, ranks, tmp_path, mesh):
    recipe = {
        "task": {"name": "classify", "labels": ["x", "y", "z"]},
        "data": {
            "train": [
                {"path": str(folder / f"{name}.jsonl"), "share": share}
                for name, share in zip("ab", SHARES, strict=True)
            ],
            "validation": 0.25,
        },
        "batch": 15, "epochs": 1, "baseline": "off",
        "plan": {"micro_tokens": 64, "packing": "packed", "threads": 1, "precision": "fp32"},
        "run": {"checkpoint_every": "1 updates", "evaluate_every": "2 updates"},
    }  # fmt: skip
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(recipe))
    job, given = "tests.run.mixture_jobs:trained", {"recipe": str(tmp_path / "job.yaml")}
    (one,) = ranks.run(job, 1, tmp_path, **given, **{"run.dir": str(tmp_path / "one")})
    keys = {"run.dir": str(tmp_path / "two"), **({"plan.mesh": mesh} if mesh else {})}
    with pytest.raises(RankFailed):
        ranks.run(job, 2, tmp_path, **given, killed_after=2, **keys)
    assert [line["step"] for line in lines(tmp_path / "two", "update")] == [1, 2]
    two = ranks.run(job, 2, tmp_path, **given, **keys)
    for found in two:
        assert found["status"] == "finished"
        assert np.linalg.norm(np.subtract(found["weights"], one["weights"])) < 1e-10 * np.linalg.norm(
            one["weights"]
        )
        assert len(found["journal"]) == len(one["journal"]) > 6
        for mine, theirs in zip(found["journal"], one["journal"], strict=True):
            assert mine == {name: pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
                            for name, value in theirs.items()}  # fmt: skip
    assert any("loss.source.b" in line for line in one["journal"])


# ---------------------------------------------------------------- what a source steers


def test_the_figure_of_a_source_chooses_the_weights_and_holds_the_gate(folder, tmp_path, monkeypatch):
    keys = {
        "data.validation": 0.25, "run.evaluate_every": "1 updates", "metrics": ["accuracy"], "updates": 6,
        "best": {"metric": "b.accuracy", "choose": "figure"}, "gate": {"a.loss": 1e-3, "validation.b.accuracy": 0.0},
        "early_stopping": {"metric": "a.loss", "patience": "50 evaluations"}, "regularise.dropout": 0.0,
    }  # fmt: skip
    run = start(folder, tmp_path / "run", **keys)
    ended(run)
    evaluations = [line for line in lines(run.path, "eval") if line["split"] == "validation.b"][:6]
    values = [line["accuracy"] for line in evaluations]
    whole = [line["accuracy"] for line in lines(run.path, "eval") if line["split"] == "validation"][:6]
    at = 1 + values.index(max(values))
    result = json.loads((run.path / "result.json").read_text())
    assert result["best"] == {"metric": "b.accuracy", "value": max(values), "step": at}
    assert result["kept"]["update"] == (at if values[-1] < max(values) else 6)
    assert max(whole) != max(values), "not that of the whole split"
    assert result["missed_gates"] == [
        f"gate missed: validation.a loss is {result['final']['validation.a']['loss']}, expected at most 0.001"
    ]


def test_a_figure_of_a_source_is_paired_row_by_row_after_a_kill_too(folder, tmp_path):
    keys = {
        "data.validation": 0.25, "run.evaluate_every": "1 updates", "metrics": ["accuracy"], "updates": 6,
        "best": "b.loss", "early_stopping": {"metric": "b.loss", "patience": "50 evaluations"}, "run.checkpoint_every": "1 updates",
    }  # fmt: skip
    straight = start(folder, tmp_path / "straight", **keys)
    ended(straight)
    with start(folder, tmp_path / "killed", **keys) as stopped:
        for record in stopped:
            if record.kind == "update" and record.step == 4:
                break
    ended(start(folder, tmp_path / "killed", **keys))
    kept = [
        json.loads((tmp_path / name / "result.json").read_text())["kept"] for name in ("straight", "killed")
    ]
    assert kept[0] == kept[1]
    losses = [line["loss"] for line in lines(straight.path, "eval") if line["split"] == "validation.b"][:6]
    assert min(losses) < losses[-1] and kept[0]["best_update"] == 1 + losses.index(min(losses))
    assert kept[0]["metric"] == "b.loss" and kept[0]["rows"] == 6, "the rows of the source alone are compared"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"best": "bb.accuracy"}, r"did you mean b\.accuracy\?"),
        (
            {"gate": {"c.accuracy": 0.5}},
            r"gate\.c\.accuracy.*splits: validation, validation\.a, validation\.b",
        ),
        ({"best": "a.f1"}, r"figures: loss, accuracy"),
        ({"best": "a.accuracy", "data.validation": None}, "best needs data.validation"),
        (
            {"best": "a.accuracy", "data.validation": {"held": "a.jsonl"}},
            r"a\.accuracy.*splits: validation\.held;",
        ),
    ],
)
def test_a_wrong_source_is_refused_before_the_run_with_the_names(folder, tmp_path, keys, message):
    keys = {"data.validation": 0.25, "metrics": ["accuracy"], **keys}
    if isinstance(keys["data.validation"], dict):
        keys["data.validation"] = {"held": str(folder / "a.jsonl")}
    with pytest.raises(RecipeError, match=message):
        start(folder, tmp_path / "run", **keys)
    assert not (tmp_path / "run").exists()


def test_evaluate_says_what_each_file_has(folder, tmp_path, capsys):
    run = start(folder, tmp_path / "run", **{"metrics": ["accuracy"], "updates": 2})
    ended(run)
    files = [folder / "a.jsonl", folder / "few.jsonl", folder / "b.jsonl"]
    found: Any = bigbatch.evaluate(tmp_path / "run", files)
    for file in files:
        alone: Any = bigbatch.evaluate(tmp_path / "run", file)
        assert "sources" not in alone
        for name in ("loss", "accuracy", "samples"):
            assert found["sources"][file.stem][name] == pytest.approx(alone[name], rel=1e-6)
    counts = [found["sources"][file.stem]["samples"] for file in files]
    losses = [found["sources"][file.stem]["loss"] for file in files]
    assert found["samples"] == sum(counts) and found["loss"] == pytest.approx(
        np.average(losses, weights=counts)
    )
    with pytest.raises(SystemExit) as ended_with:
        main(["evaluate", str(tmp_path / "run"), *map(str, files)])
    assert not ended_with.value.code
    assert "sources.few.accuracy" in capsys.readouterr().out


def test_evaluate_of_several_files_of_documents(folder, tmp_path):
    for blocks, shown in (("documents", True), ("fixed", False)):
        keys = {"task": {"name": "clm", "blocks": blocks}, "data.max_length": 12, "updates": 1}
        ended(start(folder, tmp_path / blocks, **keys))
        files = [str(folder / "a.jsonl"), str(folder / "b.jsonl")]
        found: Any = bigbatch.evaluate(tmp_path / blocks, files)
        assert ("sources" in found) == shown, "blocks of joined documents are of several files"
        if shown:
            for file in files:
                alone: Any = bigbatch.evaluate(tmp_path / blocks, file)
                assert found["sources"][Path(file).stem]["loss"] == pytest.approx(alone["loss"], rel=1e-6)
