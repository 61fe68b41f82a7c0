"""What a stranger writes from the base class alone: the example of its docstring, as a file of the user's own."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import json
import math
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bigbatch
from bigbatch.build.parts import Parts
from bigbatch.errors import DataError, RecipeError
from bigbatch.samples import Targets
from bigbatch.tasks.base import Task
from bigbatch.tasks.catalog import Foreign, as_task, build_task
from bigbatch.tasks.facts import TaskFacts
from tests.models import WORDS, tiny, tiny_folder, tiny_tokenizer
from tests.split import SMALL, Trajectory, assert_equal, gradient_error, parts_of, train_split


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example as `hardness.py`."""
    folder = tmp_path_factory.mktemp("stranger")
    example = inspect.getdoc(Task).split("::\n", 1)[1]  # type: ignore[union-attr]
    (folder / "hardness.py").write_text(textwrap.dedent(example))
    return folder


def sentences(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Of very uneven lengths; a word is as hard as it is long."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        words = [WORDS[each] for each in random.integers(0, len(WORDS), int(random.integers(1, 30)))]
        rows.append({"words": words, "hardness": [len(word) / 10 for word in words]})
    return rows


def job(place: Path, dtype: torch.dtype, micro_tokens: int, packing: str) -> Parts:
    tokenizer = tiny_tokenizer(place / "words", WORDS)
    model = tiny("bert", head="tokens", num_labels=1, vocab_size=len(tokenizer), seed=1, **SMALL).to(dtype)
    return parts_of(
        model,
        sentences(60),
        "regression",
        micro_tokens=micro_tokens,
        packing=packing,
        tokenizer=tokenizer,
        batch=24,
        task={"name": f"{place / 'hardness.py'}:Hardness", "power": 1.5},
        regularise={"dropout": 0.0},
    )


def train(*how: Any) -> Trajectory:
    return train_split(job(*how), 4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_however_it_is_cut_it_is_the_same(place: Path, dtype: torch.dtype) -> None:
    whole = train(place, dtype, 10**6, "padded")
    assert whole.micro_batches == [1] * 4
    for micro_tokens, packing in ((64, "padded"), (64, "packed"), (200, "packed")):
        split = train(place, dtype, micro_tokens, packing)
        assert min(split.micro_batches) > 1
        assert_equal(split, whole, dtype)


def test_a_mean_of_means_would_not_be(place: Path) -> None:
    """Micro-batches that are each divided by their own words."""
    parts = job(place, torch.float64, 64, "padded")
    task, pieces = parts.task, []

    class Means(type(task)):  # type: ignore[misc]
        def loss(self, outputs, targets):
            pieces.append(len(outputs))
            return {name: values / len(outputs) for name, values in super().loss(outputs, targets).items()}

        def denominators(self, targets):
            return {"error": float(expected)}

    expected = len(train_split(job(place, torch.float64, 64, "padded"), 1).pieces[0])
    naive = Means(**task.options, facts=task.facts)
    parts.strategy = replace(parts.strategy, task=naive)
    parts.strategy.executor._rule._task = naive  # type: ignore[attr-defined]
    found = train_split(parts, 1)
    assert len(pieces) == expected > 1
    whole = train_split(job(place, torch.float64, 10**6, "padded"), 1)
    assert gradient_error(found.gradients[0], whole.gradients[0]) > 0.01


def test_it_trains_evaluates_and_predicts(place: Path, tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "bert", head="tokens", num_labels=2)
    for name, rows in (("train", sentences(60)), ("valid", sentences(20, 1))):
        (place / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (place / "recipe.yaml").write_text(
        f"model: {folder}\ntask: hardness.py:Hardness\ndata: {{train: train.jsonl, validation: valid.jsonl}}\n"
        "batch: 20\nupdates: 30\noptimizer: {lr: 0.005}\nplan: {threads: 1}\n"
    )
    run = bigbatch.train(place / "recipe.yaml", run_dir=tmp_path / "run")
    losses = bigbatch.read(run.path).updates.column("loss").to_pylist()
    assert losses[-1] < losses[0] / 2
    assert run.metrics["validation.loss"] < losses[0] / 2
    found = run.predict([{"words": ["flight", "was", "late"]}])
    values = [unit["value"] for unit in found[0]["units"]]
    assert len(values) == 3 and all(map(math.isfinite, values))
    opened = bigbatch.predict(run.path, [["flight", "was", "late"], []], code=True)
    assert [unit["value"] for unit in opened[0]["units"]] == pytest.approx(values, rel=1e-4)
    assert opened[1] == {"units": []}
    figures = bigbatch.evaluate(run.path, str(place / "valid.jsonl"), code=True)
    assert figures["loss"] == pytest.approx(run.metrics["validation.loss"], rel=1e-4)
    assert "# Token classifier" in (run.path / "model" / "README.md").read_text()


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"words": ["a", "b"], "hardness": [1.0]}, "2 words, but 1 numbers"),
        ({"words": ["a"], "hardness": ["x"]}, "expected a number, found 'x'"),
        ({"words": ["a"], "hardness": [math.nan]}, "number 1 is nan"),
        ({"words": ["a"], "hardness": 3}, "expected a list of numbers, found int"),
        ({"words": ["a"], "hardness": None}, "missing numbers"),
    ],
)
def test_numbers_of_words_are_checked_before_anything(
    place: Path, tmp_path: Path, row: Any, what: str
) -> None:
    folder = tiny_folder(tmp_path / "bert", head="tokens", num_labels=2)
    with pytest.raises(DataError, match=what):
        bigbatch.train(
            str(folder),
            [*sentences(5), row],
            task=f"{place / 'hardness.py'}:Hardness",
            run_dir=tmp_path / "r",
        )


def hardness(place: Path) -> type[Task[Any]]:
    spec = importlib.util.spec_from_file_location("hardness", place / "hardness.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Hardness


def test_facts_reach_it_and_are_no_options(place: Path) -> None:
    task = hardness(place)(power=3.0)  # type: ignore[call-arg]
    told = task.with_facts(max_length=7, data_seed=3)
    assert (told.facts.max_length, told.facts.data_seed, task.facts) == (7, 3, TaskFacts())
    assert told.options == task.options == {"power": 3.0} and told.written_in is type(task)
    assert (task.couples, task.clock, task.kind, task.has_view, task.longest) == (
        "sample", "samples", "regression", False, None,
    )  # fmt: skip
    with pytest.raises(
        RecipeError, match=r"hardness.*task\.facts: unknown option|task\.facts: unknown option"
    ):
        build_task(f"{place / 'hardness.py'}:Hardness", {"facts": None}, place)


def test_what_a_task_does_not_have_is_named(place: Path, tmp_path: Path) -> None:
    (tmp_path / "less.py").write_text((place / "hardness.py").read_text().split("    def decode")[0])
    with pytest.raises(RecipeError, match="Hardness is no task: it has no decode"):
        build_task(f"{tmp_path / 'less.py'}:Hardness", {}, tmp_path)
    with pytest.raises(RecipeError, match="int is no task: it has no roles, encode"):
        as_task(3)
    with pytest.raises(
        RecipeError, match=r"unknown metric 'f1' of this task \(known: mse, .*, file.py:name\)"
    ):
        hardness(place)().check_metric("f1")


def test_a_task_without_the_base_keeps_what_it_has(place: Path) -> None:
    class Bare:
        roles, couples, max_length, label_names = {}, "batch", 5, ("a",)

        def encode(self, row, tokenizer):
            return row

        def denominators(self, targets):
            return {"x": 1.0}

        def loss(self, outputs, targets):
            return {"x": outputs}

        def decode(self, outputs):
            return outputs

        def fixed(self, table):
            return "fixed"

    task = as_task(Bare())
    assert isinstance(task, Foreign) and task is as_task(task)
    assert (task.couples, task.longest, task.label_names, task.has_view) == ("batch", 5, ("a",), False)
    assert task.fixed(None) == "fixed" and task.arrange(None) is None  # type: ignore[arg-type]
    assert task.written_in is Bare and task.metrics == () and task.head.kind == "sequence"
    assert task.encode_batch([1, 2], None) == [1, 2]  # type: ignore[list-item]
    kept = task.kept_loss(np.ones((2, 1)), Targets(values=np.ones(2), weights=np.ones(2)))
    assert kept["x"].tolist() == [[1.0], [1.0]]
    assert copy.copy(task).own is task.own
