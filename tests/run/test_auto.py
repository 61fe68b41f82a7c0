"""`auto`: the run decides, says so, and decides the same after a kill and on every number of ranks."""

import shutil

import pytest
import torch

import bigbatch
from bigbatch.build.inputs import Live
from bigbatch.errors import RecipeError
from bigbatch.recipe.load import load_recipe
from bigbatch.records import Event
from bigbatch.run.rate_test import _losses
from bigbatch.run.start import Wishes, open_run
from bigbatch.run.verdict import _course
from bigbatch.store.identity import continue_run, differences, fingerprint, write_identity
from tests.jobs import document, events, exhaust, lines, weights
from tests.models import tiny
from tests.run.auto_jobs import HELD_OUT, KEYS, ROWS, decided, trained
from tests.run.auto_jobs import begin as start
from tests.split import rows_of


def test_weights_that_nothing_has_trained_are_trained_longer(tmp_path):
    with start(tmp_path / "trained") as run:
        assert run.plan.value("auto_epochs") == 30
        assert "pretrained weights" in run.plan.choices["auto_lr"].reason
    with start(tmp_path / "untrained", model=lambda: tiny("bert")) as run:
        assert run.plan.value("auto_epochs") == 90
        assert "random weights" in run.plan.choices["auto_lr"].reason


def test_what_is_not_said_is_decided_and_told(tmp_path):
    run = start(tmp_path / "run")
    with run:
        choices = run.plan.choices
        assert choices["auto_batch"].value == [16, 16]
        assert choices["auto_epochs"].value == 30
        assert choices["auto_lr"].value == 1e-3  # a narrow model
        assert run._parts.clocks.open_end
        assert run._parts.recipe.batch.samples == 16
    recipe = load_recipe(tmp_path / "run" / "recipe.yaml")
    assert (recipe.epochs, recipe.batch.samples, recipe.optimizer.lr) == ("auto", "auto", "auto")


def test_a_very_short_run_is_not_all_warm_up(tmp_path):
    rows = rows_of("single", 3, longest=12)
    with start(tmp_path / "run", rows=rows, validation=None) as run:
        updates = run._parts.clocks.length.updates
        assert updates == 45
        rates = [record.lr for record in run if record.kind == "update"]
    peak = max(rates)
    assert rates.index(peak) == 11 and rates[:11] == sorted(rates[:11])
    assert rates.count(peak) == 45 - 11 - 9  # the last fifth cools down
    typed = {"schedule": {"name": "wsd", "warmup": "30 updates"}}
    with start(tmp_path / "typed", rows=rows, validation=None, **typed) as run:
        assert run._parts.recipe.schedule.warmup.amount == 30


def test_what_is_said_stays(tmp_path):
    with bigbatch.start(
        tiny("bert"), ROWS, HELD_OUT, epochs=2, batch_size=8, lr=1e-4, set=KEYS, run_dir=tmp_path / "run"
    ) as run:
        assert not {"auto_batch", "auto_epochs", "auto_lr"} & set(run.plan.choices)
        assert run._parts.clocks.length.updates == 40


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run whose validation stops improving: one that is not cut short."""
    folder = tmp_path_factory.mktemp("auto") / "run"
    run = exhaust(start(folder))
    return folder, weights(run)


def test_the_cool_down_begins_at_a_plateau(straight):
    folder, _ = straight
    plateau = events(folder, "plateau")
    assert len(plateau) == 1
    updates = lines(folder, "update")
    begun, end = plateau[0]["step"], plateau[0]["updates"]
    assert updates[-1]["step"] == end < 300
    assert begun / end == pytest.approx(0.8, abs=0.02)
    peak = [line["lr"] for line in updates if 40 < line["step"] <= begun]
    assert len(set(peak)) <= 1
    rates = [line["lr"] for line in updates if line["step"] > begun]
    assert rates == sorted(rates, reverse=True)
    # Linear to 0, read at midpoints.
    n = end - begun
    top = updates[begun - 1]["lr"] if begun >= 41 else None
    if top is not None:
        assert rates[-1] == pytest.approx(top * 0.5 / n)
    assert document(folder, "plan.json")["updates"]["value"] == end
    assert document(folder, "result.json")["updates"] == end


@pytest.mark.world_size(2)
def test_two_ranks_decide_as_one_and_a_resume_among_them_is_the_same(straight, tmp_path, ranks):
    folder, _ = straight
    stop = events(folder, "plateau")[0]["step"] + 2
    found = ranks.run("tests.run.auto_jobs:through", 2, tmp_path, root=str(tmp_path), stop=stop)[0]
    assert found["differing"] == []
    two, again = found["decided"]
    assert two == again
    _alike(decided(folder), two, 1e-5)


@pytest.mark.world_size(2)
def test_two_ranks_test_the_rate_as_one(tmp_path, ranks):
    """1,700 rows: the bound is long enough for a test of the rate."""
    keys = {"end": 6, "stop": 3, "rows": 1_700, "scale.every": "2 updates", "plan.micro_tokens": 64}
    one, two = (
        ranks.run("tests.run.auto_jobs:through", size, tmp_path, root=str(tmp_path / str(size)), **keys)[0]
        for size in (1, 2)
    )
    assert one["differing"] == two["differing"] == []
    assert [name for name, *_ in one["decided"][0]["events"]] == ["rate_test"]
    _alike(one["decided"][0], two["decided"][0], 1e-3)


def _alike(one, two, tolerance):
    """The same decisions; losses that differ by rounding alone, which a narrow model with a high rate blows up."""
    losses = [each.pop("loss") for each in (one, two)]
    assert one == two
    assert losses[1] == pytest.approx(losses[0], rel=tolerance)


@pytest.mark.parametrize("after", ["before", "within"])
def test_a_resume_cools_down_just_the_same(straight, tmp_path, after):
    folder, wanted = straight
    plateau = events(folder, "plateau")[0]
    stop = plateau["step"] - 2 if after == "before" else plateau["step"] + 2
    with start(tmp_path / "run") as run:
        for record in run:
            if record.kind == "update" and record.step == stop:
                break
    resumed = exhaust(start(tmp_path / "run"))
    assert weights(resumed).keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in weights(resumed).items())
    assert [line["lr"] for line in lines(tmp_path / "run", "update")] == [
        line["lr"] for line in lines(folder, "update")
    ]


def test_a_resume_within_the_cool_down_tells_where_it_ends(straight, tmp_path, monkeypatch):
    plateau = events(straight[0], "plateau")[0]
    with start(tmp_path / "run") as run:
        for record in run:
            if record.kind == "update" and record.step == plateau["step"] + 2:
                break
    told = []
    monkeypatch.setattr(
        "bigbatch.run.start.told_anew",
        lambda parts, progress: told.append(parts.clocks.length.updates) or parts,
    )
    with start(tmp_path / "run"):
        assert told == [plateau["updates"]]


def carry_on(folder, **keys):
    """The run of `straight`, gone on with by `--continue`."""
    given = Live(module=trained(), train=ROWS, validation=HELD_OUT)
    recipe = load_recipe(folder / "recipe.yaml", [f"{key}={value}" for key, value in keys.items()])
    return open_run(recipe, given, Wishes(continue_from=folder, allow=("optimizer",)))


@pytest.mark.parametrize("when", ["finished", "cooling down"])
def test_carrying_on_after_a_cool_down_warms_up_again_and_says_so(straight, tmp_path, when):
    folder = tmp_path / "run"
    plateau = events(straight[0], "plateau")[0]
    if when == "finished":
        shutil.copytree(straight[0], folder)
    else:
        with start(folder) as run:
            for record in run:
                if record.kind == "update" and record.step == plateau["step"] + 5:
                    break
    before = len(lines(folder, "update"))
    with carry_on(folder, **{"optimizer.lr": 5e-4}) as run:
        for record in run:
            if record.kind == "update" and record.step == before + 5:
                break
    told = events(folder, "carried_on")[-1]
    assert "had begun to cool down" in told["did"] and "40 updates (schedule.warmup)" in told["did"]
    with carry_on(folder, **{"optimizer.lr": 5e-4}) as run:  # killed and gone on with
        for record in run:
            if record.kind == "update" and record.step == before + 60:
                break
    rates = [line["lr"] for line in lines(folder, "update")][before:]
    wanted = [5e-4 * min(1.0, (number + 0.5) / 40) for number in range(60)]
    assert rates == pytest.approx(wanted)
    assert f"lr {wanted[0]:.6g}" in told["did"]


def test_carrying_on_without_a_change_only_finishes_a_cool_down(straight, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(straight[0], folder)
    before = lines(folder, "update")
    exhaust(carry_on(folder))
    assert lines(folder, "update") == before
    assert "only finished anew" in events(folder, "carried_on")[-1]["did"]


@pytest.mark.parametrize("keys", [{"updates": 4}, {"scale.every": "never", "epochs": 1}])
def test_a_batch_that_cannot_grow_stays(tmp_path, keys):
    rows = rows_of("single", 1_700, longest=6)
    with start(tmp_path / "run", rows=rows, **keys) as run:
        assert run.plan.value("auto_batch") == [16, 16]
    with start(tmp_path / "other", rows=rows, epochs=1) as run:
        assert run.plan.value("auto_batch") == [16, 32]
        assert run._parts.clocks.ramp.sizes == (16, 32)


def test_few_validation_rows_mean_a_fixed_length(tmp_path):
    with start(tmp_path / "run", validation=HELD_OUT[:40]) as run:
        assert not run._parts.clocks.open_end
        assert run.plan.value("auto_epochs") == 16
        assert "too few" in run.plan.choices["auto_epochs"].reason


@pytest.mark.parametrize("every", ["never", "end"])
def test_a_plateau_is_not_waited_for_where_nothing_is_evaluated(tmp_path, every):
    with start(tmp_path / "run", **{"run.evaluate_every": every}) as run:
        assert not run._parts.clocks.open_end
        assert run.plan.value("auto_epochs") == 15
        assert "run.evaluate_every" in run.plan.choices["auto_epochs"].reason


def test_the_test_of_the_rate_leaves_nothing_behind(tmp_path):
    with start(tmp_path / "run", epochs=3) as run:
        part = run.model.bert.embeddings
        part.register_buffer("seen", torch.zeros(1))
        part.register_forward_hook(lambda module, *_: module.seen.add_(1) and None)
        before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
        found = _losses(run._parts, 16, [1e-3] * 6, lambda pieces: pieces)
        assert len(found) == 6
        assert found[-1] < found[0]
        assert all(torch.equal(tensor, before[name]) for name, tensor in run.model.state_dict().items())
        assert not run._parts.strategy.optimizer.state


def test_the_test_of_the_rate_halves_the_loss_scale_of_fp16_and_puts_it_back(tmp_path):
    with start(tmp_path / "run", epochs=3, **{"plan.precision": "fp16"}) as run:
        scale = run._parts.strategy.scale
        scale.value = scale.largest  # some halvings away from where gradients are finite
        before = weights(run)
        seen = []
        halve = type(scale).halve
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(scale), "halve", lambda own: seen.append(own.value) or halve(own))
            found = _losses(run._parts, 16, [1e-3] * 3, lambda pieces: pieces)
        assert len(found) == 3 and found[-1] < found[0] and seen
        assert (scale.value, scale.good_updates) == (scale.largest, 0)
        assert all(torch.equal(tensor, before[name]) for name, tensor in weights(run).items())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_run_that_is_long_enough_tests_its_rate(tmp_path, precision):
    folder, keys = tmp_path / "run", {"updates": 700, "plan.precision": precision}
    with start(folder, **keys) as run:
        for record in run:
            if record.kind == "update":
                break
    told = events(folder, "rate_test")
    assert len(told) == 1
    choice = document(folder, "plan.json")["auto_lr"]
    assert choice["source"] == "measured"
    assert told[0]["lr"] == choice["value"]
    with start(folder, **keys) as run:
        assert run._parts.recipe.optimizer.lr == choice["value"]
        for record in run:
            if isinstance(record, Event):
                assert record.event != "rate_test"
            if record.kind == "update":
                break


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({"epochs": "auto", "schedule": "linear"}, "epochs: auto needs schedule: wsd"),
        ({"epochs": "auto", "schedule": "linear"}, "such as epochs=5"),
        ({"optimizer": {"name": "lamb", "lr": "auto"}}, "knows the rates of adamw"),
        ({"optimizer": {"name": "lamb", "lr": "auto"}}, "optimizer.lr=0.000625, its default"),
        ({"optimizer": {"name": "mine:Optimizer", "lr": "auto"}}, "optimizer.lr="),
        ({"optimizer": {"lr": "auto", "base_batch": 32}}, "leave base_batch and lr_rule out"),
        ({"batch": {"samples": "auto", "ramp": {"from": 8}}}, "auto decides the ramp too"),
        ({"batch": "auto", "sync": {"replicas": 2}}, "is not built"),
        ({"epochs": "automatic"}, "expected a number"),
    ],
)
def test_contradictions_are_told(keys, part):
    with pytest.raises(RecipeError, match=part):
        load_recipe(keys)


def test_when_evaluations_are_is_part_of_what_is_computed():
    def digest(**keys):
        return fingerprint(load_recipe({"model": "m", "data": {"train": "a.csv"}, **keys})).digest

    every = {"run": {"evaluate_every": "2 epochs"}}
    assert digest(epochs="auto") != digest(epochs="auto", **every)
    assert digest(epochs=3) == digest(epochs=3, **every)
    assert digest(batch="auto") != digest(batch="auto", scale={"every": "50 updates"})


@pytest.mark.parametrize("key", ["epochs", "batch"])
def test_what_only_auto_makes_count_is_no_difference_of_its_own(tmp_path, key):
    def what(**keys):
        usual = {
            "model": "m",
            "data": {"train": "a.csv"},
            "schedule": {"name": "wsd", "warmup": "40 updates"},
        }
        return fingerprint(load_recipe({**usual, **keys}))

    found = differences(what(**{key: "auto"}), what(**{key: 16}))
    assert found and not [each for each in found if each.startswith(("run.", "scale."))]
    write_identity(tmp_path, what(**{key: "auto"}))
    assert continue_run(tmp_path, what(**{key: 16}), [key]).differences == tuple(found)


def test_a_plateau_of_a_named_split_reads_that_split(tmp_path):
    hard = rows_of("single", 110, longest=12, seed=2)
    keys = {**KEYS, "best": "hard.f1_macro", "optimizer.lr": 1e-3}
    with bigbatch.start(
        tiny("bert"), ROWS, {"main": HELD_OUT, "hard": hard}, set=keys, run_dir=tmp_path / "run"
    ) as run:
        list(run)
        assert len(run._between.progress.scores["plateau.f1_macro"]) == 110
        assert len(run._between.progress.scores["plateau.loss"]) == 110
        # What is told of longer runs starts from this one's length, not from its bound.
        assert _course(run._parts, run._between).amount == run._parts.clocks.length.epochs < 90
    assert len(events(tmp_path / "run", "plateau")) == 1
