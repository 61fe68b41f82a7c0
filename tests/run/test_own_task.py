"""A task written from the published protocol alone: no base class, no field that only `Classify` has."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from torch.nn import functional

import bigbatch
from bigbatch.errors import DoesNotFit, GateMissed
from bigbatch.protocols import Role
from bigbatch.records import Evaluate
from bigbatch.samples import Predictions, Sample
from bigbatch.step import together
from tests.models import WORDS, tiny_folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stars:
    """Ordered classes from a column of numbers; the head's outputs are class scores."""

    role: str = "stars"
    kind_of_role: str = "number"
    couples = "sample"
    metrics = ()

    @property
    def roles(self):
        return {"text": Role(meaning="the text"), self.role: Role(meaning="stars", kind=self.kind_of_role)}

    def build(self, spec, facts):
        from bigbatch.model.load import load_model

        kept = {key: facts[key] for key in ("seed", "dropout", "module")}
        problem = "single_label_classification"
        return load_model(
            spec, outputs=2, id2label={0: "low", 1: "high"}, problem_type=problem, **kept
        ).module

    def encode(self, row, tokenizer):
        ids = np.asarray(tokenizer(row["text"])["input_ids"], np.int32)
        value = np.array([int(float(row[self.role]))], np.int64)
        return Sample(ids=ids, reads=np.array([0], np.int32), values=value, weights=np.ones(1, np.float32))

    def denominators(self, targets):
        return {"stars": float(np.sum(targets.weights))}

    def loss(self, outputs, targets):
        return {
            "stars": functional.cross_entropy(outputs, targets.values, reduction="none") * targets.weights
        }

    def decode(self, outputs):
        scores = np.asarray(outputs, np.float64)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        return Predictions(kind="single", scores=scores, probabilities=shares, values=scores.argmax(-1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("own") / "bert", num_labels=2)


def rows(role: str = "stars"):
    return [{"text": f"{WORDS[i % 20]} {WORDS[(3 * i) % 20]}", role: i % 2} for i in range(60)]


KEYS = {"updates": 4, "plan.micro_tokens": 64, "plan.threads": 1, "run.evaluate_every": "2 updates"}


@pytest.mark.parametrize(("role", "kind"), [("stars", "number"), ("label", "number"), ("stars", "label")])
def test_the_protocol_is_enough(folder, tmp_path, role, kind):
    task = Stars(role=role, kind_of_role=kind)
    run = bigbatch.train(
        str(folder), rows(role), 0.2, task=task, batch_size=16, set=KEYS, run_dir=tmp_path / "r"
    )
    assert run.status == "finished" and run.result["updates"] == 4
    update_one = bigbatch.read(run.path).updates.to_pylist()[0]
    assert update_one["loss.stars"] == pytest.approx(update_one["loss"])
    assert (run.path / "model" / "README.md").read_text().count("# Model") == 1


def train(folder, path, **more):
    data = [{"text": row["text"], "label": ["low", "high"][row["stars"]]} for row in rows()]
    return bigbatch.train(str(folder), data, 0.2, batch_size=16, run_dir=path, **more)


def test_a_missed_gate_stays_missed(folder, tmp_path):
    keys = {**KEYS, "gate": {"f1_macro": 1.1}}
    for _ in range(2):  # the second start finds the run finished: a scheduler's retry must not turn it green
        with pytest.raises(GateMissed, match="f1_macro"):
            train(folder, tmp_path / "r", set=keys)
    assert json.loads((tmp_path / "r" / "result.json").read_text())["exit_reason"] == "gate_missed"


def test_who_watches_does_not_change_when_training_stops(folder, tmp_path):
    keys = {**KEYS, "updates": 8, "run.evaluate_every": "end", "optimizer.lr": 1e-9}
    keys["early_stopping"] = {"patience": "1 evaluations", "min_delta": 1.0}
    watched = train(
        folder,
        tmp_path / "watched",
        set=keys,
        observers=[lambda record: Evaluate() if record.kind == "update" else None],
    )
    assert watched.result["updates"] == train(folder, tmp_path / "alone", set=keys).result["updates"] == 8


def test_the_module_gets_its_own_attention_back(folder, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder)
    before = model.config._attn_implementation
    tokenizer = AutoTokenizer.from_pretrained(folder)
    data = [{"text": row["text"], "label": str(row["stars"])} for row in rows()]
    run = bigbatch.train(model, data, tokenizer=tokenizer, batch_size=16, set=KEYS, run_dir=tmp_path / "r")
    assert run.plan.value("packing") == "packed" and model.config._attn_implementation == before
    assert not any(part._forward_pre_hooks for part in model.modules())
    assert len(run.predict(["flight"])) == 1


def test_the_lock_goes_with_the_last_record_even_without_with(folder, tmp_path):
    data = [{"text": row["text"], "label": str(row["stars"])} for row in rows()]
    run = bigbatch.start(str(folder), data, batch_size=16, set=KEYS, run_dir=tmp_path / "r")
    assert (tmp_path / "r" / "lock.json").exists()
    assert sum(record.kind == "update" for record in run) == 4
    assert not (tmp_path / "r" / "lock.json").exists()


def test_an_optimiser_without_memory_is_an_error_in_words(folder, tmp_path, monkeypatch):
    def no_room(*_args, **_kwargs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    real = together.set_lr

    def set_lr(optimizer, lr):
        monkeypatch.setattr(optimizer, "step", no_room)
        real(optimizer, lr)

    monkeypatch.setattr(together, "set_lr", set_lr)
    with pytest.raises(DoesNotFit, match="the optimiser ran out of memory"):
        train(folder, tmp_path / "r", set=KEYS)


def test_validation_sets_have_names_from_python_too(folder, tmp_path):
    data = [{"text": row["text"], "label": str(row["stars"])} for row in rows()]
    columns = {"text": [row["text"] for row in data], "label": [row["label"] for row in data]}
    named = bigbatch.train(
        str(folder),
        data,
        {"main": data[:20], "hard": data[20:]},
        batch_size=16,
        set=KEYS,
        run_dir=tmp_path / "a",
    )
    assert {"validation.loss", "validation.hard.loss"} <= set(named.metrics)
    single = bigbatch.train(str(folder), data, columns, batch_size=16, set=KEYS, run_dir=tmp_path / "b")
    assert "validation.loss" in single.metrics and "validation.text.loss" not in single.metrics
