"""Inference in packs: the plain path's predictions, from a module that nobody finds changed."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

from bigbatch.facts import Choice
from bigbatch.infer.load import open_model
from bigbatch.infer.predict import predict_rows
from bigbatch.infer.quick import FEWEST_SAMPLES, Quick
from bigbatch.model.feeds import Packed
from bigbatch.model.products import has_onednn, plain_layers
from bigbatch.plan.frozen import Plan
from tests.models import WORDS, tiny_folder


def texts(count: int) -> list[str]:
    generator = np.random.default_rng(3)
    return [" ".join(generator.choice(WORDS, generator.integers(1, 12))) for _ in range(count)]


def opened(tmp_path, family: str = "bert", head: str = "sequence"):
    return open_model(tiny_folder(tmp_path / f"{family}-{head}", family, head=head))


def predicted(loaded, rows, forward=None):
    return list(predict_rows(forward or loaded.forward, loaded.task, loaded.tokenizer, rows))


def numbers(predictions) -> np.ndarray:
    return np.array([list(row["probabilities"].values()) for row in predictions])


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "llama"])
def test_predictions_are_the_plain_path_s(tmp_path, family):
    loaded = opened(tmp_path, family)
    rows = texts(200)
    quick, plain = predicted(loaded, rows), predicted(loaded, rows, loaded.forward.plain)
    assert loaded.forward.facts.packed_ok, loaded.forward.facts.reason
    np.testing.assert_allclose(numbers(quick), numbers(plain), rtol=1e-5, atol=1e-7)
    assert [row["label"] for row in quick] == [row["label"] for row in plain]


@pytest.fixture
def packed_runs(monkeypatch):
    """Counts the micro-batches that run without padding."""
    runs = []
    original = Packed.__call__

    def counting(self, micro_batch):
        runs.append(len(micro_batch.lengths_B))
        return original(self, micro_batch)

    monkeypatch.setattr(Packed, "__call__", counting)
    return runs


def test_a_small_table_is_not_worth_a_trial(tmp_path, packed_runs):
    loaded = opened(tmp_path)
    predicted(loaded, texts(FEWEST_SAMPLES - 1))
    assert loaded.forward.facts is None
    assert not packed_runs
    predicted(loaded, texts(FEWEST_SAMPLES))
    tried = len(packed_runs)
    assert tried
    predicted(loaded, texts(FEWEST_SAMPLES))
    assert len(packed_runs) == tried + 1  # one micro-batch, no second trial


def test_the_module_is_as_it_was_loaded(tmp_path):
    loaded = opened(tmp_path)
    before = copy.deepcopy(loaded.module.state_dict())
    implementation = loaded.module.config._attn_implementation
    predicted(loaded, texts(100))
    assert loaded.forward.facts.packed_ok
    assert loaded.module.config._attn_implementation == implementation
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in loaded.module.modules())
    assert not loaded.module.training
    for name, tensor in loaded.module.state_dict().items():
        assert torch.equal(tensor, before[name]), name
        assert not tensor.is_inference()


def test_the_generator_is_not_touched(tmp_path):
    loaded = opened(tmp_path)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    predicted(loaded, texts(100))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("trials", [1, 2])
def test_what_differs_is_not_used(tmp_path, monkeypatch, packed_runs, trials):
    """The first way fails (or both do): the next is tried, and the plain path remains."""
    loaded = opened(tmp_path)
    original = Quick._packed
    failing = iter(range(trials))

    def wrong(self, narrow):
        forward = original(self, narrow)
        if next(failing, None) is not None:
            forward.outputs = lambda output: output.logits * 1.01
        return forward

    monkeypatch.setattr(Quick, "_packed", wrong)
    rows = texts(100)
    quick, plain = predicted(loaded, rows), predicted(loaded, rows, loaded.forward.plain)
    assert loaded.forward.facts.packed_ok == (trials == 1)
    np.testing.assert_allclose(numbers(quick), numbers(plain), rtol=1e-5, atol=1e-7)


def test_language_models_stop_in_front_of_their_logits(tmp_path):
    loaded = opened(tmp_path, "gpt2", "causal")
    rows = texts(80)
    quick, plain = predicted(loaded, rows), predicted(loaded, rows, loaded.forward.plain)
    assert loaded.forward.facts.packed_ok, loaded.forward.facts.reason
    assert quick[0].keys() == plain[0].keys()
    for ours, theirs in zip(quick, plain, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("plan", "packed"),
    [
        ({"packing": "packed", "last_block": "read tokens"}, True),
        ({"packing": "packed"}, True),
        ({"packing": "padded"}, False),
    ],
)
def test_a_run_predicts_as_it_was_planned(tmp_path, packed_runs, plan, packed):
    (tmp_path / "recipe.yaml").write_text(
        "model: none\ntask: {name: classify}\ndata: {train: none.csv}\nbatch: 8\nepochs: 1\n"
    )
    choices = {name: Choice(value=value, reason="", source="measured") for name, value in plan.items()}
    (tmp_path / "plan.json").write_text(json.dumps(Plan(choices=choices).to_json()))
    tiny_folder(tmp_path / "model")
    loaded = open_model(tmp_path)
    rows = texts(100)
    quick = predicted(loaded, rows)
    assert len(packed_runs) == packed  # one micro-batch, no trial
    np.testing.assert_allclose(
        numbers(quick), numbers(predicted(loaded, rows, loaded.forward.plain)), rtol=1e-5
    )


@pytest.mark.parametrize("text", ["", "[]", '{"packing": 3}'])
def test_a_plan_that_cannot_be_read_is_tried_anew(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(
        "model: none\ntask: {name: classify}\ndata: {train: none.csv}\nbatch: 8\nepochs: 1\n"
    )
    (tmp_path / "plan.json").write_text(text)
    tiny_folder(tmp_path / "model")
    loaded = open_model(tmp_path)
    assert loaded.forward.facts is None
    predicted(loaded, texts(100))
    assert loaded.forward.facts.packed_ok


@pytest.mark.skipif(not has_onednn(), reason="this torch has no oneDNN")
@pytest.mark.parametrize(("family", "head"), [("bert", "sequence"), ("gpt2", "sequence"), ("gpt2", "causal")])
def test_products_by_the_quicker_library_are_the_plain_path_s(tmp_path, family, head, monkeypatch):
    made: list[int] = []
    original = torch.ops.mkldnn._linear_pointwise

    def counting(inputs, weight, *rest):
        made.append(len(weight))
        return original(inputs, weight, *rest)

    monkeypatch.setattr("bigbatch.infer.quick.onednn_is_quicker", lambda module: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", counting)
    loaded, rows = opened(tmp_path, family, head), texts(100)
    quick = predicted(loaded, rows)
    layers = [layer for layer, _ in plain_layers(loaded.module)]  # as they were: nothing is left changed
    if head == "causal":  # its last layer is computed later
        assert len(loaded.module.lm_head.weight) in made
    assert len(layers) >= 9
    assert len(made) >= len(layers)
    made.clear()
    plain = predicted(loaded, rows, loaded.forward.plain)
    assert not made
    for ours, theirs in zip(quick, plain, strict=True):
        shown = (ours["probabilities"], theirs["probabilities"]) if head == "sequence" else (ours, theirs)
        assert shown[0] == pytest.approx(shown[1], rel=1e-4, abs=1e-6)


def test_small_tables_do_not_try_the_libraries(tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(
        "bigbatch.infer.quick.onednn_is_quicker", lambda module: tried.append(module) or False
    )
    loaded = opened(tmp_path)
    predicted(loaded, texts(FEWEST_SAMPLES - 1))
    assert not tried
    for _ in range(2):
        predicted(loaded, texts(FEWEST_SAMPLES))
    assert tried == [loaded.module]
