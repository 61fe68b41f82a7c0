from __future__ import annotations

import json

import pytest
import torch

from bigbatch.errors import Diverged, DoesNotFit, RecipeError
from bigbatch.records import Evaluate, Save, Stop
from tests.jobs import HELD_OUT, Faulty, differing, document, events, exhaust, lines, start, weights
from tests.models import tiny
from tests.split import rows_of

HARD = rows_of("single", 16, longest=20, seed=5)


def poison(losses_U):
    """One unit is not a number."""
    return torch.cat([losses_U[:1] * float("nan"), losses_U[1:]])


def infinite_gradient(losses_U):
    """The loss is fine, its gradient is not."""
    losses_U.register_hook(lambda gradient: gradient * float("inf"))
    return losses_U


# ---------------------------------------------------------------- not finite


@pytest.mark.parametrize(
    ("fault", "broken"),
    [(poison, "loss"), (infinite_gradient, "grad_norm")],
    ids=["nan loss", "inf gradient"],
)
def test_a_broken_update_is_skipped_whole_and_the_clock_goes_on(tmp_path, fault, broken):
    loss, snapshots = Faulty(), {}
    with start(tmp_path / "r", loss=loss) as run:
        for record in run:
            if record.kind == "update":
                snapshots[record.step] = weights(run)
                loss.fault = fault if record.step == 1 else None
    assert run.status == "finished"
    first, second, third, _ = lines(tmp_path / "r", "update")
    assert not differing(snapshots[1], snapshots[2])
    assert differing(snapshots[2], snapshots[3])
    steps = {float(value) for name, value in snapshots[3].items() if name.startswith("step/")}
    assert steps == {2.0}, "Adam's own count must not see the skipped update"
    assert second["skipped"] and second["nonfinite"] and second[broken] is None
    assert not first["skipped"] and "nonfinite" not in first and not third["skipped"]
    assert [second["samples"], third["samples"]] == [32, 48]
    assert second["tokens"] == first["tokens"] + second["batch_tokens"]
    assert first["lr"] > second["lr"] > third["lr"], "the schedule follows samples, skipped or not"


def test_the_event_of_a_skipped_update_names_its_samples(tmp_path):
    loss, seen = Faulty(), []
    with start(tmp_path / "r", loss=loss) as run:
        for record in run:
            loss.fault = poison if record.step == 1 else None
            seen.append(record)
    (event,) = events(tmp_path / "r", "nonfinite")
    expected = run._parts.batches.at(16, 2).sample_ids_B.tolist()
    assert event["step"] == 2 and event["sample_ids"] == expected
    kinds = [(record.kind, record.step) for record in seen]
    assert kinds.index(("event", 2)) == kinds.index(("update", 2)) + 1


def test_patience_in_a_row_is_the_end(tmp_path):
    loss = Faulty()
    with (
        pytest.raises(Diverged, match="3 updates in a row") as error,
        start(tmp_path / "r", loss=loss, set={"updates": 8, "guard.patience": 3}) as run,
    ):
        for record in run:
            # two broken, one fine, then broken for good: only a row counts
            loss.fault = None if record.step in (0, 2, 3) and record.kind == "update" else poison
            if record.kind == "update" and record.step == 1:
                loss.fault = None
    assert error.value.exit_code == 5
    assert run.status == "failed" and document(tmp_path / "r", "status.json")["state"] == "failed"
    assert [line["skipped"] for line in lines(tmp_path / "r", "update")][-3:] == [True] * 3
    assert not (tmp_path / "r/result.json").exists()


def test_stop_at_the_first_broken_update_if_asked(tmp_path):
    loss = Faulty()
    with (
        pytest.raises(Diverged, match="on_nonfinite"),
        start(tmp_path / "r", loss=loss, set={"guard.on_nonfinite": "stop"}) as run,
    ):
        for _ in run:
            loss.fault = poison
    assert len(lines(tmp_path / "r", "update")) == 2


# ---------------------------------------------------------------- out of memory


class Memory:
    """A forward hook that runs out of memory above `tokens` computed tokens, once armed."""

    def __init__(self, module, error, tokens):
        self.error, self.tokens, self.armed, self.on_replay = error, tokens, False, None
        self.hits = 0
        module.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module, args, kwargs):
        if not self.armed:
            return
        if kwargs["input_ids"].numel() > self.tokens:
            self.hits += 1
            raise self.error
        if self.hits and self.on_replay:
            self.on_replay()
            self.on_replay = None


ERRORS = {
    "torch": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "allocator": RuntimeError(
        "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"
    ),
    "python": MemoryError(),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_out_of_memory_halves_the_micro_batch_and_does_the_update_again(tmp_path, error):
    module, planned = tiny("bert", dropout=0.1), []
    memory = Memory(module, error, tokens=40)
    memory.on_replay = lambda: planned.append(
        json.loads((tmp_path / "r/plan.json").read_text())["micro_tokens"]["value"]
    )
    with start(tmp_path / "r", module, set={"plan.micro_tokens": 128}) as run:
        memory.armed = True
        for _ in run:
            pass
    assert memory.hits == 2 and planned == [32], "the plan is on the disk before the replay"
    found = events(tmp_path / "r", "out_of_memory")
    assert [(event["micro_tokens_before"], event["micro_tokens"]) for event in found] == [(128, 64), (64, 32)]
    assert [line["step"] for line in lines(tmp_path / "r", "update")] == [1, 2, 3, 4]
    small = exhaust(start(tmp_path / "s", tiny("bert", dropout=0.1), set={"plan.micro_tokens": 32}))
    assert not differing(weights(run), weights(small))
    for mine, theirs in zip(lines(tmp_path / "r", "update"), lines(tmp_path / "s", "update"), strict=True):
        keys = ("loss", "grad_norm", "lr", "samples", "tokens", "padding_share")
        assert [mine[key] for key in keys] == [theirs[key] for key in keys]


def test_what_cannot_get_smaller_does_not_fit(tmp_path):
    module = tiny("bert")
    memory = Memory(module, ERRORS["torch"], tokens=0)
    with (
        pytest.raises(
            DoesNotFit, match=r"out of memory even with micro-batches of 16 tokens.*what would fit"
        ),
        start(tmp_path / "r", module) as run,
    ):
        memory.armed = True
        for _ in run:
            pass
    assert run.status == "failed" and document(tmp_path / "r", "status.json")["update"] == 0


def test_another_runtime_error_is_not_taken_for_lack_of_memory(tmp_path):
    module = tiny("bert")
    memory = Memory(module, RuntimeError("index out of range"), tokens=0)
    with pytest.raises(RuntimeError, match="index out of range"), start(tmp_path / "r", module) as run:
        memory.armed = True
        for _ in run:
            pass
    lines = [json.loads(line) for line in (tmp_path / "r/metrics.jsonl").read_text().splitlines()]
    assert run.status == "failed" and [line["event"] for line in lines] == ["failed"]


def test_an_evaluation_that_runs_out_of_memory_is_cut_smaller_too(tmp_path):
    module = tiny("bert")
    memory = Memory(module, ERRORS["torch"], tokens=40)
    with start(tmp_path / "r", module, validation=HELD_OUT) as run:
        for record in run:
            memory.armed = record.kind == "update" and record.step == 4
    (event,) = events(tmp_path / "r", "out_of_memory")
    assert event["micro_tokens"] == 32 and "evaluation of validation" in event["did"]
    assert run.status == "finished" and run.metrics["validation.loss"] > 0


# ---------------------------------------------------------------- evaluation


def test_evaluating_changes_no_bit_of_training(tmp_path):
    never = exhaust(start(tmp_path / "a"))
    often = start(tmp_path / "b", validation=HELD_OUT, set={"run.evaluate_every": "1 updates"})
    with often:
        for record in often:
            if record.kind == "update" and record.step == 4:
                assert not differing(weights(often), weights(never))
    assert len(lines(tmp_path / "b", "eval")) == 4


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        ("1 updates", [1, 2, 3, 4, 5, 6]),
        ("40 samples", [3, 5, 6]),
        ("1 epochs", [4, 6]),
        ("end", [6]),
        ("never", [6]),
    ],
)
def test_intervals_fire_after_the_first_update_that_crosses_the_mark(tmp_path, every, steps):
    exhaust(start(tmp_path / "r", validation=HELD_OUT, set={"updates": 6, "run.evaluate_every": every}))
    assert [line["step"] for line in lines(tmp_path / "r", "eval")] == steps


class Scripted:
    """A metric whose value is the next of a list: evaluations end as the test wants."""

    def __init__(self, values, name="scripted", larger=True):
        self.values, self.__name__, self.larger_is_better = list(values), name, larger

    def __call__(self, predictions, targets):
        return self.values.pop(0)


def scripted(tmp_path, values, *, larger=True, **keys):
    """A run that evaluates after every update, with these values; what its weights were then."""
    seen = {}
    metric = Scripted(values, larger=larger)
    run = start(
        tmp_path / "r",
        validation=HELD_OUT,
        metrics=[metric],
        set={
            "updates": 6,
            "run.evaluate_every": "1 updates",
            "best": {"metric": "scripted", "choose": "figure"},
            **keys,
        },
    )
    with run:
        for record in run:
            if record.kind == "update":
                seen[record.step] = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    return run, seen


@pytest.mark.parametrize(("larger", "step"), [(True, 2), (False, 5)])
def test_the_model_folder_holds_the_best_weights_not_the_latest(tmp_path, larger, step):
    from transformers import AutoModelForSequenceClassification

    values = [0.5, 0.9, 0.9, 0.7, 0.2, 0.8]
    run, seen = scripted(tmp_path, [*values, values[step - 1]], larger=larger)
    assert run.result["best"] == {"metric": "scripted", "value": values[step - 1], "step": step}
    kept = AutoModelForSequenceClassification.from_pretrained(tmp_path / "r/model").state_dict()
    assert not differing(kept, seen[step]), "of two equal evaluations the first is kept"
    assert not differing(run.model.state_dict(), seen[step])
    assert differing(kept, seen[6])
    assert run.metrics["validation.scripted"] == values[step - 1]
    (event,) = events(tmp_path / "r", "best_weights")
    assert f"update {step}" in event["did"]


def test_the_loss_chooses_the_weights_when_nothing_else_does(tmp_path):
    keys = {"run.evaluate_every": "1 updates", "best.choose": "figure"}
    run = exhaust(start(tmp_path / "r", validation=HELD_OUT, set=keys))
    losses = [line["loss"] for line in lines(tmp_path / "r", "eval")]
    assert run.result["best"] == {
        "metric": "loss",
        "value": min(losses),
        "step": losses.index(min(losses)) + 1,
    }
    assert run.metrics["validation.loss"] == min(losses)


def test_a_figure_that_is_not_a_number_is_never_the_best(tmp_path):
    run, _ = scripted(tmp_path, [float("nan"), 0.1, float("nan"), 0.05, 0.0, 0.0, 0.1])
    assert run.result["best"]["step"] == 2
    assert lines(tmp_path / "r", "eval")[0]["scripted"] is None


def test_early_stopping(tmp_path):
    values = [0.5, 0.6, 0.605, 0.609, 0.9, 0.9]
    keys = {"early_stopping": {"metric": "scripted", "patience": "2 evaluations", "min_delta": 0.01}}
    run, _ = scripted(tmp_path, values, **keys)
    assert [line["step"] for line in lines(tmp_path / "r", "update")] == [1, 2, 3, 4]
    assert run.status == "finished" and run.result["updates"] == 4
    assert run.result["exit_reason"] == "early stopping: scripted has not improved for 2 evaluations"
    (event,) = events(tmp_path / "r", "stopped")
    assert event["why"] == run.result["exit_reason"]


def test_several_validation_sets(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, HELD_OUT)))
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, HARD)))
    files = {"main": str(tmp_path / "a.jsonl"), "hard": str(tmp_path / "b.jsonl")}
    keys = {
        "data.validation": files,
        "best": "hard.accuracy",
        "gate": {"hard.accuracy": 0.0, "main.loss": 99},
    }
    run = exhaust(start(tmp_path / "r", set=keys))
    records = lines(tmp_path / "r", "eval")
    assert [line["split"] for line in records] == ["validation", "validation.hard"]
    assert run.result["best"]["value"] == run.metrics["validation.hard.accuracy"] == records[1]["accuracy"]
    assert set(run.result["final"]) == {"validation", "validation.hard"}
    assert run.result["exit_reason"] == "completed"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"best": "f1_makro"}, r"best: 'f1_makro' is not among .*did you mean f1_macro\?"),
        ({"best": "hard.accuracy"}, r"'hard.accuracy'.*splits: validation;"),
        ({"early_stopping": {"metric": "acuracy"}}, r"early_stopping.metric: 'acuracy'.*accuracy\?"),
        ({"gate": {"f1_nobody": 0.5}}, r"gate.f1_nobody: 'f1_nobody'"),
        ({"metrics": ["accuracy"], "best": "f1_macro"}, r"best: 'f1_macro'.*figures: loss, accuracy"),
    ],
)
def test_a_figure_that_will_not_be_reported_is_refused_at_once(tmp_path, keys, message):
    with pytest.raises(RecipeError, match=message):
        start(tmp_path / "r", validation=HELD_OUT, set=keys)
    assert not (tmp_path / "r").exists()


# ---------------------------------------------------------------- requests


def test_requests_of_the_caller_act_at_the_next_boundary_and_are_events(tmp_path):
    with start(tmp_path / "r", validation=HELD_OUT, set={"updates": 6}) as run:
        for record in run:
            if record.kind == "update" and record.step == 1:
                run.save("half time")
                assert not (tmp_path / "r/checkpoints").exists(), "not now: at the boundary"
            if record.kind == "update" and record.step == 2:
                assert (tmp_path / "r/checkpoints/step-000001").is_dir()
                run.evaluate("curious")
            if record.kind == "update" and record.step == 3:
                run.stop("good enough")
    assert [line["step"] for line in lines(tmp_path / "r", "update")] == [1, 2, 3]
    assert [line["step"] for line in lines(tmp_path / "r", "eval")] == [2, 3], "what is kept is evaluated"
    assert (
        events(tmp_path / "r", "checkpoint")[0]["step"],
        events(tmp_path / "r", "checkpoint")[0]["why"],
    ) == (1, "half time")
    assert events(tmp_path / "r", "evaluation_requested")[0]["why"] == "curious"
    assert events(tmp_path / "r", "stopped")[0]["step"] == 3
    assert run.status == "finished" and run.result["exit_reason"] == "good enough"


def test_requests_of_an_observer(tmp_path):
    answers = {("update", 1): Save("a"), ("update", 2): Evaluate("b"), ("eval", 2): Stop("c")}

    def observer(record):
        return answers.get((record.kind, record.step))

    run = exhaust(start(tmp_path / "r", validation=HELD_OUT, observers=[observer]))
    assert (tmp_path / "r/checkpoints/step-000001").is_dir() or events(tmp_path / "r", "checkpoint")[0][
        "step"
    ] == 1
    assert run.result["updates"] == 2 and run.result["exit_reason"] == "c"
    assert [event["why"] for event in events(tmp_path / "r", "stopped")] == ["c"]


def test_a_stop_before_the_first_update(tmp_path):
    run = start(tmp_path / "r")
    run.stop("changed my mind")
    exhaust(run)
    assert run.result["updates"] == 0 and run.result["exit_reason"] == "changed my mind"
    assert events(tmp_path / "r", "stopped") and not lines(tmp_path / "r", "update")
    assert run.status == "finished" and (tmp_path / "r/model/model.safetensors").exists()


def test_an_observer_that_raises_becomes_an_event_and_changes_nothing(tmp_path):
    def broken(record):
        if record.kind == "update":
            raise ValueError("no network")

    watched = exhaust(start(tmp_path / "a", observers=[broken]))
    alone = exhaust(start(tmp_path / "b"))
    assert not differing(weights(watched), weights(alone))
    found = events(tmp_path / "a", "observer_failed")
    assert "ValueError: no network" in found[0]["why"] and found[0]["step"] == 1
    assert len(lines(tmp_path / "a", "update")) == 4


def test_what_an_observer_raises_at_the_very_end_is_an_event_too(tmp_path):
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, HARD)))

    def broken(record):
        if record.kind == "eval":
            raise ValueError("at the end")

    exhaust(start(tmp_path / "r", observers=[broken], set={"data.test": str(tmp_path / "t.jsonl")}))
    assert len(events(tmp_path / "r", "observer_failed")) == 1


def test_records_are_in_the_journal_when_they_are_seen(tmp_path):
    with start(tmp_path / "r", validation=HELD_OUT) as run:
        for number, record in enumerate(run, start=1):
            found = lines(tmp_path / "r")
            assert len(found) == number and found[-1] == json.loads(json.dumps(record.to_dict()))


# ---------------------------------------------------------------- what an update is


def test_dropout_is_on_in_training_and_off_afterwards(tmp_path):
    module, modes = tiny("bert", dropout=0.5), []
    run = start(tmp_path / "r", module, validation=HELD_OUT, set={"run.evaluate_every": "1 updates"})
    module.register_forward_pre_hook(
        lambda module, _: modes.append((module.training, torch.is_grad_enabled()))
    )
    with run:
        for _ in run:
            run.model.eval()  # whatever the caller does between updates
    assert set(modes) == {(True, True), (False, False)}
    assert not run.model.training
    other = exhaust(start(tmp_path / "s", tiny("bert", dropout=0.5), set={"seed.dropout": 1}))
    assert lines(tmp_path / "r", "update")[0]["loss"] != lines(tmp_path / "s", "update")[0]["loss"]
    assert other.status == "finished"


def test_fields_of_an_update(tmp_path):
    exhaust(start(tmp_path / "r"))
    for number, line in enumerate(lines(tmp_path / "r", "update"), start=1):
        assert set(line) == {
            "kind", "time", "step", "samples", "tokens", "batch_samples", "batch_tokens", "loss",
            "loss.cross_entropy", "grad_norm", "lr", "seconds", "wait_seconds", "padding_share",
            "peak_memory_bytes", "skipped",
        }  # fmt: skip
        assert line["step"] == number and line["samples"] == 16 * number and line["batch_samples"] == 16
        assert 0 <= line["wait_seconds"] <= line["seconds"] and 0 < line["padding_share"] < 1
        assert line["peak_memory_bytes"] > 2**20 and line["time"].endswith("Z")
    assert line["tokens"] == sum(each["batch_tokens"] for each in lines(tmp_path / "r", "update"))
