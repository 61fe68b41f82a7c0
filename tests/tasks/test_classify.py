from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import special

from bigbatch.data.labels import LabelSet
from bigbatch.errors import DataError, RecipeError
from bigbatch.model.heads import Head
from bigbatch.protocols import Role
from bigbatch.samples import Sample, Targets
from bigbatch.tasks.classify import Classify
from bigbatch.tasks.losses import UnitLoss

ABC = LabelSet(("neg", "neutral", "pos"))


def same(left: Sample, right: Sample) -> bool:
    arrays = [(left.ids, right.ids), (left.reads, right.reads), (left.values, right.values)]
    arrays += [(left.weights, right.weights), (left.segments, right.segments)]
    arrays += [(left.extras[name], right.extras[name]) for name in {*left.extras, *right.extras}]
    return left.truncated == right.truncated and all(
        np.array_equal(one, other) and one.dtype == other.dtype for one, other in arrays
    )


def test_samples_of_single_labels(tokenizer):
    task = Classify().with_facts(labels=ABC, max_length=4)
    rows = [{"text": "a b c", "label": "pos"}, {"text": "a", "label": "neg"}, {"text": "b"}]
    samples = task.encode_batch(rows, tokenizer)
    assert [sample.values.tolist() for sample in samples] == [[2], [0], [-100]]
    assert [sample.weights.tolist() for sample in samples] == [[1], [1], [0]]
    assert [sample.truncated for sample in samples] == [True, False, False]
    assert samples[0].reads.tolist() == [0] and samples[0].values.dtype == np.int64
    assert all(same(task.encode(row, tokenizer), sample) for row, sample in zip(rows, samples, strict=True))
    last = task.with_facts(pools="last").encode(rows[0], tokenizer)
    assert last.reads.tolist() == [3]


def test_samples_of_other_kinds(tokenizer):
    multi = Classify(kind="multi").with_facts(labels=ABC)
    assert multi.encode({"text": "a", "label": ["pos", "neg"]}, tokenizer).values.tolist() == [[1, 0, 1]]
    empty = multi.encode({"text": "a", "label": []}, tokenizer)
    assert empty.values.tolist() == [[0, 0, 0]] and empty.weights.tolist() == [1]
    assert multi.encode({"text": "a"}, tokenizer).weights.tolist() == [0]
    number = (
        Classify(kind="regression")
        .with_facts(labels=LabelSet(()))
        .encode({"text": "a", "label": 2.5}, tokenizer)
    )
    assert number.values.tolist() == [2.5] and number.values.dtype == np.float32
    two = Classify(kind="regression", labels=("x", "y")).encode({"text": "a", "label": [1, 2]}, tokenizer)
    assert two.values.tolist() == [[1, 2]]
    with pytest.raises(DataError, match="found 1 numbers in a label; expected 2"):
        Classify(kind="regression", labels=("x", "y")).encode({"text": "a", "label": 1}, tokenizer)


def test_pairs_are_read_together(tokenizer):
    found = Classify().with_facts(labels=ABC).encode({"text": "a", "pair": "b", "label": "neg"}, tokenizer)
    assert found.ids.tolist() == [2, 4, 3, 5, 3] and found.segments.tolist() == [0, 0, 0, 1, 1]
    assert not Classify().roles["pair"].required


def test_rows_of_token_ids(tokenizer):
    row = {"input_ids": [2, 4, 3, 0], "attention_mask": [1, 1, 1, 0], "labels": 1}
    task = Classify().with_facts(labels=ABC, pools="last")
    found = task.encode(row, tokenizer)
    assert found.ids.tolist() == [2, 4, 3] and found.reads.tolist() == [2] and found.values.tolist() == [1]
    assert task.encode({**row, "labels": -100}, tokenizer).weights.tolist() == [0]
    with pytest.raises(DataError, match="class 3; expected 0 to 2"):
        task.encode({**row, "labels": 3}, tokenizer)
    multi = replace(task, kind="multi")
    assert multi.encode({**row, "labels": [0, 1, 1]}, tokenizer).values.tolist() == [[0, 1, 1]]
    with pytest.raises(DataError, match="3 zeros and ones"):
        multi.encode({**row, "labels": [0, 2, 1]}, tokenizer)


class Weighted(Classify):
    @property
    def roles(self) -> Mapping[str, Role]:
        return {**super().roles, "confidence": Role(meaning="how sure the label is", kind="number")}

    def encode(self, row, tokenizer):
        confidence = np.array([row["confidence"]], np.float32)
        sample = super().encode(row, tokenizer)
        return replace(sample, weights=sample.weights * confidence, extras={"confidence": confidence})


@dataclass(frozen=True, kw_only=True)
class Finished(Classify):
    power: float = 1.0

    def finish(self, row, sample):
        return replace(sample, weights=sample.weights * np.float32(row["confidence"] ** self.power))


def test_a_task_of_your_own_is_not_bypassed_by_batches(tokenizer):
    rows = [
        {"text": "a", "label": "neg", "confidence": 0.5},
        {"text": "b c", "label": "pos", "confidence": 0.25},
    ]
    samples = Weighted().with_facts(labels=ABC).encode_batch(rows, tokenizer)
    assert [sample.weights.tolist() for sample in samples] == [[0.5], [0.25]]
    assert samples[1].extras["confidence"].tolist() == [0.25]
    squared = Finished(power=2).with_facts(labels=ABC).encode_batch(rows, tokenizer)
    assert [sample.weights.tolist() for sample in squared] == [[0.25], [0.0625]]
    assert same(squared[0], Finished(power=2).with_facts(labels=ABC).encode(rows[0], tokenizer))


def targets(values, weights=None):
    values = np.asarray(values)
    return Targets(values=values, weights=np.ones(len(values), np.float32) if weights is None else weights)


def tensors(found: Targets) -> Targets:
    return found.map(torch.from_numpy)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["single", "multi", "regression"])
def test_sum_of_losses_over_denominator_is_the_weighted_mean(kind, dtype):
    random = np.random.default_rng(0)
    outputs = torch.from_numpy(random.normal(size=(9, 1 if kind == "regression" else 3))).to(dtype)
    values = {
        "single": random.integers(0, 3, 9),
        "multi": (random.random((9, 3)) < 0.5).astype(np.float32),
        "regression": random.normal(size=9).astype(np.float32),
    }[kind]
    weights = random.random(9).astype(np.float32)
    weights[4] = 0
    task = Classify(kind=kind)
    found = task.weigh(targets(values, weights))
    (name, losses_U), (denominator,) = (
        *task.loss(outputs, tensors(found)).items(),
        task.denominators(found).values(),
    )
    assert losses_U.shape == (9,) and losses_U.dtype == dtype and name in task.denominators(found)
    x, t, w = outputs.double().numpy(), values, weights.astype(np.float64)
    each = {
        "single": lambda: -np.log(special.softmax(x, axis=1)[np.arange(9), t]),
        "multi": lambda: -np.mean(np.log(special.expit(np.where(t > 0, x, -x))), axis=1),
        "regression": lambda: (x[:, 0] - t) ** 2,
    }[kind]()
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    assert float(losses_U.sum()) / denominator == pytest.approx((w * each).sum() / w.sum(), rel=tolerance)


def test_class_weights_equal_torchs_weighted_mean():
    random = np.random.default_rng(1)
    values, logits = random.integers(0, 3, 30), torch.from_numpy(random.normal(size=(30, 3)))
    train = SimpleNamespace(values=np.array([0, 0, 0, 1, 2, 2, 1]), weights=np.array([1, 1, 1, 1, 1, 1, 0]))
    task = Classify().with_facts(labels=ABC, class_weights="balanced").fit(train)
    assert task.facts.weights_C == (6 / 9, 6 / 3, 6 / 6)
    found = task.weigh(targets(values))
    got = task.loss(logits, tensors(found))["cross_entropy"].sum() / task.denominators(found)["cross_entropy"]
    wanted = torch.nn.functional.cross_entropy(
        logits, torch.from_numpy(values), weight=torch.tensor(task.facts.weights_C).double()
    )
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=0)
    named = Classify().with_facts(labels=ABC, class_weights={"neg": 2.0}).fit(train)
    assert named.facts.weights_C == (2.0, 1.0, 1.0)
    with pytest.raises(RecipeError, match="kind regression has none"):
        Classify(kind="regression").with_facts(class_weights="balanced").fit(train)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_weights_of_several_labels_are_torchs_pos_weight(dtype):
    random = np.random.default_rng(2)
    values = (random.random((40, 3)) < [0.1, 0.5, 0.8]).astype(np.float32)
    counted = np.array([1.0] * 36 + [0.0] * 4, np.float32)
    train = SimpleNamespace(values=values, weights=counted)
    task = Classify(kind="multi").with_facts(labels=ABC, class_weights="balanced").fit(train)
    known = values[:36]
    wanted_C = (1 - known).sum(0, np.float64) / known.sum(0, np.float64)
    np.testing.assert_allclose(task.facts.weights_C, wanted_C, rtol=1e-6)
    logits = torch.from_numpy(random.normal(size=(40, 3))).to(dtype)
    found = task.weigh(targets(values, counted))
    assert task.denominators(found) == {"bce": 36.0}
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(
        logits[:36], torch.from_numpy(known).to(dtype), pos_weight=torch.from_numpy(wanted_C).to(dtype)
    )
    got = task.loss(logits, tensors(found))["bce"].sum() / 36
    torch.testing.assert_close(got, wanted, rtol=1e-12 if dtype == torch.float64 else 1e-6, atol=0)
    named = Classify(kind="multi").with_facts(labels=ABC, class_weights={"neg": 2.0}).fit(train)
    assert named.facts.weights_C == (2.0, 1.0, 1.0)
    with pytest.raises(RecipeError, match="is no label"):
        Classify(kind="multi").with_facts(labels=ABC, class_weights={"nag": 2.0}).fit(train)


def test_a_label_that_never_or_always_applies_weighs_one():
    train = SimpleNamespace(
        values=np.array([[0, 1, 1], [0, 1, 0], [0, 1, 0]], np.float32), weights=np.ones(3)
    )
    task = Classify(kind="multi").with_facts(labels=ABC, class_weights="balanced").fit(train)
    assert task.facts.weights_C == (1.0, 1.0, 2.0)


def test_a_unit_of_weight_zero_adds_nothing_even_if_its_loss_is_not_finite():
    logits = torch.tensor([[1.0, 2.0], [float("inf"), float("nan")]], requires_grad=True)
    found = targets([1, -100], np.array([1, 0], np.float32))
    losses_U = Classify().loss(logits, tensors(found))["cross_entropy"]
    assert losses_U[1] == 0 and torch.isfinite(losses_U[0])
    assert Classify().denominators(found) == {"cross_entropy": 1.0}


def test_a_loss_of_your_own_names_its_term():
    loss = UnitLoss(name="margin", function=lambda logits, values: 1 - logits[torch.arange(2), values])
    task = Classify().with_facts(loss=loss)
    found = targets([1, -100], np.array([2, 0], np.float32))
    logits = torch.tensor([[0.0, 0.25], [1.0, 1.0]])
    assert task.loss(logits, tensors(found))["margin"].tolist() == [1.5, 0.0]
    assert task.denominators(found) == {"margin": 2.0}


def test_predictions():
    logits = torch.tensor([[1.0, 3.0, -800.0], [5.0, 2.0, 800.0]])
    single = Classify().decode(logits)
    np.testing.assert_allclose(
        single.probabilities, special.softmax(logits.double().numpy(), axis=1), rtol=1e-14
    )
    assert single.values.tolist() == [1, 2] and single.probabilities.dtype == np.float64
    multi = Classify(kind="multi").decode(logits.bfloat16())
    np.testing.assert_allclose(multi.probabilities, special.expit(logits.double().numpy()), rtol=1e-14)
    assert multi.values.tolist() == [[True, True, False], [True, True, True]]
    number = Classify(kind="regression").decode(logits[:, :1])
    assert number.values.tolist() == [1.0, 5.0] and number.probabilities is None


def test_head_and_options():
    assert Classify().with_facts(labels=ABC).head == Head(
        kind="sequence",
        outputs=3,
        id2label={0: "neg", 1: "neutral", 2: "pos"},
        problem_type="single_label_classification",
    )
    assert Classify(kind="regression").with_facts(labels=LabelSet(())).head.outputs == 1
    assert [metric.name for metric in Classify().with_facts(metrics=("f1_neg",), labels=ABC).metrics] == [
        "f1_neg"
    ]
    with pytest.raises(RecipeError, match="expected single, multi or regression"):
        Classify(kind="binary")  # type: ignore[arg-type]
