"""Low precision end to end: planned with reasons, overflows replayed, and the same bits after a kill."""

from __future__ import annotations

import json

import pytest
import torch

import bigbatch.build.formats
from bigbatch.errors import Diverged, RecipeError
from bigbatch.store.checkpoints import list_checkpoints, read_checkpoint
from tests.jobs import HELD_OUT, Faulty, differing, document, events, exhaust, lines, start, weights
from tests.models import tiny


def begin(folder, name, module=None, **options):
    keys = {"plan.precision": name, **options.pop("set", {})}
    return start(folder, module, set=keys, **options)


def figures(folder):
    return [(line["loss"], line["grad_norm"], line["lr"]) for line in lines(folder, "update")]


# ---------------------------------------------------------------- the plan


@pytest.fixture
def slow_halves(monkeypatch):
    """A CPU without units for 16 bits, whatever this one has."""
    real = bigbatch.build.formats.product_seconds

    def product_seconds(device, formats):
        seconds, unavailable = real(device, formats)
        return {name: 1.0 if name == "fp32" else 40.0 for name in seconds}, unavailable

    monkeypatch.setattr(bigbatch.build.formats, "product_seconds", product_seconds)


@pytest.mark.parametrize(("name", "error"), [("bf16", 0.02), ("fp16", 0.004)])
def test_a_run_in_a_low_format(tmp_path, name, error, slow_halves):
    # Kernels of attention draw other dropout masks: both runs use the same.
    same = {"plan.packing": None, "plan.attention": "sdpa"}
    run = exhaust(begin(tmp_path / "r", name, validation=HELD_OUT, set=same))
    plain = exhaust(start(tmp_path / "p", validation=HELD_OUT, set=same))
    plan = document(tmp_path / "r", "plan.json")
    assert (plan["precision"]["value"], plan["precision"]["source"]) == (name, "user")
    assert 0 < plan["precision"]["prediction"] < error and "plain path" in plan["precision"]["reason"]
    assert "norms" in plan["keep_fp32"]["reason"] and plan["packing"]["value"] == "packed"
    assert plan["peak_memory_bytes"]["value"]["weight_copies"] == 2 * 2 * (4 * 32 * 32 + 2 * 32 * 64)
    assert any("times as long" in warning for warning in plan["warnings"]["value"])
    low, exact = lines(tmp_path / "r", "update"), lines(tmp_path / "p", "update")
    first = [
        abs(mine[key] - theirs[key]) / theirs[key]
        for mine, theirs in zip(low, exact, strict=True)
        for key in ("loss", "grad_norm")
    ]
    assert 0 < max(first) < 5 * error
    assert {tensor.dtype for tensor in weights(run).values()} == {torch.float32}
    assert run.status == plain.status == "finished" and run.metrics["validation.loss"] > 0


def test_auto_on_a_cpu_measures_and_ends_at_fp32(tmp_path, slow_halves):
    run = exhaust(begin(tmp_path / "r", "auto"))
    chosen = document(tmp_path / "r", "plan.json")["precision"]
    assert (chosen["value"], chosen["source"]) == ("fp32", "measured")
    assert "times as long in bf16" in chosen["reason"]
    assert not (tmp_path / "r/audit.json").exists()
    assert not differing(weights(run), weights(exhaust(start(tmp_path / "p"))))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"plan.precision": "tf32"}, r"tf32 was asked for, but tf32 is a mode of NVIDIA's tensor cores"),
        ({"plan.precision": "fp8"}, r"fp8 was asked for, but fp8 needs an NVIDIA GPU"),
        ({"plan.precision": {"name": "bf16", "keep_fp32": ["*.layer.9.*"]}}, r"keep_fp32: found '\*\.layer\.9\.\*'"),
        ({"plan.precision": {"keep_fp32": ["*"]}}, "fp32 has no patterns"),
        ({"optimizer.state": "8bit"}, r"optimizer\.state: 8bit needs torchao"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_refused_with_the_reason(tmp_path, words, message, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchao.optim", None)
    if torch.cuda.is_available() and words["plan.precision"] in ("tf32", "fp8"):
        pytest.skip("this machine may have it")
    with pytest.raises(RecipeError, match=message):
        start(tmp_path / "r", set=words)


def test_a_format_that_breaks_the_model_is_not_used(tmp_path):
    module = tiny("bert")
    with torch.no_grad():
        module.bert.encoder.layer[1].intermediate.dense.weight.mul_(3e5)
    exhaust(begin(tmp_path / "r", "fp16", module, set={"optimizer.lr": 1e-9}))
    plan = document(tmp_path / "r", "plan.json")
    assert (plan["precision"]["value"], plan["precision"]["source"]) == ("fp32", "measured")
    assert "not finite" in plan["precision"]["reason"]
    assert any("fp16 was asked for, but fp32 instead" in line for line in plan["warnings"]["value"])


def test_the_audit_runs_before_a_low_run_and_is_written_down(tmp_path):
    with begin(tmp_path / "r", "bf16") as run:
        audit = document(tmp_path / "r", "audit.json")
        plan = document(tmp_path / "r", "plan.json")
        for _ in run:
            pass
    assert audit["format"] == "bf16" and audit["samples"] == 8
    assert [block["block"] for block in audit["blocks"]][1] == "bert.encoder.layer.0"
    assert (
        plan["precision_audit"]["value"] == "bf16 is fine"
        and audit["verdict"] in plan["precision_audit"]["reason"]
    )
    assert "Precision audit" in (tmp_path / "r/report.html").read_text() or not run.result


# ---------------------------------------------------------------- overflow


class Spike(Faulty):
    """A loss whose gradient is too large for fp16 at scales above `fits`, while armed."""

    def __init__(self, scale_of, fits):
        super().__init__()
        self.scale_of, self.fits, self.armed, self.seen = scale_of, fits, False, []

    def __call__(self, logits, targets):
        losses_U = super().__call__(logits, targets)
        if self.armed and torch.is_grad_enabled():
            self.seen.append(self.scale_of())
            if self.scale_of() > self.fits:
                losses_U.register_hook(lambda gradient: gradient * float("inf"))
        return losses_U


def spiked(tmp_path, fits, *, at=(1,), **options):
    """A run of fp16 whose update after each of `at` overflows above a scale of `fits`."""
    loss = Spike(lambda: 0.0, fits)
    run = begin(tmp_path, "fp16", loss=loss, **options)
    loss.scale_of = lambda: run._parts.strategy.scale.value
    with run:
        for record in run:
            if record.kind == "update":
                loss.armed = record.step in at
    return run, loss


def test_an_overflow_halves_the_scale_and_does_the_same_batch_again(tmp_path):
    run, loss = spiked(tmp_path / "r", 2.0**14)
    assert run.status == "finished" and run._parts.strategy.scale.value == 2.0**14
    found = events(tmp_path / "r", "loss_scale_overflow")
    assert [(event["loss_scale_before"], event["loss_scale"]) for event in found] == [
        (2.0**16, 2.0**15),
        (2.0**15, 2.0**14),
    ]
    assert [event["step"] for event in found] == [1, 1] and "does update 2 again" in found[0]["did"]
    updates = lines(tmp_path / "r", "update")
    assert [line["step"] for line in updates] == [1, 2, 3, 4] and not any(line["skipped"] for line in updates)
    assert not events(tmp_path / "r", "nonfinite")
    # Nothing but the scale has changed, and a power of two changes next to no bit.
    exhaust(begin(tmp_path / "s", "fp16", loss=Faulty()))
    for mine, theirs in zip(figures(tmp_path / "r"), figures(tmp_path / "s"), strict=True):
        assert mine == pytest.approx(theirs, rel=2e-3)
    assert figures(tmp_path / "r")[0] == figures(tmp_path / "s")[0]


def test_at_the_smallest_scale_it_is_a_skipped_update(tmp_path):
    run, _ = spiked(tmp_path / "r", 0.5)
    assert len(events(tmp_path / "r", "loss_scale_overflow")) == 16
    updates = lines(tmp_path / "r", "update")
    assert [line["skipped"] for line in updates] == [False, True, False, False]
    assert len(events(tmp_path / "r", "nonfinite")) == 1 and run._parts.strategy.scale.value == 1.0


def test_a_loss_that_is_not_finite_is_not_the_scales_doing(tmp_path):
    loss = Faulty()
    with begin(tmp_path / "r", "fp16", loss=loss) as run:
        for record in run:
            loss.fault = (lambda losses: losses * float("nan")) if record.step == 1 else None
    assert [line["skipped"] for line in lines(tmp_path / "r", "update")] == [False, True, False, False]
    assert not events(tmp_path / "r", "loss_scale_overflow")
    assert run._parts.strategy.scale.value == 2.0**16


@pytest.mark.parametrize("name", ["bf16", "fp32"])
def test_other_formats_have_no_scale_and_skip_at_once(tmp_path, name):
    loss = Faulty()
    with (
        pytest.raises(Diverged),
        begin(tmp_path / "r", name, loss=loss, set={"guard.patience": 1}) as run,
    ):
        for record in run:
            loss.fault = (lambda losses: losses * float("inf")) if record.step == 1 else None
    assert not run._parts.strategy.scale.varies and not events(tmp_path / "r", "loss_scale_overflow")


def test_clipping_and_the_recorded_norm_are_of_the_gradient_not_of_the_scaled_one(tmp_path):
    keys = {"clip": 0.05, "optimizer.name": "sgd", "optimizer.momentum": 0.0, "optimizer.lr": 0.1}
    run = exhaust(begin(tmp_path / "r", "fp16", set=keys))
    plain = exhaust(start(tmp_path / "p", set=keys))
    for mine, theirs in zip(figures(tmp_path / "r"), figures(tmp_path / "p"), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-2) and mine[1] > 0.05, "clipping is at work"
    for name, tensor in weights(run).items():
        torch.testing.assert_close(tensor, weights(plain)[name], rtol=0, atol=2e-4)


def test_the_scale_grows_after_a_row_of_good_updates(tmp_path):
    with begin(tmp_path / "r", "fp16", set={"updates": 7}) as run:
        run._parts.strategy.scale.grow_after = 3
        for _ in run:
            pass
    found = events(tmp_path / "r", "loss_scale_grown")
    assert [(event["step"], event["loss_scale"]) for event in found] == [(3, 2.0**17), (6, 2.0**18)]
    newest = read_checkpoint(list_checkpoints(tmp_path / "r/checkpoints")[-1])
    assert newest.state["loss_scale"] == {"value": 2.0**18, "good_updates": 1}


# ---------------------------------------------------------------- resume


RESUMES = {
    "bf16": {"plan.precision": "bf16"},
    "fp16": {"plan.precision": "fp16"},
    "bf16_sr": {"optimizer.state": "bf16_sr"},
    "bf16_sr in bf16": {"plan.precision": "bf16", "optimizer.state": "bf16_sr"},
}


@pytest.mark.parametrize("keys", RESUMES.values(), ids=RESUMES)
def test_a_resumed_run_gives_the_same_bits(tmp_path, keys):
    """Interrupted after an overflow: the halved scale and its count are part of the checkpoint."""

    def go(folder, leave_after=None):
        loss = Spike(lambda: 2.0**16, 2.0**14)
        run = start(folder, loss=loss, set={"updates": 6, **keys})
        scale = run._parts.strategy.scale
        if scale.varies:
            scale.grow_after = 3
            loss.scale_of = lambda: scale.value
        with run:
            for record in run:
                if record.kind == "update":
                    loss.armed = scale is not None and record.step == 1
                    if record.step == leave_after:
                        break
        return run

    straight = go(tmp_path / "a")
    assert go(tmp_path / "b", leave_after=3).status == "interrupted"
    resumed = go(tmp_path / "b")
    assert resumed.status == "finished"
    assert not differing(weights(straight), weights(resumed))
    assert figures(tmp_path / "a") == figures(tmp_path / "b")
    for name in ("loss_scale_overflow", "loss_scale_grown"):
        found = [[(e["step"], e["loss_scale"]) for e in events(tmp_path / each, name)] for each in ("a", "b")]
        assert found[0] == found[1] and bool(found[0]) == (keys.get("plan.precision") == "fp16")


def test_bf16_sr_keeps_bf16_numbers_and_half_the_state(tmp_path):
    run = exhaust(start(tmp_path / "r", set={"optimizer.state": "bf16_sr"}))
    trained = {name: p.detach() for name, p in run.model.named_parameters()}
    assert all(torch.equal(tensor, tensor.bfloat16().float()) for tensor in trained.values())
    found = read_checkpoint(list_checkpoints(tmp_path / "r/checkpoints")[-1]).tensors
    averages = [tensor for name, tensor in found.items() if name.startswith("exp_avg")]
    assert averages and {tensor.dtype for tensor in averages} == {torch.bfloat16}
    memory = document(tmp_path / "r", "plan.json")["peak_memory_bytes"]["value"]
    assert memory["optimizer_state"] == memory["gradients"]
    plain = exhaust(start(tmp_path / "p"))
    way = torch.cat([(p.detach() - trained[name]).flatten() for name, p in plain.model.named_parameters()])
    assert 0 < way.norm() / torch.cat([tensor.flatten() for tensor in trained.values()]).norm() < 0.01


def test_the_state_of_the_optimizer_is_part_of_what_is_computed_and_the_precision_is_not(tmp_path):
    exhaust(start(tmp_path / "r"))
    again = start(tmp_path / "r", set={"plan.precision": "bf16"})
    assert again.status == "finished", "the same run, computed another way"
    other = exhaust(start(tmp_path / "r", set={"optimizer.state": "bf16_sr"}))
    assert other.path.name == "r-2"


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["tf32", "bf16", "fp16"])
def test_on_a_gpu(tmp_path, name):
    run = exhaust(
        begin(
            tmp_path / "r",
            name,
            tiny("bert"),
            validation=HELD_OUT,
            set={"plan.packing": None, "plan.device": "cuda"},
        )
    )
    plain = exhaust(
        start(
            tmp_path / "p",
            tiny("bert"),
            validation=HELD_OUT,
            set={"plan.packing": None, "plan.device": "cuda"},
        )
    )
    assert document(tmp_path / "r", "plan.json")["precision"]["value"] == name
    for mine, theirs in zip(figures(tmp_path / "r"), figures(tmp_path / "p"), strict=True):
        assert mine == pytest.approx(theirs, rel=5e-2)
    assert run.status == plain.status == "finished"


@pytest.mark.gpu
def test_auto_on_a_gpu_is_not_fp32(tmp_path):
    exhaust(begin(tmp_path / "r", "auto", set={"plan.device": "cuda"}))
    chosen = json.loads((tmp_path / "r/plan.json").read_text())["precision"]
    assert chosen["value"] in ("tf32", "bf16", "fp16") and chosen["source"] == "measured"


def test_a_resumed_run_keeps_the_format_of_its_plan(tmp_path):
    with begin(tmp_path / "r", "bf16") as run:
        for record in run:
            if record.step == 2:
                break
    resumed = exhaust(start(tmp_path / "r", set={"plan.precision": "fp32"}))
    assert resumed.status == "finished"
    assert document(tmp_path / "r", "plan.json")["precision"]["value"] == "bf16"
    straight = exhaust(begin(tmp_path / "s", "bf16"))
    assert not differing(weights(resumed), weights(straight))


@pytest.mark.parametrize("head", ["by its role", "allowed"])
def test_the_vocabularys_product_is_made_in_the_format_of_the_policy(tmp_path, monkeypatch, head):
    """In a run, whose forward is put together otherwise than by hand."""
    from bigbatch.tasks import language

    used = []
    real = language.low_entropy
    monkeypatch.setattr(
        language, "low_entropy", lambda *given, **how: used.append(how["dtype"]) or real(*given, **how)
    )
    model = tiny("llama", head="causal", tie_word_embeddings=False)
    rows = [{"input_ids": [3 + (row + place) % 40 for place in range(5 + row % 7)]} for row in range(24)]
    keys = {"task": "clm", "updates": 2, "batch": 8, "plan.packing": None}
    precision = {"name": "bf16", "allow_low": ["lm_head"]} if head == "allowed" else {"name": "bf16"}
    run = exhaust(start(tmp_path / "r", model, rows=rows, set={**keys, "plan.precision": precision}))
    assert run.status == "finished"
    assert set(used) == ({torch.bfloat16} if head == "allowed" else set())
