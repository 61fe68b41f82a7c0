"""The Trainer's door: the tutorial scripts of transformers with one import changed, and the exact gradient behind it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    TrainingArguments,
)

import bigbatch
from bigbatch import Trainer
from bigbatch.errors import UsageError
from tests.jobs import differing, lines
from tests.models import WORDS, tiny, tiny_folder, tiny_tokenizer

TUTORIALS = Path(__file__).parent / "tutorials"
IMPORT = "from transformers import Trainer\n"
TAGS = ("O", "B-corporation", "I-corporation", "B-person", "I-person")
TOLERANCES = {"float64": 1e-10, "float32": 1e-5}


def sentences(count, seed=0, longest=9):
    random = np.random.default_rng(seed)
    return [
        [str(word) for word in random.choice(WORDS, int(random.integers(1, longest)))] for _ in range(count)
    ]


REVIEWS = [{"text": " ".join(words), "label": number % 2} for number, words in enumerate(sentences(80))]
NEWS = [{"tokens": words, "ner_tags": [(number + place) % 5 for place in range(len(words))]}
        for number, words in enumerate(sentences(80, seed=1))]  # fmt: skip
ANSWERS = [{"answers": {"text": [" ".join(words), "thanks"]}, "q_id": str(number)}
           for number, words in enumerate(sentences(90, seed=2, longest=14))]  # fmt: skip


def run_script(name, monkeypatch, folder, **given):
    """A tutorial with its one import changed."""
    monkeypatch.chdir(folder)
    source = (TUTORIALS / name).read_text()
    assert source.count(IMPORT) == 1
    names = {"OUT": str(folder / "out"), **given}
    exec(compile(source.replace(IMPORT, "from bigbatch import Trainer\n"), name, "exec"), names)
    return names


def first_rows(trainer):
    """Numbers of the training rows in the first update."""
    parts = trainer.run._parts
    return np.asarray(parts.batches.at(0, parts.recipe.batch.samples).sample_ids_B)


def held(trainer, loss, tolerance):
    """Backward through a loss of the plain path; the first update's loss and gradient norm against it."""
    module, value = loss
    value.backward()
    norm = torch.linalg.vector_norm(
        torch.stack([each.grad.double().norm() for each in module.parameters() if each.grad is not None])
    )
    first = lines(trainer.run.path, "update")[0]
    assert first["loss"] == pytest.approx(value.item(), rel=tolerance)
    assert first["grad_norm"] == pytest.approx(norm.item(), rel=tolerance)


def plain(kind, folder, dtype, batch, **fields):
    """(module, its own loss) of the usual forward on a padded batch."""
    module = kind.from_pretrained(folder, dtype=dtype, **fields).train()
    return module, module(**batch).loss


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_text_classification(tmp_path, monkeypatch, dtype):
    folder = tiny_folder(tmp_path / "model", "distilbert", num_labels=2)
    names = run_script(
        "text_classification.py", monkeypatch, tmp_path, MODEL=folder, DATA=REVIEWS, DTYPE=dtype
    )
    trainer = names["trainer"]
    rows = first_rows(trainer)
    assert len(rows) == 16, "4 a device, 4 steps of accumulation: one exact batch of 16"
    data = names["tokenized"]["train"].select_columns(["input_ids", "attention_mask", "label"])
    batch = names["data_collator"]([data[int(row)] for row in rows])
    held(
        trainer,
        plain(AutoModelForSequenceClassification, folder, dtype, batch, num_labels=2),
        TOLERANCES[dtype],
    )
    assert names["results"]["eval_accuracy"] == trainer.run.metrics["validation.accuracy"]
    assert names["results"]["eval_loss"] == pytest.approx(trainer.run.metrics["validation.loss"], rel=1e-6)
    found = names["predictions"]
    with torch.no_grad():
        held_out = names["tokenized"]["test"].select_columns(["input_ids", "attention_mask", "label"])
        batch = names["data_collator"](list(held_out))
        logits = names["model"](**{**batch, "labels": None}).logits
    np.testing.assert_allclose(found.predictions, logits.float().numpy(), atol=1e-5)
    assert found.label_ids.tolist() == batch["labels"].tolist()
    assert found.metrics["test_accuracy"] == names["results"]["eval_accuracy"]
    assert names["model"].config.id2label == {0: "NEGATIVE", 1: "POSITIVE"}
    assert trainer.run._parts.recipe.seed.model == 42 and trainer.run.result["updates"] == 8


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_token_classification(tmp_path, monkeypatch, dtype):
    folder = tiny_folder(tmp_path / "model", "distilbert", head="tokens", num_labels=5)
    names = run_script("token_classification.py", monkeypatch, tmp_path, MODEL=folder, DATA=NEWS, DTYPE=dtype)
    trainer = names["trainer"]
    data = names["tokenized"]["train"].select_columns(["input_ids", "attention_mask", "labels"])
    batch = names["data_collator"]([data[int(row)] for row in first_rows(trainer)])
    held(
        trainer, plain(AutoModelForTokenClassification, folder, dtype, batch, num_labels=5), TOLERANCES[dtype]
    )
    words = sum(len(row["tokens"]) for row in names["wnut"]["test"])
    assert names["results"]["eval_words"] == trainer.run.metrics["validation.words"] == words
    assert trainer.run.model.config.id2label == dict(enumerate(TAGS))
    found = names["predictions"]
    assert found.predictions.shape == (*found.label_ids.shape, 5) and (found.label_ids != -100).sum() == words


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_causal_language_model(tmp_path, monkeypatch, dtype):
    folder = causal_folder(tmp_path / "model")
    names = run_script(
        "language_modelling.py", monkeypatch, tmp_path, MODEL=folder, DATA=ANSWERS, DTYPE=dtype, MLM=False
    )
    trainer = names["trainer"]
    data = names["lm_dataset"]["train"]
    ends = names["tokenizer"].eos_token_id
    assert any(ends in row["input_ids"][1:] for row in data), (
        "some targets are the padding, which does not count"
    )
    batch = names["data_collator"]([data[int(row)] for row in first_rows(trainer)])
    held(
        trainer,
        next_tokens(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype), batch),
        TOLERANCES[dtype],
    )
    assert names["perplexity"] == pytest.approx(trainer.run.metrics["validation.perplexity"], rel=1e-6)
    assert names["eval_results"]["eval_perplexity"] == pytest.approx(names["perplexity"], rel=1e-9)


def next_tokens(module, batch):
    """(module, mean over counted next tokens); transformers' own causal loss rounds logits to float32."""
    logits = module.train()(**{**batch, "labels": None}).logits[:, :-1]
    return module, torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())


def causal_folder(path):
    """A GPT-2 whose tokenizer ends every text with an end mark and has no padding of its own."""
    from transformers import AutoTokenizer

    tiny_folder(path, "gpt2", head="causal", pad_token_id=None, eos_token_id=3, bos_token_id=2)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    tokenizer.save_pretrained(path)
    return path


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_masked_language_model(tmp_path, monkeypatch, dtype):
    folder = tiny_folder(tmp_path / "model", head="masked")
    names = run_script(
        "language_modelling.py", monkeypatch, tmp_path, MODEL=folder, DATA=ANSWERS, DTYPE=dtype, MLM=True
    )
    trainer = names["trainer"]
    parts, rows = trainer.run._parts, first_rows(trainer)
    assert parts.task.probability == 0.15
    # The masks are drawn here, not by the collator; everything behind them is transformers' own.
    seen = parts.task.view(parts.train, rows, np.zeros_like(rows))
    data = names["lm_dataset"]["train"]
    ids, labels = [], []
    for place, row in enumerate(rows):
        shown = np.asarray(seen.ids[seen.token_offsets[place] : seen.token_offsets[place + 1]])
        units = slice(seen.unit_offsets[place], seen.unit_offsets[place + 1])
        label = np.full(len(shown), -100)
        label[seen.reads[units]] = seen.values[units]
        whole = np.where(label == -100, shown, label)
        assert whole.tolist() == data[int(row)]["input_ids"], "what is masked is the row itself"
        ids.append(shown)
        labels.append(label)
    batch = {"input_ids": torch.tensor(np.stack(ids)).long(), "labels": torch.tensor(np.stack(labels))}
    held(trainer, plain(AutoModelForMaskedLM, folder, dtype, batch), TOLERANCES[dtype])
    assert names["perplexity"] == pytest.approx(trainer.run.metrics["validation.perplexity"], rel=1e-6)


# ---------------------------------------------------------------- the rest of the door


def ids(count=48, seed=0):
    random = np.random.default_rng(seed)
    rows = [[2, *random.integers(5, 40, int(random.integers(1, 7))).tolist(), 3] for _ in range(count)]
    return [{"input_ids": row, "attention_mask": [1] * len(row), "labels": len(row) % 2} for row in rows]


ROWS = ids()


def arguments(**changes):
    return TrainingArguments(**{"output_dir": "out", "use_cpu": True, "max_steps": 4} | changes)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("here")
def test_what_training_gives_and_the_state_that_it_leaves():
    trainer = Trainer(
        tiny("bert", num_labels=2), arguments(eval_strategy="steps", eval_steps=2), None, ROWS, ROWS[:16]
    )
    assert trainer.state.global_step == 0 and trainer.state.log_history == []
    found = trainer.train()
    updates, evals = lines(trainer.run.path, "update"), lines(trainer.run.path, "eval")
    assert found.global_step == 4 and found.training_loss == pytest.approx(
        np.mean([each["loss"] for each in updates])
    )
    assert found.metrics["train_samples_per_second"] > 0
    history = trainer.state.log_history
    assert [each["step"] for each in history] == [1, 2, 2, 3, 4, 4]
    assert history[0] == {"step": 1, "loss": updates[0]["loss"], "grad_norm": updates[0]["grad_norm"],
                          "learning_rate": updates[0]["lr"]}  # fmt: skip
    assert history[2]["eval_accuracy"] == evals[0]["accuracy"]
    assert trainer.state.best_metric == trainer.run.result["best"]["value"]
    assert trainer.model is trainer.run.model


@pytest.mark.usefixtures("here")
def test_without_arguments_it_trains_as_the_trainer_does():
    trainer = Trainer(model=tiny("bert", num_labels=2), train_dataset=ROWS)
    trainer.train()
    recipe = trainer.run._parts.recipe
    assert trainer.run.path == Path("tmp_trainer").resolve() and trainer.run.result["updates"] == 18
    assert (recipe.epochs, recipe.batch.samples, recipe.optimizer.lr, recipe.optimizer.weight_decay) == (
        3,
        8,
        5e-5,
        0,
    )


@pytest.mark.usefixtures("here")
def test_before_training_the_model_is_evaluated_as_it_is():
    module = tiny("bert", num_labels=2)
    trainer = Trainer(module, arguments(), train_dataset=ROWS, eval_dataset={"all": ROWS, "some": ROWS[:10]})
    found = trainer.evaluate()
    batch = DataCollatorWithPadding(tiny_tokenizer(Path("tok")))(ROWS)
    with torch.no_grad():
        expected = module(**batch)
    assert found["eval_all_loss"] == pytest.approx(expected.loss.item(), rel=1e-5)
    right = (expected.logits.argmax(-1) == batch["labels"]).double()
    assert found["eval_all_accuracy"] == pytest.approx(right.mean().item())
    assert found["eval_some_accuracy"] == pytest.approx(right[:10].mean().item())
    assert not Path("out").exists(), "nothing was trained"


@pytest.mark.usefixtures("here")
def test_rows_without_labels_have_logits_too():
    module = tiny("bert", num_labels=2)
    trainer = Trainer(module, arguments())
    bare = [{name: row[name] for name in ("input_ids", "attention_mask")} for row in ROWS]
    found, whole = trainer.predict(bare), trainer.predict(ROWS)
    assert found.label_ids is None and whole.label_ids.tolist() == [row["labels"] for row in ROWS]
    np.testing.assert_allclose(found.predictions, whole.predictions, atol=1e-6)
    assert (
        set(found.metrics) == {"test_runtime", "test_samples_per_second"} and "test_accuracy" in whole.metrics
    )


@pytest.mark.usefixtures("here")
def test_text_rows_are_tokenised_here(tmp_path):
    folder = tiny_folder(tmp_path / "model", num_labels=2)
    trainer = Trainer(
        AutoModelForSequenceClassification.from_pretrained(folder), arguments(), train_dataset=REVIEWS
    )
    trainer.train()
    assert trainer.run.status == "finished"
    assert trainer.predict([{"text": "great crew"}]).predictions.shape == (1, 2)


@pytest.mark.usefixtures("here")
def test_files_are_read_here(tmp_path):
    folder = tiny_folder(tmp_path / "model", id2label={0: "bad", 1: "good"})
    names = ("bad", "good")
    lines_of = [f"{row['text']},{names[row['label']]}" for row in REVIEWS]
    Path("reviews.csv").write_text("\n".join(["text,label", *lines_of]) + "\n")
    module = AutoModelForSequenceClassification.from_pretrained(folder)
    trainer = Trainer(module, arguments(), train_dataset="reviews.csv", eval_dataset=["reviews.csv"])
    trainer.train()
    assert trainer.evaluate()["eval_accuracy"] == trainer.run.metrics["validation.accuracy"]
    assert trainer.predict("reviews.csv").predictions.shape == (80, 2)


@pytest.mark.usefixtures("here")
def test_labels_of_several_zeros_and_ones_are_several_labels():
    rows = [{"input_ids": row["input_ids"], "labels": [float(row["labels"]), 1.0, 0.0]} for row in ROWS]
    trainer = Trainer(tiny("bert"), arguments(), train_dataset=rows, eval_dataset=rows[:9])
    trainer.train()
    module = tiny("bert")
    batch = DataCollatorWithPadding(tiny_tokenizer(Path("tok")))(
        [rows[int(row)] for row in first_rows(trainer)]
    )
    module.config.problem_type = "multi_label_classification"
    held(trainer, (module.train(), module(**batch).loss), 1e-5)
    assert trainer.predict(rows).label_ids.shape == (48, 3)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("head", ["sequence", "tokens"])
@pytest.mark.parametrize("named", [True, False])
def test_a_class_id_is_a_place_among_the_outputs_whichever_ids_occur(head, named):
    """Rows without the last classes, as small data often are: the head stays, and its gradient is exact."""
    rows = ROWS if head == "sequence" else [
        {**row, "labels": [-100, *(place % 3 for place in range(len(row["input_ids"]) - 2)), -100]} for row in ROWS
    ]  # fmt: skip
    fields = {"id2label": dict(enumerate(TAGS))} if named else {"num_labels": 5}
    collator = DataCollatorForTokenClassification if head == "tokens" else DataCollatorWithPadding
    collator = collator(tiny_tokenizer(Path("tok")))
    trainer = Trainer(tiny("bert", head=head, **fields), arguments(), collator, rows, rows[:9])
    trainer.train()
    names = TAGS if named else tuple(f"LABEL_{place}" for place in range(5))
    assert tuple(trainer.run.model.config.id2label.values()) == names
    module = tiny("bert", head=head, **fields).train()
    batch = collator([rows[int(row)] for row in first_rows(trainer)])
    held(trainer, (module, module(**batch).loss), 1e-5)
    assert trainer.predict(rows).predictions.shape[-1] == 5 and "eval_accuracy" in trainer.evaluate()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "names", [{0: "NEGATIVE", 1: "POSITIVE"}, {0: "pos", 1: "neg"}, {0: "LABEL_0", 1: "LABEL_1"}]
)
def test_class_names_of_a_dataset_move_no_class(names):
    from datasets import ClassLabel, Dataset

    data = Dataset.from_list(ROWS).cast_column("labels", ClassLabel(names=["neg", "pos"]))
    fields = {"id2label": names}
    trainer = Trainer(
        tiny("bert", **fields), arguments(), None, data, {"all": data, "few": data.select(range(9))}
    )
    trainer.train()
    shown = {0: "neg", 1: "pos"} if names[0] == "LABEL_0" else names
    assert trainer.model.config.id2label == shown
    batch = DataCollatorWithPadding(tiny_tokenizer(Path("tok")))(
        [ROWS[int(row)] for row in first_rows(trainer)]
    )
    module = tiny("bert", **fields).train()
    held(trainer, (module, module(**batch).loss), 1e-5)
    assert trainer.predict(data).label_ids.tolist() == [row["labels"] for row in ROWS]
    assert "eval_few_accuracy" in trainer.evaluate()


@pytest.mark.usefixtures("here")
def test_one_output_is_a_number():
    rows = [{"input_ids": row["input_ids"], "labels": len(row["input_ids"]) / 7} for row in ROWS]
    trainer = Trainer(tiny("bert", num_labels=1), arguments(), train_dataset=rows, eval_dataset=rows[:9])
    trainer.train()
    module = tiny("bert", num_labels=1)
    batch = DataCollatorWithPadding(tiny_tokenizer(Path("tok")))(
        [rows[int(row)] for row in first_rows(trainer)]
    )
    held(trainer, (module.train(), module(**batch).loss), 1e-5)
    assert "eval_mse" in trainer.evaluate()


@pytest.mark.usefixtures("here")
def test_a_label_column_of_another_name():
    rows = [{"input_ids": row["input_ids"], "target": row["labels"]} for row in ROWS]
    trainer = Trainer(tiny("bert", num_labels=2), arguments(label_names=["target"]), train_dataset=rows)
    trainer.train()
    assert trainer.evaluate(rows)["eval_accuracy"] == trainer.predict(rows).metrics["test_accuracy"]


@pytest.mark.usefixtures("here")
def test_a_prompt_that_is_not_learnt_from():
    """Labels that rows bring, -100 where a token is only read, with the collator that leaves them alone."""
    rows = [{"input_ids": row["input_ids"], "labels": [-100, *row["input_ids"][1:]]} for row in ROWS]
    rows = [{**row, "labels": [-100] * 2 + row["labels"][2:]} for row in rows if len(row["input_ids"]) > 3]
    trainer = Trainer(
        tiny("gpt2", head="causal"),
        arguments(),
        DataCollatorForTokenClassification(tiny_tokenizer(Path("tok"))),
        rows,
    )
    trainer.train()
    batch = trainer.data_collator([rows[int(row)] for row in first_rows(trainer)])
    held(trainer, next_tokens(tiny("gpt2", head="causal"), batch), 1e-5)


@pytest.mark.usefixtures("here")
def test_an_interrupted_run_goes_on_when_asked():
    def trainer(seed):
        return Trainer(tiny("bert", num_labels=2, seed=seed), arguments(), train_dataset=ROWS, quiet=True)

    with pytest.raises(UsageError, match="there is no run in"):
        trainer(0).train(resume_from_checkpoint=True)
    task = {"name": "classify", "labels": ["LABEL_0", "LABEL_1"]}
    with bigbatch.start(tiny("bert", num_labels=2), ROWS, args=arguments(), task=task) as run:
        for record in run:
            if record.step == 2:
                break
    again = trainer(5)
    assert again.train(resume_from_checkpoint=str(run.path / "checkpoints")).global_step == 4
    assert again.run.path == run.path
    with pytest.raises(UsageError, match="elsewhere is not in out"):
        trainer(0).train(resume_from_checkpoint="elsewhere")


@pytest.mark.usefixtures("here")
def test_ctrl_c_ends_the_script_once_everything_is_saved():
    trainer = Trainer(tiny("bert", num_labels=2), arguments(eval_strategy="steps", eval_steps=2), None, ROWS, ROWS[:9],
                      compute_metrics=interrupting, quiet=True)  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.run.status == "interrupted" and (trainer.run.path / "checkpoints").exists()
    again = Trainer(trainer.model, arguments(), train_dataset=ROWS, eval_dataset=ROWS[:9], quiet=True)
    assert again.train(resume_from_checkpoint=True).global_step == 4 and again.run.path == trainer.run.path


def interrupting(prediction):
    """Ctrl-C while the model is evaluated; the first call is with perfect logits, before the run."""
    interrupting.calls += 1
    if interrupting.calls == 2:
        os.kill(os.getpid(), signal.SIGINT)
    return {"calls": interrupting.calls}


interrupting.calls = 0


@pytest.mark.usefixtures("here")
def test_the_model_folder(tmp_path):
    folder = tiny_folder(tmp_path / "model", num_labels=2)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    module = AutoModelForSequenceClassification.from_pretrained(folder)
    trainer = Trainer(module, arguments(), train_dataset=ROWS, processing_class=tokenizer)
    trainer.save_model("before")
    assert AutoTokenizer.from_pretrained("before")("great").input_ids == tokenizer("great").input_ids
    trainer.train()
    trainer.save_model()
    for place in ("out", "out/model"):
        again = AutoModelForSequenceClassification.from_pretrained(place)
        assert not differing(again.state_dict(), module.state_dict())
    assert differing(
        AutoModelForSequenceClassification.from_pretrained("before").state_dict(), module.state_dict()
    )
    with pytest.raises(UsageError, match=r"the model is in .*/out/model: hf upload me/mine .*/out/model"):
        Trainer.push_to_hub(
            SimpleNamespace(run=trainer.run, args=SimpleNamespace(output_dir="out", hub_model_id="me/mine"))
        )
    with pytest.raises(UsageError, match="hf upload USER/out"):
        trainer.push_to_hub()


@pytest.mark.usefixtures("here")
def test_a_place_that_cannot_hold_a_model_is_refused(tmp_path):
    folder = tiny_folder(tmp_path / "model", num_labels=2)
    module = AutoModelForSequenceClassification.from_pretrained(folder)
    Path("taken").write_text("mine")
    trainer = Trainer(module, arguments(), train_dataset=ROWS, quiet=True)
    with pytest.raises(UsageError, match="taken cannot be written: "):
        trainer.save_model("taken")
    assert Path("taken").read_text() == "mine"


@pytest.mark.usefixtures("here")
def test_evaluations_without_data_are_refused_before_the_run():
    trainer = Trainer(tiny("bert", num_labels=2), arguments(eval_strategy="epoch"), train_dataset=ROWS)
    with pytest.raises(UsageError, match="eval_strategy: epoch .*eval_dataset="):
        trainer.train()
    assert not Path("out").exists()


REFUSED = {
    "callbacks": ([EarlyStoppingCallback()], "early_stopping"),
    "compute_loss_func": (len, "loss=function"),
    "preprocess_logits_for_metrics": (len, "compute_metrics"),
    "optimizers": ((torch.optim.SGD([torch.zeros(1)], 0.1), None), "optimizer.name"),
    "optimizer_cls_and_kwargs": ((torch.optim.SGD, {}), "optimizer.name"),
    "model": (None, "no model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_another_loop_would_need_is_refused_with_what_to_use(name):
    value, instead = REFUSED[name]
    with pytest.raises(UsageError, match=instead):
        Trainer(**{"model": tiny("bert"), name: value})


def test_a_method_that_would_never_be_called_is_refused():
    with pytest.raises(UsageError, match="Mine.compute_loss is never called here; instead: bigbatch.train"):

        class Mine(Trainer):
            def compute_loss(self, model, inputs):
                return 0

    class Fine(Trainer):
        def report(self):
            return "fine"

    assert Fine(tiny("bert")).report() == "fine"
    with pytest.raises(AttributeError, match="has no 'log_metrics': it has train, evaluate"):
        _ = Fine(tiny("bert")).log_metrics


def test_a_head_without_a_task_is_refused():
    from transformers import BertConfig, BertForMultipleChoice

    shape = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
        "vocab_size": 9,
    }
    with pytest.raises(UsageError, match="BertForMultipleChoice has no head that a task here has"):
        Trainer(BertForMultipleChoice(BertConfig(**shape)), train_dataset=ROWS)


def test_the_model_may_come_from_a_function():
    assert Trainer(model_init=lambda: tiny("bert")).model.config.model_type == "bert"


# ---------------------------------------------------------------- texts that belong together

PAIRS = [{"anchor": " ".join(words), "positive": " ".join(reversed(words)), "negative": " ".join(words[:1] * 3)}
         for words in {tuple(words) for words in sentences(70, seed=5) if len(words) > 3}]  # fmt: skip


@pytest.fixture(scope="module")
def sentence_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "encoder"
    tiny_tokenizer(folder)
    tiny("bert").bert.save_pretrained(folder)
    return folder


def sentence_transformer(folder):
    modules = pytest.importorskip("sentence_transformers.base.modules")
    pooling = pytest.importorskip("sentence_transformers.sentence_transformer.modules").Pooling
    parts = [modules.Transformer(str(folder)), pooling(32, "mean")]
    return pytest.importorskip("sentence_transformers").SentenceTransformer(modules=parts, device="cpu")


BOTH_WAYS = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}


@pytest.mark.parametrize("ways", [{}, BOTH_WAYS], ids=["one way", "both ways"])
@pytest.mark.parametrize("columns", [("anchor", "positive"), ("anchor", "positive", "negative")])
@pytest.mark.usefixtures("here")
def test_a_sentence_transformer_and_its_losses(sentence_folder, ways, columns):
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    model = sentence_transformer(sentence_folder)
    rows = [{f"text {place}": row[name] for place, name in enumerate(columns)} for row in PAIRS]
    args = arguments(per_device_train_batch_size=6, gradient_accumulation_steps=2)
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=rows,
        eval_dataset=rows[:9],
        loss=losses.MultipleNegativesRankingLoss(model, scale=10.0, **ways),
    )
    before = model.encode(["great crew"])
    trainer.train()
    other = sentence_transformer(sentence_folder)
    batch = [rows[int(row)] for row in first_rows(trainer)]
    assert len(batch) == 12
    features = [other.tokenize([row[name] for row in batch]) for name in batch[0]]
    loss = losses.MultipleNegativesRankingLoss(other.train(), scale=10.0, **ways)(features, None)
    held(trainer, (other, loss), 1e-5)
    after = model.encode(["great crew"])
    assert not np.allclose(before, after), "the model itself was trained"
    found = np.asarray(trainer.run.predict(["great crew"])[0]["embedding"])
    np.testing.assert_allclose(after[0] / np.linalg.norm(after), found, atol=1e-5)
    assert "eval_recall@10" in trainer.evaluate()


@pytest.mark.usefixtures("here")
def test_pairs_need_no_columns(sentence_folder):
    for names in (
        ("anchor", "positive"),
        ("sentence1", "sentence2"),
        ("sentence_0", "sentence_1"),
        ("text1", "text2"),
    ):
        rows = [dict(zip(names, (row["anchor"], row["positive"]), strict=True)) for row in PAIRS]
        run = bigbatch.train(
            str(sentence_folder),
            rows,
            task="match",
            batch_size=8,
            set={"updates": 1},
            run_dir=names[0],
            quiet=True,
        )
        losses = lines(run.path, "update")[0]["loss"]
        assert losses == pytest.approx(lines(Path("anchor"), "update")[0]["loss"], rel=1e-6)


@pytest.mark.usefixtures("here")
def test_a_model_without_a_head_matches_texts(sentence_folder):
    from transformers import AutoModel

    trainer = Trainer(AutoModel.from_pretrained(sentence_folder), arguments(), train_dataset=PAIRS)
    trainer.train()
    assert trainer.run._parts.task.temperature == 0.05 and trainer.run.status == "finished"


def test_what_pairs_cannot_be_is_refused(sentence_folder):
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    model = sentence_transformer(sentence_folder)
    scored = [{"sentence1": "a", "sentence2": "b", "score": 0.2}]
    with pytest.raises(
        UsageError, match="row 1: score is 0.2, and task match learns from pairs that belong together"
    ):
        Trainer(model, train_dataset=scored)
    assert Trainer(model, train_dataset=[{**scored[0], "score": 1.0}]).task["name"] == "match"
    with pytest.raises(UsageError, match="found the columns a; expected two or three of text"):
        Trainer(model, train_dataset=[{"a": "x"}])
    with pytest.raises(UsageError, match="loss: CosineSimilarityLoss: task match holds every query"):
        Trainer(model, train_dataset=PAIRS, loss=losses.CosineSimilarityLoss(model))
    with pytest.raises(UsageError, match="directions=.*is not built"):
        loss = losses.MultipleNegativesRankingLoss(model, directions=("query_to_doc", "query_to_query"))
        Trainer(model, train_dataset=PAIRS, loss=loss)
    with pytest.raises(UsageError, match="evaluator is for another loop"):
        Trainer(model, train_dataset=PAIRS, evaluator=len)
    with pytest.raises(UsageError, match="loss is for pairs of texts"):
        Trainer(tiny("bert"), train_dataset=ROWS, loss=losses.MultipleNegativesRankingLoss(model))
    model.append(modules.Dense(32, 8))
    with pytest.raises(UsageError, match="found a SentenceTransformer of Transformer, Pooling, Dense"):
        Trainer(model, train_dataset=PAIRS)
