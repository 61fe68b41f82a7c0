from __future__ import annotations

import csv
import json
import logging
from dataclasses import replace

import numpy as np
import pytest

from bigbatch import commands
from bigbatch.errors import RecipeError, UsageError
from bigbatch.recipe.load import load_recipe
from bigbatch.study import bench as bench_module
from bigbatch.study.bench import bench, largest_share
from bigbatch.study.jobs import Outcome
from bigbatch.study.prepare import refuse_what_others_lack
from bigbatch.study.results import read_results
from bigbatch.study.runner import CONTESTANTS, Contestant


@pytest.fixture(scope="module")
def found(place, tmp_path_factory):
    """Two contestants in processes of their own, one round of two counted updates."""
    out = tmp_path_factory.mktemp("found")
    recipe = load_recipe(place / "recipe.yaml")
    return bench(
        recipe, out=out, updates=2, rounds=1, contestants=("torch-loop", "bigbatch"), command="a test"
    ), out


@pytest.mark.slow
def test_contestants_run_as_processes_and_are_compared(found):
    results, _ = found
    [turn] = results.rounds
    assert {name: outcome.failed for name, outcome in turn.outcomes.items()} == {
        "torch-loop": None,
        "bigbatch": None,
    }
    assert turn.ceiling_flops > 0
    for outcome in turn.outcomes.values():
        assert (outcome.samples, outcome.tokens) == (128, results.setting["counted_tokens"])
        assert outcome.predict_samples == 128
        assert len(outcome.update_ends) == 3
        assert outcome.first_update_seconds > 0.5  # nobody imports torch faster
        assert outcome.seconds == pytest.approx(outcome.update_ends[2] - outcome.update_ends[0])
        assert outcome.peak_memory_bytes > 100e6
    ours, loop = turn.outcomes["bigbatch"], turn.outcomes["torch-loop"]
    assert (ours.loss, ours.grad_norm) == pytest.approx((loop.loss, loop.grad_norm), rel=1e-5)


@pytest.mark.slow
def test_results_are_kept_and_scratch_is_not(found, place):
    results, out = found
    assert read_results(out / "results.json") == results
    assert "| bigbatch" in (out / "results.md").read_text(encoding="utf-8")
    assert sorted(path.name for path in out.iterdir()) == ["results.json", "results.md"]
    assert sorted(path.name for path in place.iterdir()) == ["data.csv", "model", "recipe.yaml"]


@pytest.fixture(scope="module")
def competed(place, tmp_path_factory):
    """Every contestant on the same job, in this process; each takes 16 samples at once, but the newcomer 32."""
    pytest.importorskip("accelerate", reason="Hugging Face's Trainer needs accelerate: the extra `bench`")
    from bigbatch.study.contestants import ours, torch_loop, trainer
    from bigbatch.study.prepare import prepare

    folder = tmp_path_factory.mktemp("competed")
    prepared = prepare(
        load_recipe(place / "recipe.yaml"), folder, counted_updates=2, warmup_updates=1, compiled=False
    )
    half = replace(prepared.job, micro_samples=16)
    logging.disable(logging.WARNING)
    try:
        return {
            "hf-default": trainer.compete("hf-default", replace(prepared.job, micro_samples=32)),
            "hf-best": trainer.compete("hf-best", half),
            "torch-loop": torch_loop.compete("torch-loop", half),
            "bigbatch": ours.compete("bigbatch", half),
            "trial": trainer.compete("hf-best", replace(prepared.job, trial=(8, 16))),
        }, prepared
    finally:
        logging.disable(logging.NOTSET)


def test_all_make_the_same_first_update(competed):
    """Loss and gradient norm, dropout 0, 64 samples as 4 x 16 or packed."""
    outcomes, _ = competed
    reference = outcomes["torch-loop"]
    for name in ("hf-best", "bigbatch"):
        assert outcomes[name].loss == pytest.approx(reference.loss, rel=1e-5)
        assert outcomes[name].grad_norm == pytest.approx(reference.grad_norm, rel=1e-5)
    # 64 as 2 x 32. When this fails, transformers has repaired it, and docs/benchmarks.md must be written anew.
    assert outcomes["hf-default"].loss == pytest.approx(2 * reference.loss, rel=1e-5)


def test_all_count_the_same_samples_and_tokens(competed):
    outcomes, prepared = competed
    counted = {(one.samples, one.tokens) for name, one in outcomes.items() if name != "trial"}
    assert counted == {(128, prepared.setting["counted_tokens"])}


def test_the_trial_finds_the_fastest_size(competed):
    outcomes, _ = competed
    details = outcomes["trial"].details
    assert set(details["trial_seconds"]) == {8, 16}
    assert details["micro_samples"] == min(details["trial_seconds"], key=details["trial_seconds"].get)


def test_texts_of_the_common_file_are_the_recipes(competed, place):
    """Line breaks and quotes inside a text survive; held-out rows are left out for everybody."""
    from bigbatch.study.contestants.common import read_rows

    _, prepared = competed
    with (place / "data.csv").open(encoding="utf-8", newline="") as file:
        given = {(row["review"], row["stars"]) for row in csv.DictReader(file)}
    rows = read_rows(prepared.job)
    assert 85 < len(rows) < 95  # a tenth is held out, stratified
    assert {(row["text"], row["label"]) for row in rows} <= given
    assert any("\n" in row["text"] for row in rows)


def script(body: str) -> Contestant:
    """A contestant that is a few lines of Python; sys.argv as for the others."""
    return Contestant(command=("-c", body))


STAND_IN = """
import json, sys, time
job = json.load(open(sys.argv[2]))
now = time.time()
json.dump({"update_ends": [now, now + 1, now + 3], "warmup_updates": job["warmup_updates"], "samples": 6,
           "tokens": 30, "peak_memory_bytes": 5, "details": {"micro_samples": job["micro_samples"]}}, open(sys.argv[3], "w"))
"""


@pytest.fixture
def stand_ins(monkeypatch):
    """Contestants that take no time, one of them with a fault."""
    crash = "import sys; print('no such kernel', file=sys.stderr); sys.exit(9)"
    monkeypatch.setitem(CONTESTANTS, "torch-loop", script(crash))
    monkeypatch.setitem(CONTESTANTS, "bigbatch", script(STAND_IN))
    monkeypatch.setattr(bench_module, "CEILING", script(STAND_IN))
    monkeypatch.setattr(bench_module, "checked", lambda outcome, tokens: outcome)  # they count nothing


def test_a_contestant_that_crashes_is_reported_and_the_others_go_on(stand_ins, recipe, tmp_path):
    said = []
    results = bench(
        recipe, out=tmp_path, updates=2, rounds=2, contestants=("torch-loop", "bigbatch"), say=said.append
    )
    for turn in results.rounds:
        assert turn.outcomes["torch-loop"].failed == "exit code 9\nno such kernel"
        assert turn.outcomes["bigbatch"].failed is None
        assert turn.outcomes["bigbatch"].tokens_per_second == pytest.approx(10)
    assert any("no such kernel" in line for line in said)
    assert "no such kernel" in (tmp_path / "results.md").read_text(encoding="utf-8")


def test_what_else_lies_beside_the_results_stays(stand_ins, recipe, tmp_path):
    for name in ("work", "profile", ".bench-"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.tex").write_text("mine")
    bench(recipe, out=tmp_path, updates=2, rounds=1, contestants=("bigbatch",))
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(
        ["work", "profile", ".bench-", *3 * ["thesis.tex"], "results.json", "results.md"]
    )


def test_one_that_hangs_is_ended(stand_ins, recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(CONTESTANTS, "torch-loop", script("import time; time.sleep(60)"))
    results = bench(
        recipe, out=tmp_path, updates=2, rounds=1, contestants=("torch-loop", "bigbatch"), timeout_seconds=1
    )
    assert results.rounds[0].outcomes["torch-loop"].failed == "took longer than 1 s"


def test_resume_keeps_the_rounds_of_the_same_benchmark_only(stand_ins, recipe, tmp_path):
    only = {"out": tmp_path, "updates": 2, "contestants": ("bigbatch",)}
    saved = []
    first = bench(
        recipe,
        rounds=1,
        saved=lambda: saved.append(len(json.loads((tmp_path / "results.json").read_text())["rounds"])),
        **only,
    )
    more = bench(recipe, rounds=3, resume=True, **only)
    assert (len(more.rounds), more.rounds[0], saved) == (3, first.rounds[0], [1])
    anew = bench(recipe, rounds=1, **only)
    assert len(anew.rounds) == 1 and anew.rounds[0] != first.rounds[0]
    other = bench(recipe, rounds=1, resume=True, **{**only, "updates": 1})
    assert other.rounds[0].outcomes["bigbatch"].started_at > anew.rounds[0].outcomes["bigbatch"].started_at


def test_no_round_is_begun_that_would_end_too_late(stand_ins, recipe, tmp_path):
    said = []
    results = bench(
        recipe,
        out=tmp_path,
        updates=2,
        rounds=5,
        contestants=("bigbatch",),
        max_seconds=1e-3,
        say=said.append,
    )
    assert len(results.rounds) == 1
    assert "no time for round 2 of 5" in said


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"against": "composer"}, "--against composer: expected hf"),
        ({"updates": 0}, "--updates 0"),
        ({"contestants": ("hf-worst",)}, "no contestant is called hf-worst"),
    ],
)
def test_wrong_words(recipe, tmp_path, keywords, words):
    with pytest.raises(UsageError, match=words):
        bench(recipe, out=tmp_path / "x", **keywords)
    assert not (tmp_path / "x").exists()


def test_without_accelerate_it_says_what_to_install(recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(
        CONTESTANTS, "hf-best", Contestant(command=("-c", "pass"), needs=("no_such_package_here",))
    )
    with pytest.raises(UsageError, match=r"no_such_package_here.*pip install 'bigbatch\[bench\]'"):
        bench(recipe, out=tmp_path / "x")


def test_what_others_lack_is_refused_with_its_key(place, tmp_path):
    recipe = load_recipe(
        place / "recipe.yaml", ["optimizer.name=lamb", "loss.label_smoothing=0.1", "batch.tokens=64"]
    )
    with pytest.raises(RecipeError) as caught:
        bench(recipe, out=tmp_path / "x", contestants=("bigbatch",))
    assert [problem.key for problem in caught.value.problems] == [
        "batch.samples",
        "optimizer.name",
        "loss.label_smoothing",
    ]


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        (["model.attention=local", "model.memory=16"], ["model.attention", "model.memory"]),
        (["model.attention=full", "model.memory=0"], []),
    ],
)
def test_patterns_of_attention_and_memory_are_not_compared(place, options, keys):
    recipe = load_recipe(place / "recipe.yaml", options)
    try:
        refuse_what_others_lack(recipe)
        found = []
    except RecipeError as refused:
        found = [problem.key for problem in refused.problems]
    assert found == keys


def test_an_outcome_over_other_tokens_is_none(competed):
    outcome = competed[0]["bigbatch"]
    assert bench_module.checked(outcome, outcome.tokens) is outcome
    assert "tokens where the samples have 7" in bench_module.checked(outcome, 7).failed
    assert bench_module.checked(Outcome(failed="boom"), 7).failed == "boom"


def test_the_command_names_folder_and_words(stand_ins, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(bench_module.AGAINST, "hf", ("bigbatch",))
    results = commands.bench(place / "recipe.yaml", ["batch=32"], updates=2, rounds=1)
    assert results.setting["batch_samples"] == 32
    assert results.command.endswith("recipe.yaml batch=32 --against hf --updates 2 --rounds 1")
    assert read_results(tmp_path / "runs" / "bench-recipe" / "results.json") == results


def test_samples_at_once_divide_the_batch():
    assert [largest_share(batch, 32) for batch in (256, 100, 20, 37)] == [32, 25, 20, 1]


def test_the_grouped_order_holds_the_same_samples_in_every_counted_stretch():
    from bigbatch.study.contestants.trainer import grouped_order
    from tests.study.test_results import job

    given = job(order=tuple(range(24)), batch_samples=4, warmup_updates=2, counted_updates=4)
    lengths = [(7 * row) % 23 for row in range(24)]
    order = grouped_order(given, lengths)
    assert set(order[:4]) == {0, 1, 2, 3} and set(order[4:8]) == {4, 5, 6, 7}
    assert sorted(order[8:]) == list(range(8, 24))
    counted = np.array([lengths[row] for row in order[8:]])
    assert (np.diff(counted) <= 0).all()
