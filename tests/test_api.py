from __future__ import annotations

import threading
from inspect import signature

import numpy as np
import pandas
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForSequenceClassification

import bigbatch
from bigbatch.errors import DataError, GateMissed, ModelError, RecipeError, UsageError
from bigbatch.recipe.load import load_recipe
from bigbatch.tasks.classify import Classify
from tests.jobs import HELD_OUT, differing, document, events, exhaust, lines, start
from tests.models import WORDS, tiny, tiny_folder, tiny_tokenizer

KEYS = {"updates": 3, "plan.micro_tokens": 128, "optimizer.lr": 1e-3}
GOOD, BAD = ("great", "love", "thanks", "best"), ("late", "lost", "rude", "worst")


def texts(count=60, seed=0):
    """Rows whose label is in their words."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        words = [str(word) for word in random.choice(WORDS[:4], int(random.integers(1, 9)))]
        words.insert(0, str(random.choice(GOOD if number % 2 else BAD)))
        rows.append({"text": " ".join(words), "label": "pos" if number % 2 else "neg"})
    return rows


TEXTS = texts()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("models") / "bert", id2label={0: "neg", 1: "pos"})


@pytest.fixture
def model():
    return tiny("bert", id2label={0: "neg", 1: "pos"})


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# ---------------------------------------------------------------- datasets


class MapStyle(torch.utils.data.Dataset):
    """What torch calls a map-style dataset."""

    def __len__(self):
        return len(TEXTS)

    def __getitem__(self, index):
        return TEXTS[index]


def huggingface():
    import datasets

    return datasets.Dataset.from_list(TEXTS)


SOURCES = {
    "list": lambda: TEXTS,
    "pandas": lambda: pandas.DataFrame(TEXTS),
    "datasets": huggingface,
    "map-style": MapStyle,
    "arrow": lambda: pa.Table.from_pylist(TEXTS),
}


@pytest.fixture(scope="module")
def expected(tokenizer, tmp_path_factory):
    """Metrics of the rows as a list."""
    return exhaust_rows(TEXTS, tokenizer, tmp_path_factory.mktemp("expected")).metrics


def exhaust_rows(rows, tokenizer, folder):
    module = tiny("bert", id2label={0: "neg", 1: "pos"})
    return bigbatch.train(
        module, rows, TEXTS[:20], tokenizer=tokenizer, batch_size=16, set=KEYS, run_dir=folder / "run"
    )


@pytest.mark.parametrize("source", SOURCES)
def test_every_kind_of_dataset_trains_the_same_model(source, tokenizer, expected, tmp_path):
    assert exhaust_rows(SOURCES[source](), tokenizer, tmp_path).metrics == expected


def test_rows_that_are_tokenised_already(tokenizer, expected, tmp_path):
    ids = {"neg": 0, "pos": 1}
    rows = [{**dict(tokenizer(row["text"])), "labels": ids[row["label"]]} for row in TEXTS]
    run = bigbatch.train(
        tiny("bert", id2label={0: "neg", 1: "pos"}), rows, rows[:20], batch_size=16, set=KEYS, run_dir="r"
    )
    assert run.metrics == expected
    (found,) = run.predict([{"input_ids": rows[0]["input_ids"]}])
    assert set(found["probabilities"]) == {"neg", "pos"}
    (again,) = bigbatch.predict("r", [{"input_ids": rows[0]["input_ids"]}])
    assert again["probability"] == pytest.approx(found["probability"], rel=1e-5)
    for predict in (run.predict, lambda texts: bigbatch.predict("r", texts)):
        with pytest.raises(DataError, match="row 1: input_ids: this model has no tokenizer"):
            predict(["great flight"])


def test_a_folder_without_tokenizer_is_refused(tmp_path):
    tiny("bert").save_pretrained(tmp_path / "bare")
    with pytest.raises(ModelError, match="no tokenizer"):
        bigbatch.train(tmp_path / "bare", TEXTS, batch_size=16, set=KEYS, run_dir="r")


def test_a_share_of_the_rows_for_validation(model, tokenizer):
    run = bigbatch.train(model, TEXTS, 0.25, tokenizer=tokenizer, batch_size=16, set=KEYS, run_dir="r")
    assert len(run._parts.rows["validation"]) == 16 and len(run._parts.rows["train"]) == 44


# ---------------------------------------------------------------- what can be trained


def test_a_folder_with_rows_of_python(folder):
    run = bigbatch.train(folder, TEXTS, TEXTS[:20], epochs=0.5, batch_size=10, lr=2e-3, run_dir="r")
    assert run.status == "finished" and run.result["updates"] == 3
    assert lines(run.path, "update")[1]["lr"] < 2e-3 and run._parts.recipe.optimizer.lr == 2e-3
    reloaded = AutoModelForSequenceClassification.from_pretrained(run.path / "model")
    assert not differing(reloaded.state_dict(), run.model.state_dict())
    assert run.predict(["great flight"]) == bigbatch.predict(run.path, ["great flight"])


def test_a_recipe_file_with_changed_keys(folder, tmp_path):
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(f"{r['text']},{r['label']}\n" for r in TEXTS))
    (tmp_path / "job.yaml").write_text(
        f"model: {folder}\ndata: {{train: t.csv, validation: 0.2}}\nbatch: 16\n"
    )
    run = bigbatch.train("job.yaml", set={**KEYS, "optimizer.name": "lamb"})
    assert run.path.resolve() == (tmp_path / "runs/job").resolve()
    assert run._parts.recipe.optimizer.name == "lamb" and run.result["updates"] == 3
    loaded = load_recipe("job.yaml", [f"{key}={value}" for key, value in KEYS.items()], environ={})
    assert bigbatch.train(loaded, set={}, run_dir=None).result["updates"] == 3
    assert bigbatch.train(loaded, set={"updates": 2}).result["updates"] == 2


@pytest.mark.parametrize("name", ["nowhere", "job.yaml"])
def test_a_name_without_rows_is_refused(name):
    with pytest.raises(UsageError):
        bigbatch.train(name)


def test_frozen_parameters_stay_as_they_are(tmp_path):
    module = tiny("bert")
    module.bert.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    exhaust(start(tmp_path / "r", module))
    moved = differing(module.state_dict(), before)
    assert moved == ["classifier.weight", "classifier.bias"]
    assert not any(parameter.requires_grad for parameter in module.bert.parameters())


def test_a_model_without_anything_to_train_is_refused(tmp_path):
    module = tiny("bert").requires_grad_(False)
    with pytest.raises(ModelError, match="frozen|trainable"):
        start(tmp_path / "r", module)


def test_a_peft_wrapped_model_trains_its_trainable_part(tmp_path, model, tokenizer):
    import peft

    settings = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"], lora_dropout=0.0)
    wrapped = peft.get_peft_model(model, settings)
    before = {name: tensor.clone() for name, tensor in wrapped.state_dict().items()}
    trainable = {name for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    run = bigbatch.train(
        wrapped, TEXTS, TEXTS[:20], tokenizer=tokenizer, batch_size=16, set=KEYS, run_dir="r"
    )
    moved = set(differing(wrapped.state_dict(), before))
    assert moved <= trainable and any("lora_B" in name for name in moved)
    assert any("classifier" in name for name in moved)
    assert run.predict(["great flight"])[0]["label"] in ("neg", "pos")


def test_another_number_of_labels_gives_a_new_head_and_says_so(tmp_path, tokenizer):
    module = tiny("bert", id2label={0: "a", 1: "b", 2: "c"})
    run = bigbatch.train(module, TEXTS, tokenizer=tokenizer, batch_size=16, set=KEYS, run_dir="r")
    assert any("new head" in note for note in run._parts.notes)
    assert run.model.config.id2label == {0: "neg", 1: "pos"} and run.model.classifier.out_features == 2


def test_a_model_that_knows_the_labels_keeps_its_head_and_their_order(tmp_path, tokenizer):
    module = tiny("bert", id2label={0: "pos", 1: "neg"})
    run = bigbatch.start(module, TEXTS, tokenizer=tokenizer, batch_size=16, set=KEYS, run_dir="r")
    assert run._parts.task.label_names == ("pos", "neg")
    assert not any("head" in note for note in run._parts.notes)
    with run:
        pass


# ---------------------------------------------------------------- losses, tasks and metrics of one's own


def test_a_loss_that_returns_a_scalar_is_refused_with_the_reason(tmp_path, folder):
    (tmp_path / "losses.py").write_text(
        "from torch.nn import functional as F\n"
        "def mean(logits, targets):\n    return F.cross_entropy(logits, targets)\n"
    )
    sentence = r"a custom loss returns one value per unit \(reduction='none'\); this one returned a scalar"

    def live(logits, targets):
        return torch.nn.functional.cross_entropy(logits, targets)

    for loss in (live, "losses.py:mean"):
        with pytest.raises(RecipeError, match=sentence):
            bigbatch.train(folder, TEXTS, batch_size=16, loss=loss, set=KEYS, run_dir="r")


def test_a_loss_by_reference_with_args_is_the_same_as_the_function(tmp_path, folder):
    (tmp_path / "losses.py").write_text(
        "from torch.nn import functional as F\n"
        "def scaled(logits, targets, factor=1.0):\n"
        "    return factor * F.cross_entropy(logits, targets, reduction='none')\n"
    )
    keys = {**KEYS, "loss": {"name": "losses.py:scaled", "args": {"factor": 2.0}}}
    one = bigbatch.train(folder, TEXTS, batch_size=16, set=keys, run_dir="a")

    def scaled(logits, targets):
        return 2.0 * torch.nn.functional.cross_entropy(logits, targets, reduction="none")

    two = bigbatch.train(folder, TEXTS, batch_size=16, loss=scaled, set=KEYS, run_dir="b")
    plain = bigbatch.train(folder, TEXTS, batch_size=16, set=KEYS, run_dir="c")
    assert not differing(one.model.state_dict(), two.model.state_dict())
    found = [lines(run.path, "update")[0] for run in (one, two, plain)]
    assert found[0]["loss.scaled"] == found[1]["loss.scaled"] == pytest.approx(2 * found[2]["loss"], rel=1e-6)
    assert (one.path / "code/losses.py").exists()


class TwoTerms(Classify):
    """Cross-entropy, and the squared logits of the units that a column marks."""

    def denominators(self, targets):
        return {**super().denominators(targets), "size": float(np.sum(targets.extras["marked"]))}

    def loss(self, outputs, targets):
        size = outputs.square().sum(-1) * targets.extras["marked"]
        return {**super().loss(outputs, targets), "size": size}

    @property
    def roles(self):
        from bigbatch.protocols import Role

        return {**super().roles, "marked": Role(meaning="1 or 0", kind="number")}

    def finish(self, row, sample):
        from dataclasses import replace

        return replace(sample, extras={"marked": np.array([row["marked"]], np.float32)})


def test_a_task_with_two_terms_and_a_column_of_its_own(folder):
    rows = [{**row, "marked": float(number % 3 == 0)} for number, row in enumerate(TEXTS)]
    run = bigbatch.train(
        folder, rows, rows[:20], task=TwoTerms(), batch_size=60, set={**KEYS, "updates": 2}, run_dir="r"
    )
    first, second = lines(run.path, "update")
    assert first["loss"] == pytest.approx(first["loss.cross_entropy"] + first["loss.size"], rel=1e-6)
    logits = logits_of(folder, [row["text"] for row in rows])
    marked = torch.tensor([row["marked"] for row in rows])
    labels = torch.tensor([row["label"] == "pos" for row in rows]).long()
    assert first["loss.size"] == pytest.approx(
        ((logits.square().sum(-1) * marked).sum() / 20).item(), rel=1e-5
    )
    expected = torch.nn.functional.cross_entropy(logits, labels).item()
    assert first["loss.cross_entropy"] == pytest.approx(expected, rel=1e-5)
    assert second["loss.size"] != first["loss.size"]
    assert run.predict(["great flight"])[0]["label"] in ("neg", "pos"), "no column is needed to predict"


def logits_of(folder, texts):
    """The plain way, in evaluation mode: the model has no dropout."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    module = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        return module(**tokenizer(texts, padding=True, return_tensors="pt")).logits


def test_extras_reach_a_loss_and_a_metric(folder):
    seen = []

    class Marked(TwoTerms):
        def denominators(self, targets):
            return Classify.denominators(self, targets)

        def loss(self, outputs, targets):
            return Classify.loss(self, outputs, targets)

    def loss(logits, targets, extras):
        seen.append(sorted(extras))
        return torch.nn.functional.cross_entropy(logits, targets, reduction="none") * (1 + extras["marked"])

    def cost(predictions, targets):
        return float(targets.extras["marked"].sum())

    rows = [{**row, "marked": float(number % 3 == 0)} for number, row in enumerate(TEXTS)]
    run = bigbatch.train(
        folder,
        rows,
        rows[:20],
        task=Marked(),
        loss=loss,
        metrics=[cost],
        batch_size=16,
        set=KEYS,
        run_dir="r",
    )
    assert set(map(tuple, seen)) == {("marked",)}
    assert run.metrics["validation.cost"] == 7.0


def test_a_task_object_takes_the_recipes_loss_and_metrics(folder):
    rows = TEXTS[:45]  # 23 negative, 22 positive
    keys = {**KEYS, "updates": 1, "loss.class_weights": {"neg": 5.0}}
    options = {"batch_size": 45, "set": keys, "metrics": ["accuracy"]}
    run = bigbatch.train(folder, rows, rows, task=Classify(kind="single"), run_dir="a", **options)
    named = bigbatch.train(folder, rows, rows, run_dir="b", **options)
    plain = bigbatch.train(folder, rows, rows, run_dir="c", **{**options, "set": {**KEYS, "updates": 1}})
    found = [lines(each.path, "update")[0]["loss"] for each in (run, named, plain)]
    assert found[0] == found[1] != found[2]
    assert set(run.metrics) == {"validation.loss", "validation.accuracy"}


def test_names_and_functions_as_metrics(folder):
    def cost(predictions, targets):
        return float(np.mean(predictions.values != targets.values))

    run = bigbatch.train(
        folder, TEXTS, TEXTS[:20], metrics=["accuracy", cost], batch_size=16, set=KEYS, run_dir="r"
    )
    assert set(run.metrics) == {"validation.loss", "validation.accuracy", "validation.cost"}
    assert run.metrics["validation.cost"] == pytest.approx(1 - run.metrics["validation.accuracy"])


# ---------------------------------------------------------------- the run


def test_what_a_run_offers(folder):
    with bigbatch.start(folder, TEXTS, TEXTS[:20], batch_size=16, set=KEYS, run_dir="r") as run:
        assert run.status == "running" and run.metrics == {}
        assert run.plan.value("micro_tokens") == 128
        for record in run:
            assert run.predict(["great flight"])[0]["label"] in ("neg", "pos")
            assert record["step"] == record.step and record.get("nothing", 7) == 7
    assert run.status == "finished" and run.metrics["validation.accuracy"] >= 0
    found = bigbatch.read("r")
    assert isinstance(found.updates, pa.Table) and found.updates.num_rows == 3
    assert found.updates["step"].to_pylist() == [1, 2, 3] and found.state == "finished"
    assert "loss.cross_entropy" in found.updates.column_names
    with pytest.raises(AttributeError):
        _ = run.nothing


def test_a_run_that_had_finished_still_answers(folder):
    first = bigbatch.train(folder, TEXTS, TEXTS[:20], batch_size=16, set=KEYS, run_dir="r")
    before = (first.path / "metrics.jsonl").read_bytes()
    again = bigbatch.train(folder, TEXTS, TEXTS[:20], batch_size=16, set=KEYS, run_dir="r")
    assert again.status == "finished" and again.path == first.path and list(again) == []
    assert again.metrics == first.metrics and again.result == first.result
    assert again.plan.to_json() == first.plan.to_json()
    assert not differing(again.model.state_dict(), first.model.state_dict())
    for mine, theirs in zip(again.predict(["late bag"]), first.predict(["late bag"]), strict=True):
        assert mine["label"] == theirs["label"]
        assert mine["probability"] == pytest.approx(theirs["probability"], rel=1e-5)
    with pytest.raises(UsageError, match="has finished"):
        again.stop()
    assert (first.path / "metrics.jsonl").read_bytes() == before


def test_a_live_model_gets_the_kept_weights_also_from_a_run_that_had_finished(tokenizer):
    first, second = tiny("bert", num_labels=5), tiny("bert", num_labels=5)
    keys = {**KEYS, "run.evaluate_every": "1 updates", "optimizer.lr": 0.5}
    for module in (first, second):
        run = bigbatch.train(
            module, TEXTS, TEXTS[:20], tokenizer=tokenizer, batch_size=16, set=keys, run_dir="r"
        )
        assert run.path.name == "r"
    assert run.result["best"]["step"] < 3 and run._parts is None
    assert not differing(first.state_dict(), second.state_dict())


def scaled_by(factor):
    def loss(logits, targets):
        return factor * torch.nn.functional.cross_entropy(logits, targets, reduction="none")

    return loss


def squared(logits, targets):
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none").square()


def test_another_loss_task_or_tokenizer_of_python_is_another_run(folder, tmp_path):
    other = tiny_tokenizer(tmp_path / "tok", [*WORDS[1:], WORDS[0]])
    marked = [{**row, "marked": 1.0} for row in TEXTS]
    calls = [
        {},
        {"loss": squared},
        {"loss": scaled_by(2.0)},
        {"loss": scaled_by(3.0)},
        {"tokenizer": other},
        {"task": Classify(kind="single")},
        {"task": TwoTerms()},
    ]
    folders = []
    for options in [*calls, calls[2], calls[4]]:
        run = bigbatch.train(
            folder, marked, batch_size=16, set={**KEYS, "updates": 1}, run_dir="r", **options
        )
        folders.append(run.path.name)
    assert folders[:7] == ["r", *(f"r-{number}" for number in range(2, 8))], "each is a run of its own"
    assert folders[7:] == [folders[2], folders[4]], "and is found again"


def test_leaving_the_loop_early_is_an_interruption_that_can_be_resumed(tmp_path):
    import signal

    handler = signal.getsignal(signal.SIGINT)
    with start(tmp_path / "r", set={"updates": 6}) as run:
        for record in run:
            if record.step == 2:
                break
    assert signal.getsignal(signal.SIGINT) is handler, "Ctrl-C is the caller's again"
    assert run.status == "interrupted" == document(tmp_path / "r", "status.json")["state"]
    assert events(tmp_path / "r", "interrupted")[0]["step"] == 2
    again = exhaust(start(tmp_path / "r", set={"updates": 6}))
    assert again.path == run.path and again.status == "finished"
    assert [line["step"] for line in lines(tmp_path / "r", "update")] == [1, 2, 3, 4, 5, 6]
    whole = exhaust(start(tmp_path / "s", set={"updates": 6}))
    assert not differing(again.model.state_dict(), whole.model.state_dict())


def test_leaving_the_loop_and_coming_back_goes_on(tmp_path):
    seen = []
    with start(tmp_path / "r") as run:
        for record in run:
            seen.append(record.step)
            if record.step == 2:
                break
        seen += [record.step for record in run if record.kind == "update"]
    assert seen == [1, 2, 3, 4] and run.status == "finished"


def test_an_error_in_the_callers_loop_fails_the_run_and_frees_the_directory(tmp_path):
    with pytest.raises(ZeroDivisionError), start(tmp_path / "r") as run:
        for _ in run:
            raise ZeroDivisionError
    assert run.status == "failed" == document(tmp_path / "r", "status.json")["state"]
    assert exhaust(start(tmp_path / "r")).status == "finished"


def test_another_thread_than_the_main_one(tmp_path):
    found = []

    def work():
        found.append(exhaust(start(tmp_path / "r", validation=HELD_OUT)).status)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == ["finished"]


def test_a_missed_gate_is_raised_after_everything_is_written(folder):
    keys = {**KEYS, "gate": {"accuracy": 1.1}}
    with pytest.raises(GateMissed, match=r"validation accuracy is .*, expected at least 1.1"):
        bigbatch.train(folder, TEXTS, TEXTS[:20], batch_size=16, set=keys, run_dir="r")
    from pathlib import Path

    assert document(Path("r"), "result.json")["exit_reason"] == "gate_missed"
    assert (Path("r") / "model/model.safetensors").exists() and (Path("r") / "report.html").exists()
    assert document(Path("r"), "status.json")["state"] == "finished"


def test_a_gate_in_the_other_direction(folder):
    keys = {**KEYS, "gate": {"loss": 0.0001, "log_loss": 50}}
    with pytest.raises(GateMissed, match=r"^gate missed: validation loss is .*, expected at most 0.0001$"):
        bigbatch.train(folder, TEXTS, TEXTS[:20], batch_size=16, set=keys, run_dir="r")


# ---------------------------------------------------------------- refused before anything is written


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows|empty"),
        ([{"text": "a", "label": "x"}, {"text": "b", "label": "x"}], "every row has the label"),
        ([*TEXTS, {"text": "late", "label": None}], "label"),
        ([*TEXTS, {"text": " ", "label": "pos"}], "empty text"),
        ([{"words": "a", "label": "x"}], "text"),
    ],
)
def test_bad_rows_leave_nothing_behind(tmp_path, folder, rows, message):
    with pytest.raises(DataError, match=message):
        bigbatch.train(folder, rows, batch_size=2, run_dir="r")
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_was_refused_late_does_not_block_the_next(tmp_path, folder):
    with pytest.raises(RecipeError, match="batch"):
        bigbatch.train(folder, TEXTS, batch_size=1000, run_dir="r")
    run = bigbatch.train(folder, TEXTS, batch_size=16, set=KEYS, run_dir="r")
    assert run.path.name == "r" and run.status == "finished"


def test_rooms_that_are_named_like_functions_are_called_like_them(tmp_path):
    """Importing `bigbatch.plan.frozen` puts the room where the function was."""
    import bigbatch.plan.frozen
    import bigbatch.report.read

    assert bigbatch.plan.frozen.Plan is not None
    with pytest.raises(UsageError):
        bigbatch.report(tmp_path / "nothing")  # type: ignore[operator]
    with pytest.raises(UsageError):
        bigbatch.plan(str(tmp_path / "nothing.yaml"))


def test_start_takes_what_train_takes():
    assert signature(bigbatch.start) == signature(bigbatch.train)
    with pytest.raises(TypeError, match=r"start\(\) got an unexpected keyword argument 'epoch'"):
        bigbatch.start("recipe.yaml", epoch=3)
