"""From a real (tiny) model to a plan: what is probed, what is measured, what is remembered, what falls back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bigbatch.build import compiling, measure, measured
from bigbatch.build.build import Given, build
from bigbatch.build.inputs import Live, read_inputs
from bigbatch.build.live import live_task
from bigbatch.build.measured import Budget
from bigbatch.build.parts import Parts
from bigbatch.graph import lazy
from bigbatch.graph.dropout import QuickDropout
from bigbatch.plan.forward import ForwardPlan
from bigbatch.plan.timing import Load
from bigbatch.probe.load import LoadWatch
from bigbatch.recipe.load import load_recipe
from tests.models import tiny
from tests.split import rows_of

ROWS = rows_of("single", 60, longest=30)


def parts_of(
    module: Any = None, cache: Path | None = None, said: list[str] | None = None, **keys: Any
) -> Parts:
    recipe = load_recipe(
        {"model": {"name": None}, "data": {"train": []}, "batch": 16, "updates": 60, **keys}, environ={}
    )
    live = Live(module=module or tiny("bert", dropout=0.1), train=ROWS)
    task = live_task(recipe, live)
    say = said.append if said is not None else lambda text: None
    given = Given(live=live, cache_dir=cache, say=say)
    return build(recipe, task, read_inputs(recipe, task, live), given)


def how(parts: Parts) -> ForwardPlan:
    return ForwardPlan.of(parts.plan.choices)


def test_a_classifier_is_lazy_and_lets_go_of_its_model() -> None:
    module = tiny("bert", dropout=0.1)
    parts = parts_of(module)
    found = how(parts)
    assert (found.packing, found.last_block, found.dropout_masks) == ("packed", "read tokens", "quick")
    assert found.attention in ("chunked", "sdpa") and found.compile == "off" and found.recompute == "none"
    assert (found.attention, parts.plan.choices["attention"].source) == ("chunked", "default")
    assert any(isinstance(part, QuickDropout) for part in module.modules())
    parts.forward.close()
    assert not any(isinstance(part, QuickDropout) for part in module.modules())
    assert module.config._attn_implementation == "sdpa"
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_the_plain_way_on_request() -> None:
    found = how(parts_of(plan={"lazy": False, "packing": "padded", "compile": "off"}))
    assert found == ForwardPlan()


def test_a_last_block_that_is_wrong_is_found_by_the_probe_and_runs_in_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = lazy._rows_of

    def wrong(value: Any, last: Any, tokens: int) -> Any:
        found = right(value, last, tokens)
        return found * 1.01 if isinstance(found, torch.Tensor) and found.is_floating_point() else found

    monkeypatch.setattr(lazy, "_rows_of", wrong)
    parts = parts_of()
    assert how(parts).packing == "packed" and how(parts).last_block == "all tokens"
    assert "off by" in parts.plan.choices["last_block"].reason


def test_a_last_block_that_fails_runs_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("no such argument")

    monkeypatch.setattr(lazy, "_rows_of", fails)
    parts = parts_of()
    assert how(parts).last_block == "all tokens"
    assert "no such argument" in parts.plan.choices["last_block"].reason


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else this machine does."""
    monkeypatch.setattr(LoadWatch, "load", lambda self: None)


def test_what_was_measured_is_remembered_for_the_same_model_and_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "_SIZES_MAY_SAVE", 1e9)  # trying sizes pays
    said: list[str] = []
    cache = tmp_path / "tokens"
    first = parts_of(cache=cache, said=said)
    assert not any("as measured before" in text for text in said)
    (file,) = (tmp_path / "calibration").glob("*.json")
    again = parts_of(cache=cache, said=said)
    assert any("as measured before" in text for text in said)
    for name in ("micro_tokens", "evaluation_micro_tokens", "attention"):
        assert again.plan.value(name) == first.plan.value(name)
    parts_of(cache=cache, module=tiny("bert", hidden_size=16))
    assert len(list((tmp_path / "calibration").glob("*.json"))) == 2
    for damage in ("{", json.dumps({"micro_tokens": "many"})):
        file.write_text(damage)
        said.clear()
        parts_of(cache=cache, said=said)
        assert not any("as measured before" in text for text in said)


def test_little_memory_makes_blocks_recompute_and_the_run_still_works() -> None:
    free = parts_of(tiny("bert", num_hidden_layers=6), plan={"micro_tokens": 2048})
    peak = free.plan.choices["peak_memory_bytes"]
    without = peak.value["activations"]
    limit = sum(
        size
        for name, size in peak.value.items()
        if name not in ("activations", "calibration", "evaluation", "update")
    )
    parts = parts_of(
        tiny("bert", num_hidden_layers=6),
        plan={"micro_tokens": 2048, "memory": int(limit + without * 0.6) + 64 * 2**20, "recompute": "blocks"},
    )
    assert (how(parts).recompute, how(parts).recomputed_blocks) == ("blocks", 5)
    blocks = [
        block for block in parts.module.modules() if getattr(block, "gradient_checkpointing", False) is True
    ]
    assert len(blocks) == 5
    parts.forward.close()


def test_compiling_that_cannot_work_is_said_and_eager_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", fails)
    parts = parts_of(plan={"compile": "blocks"})
    assert how(parts).compile == "off" and "no C++ compiler" in parts.plan.choices["compile"].reason


def test_short_runs_are_not_compiled() -> None:
    reason = parts_of().plan.choices["compile"].reason
    assert "only plan.compile=blocks compiles on a CPU" in reason


def test_a_lazy_run_gives_the_plain_runs_gradient() -> None:
    """Through build, executor and loss, as a run does it; dropout off."""
    gradients = []
    for keys in ({"lazy": False, "packing": "padded", "micro_tokens": 10_000}, {"micro_tokens": 100}):
        parts = parts_of(tiny("bert").double(), plan=keys)
        batch = parts.batches.at(0, 1)
        from bigbatch.data.packs import micro_batches

        pieces = micro_batches(batch, micro_tokens=parts.micro_tokens, packing=parts.packing)
        parts.strategy.executor.accumulate(1, pieces, parts.task.denominators(batch.targets))
        gradients.append(
            torch.cat([item.grad.flatten() for item in parts.strategy.parameters if item.grad is not None])
        )
        parts.forward.close()
    assert np.isclose(float((gradients[0] - gradients[1]).norm() / gradients[0].norm()), 0, atol=1e-10)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_compiled_run_counts_its_recompilations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bigbatch
    from bigbatch.graph import compiled

    right = compiled._code_of
    monkeypatch.setattr(compiled, "_code_of", lambda function, _, mode: right(function, "aot_eager", mode))
    torch._dynamo.reset()
    settings = {
        "updates": 4,
        "batch": 16,
        "plan.compile": "blocks",
        "plan.micro_tokens": 64,
        "plan.threads": 1,
    }
    run = bigbatch.train(tiny("bert"), ROWS, set=settings, run_dir=tmp_path / "run")
    assert run.plan.value("compile") == "blocks", run.plan.choices["compile"].reason
    assert 0 <= run.result["recompilations"] <= compiled.MOST_RECOMPILATIONS
    assert all("forward" not in vars(part) for part in run.model.modules())


BUSY = Load(wall_seconds=10.0, cpu_seconds=5.0, waited_seconds=10.0, others_cores=1.4, cores=2)


def test_beside_other_work_one_size_is_measured_and_the_forecast_is_for_a_quiet_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "_SIZES_MAY_SAVE", 1e9)
    monkeypatch.setattr(LoadWatch, "load", lambda self: BUSY)
    said: list[str] = []
    parts = parts_of(cache=tmp_path / "tokens", said=said)
    assert any("other processes use 1.4 of 2 cores" in text for text in said)
    micro = parts.plan.choices["micro_tokens"]
    assert (micro.value, micro.source) == (4096, "default")  # of a model this narrow
    assert "other processes use 1.4 of 2 cores: speeds cannot be compared" in micro.reason
    train = parts.plan.choices["train_seconds"]
    assert "which may make it 3.0 times as long" in train.reason
    # What was measured beside other work is not taken for the machine's speed later.
    assert not list((tmp_path / "calibration").glob("*.json"))
    # A figure from a quiet time is used in its place.
    monkeypatch.setattr(LoadWatch, "load", lambda self: None)
    parts_of(cache=tmp_path / "tokens")
    (file,) = (tmp_path / "calibration").glob("*.json")
    content = {**json.loads(file.read_text()), "seconds_per_token": 1.0, "seconds_per_update": 0.5}
    file.write_text(json.dumps(content))
    monkeypatch.setattr(LoadWatch, "load", lambda self: BUSY)
    forecast = parts_of(cache=tmp_path / "tokens").plan.choices["train_seconds"].prediction
    tokens = parts.clocks.lengths.tokens / parts.clocks.lengths.samples * parts.clocks.length.samples
    assert forecast == pytest.approx(tokens + 0.5 * parts.clocks.length.updates, rel=0.05)


def test_sizes_are_not_tried_when_that_takes_longer_than_it_saves() -> None:
    micro = parts_of().plan.choices["micro_tokens"]
    assert (micro.value, micro.source) == (4096, "default")
    assert "more than the 1% that it may save" in micro.reason


@pytest.mark.parametrize(
    ("spent", "run", "seconds", "may_save", "told"),
    [
        (0.0, 100.0, 9.0, 1.0, ""),  # ten seconds are always there
        (2.0, 100.0, 9.0, 1.0, "all measuring before a run of 1 min 40 s may take 10.0 s"),
        (2.0, 1000.0, 9.0, 1.0, ""),  # 3 % of a long run
        (25.0, 1000.0, 9.0, 1.0, "may take 30.0 s"),
        (0.0, 100.0, 9.0, 0.05, "more than the 5% that it may save"),
    ],
)
def test_measuring_has_a_budget(spent: float, run: float, seconds: float, may_save: float, told: str) -> None:
    now = [100.0]
    account = Budget(run_tokens=run * 1000, clock=lambda: now[0])
    now[0] += spent
    assert account.spent_seconds == spent
    refused = account.refusal(seconds, 1e-3, may_save=may_save)
    assert told in refused if told else refused == ""


def test_nothing_is_compiled_on_a_cpu_however_long_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "LEAST_SECONDS", 1e9)
    monkeypatch.setattr(compiling, "_MAY_SAVE", 1e9)
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    assert how(parts_of()).compile == "off"
