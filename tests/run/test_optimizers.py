"""Every optimiser end to end: the same bits after a resume, weights that are evaluated and kept, refusals, the plan."""

from __future__ import annotations

import json

import pytest
import torch

from bigbatch.errors import RecipeError
from bigbatch.recipe.load import load_recipe
from bigbatch.store.checkpoints import list_checkpoints, read_checkpoint
from tests.jobs import HELD_OUT, differing, document, exhaust, lines, start, weights

KEYS = {
    "lars": {"optimizer.name": "lars"},
    "lion": {"optimizer.name": "lion", "optimizer.layer_decay": 0.8},
    "muon": {"optimizer.name": "muon", "optimizer.lr": 1e-3, "optimizer.layer_decay": 0.9},
    "lamb": {"optimizer.name": "lamb", "optimizer.layer_decay": 0.9},
    "schedule_free": {"optimizer.name": "schedule_free", "optimizer.lr": 1e-3, "schedule": "constant"},
}


def needs(name: str) -> None:
    if name == "schedule_free":
        pytest.importorskip("schedulefree", reason="the optional extra [schedulefree]")


@pytest.mark.parametrize("name", KEYS)
def test_a_resumed_run_gives_the_same_bits(tmp_path, name):
    needs(name)
    keys = {**KEYS[name], "run.evaluate_every": "1 updates"}
    straight = exhaust(start(tmp_path / "a", validation=HELD_OUT, set=keys))
    with start(tmp_path / "b", validation=HELD_OUT, set=keys) as run:
        for record in run:
            if record.kind == "update" and record.step == 2:
                break
    assert run.status == "interrupted"
    again = exhaust(start(tmp_path / "b", validation=HELD_OUT, set=keys))
    assert again.status == straight.status == "finished"
    assert differing(weights(again), weights(straight)) == []
    assert [line["loss"] for line in lines(tmp_path / "b", "update")] == [
        line["loss"] for line in lines(tmp_path / "a", "update")
    ]


def test_how_often_schedule_free_is_evaluated_changes_no_loss(tmp_path):
    needs("schedule_free")
    losses = []
    for every in ("1 updates", "never"):
        keys = {**KEYS["schedule_free"], "run.evaluate_every": every}
        exhaust(start(tmp_path / every[:3], validation=HELD_OUT, set=keys))
        losses.append([line["loss"] for line in lines(tmp_path / every[:3], "update")])
    assert losses[0] == losses[1]


def test_schedule_free_evaluates_saves_and_exports_the_average(tmp_path):
    """x of the last update, which is not where the gradient was taken."""
    needs("schedule_free")
    keys = {**KEYS["schedule_free"], "updates": 6}
    run = exhaust(start(tmp_path / "r", validation=HELD_OUT, set=keys))
    best = document(tmp_path / "r", "result.json")["best"]["step"]
    newest = next(
        path for path in list_checkpoints(tmp_path / "r/checkpoints") if path.name == f"step-{best:06d}"
    )
    stored = read_checkpoint(newest).tensors
    name = "bert.encoder.layer.0.attention.self.query.weight"
    average, trained, fast = (stored[f"{kind}/{name}"] for kind in ("model", "y", "z"))
    assert not torch.equal(average, trained)
    torch.testing.assert_close(torch.lerp(average, fast, 0.1), trained, rtol=1e-5, atol=1e-6)
    assert torch.equal(run.model.state_dict()[name], average)
    from safetensors.torch import load_file

    assert torch.equal(load_file(tmp_path / "r/model/model.safetensors")[name], average)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"sync": {"replicas": 2}}, "no mean of averages"),
        ({"plan": {"mesh": {"shard": 2}}}, "plan.mesh replicate alone"),
    ],
)
def test_where_schedule_free_is_refused(keys, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe({"data": {"train": []}, "optimizer": "schedule_free", **keys}, environ={})


def test_the_plan_tells_base_rule_value_and_limits(tmp_path):
    keys = {
        "optimizer.base_batch": 4,
        "optimizer.lr_rule": "gain",
        "optimizer.noise_scale": 16,
        "optimizer.betas_rule": "half_life",
        "schedule.warmup": "10 %",
        "schedule.warmup_rule": "legw",
        "batch": 8,
    }
    exhaust(start(tmp_path / "r", set=keys))
    plan = document(tmp_path / "r", "plan.json")
    k = 2
    assert (
        plan["warmup"]["value"] == "20 %"
        and "10 % -> 20 % (legw: batch 8 is 2 times 4" in plan["warmup"]["reason"]
    )
    gain = (1 + 16 / 4) / (1 + 16 / 8)
    told = plan["learning_rate"]
    recipe = (tmp_path / "r/recipe.yaml").read_text()
    assert "lr_rule: gain" in recipe and "noise_scale: 16" in recipe
    assert (
        "gain rule: batch 8 is 2 times 4, noise scale 16" in told["reason"]
        and "grows while" in told["reason"]
    )
    base = float(told["reason"].split()[1])
    assert told["value"] == pytest.approx(base * gain**0.5, rel=1e-4)
    assert plan["betas"]["value"] == pytest.approx([0.9**k, 0.999**k])
    first = lines(tmp_path / "r", "update")[0]["lr"]
    assert 0 < first < told["value"] and json.dumps(plan)


def test_layers_learn_at_their_own_rates(tmp_path):
    """One update of sign steps: every weight moves by its layer's rate."""
    keys = {"optimizer.name": "lion", "optimizer.lr": 1e-3, "optimizer.layer_decay": 0.5, "optimizer.weight_decay": 0,
            "updates": 1, "schedule": {"name": "constant", "warmup": 0}}  # fmt: skip
    from tests.models import tiny

    module = tiny("bert")
    before = {name: value.clone() for name, value in module.state_dict().items()}
    run = exhaust(start(tmp_path / "r", module, set=keys))
    after = run.model.state_dict()
    ways = {name: (after[name] - value).abs().max().item() for name, value in before.items() if name in after}
    for name, rate in (
        ("bert.pooler.dense.weight", 1e-3),
        ("bert.encoder.layer.1.output.dense.weight", 5e-4),
        ("bert.encoder.layer.0.output.dense.weight", 2.5e-4),
        ("bert.embeddings.position_embeddings.weight", 1.25e-4),
    ):
        assert ways[name] == pytest.approx(rate, rel=1e-3)
    assert lines(tmp_path / "r", "update")[0]["lr"] == 1e-3


@pytest.mark.parametrize("name", ["lamb", "lars"])
def test_a_resumed_run_knows_which_matrix_began_at_zero(tmp_path, name):
    from tests.models import tiny

    matrix = "bert.encoder.layer.0.output.dense.weight"
    keys = {"optimizer.name": name, "optimizer.lr": 1e-3, "schedule": {"name": "constant", "warmup": 0}}

    def begin(folder):
        module = tiny("bert", dropout=0.1)
        module.get_parameter(matrix).data.zero_()
        return start(folder, module, set=keys)

    straight = exhaust(begin(tmp_path / "a"))
    with begin(tmp_path / "b") as run:
        for record in run:
            if record.kind == "update" and record.step == 2:
                break
    (newest, *_) = list_checkpoints(tmp_path / "b/checkpoints")
    assert f"from_zero/{matrix}" in read_checkpoint(newest).tensors
    again = exhaust(begin(tmp_path / "b"))
    assert differing(weights(again), weights(straight)) == []
    moved = weights(straight)[matrix].square().mean().sqrt()
    if name == "lamb":  # Adam's directions have values of about 1
        assert 2e-3 < moved < 4.1e-3, "four updates at the rate, not one"
