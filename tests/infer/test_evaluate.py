from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from bigbatch.data.labels import LabelSet
from bigbatch.data.tokens import as_table
from bigbatch.infer import chunks
from bigbatch.infer.evaluate import evaluate
from bigbatch.infer.forwards import run_forward
from bigbatch.metrics.states import WholeMetric
from bigbatch.tasks.classify import Classify

AB = LabelSet(("neg", "pos"))


def table_of(task, tokenizer, rows=60, label=lambda random: random.choice(["neg", "pos"])):
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(list("abcdefgh"), random.integers(1, 12))) for _ in range(rows)]
    return as_table(task.encode_batch([{"text": text, "label": label(random)} for text in texts], tokenizer))


@pytest.fixture
def task():
    return Classify().with_facts(labels=AB)


@pytest.fixture
def table(task, tokenizer):
    return table_of(task, tokenizer)


def outputs_by_hand(forward, table):
    forward.module.eval()
    rows = [table.ids[a:b] for a, b in zip(table.token_offsets, table.token_offsets[1:], strict=False)]
    with torch.no_grad():
        return torch.stack([forward.module(torch.from_numpy(ids.astype(np.int64))) for ids in rows])


def test_loss_and_metrics_are_those_of_one_pass_in_table_order(forward, task, table):
    wanted = outputs_by_hand(forward, table).double()
    found = evaluate(forward, task, table, micro_tokens=40, packing="packed")
    values = torch.from_numpy(table.values)
    assert found.loss == pytest.approx(float(torch.nn.functional.cross_entropy(wanted, values)), rel=1e-12)
    predicted = wanted.argmax(-1).numpy()
    assert found.metrics["accuracy"] == pytest.approx(sk.accuracy_score(table.values, predicted))
    assert found.metrics["f1_macro"] == pytest.approx(sk.f1_score(table.values, predicted, average="macro"))
    np.testing.assert_array_equal(found.confusion, sk.confusion_matrix(table.values, predicted))
    assert found.samples == 60 and found.samples_per_second > 0 and found.labels == ("neg", "pos")
    assert sum(each["units"] for each in found.calibration) == 60
    json.dumps(found.calibration, allow_nan=False)
    assert len(forward.calls) > 3 and {"f1_neg", "f1_pos"} <= set(found.metrics)


@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_no_bit_depends_on_the_cut(forward, task, table, packing, monkeypatch):
    reference = evaluate(forward, task, table, micro_tokens=10_000, packing="packed")
    for micro_tokens, chunk in ((16, 65_536), (64, 7)):
        monkeypatch.setattr(chunks, "CHUNK_UNITS", chunk)
        found = evaluate(forward, task, table, micro_tokens=micro_tokens, packing=packing)
        assert (found.loss, found.metrics, found.examples) == (
            reference.loss, reference.metrics, reference.examples
        )  # fmt: skip
        np.testing.assert_array_equal(found.confusion, reference.confusion)


def test_the_most_confidently_wrong_rows(forward, task, table):
    shares = torch.softmax(outputs_by_hand(forward, table).double(), -1).numpy()
    predicted = shares.argmax(-1)
    wrong = [row for row in np.argsort(-shares.max(-1), kind="stable") if predicted[row] != table.values[row]]
    found = evaluate(forward, task, table, micro_tokens=64, packing="packed").examples
    assert [each.row for each in found] == wrong[:20] and len(found) == 20
    assert found[0].probability == pytest.approx(shares[wrong[0]].max())
    assert (
        found[0].label
        == AB.names[table.values[wrong[0]]]
        != found[0].predicted
        == AB.names[predicted[wrong[0]]]
    )


def test_modes_come_back_and_no_generator_is_touched(forward, task, table):
    forward.module.train()
    forward.module.dropout.eval()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = evaluate(forward, task, table, micro_tokens=64, packing="packed")
    assert forward.module.training and not forward.module.dropout.training
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert forward.module.head.grad is None
    forward.module.dropout.train()
    assert evaluate(forward, task, table, micro_tokens=64, packing="packed").loss == first.loss
    assert forward.module.dropout.training


def test_modes_come_back_after_an_error(forward, task, table):
    forward.module.train()

    def broken(_):
        raise RuntimeError("broken")

    broken.module = forward.module
    with pytest.raises(RuntimeError, match="broken"):
        run_forward(broken, table, micro_tokens=64, packing="packed")
    assert forward.module.training


def test_class_weights_are_in_the_loss_and_not_in_the_metrics(forward, task, table):
    plain = evaluate(forward, task, table, micro_tokens=64, packing="packed")
    heavy = task.with_facts(weights_C=(1.0, 3.0))
    found = evaluate(forward, heavy, table, micro_tokens=64, packing="packed")
    wanted = torch.nn.functional.cross_entropy(
        outputs_by_hand(forward, table).double(), torch.from_numpy(table.values),
        weight=torch.tensor([1.0, 3.0]).double(),
    )  # fmt: skip
    assert found.loss == pytest.approx(float(wanted), rel=1e-12) and found.loss != plain.loss
    assert found.metrics == plain.metrics


def test_rows_without_a_label_count_nowhere(forward, task, tokenizer):
    rows = [{"text": "a b", "label": "pos"}, {"text": "c"}, {"text": "d", "label": "neg"}]
    some = as_table(task.encode_batch(rows, tokenizer))
    few = as_table(task.encode_batch([rows[0], rows[2]], tokenizer))
    found, wanted = (evaluate(forward, task, each, micro_tokens=64, packing="packed") for each in (some, few))
    assert (found.loss, found.metrics) == (wanted.loss, wanted.metrics) and found.confusion.sum() == 2


def test_a_figure_that_does_not_exist_is_none_with_a_reason(forward, task, tokenizer):
    table = as_table(
        task.encode_batch([{"text": "a", "label": "pos"}, {"text": "b", "label": "pos"}], tokenizer)
    )
    found = evaluate(forward, task, table, micro_tokens=64, packing="packed")
    assert found.metrics["roc_auc_ovr"] is None and "'neg'" in found.undefined["roc_auc_ovr"]
    assert found.metrics["accuracy"] is not None and "accuracy" not in found.undefined
    unlabelled = as_table(task.encode_batch([{"text": "a"}], tokenizer))
    nothing = evaluate(forward, task, unlabelled, micro_tokens=64, packing="packed")
    assert nothing.loss is None and nothing.metrics["accuracy"] is None


def test_regression_and_a_metric_of_your_own(make_forward, tokenizer):
    forward, task = make_forward(outputs=1), Classify(kind="regression")
    table = table_of(task, tokenizer, 30, lambda random: float(random.normal()))
    seen = []

    def worst(predictions, targets):
        seen.append(len(targets.values))
        return float(np.abs(predictions.values - targets.values).max())

    metrics = (*task.metrics, WholeMetric(name="worst", figure=worst))
    found = evaluate(forward, task, table, metrics, micro_tokens=64, packing="packed")
    predicted = outputs_by_hand(forward, table).double().numpy()[:, 0]
    assert found.metrics["mse"] == found.loss == pytest.approx(sk.mean_squared_error(table.values, predicted))
    errors = np.abs(predicted - table.values)
    assert found.metrics["worst"] == errors.max() and seen == [30]
    assert found.examples[0].row == errors.argmax() and found.examples[0].probability is None
    assert found.confusion is None and found.calibration == ()


def test_multi_label(forward, tokenizer):
    task = Classify(kind="multi").with_facts(labels=AB)
    table = table_of(task, tokenizer, 30, lambda random: list(AB.names[: random.integers(0, 3)]))
    found = evaluate(forward, task, table, micro_tokens=64, packing="packed")
    shares = torch.sigmoid(outputs_by_hand(forward, table).double()).numpy()
    wanted = torch.nn.functional.binary_cross_entropy(
        torch.from_numpy(shares), torch.from_numpy(table.values).double()
    )
    assert found.loss == pytest.approx(float(wanted)) and found.examples == ()
    assert found.metrics["average_precision"] == pytest.approx(
        sk.average_precision_score(table.values, shares)
    )


def test_rows_are_scored_by_the_figures_that_are_asked_for(forward, task, table, monkeypatch):
    names = ("accuracy", "f1_macro", "log_loss", "loss", "roc_auc_ovr")
    found = evaluate(forward, task, table, micro_tokens=10_000, packing="packed", scored=names)
    predicted = outputs_by_hand(forward, table).numpy().argmax(-1)
    np.testing.assert_array_equal(found.scores["accuracy"], predicted == table.values)
    assert found.scores["loss"].mean() == pytest.approx(-found.loss)
    np.testing.assert_allclose(found.scores["log_loss"], found.scores["loss"], rtol=1e-6)
    # By itself: tests/metrics/test_row_scores.py holds it.
    assert found.scores["roc_auc_ovr"].shape == found.scores["loss"].shape
    assert not np.array_equal(found.scores["roc_auc_ovr"], found.scores["loss"])
    for chunk in (7, 1):
        monkeypatch.setattr(chunks, "CHUNK_UNITS", chunk)
        again = evaluate(forward, task, table, micro_tokens=16, packing="padded", scored=names)
        assert all(np.array_equal(again.scores[name], found.scores[name]) for name in names)
    assert evaluate(forward, task, table, micro_tokens=64, packing="packed").scores == {}


def test_weights_of_classes_are_in_the_scores_by_the_loss(forward, task, table):
    heavy = task.with_facts(weights_C=(1.0, 3.0))
    found = evaluate(forward, heavy, table, micro_tokens=64, packing="packed", scored=["loss"])
    plain = evaluate(forward, task, table, micro_tokens=64, packing="packed", scored=["loss"])
    weights = np.where(table.values == 1, 3.0, 1.0)
    np.testing.assert_allclose(found.scores["loss"], plain.scores["loss"] * weights * 60 / weights.sum())
    assert found.scores["loss"].mean() == pytest.approx(-found.loss)


def test_a_row_that_does_not_count_has_no_score(forward, task, tokenizer):
    rows = [{"text": "a b", "label": "pos"}, {"text": "c"}, {"text": "d", "label": "neg"}]
    some = as_table(task.encode_batch(rows, tokenizer))
    found = evaluate(forward, task, some, micro_tokens=64, packing="packed", scored=["loss", "f1_macro"])
    assert {len(scores) for scores in found.scores.values()} == {2}
