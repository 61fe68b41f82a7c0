"""A compute_metrics of Hugging Face's Trainer: what it is given, and what becomes of what it gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import bigbatch
from bigbatch.errors import RecipeError, UsageError
from tests.jobs import lines
from tests.models import tiny
from tests.test_api import KEYS, TEXTS

pytestmark = pytest.mark.usefixtures("here")

TAGS = ("O", "B-X", "I-X")
SENTENCES = [
    {"words": ["great", "crew", "late"][: 1 + number % 3], "tags": ["B-X", "I-X", "O"][: 1 + number % 3]}
    for number in range(24)
]


def accuracy(prediction):
    logits, labels = prediction
    return {"eval_right": (np.argmax(logits, axis=-1) == labels).mean(), "rows": len(labels)}


def train(model, rows, compute, **options):
    keys = {**KEYS, **options.pop("set", {})}
    call = {"batch_size": 16, "set": keys, "run_dir": "r", "quiet": True, "compute_metrics": compute}
    return bigbatch.train(model, rows, rows[:20], **{**call, **options})


def test_it_sees_the_logits_and_labels_of_the_whole_split(two_labels):
    seen = []

    def compute(prediction):
        seen.append((prediction.predictions, prediction.label_ids))
        return accuracy(prediction)

    run = train(two_labels, TEXTS, compute)
    assert set(run.metrics) == {"validation.loss", "validation.right", "validation.rows"}
    assert run.metrics["validation.rows"] == 20
    logits, labels = seen[-1]
    assert (logits.dtype, logits.shape, labels.dtype, labels.shape) == (np.float32, (20, 2), np.int64, (20,))
    from transformers import AutoTokenizer

    batch = AutoTokenizer.from_pretrained(two_labels)(
        [row["text"] for row in TEXTS[:20]], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = run.model(**{name: tensor.to(run.model.device) for name, tensor in batch.items()}).logits
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-5)
    assert labels.tolist() == [int(row["label"] == "pos") for row in TEXTS[:20]]
    assert run.metrics["validation.right"] == pytest.approx((expected.argmax(-1).numpy() == labels).mean())
    assert lines(run.path, "eval")[-1]["right"] == run.metrics["validation.right"]


def test_one_that_looks_at_batches_would_give_something_else(two_labels):
    """Of a figure that is no mean, such as a rank among all rows: computed once, over the whole split."""
    calls = []

    def compute(prediction):
        calls.append(len(prediction.label_ids))
        return {"spread": float(np.ptp(prediction.predictions))}

    train(two_labels, TEXTS, compute, set={"plan.micro_tokens": 16})
    assert calls == [20, 20], "once with perfect logits before the run, once with the model's"


def test_tags_come_in_rows_that_are_filled_up():
    seen = []

    def compute(prediction):
        seen.append(prediction)
        logits, labels = prediction
        assert logits.shape == (*labels.shape, len(TAGS))
        return {"words": int((labels != -100).sum())}

    rows = [
        {
            "input_ids": [2, *range(5, 5 + len(row["words"])), 3],
            "labels": [-100, *map(TAGS.index, row["tags"]), -100],
        }
        for row in SENTENCES
    ]
    run = train(tiny("bert", head="tokens", id2label=dict(enumerate(TAGS))), rows, compute, task="tag")
    assert run.metrics["validation.words"] == sum(len(row["words"]) for row in SENTENCES[:20])
    labels = seen[-1].label_ids
    assert labels.shape == (20, 3)
    assert [[tag for tag in row if tag != -100] for row in labels.tolist()] == [
        list(map(TAGS.index, row["tags"])) for row in SENTENCES[:20]
    ]
    ids = torch.tensor([rows[2]["input_ids"]])
    with torch.no_grad():
        expected = run.model(input_ids=ids).logits[0, 1:-1].numpy()
    np.testing.assert_allclose(seen[-1].predictions[2], expected, atol=1e-5)


def test_several_labels_and_numbers_have_the_shapes_that_they_have_there():
    shapes = {}

    def compute(prediction):
        shapes[kind] = (prediction.predictions.shape, prediction.label_ids.shape)
        return {"x": 0.0}

    def rows(label):
        return [{"input_ids": [2, 5 + n % 3, 3], "labels": label(n)} for n in range(40)]

    kind = "multi"
    several = rows(lambda n: [float(n % 2), 1.0, float(n % 3 == 0)])
    train(tiny("bert"), several, compute, task={"name": "classify", "kind": "multi"}, run_dir="m")
    kind = "regression"
    number = rows(lambda n: n / 7)
    train(
        tiny("bert", num_labels=1),
        number,
        compute,
        task={"name": "classify", "kind": "regression"},
        run_dir="n",
    )
    assert shapes == {"multi": ((20, 3), (20, 3)), "regression": ((20, 1), (20,))}


def test_its_figures_choose_the_weights_in_the_direction_that_is_named(two_labels):
    values = iter([0.0, 3.0, 1.0, 2.0])  # perfect logits first

    def compute(prediction):
        return {"cost": next(values, 5.0)}

    keys = {"run.evaluate_every": "1 updates", "best": "cost"}
    run = train(two_labels, TEXTS, compute, set=keys)
    assert (run.result["best"]["metric"], run.result["best"]["step"]) == ("cost", 1)
    from transformers import TrainingArguments

    values = iter([0.0, 3.0, 1.0, 2.0])
    args = TrainingArguments(
        output_dir="s", use_cpu=True, metric_for_best_model="eval_cost", greater_is_better=False
    )
    keys = {"run.evaluate_every": "1 updates", "updates": 3, "plan.micro_tokens": 128}
    run = bigbatch.train(
        two_labels, TEXTS, TEXTS[:20], args=args, set=keys, compute_metrics=compute, quiet=True
    )
    assert (run.result["best"]["metric"], run.result["best"]["step"]) == ("cost", 2)


def test_a_name_that_it_does_not_give_is_refused_before_the_first_update(two_labels, tmp_path):
    with pytest.raises(
        RecipeError, match="'f1' is not among the figures that compute_metrics gives: right, rows"
    ):
        train(two_labels, TEXTS, accuracy, set={"best": "f1"})
    assert not (tmp_path / "r" / "metrics.jsonl").exists()


def test_one_that_fails_does_so_before_the_first_update(two_labels, tmp_path):
    def compute(prediction):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        train(two_labels, TEXTS, compute)
    assert not (tmp_path / "r" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [(0.5, "it gave 0.5; expected a dictionary"), ({"a": "high"}, "a is 'high'; expected a number"),
     ({"a": np.zeros(3)}, "expected a number")],
)  # fmt: skip
def test_what_is_no_figure_is_refused(two_labels, given, sentence):
    with pytest.raises(UsageError, match=sentence):
        train(two_labels, TEXTS, lambda prediction: given)


def test_language_models_and_embeddings_have_no_logits_to_give():
    rows = [{"input_ids": [2, 5, 6, 7, 3]}] * 20
    with pytest.raises(UsageError, match="a language model's logits are never kept.*perplexity.*metrics="):
        train(tiny("gpt2", head="causal"), rows, accuracy, task="clm")
    with pytest.raises(UsageError, match="embeddings, not logits"):
        train("x", [{"query": "a", "document": "b"}] * 20, accuracy, task="match")
    with pytest.raises(UsageError, match="found str; expected a function"):
        train("x", TEXTS, "accuracy")
