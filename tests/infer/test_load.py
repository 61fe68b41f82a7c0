from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
)

from bigbatch.errors import DataError, ModelError, UsageError
from bigbatch.infer.files import predict_file
from bigbatch.infer.load import head_of, open_model
from bigbatch.infer.predict import predict_rows
from bigbatch.infer.rows import evaluate_rows

TEXTS = ["a b c d e f g", "h", "i j"]


def tiny(**options) -> BertConfig:
    return BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=12, pad_token_id=0, **options,
    )  # fmt: skip


def save(folder: Path, tokenizer, **options) -> Path:
    torch.manual_seed(0)
    BertForSequenceClassification(tiny(**options)).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    names = {0: "neg", 1: "neutral", 2: "pos"}
    return save(
        tmp_path_factory.mktemp("hf"),
        tokenizer,
        id2label=names,
        label2id={name: id for id, name in names.items()},
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory, folder, tokenizer):
    run = tmp_path_factory.mktemp("run")
    (run / "model").symlink_to(folder)
    (run / "code").mkdir()
    (run / "code" / "mine.py").write_text(
        "from dataclasses import replace\n"
        "from bigbatch.protocols import Role\n"
        "from bigbatch.tasks.classify import Classify\n"
        "class Mine(Classify):\n"
        "    @property\n"
        "    def roles(self):\n"
        "        return {**super().roles, 'confidence': Role(meaning='sure', kind='number')}\n"
        "    def finish(self, row, sample):\n"
        "        return replace(sample, weights=sample.weights * row['confidence'])\n"
    )
    recipe = {
        "model": "bert-base-uncased",
        "task": {"name": "mine.py:Mine"},
        "data": {"train": "train.csv", "max_length": 6, "columns": {"text": "review", "confidence": "sure"}},
    }
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return run


def by_hand(folder: Path, tokenizer, texts, max_length=12):
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return torch.cat(
            [
                model(**tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")).logits
                for text in texts
            ]
        )


def shares(rows):
    return np.array([list(row["probabilities"].values()) for row in rows])


def test_a_hugging_face_folder(folder, tokenizer):
    opened = open_model(folder)
    rows = list(predict_rows(opened.forward, opened.task, opened.tokenizer, TEXTS))
    wanted = torch.softmax(by_hand(folder, tokenizer, TEXTS), -1).numpy()
    np.testing.assert_allclose(shares(rows), wanted, atol=1e-5)
    assert [row["label"] for row in rows] == [("neg", "neutral", "pos")[index] for index in wanted.argmax(-1)]
    assert opened.max_length == 12 and opened.recipe is None and opened.notes == ()


def test_a_run_with_a_task_of_its_own(run, folder, tokenizer, tmp_path: Path):
    with pytest.raises(
        UsageError, match=r"needs code that the run names \(mine\.py:Mine\), and it was not made here"
    ):
        open_model(run)
    opened = open_model(run, code=True)
    assert type(opened.task).__name__ == "Mine" and opened.max_length == 6
    (tmp_path / "new.csv").write_text("review\n" + "\n".join(TEXTS) + "\n")
    assert predict_file(opened, tmp_path / "new.csv", tmp_path / "out.jsonl") == 3
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    wanted = torch.softmax(by_hand(folder, tokenizer, TEXTS, max_length=6), -1).numpy()
    np.testing.assert_allclose(shares(rows), wanted, atol=1e-5)


def test_a_run_keeps_copies_of_code_that_lay_anywhere(folder, tmp_path: Path):
    (tmp_path / "model").symlink_to(folder)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine.py").write_text(
        "from torch.nn import functional as F\n"
        "def own(logits, targets): return 3 * F.cross_entropy(logits, targets, reduction='none')\n"
        "def cost(predictions, targets): return 1.0\n"
    )
    recipe = {
        "model": "bert-base-uncased",
        "data": {"train": "train.csv"},
        "loss": "../elsewhere/mine.py:own",
        "metrics": ["lib/mine.py:cost"],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    opened = open_model(tmp_path, code=True)
    rows = [{"text": text, "label": "pos"} for text in TEXTS]
    plain = evaluate_rows(open_model(folder), rows, tmp_path, {})
    found = evaluate_rows(opened, rows, tmp_path, {})
    assert found.metrics["cost"] == 1.0
    assert found.loss == plain.loss
    assert opened.notes[0].startswith("the loss ../elsewhere/mine.py:own is training's and is not run here")
    assert opened.recipe is not None and opened.recipe.loss.name == "../elsewhere/mine.py:own"


def test_files_have_the_encoding_of_the_run(folder, tmp_path: Path):
    (tmp_path / "model").symlink_to(folder)
    recipe = {"model": "bert-base-uncased", "data": {"train": "train.csv", "encoding": "latin-1"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "new.csv").write_bytes("text\nh caf\u00e9\n".encode("latin-1"))
    assert predict_file(open_model(tmp_path), tmp_path / "new.csv", tmp_path / "out.jsonl") == 1
    with pytest.raises(DataError, match="is not UTF-8"):
        predict_file(open_model(tmp_path), tmp_path / "new.csv", tmp_path / "2.jsonl", encoding="utf-8")


def test_the_kind_follows_the_configuration(tmp_path: Path, tokenizer):
    number = save(tmp_path / "number", tokenizer, num_labels=1)
    assert head_of(number) == (("LABEL_0",), "regression")
    opened = open_model(number)
    rows = list(predict_rows(opened.forward, opened.task, opened.tokenizer, TEXTS))
    np.testing.assert_allclose(
        [row["value"] for row in rows], by_hand(number, tokenizer, TEXTS)[:, 0], atol=1e-5
    )
    multi = open_model(
        save(tmp_path / "multi", tokenizer, num_labels=2, problem_type="multi_label_classification")
    )
    assert "labels" in next(predict_rows(multi.forward, multi.task, multi.tokenizer, TEXTS))


def test_what_cannot_be_opened(tmp_path: Path, tokenizer):
    with pytest.raises(UsageError, match="no such folder"):
        open_model(tmp_path / "none")
    with pytest.raises(UsageError, match=r"neither recipe.yaml \(a run\) nor config.json"):
        open_model(tmp_path)
    (tmp_path / "recipe.yaml").write_text("model: a\n")
    with pytest.raises(UsageError, match="has no model yet"):
        open_model(tmp_path)
    base = tmp_path / "base"
    BertModel(tiny()).save_pretrained(base)
    tokenizer.save_pretrained(base)
    with pytest.raises(ModelError, match="BertModel has no head that a task here has"):
        open_model(base)
    config = json.loads((base / "config.json").read_text()) | {"architectures": None}
    for change, what in (
        ({"id2label": {"1": "a", "2": "b"}}, "not numbered from 0"),
        ({"problem_type": "other"}, "unknown problem_type 'other'"),
    ):
        (base / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ModelError, match=what):
            open_model(base)
    (base / "config.json").write_text("{")
    with pytest.raises(ModelError, match="is not valid JSON"):
        open_model(base)


@pytest.mark.parametrize(
    "types",
    [
        ["sentence_transformers.models.Transformer", "evil.Pooling"],
        ["evil.Transformer", "sentence_transformers.models.Pooling"],
        ["sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling",
         "sentence_transformers.models.Dense"],
        [],
    ],
)  # fmt: skip
def test_parts_of_sentence_transformers_that_are_not_read(tmp_path: Path, folder: Path, types: list[str]):
    (tmp_path / "m").mkdir()
    for path in folder.iterdir():
        shutil.copy(path, tmp_path / "m")
    parts = [{"idx": number, "path": "", "type": kind} for number, kind in enumerate(types)]
    (tmp_path / "m" / "modules.json").write_text(json.dumps(parts))
    with pytest.raises(ModelError, match=r"modules\.json: found .*none is imported"):
        open_model(tmp_path / "m")


def test_labelled_files_and_rows(folder, run, tokenizer, tmp_path: Path):
    opened = open_model(folder)
    labels = ["pos", "neg", "neutral"]
    (tmp_path / "test.csv").write_text(
        "text,label\n" + "".join(f"{text},{label}\n" for text, label in zip(TEXTS, labels, strict=True))
    )
    found = evaluate_rows(opened, "test.csv", tmp_path, {})
    logits = by_hand(folder, tokenizer, TEXTS)
    assert found.loss == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, torch.tensor([2, 0, 1]))), abs=1e-5
    )
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, labels, strict=True)]
    assert evaluate_rows(opened, rows, tmp_path, {}).metrics == found.metrics
    own = open_model(run, code=True)
    weighted = [{"review": text, "label": "pos", "sure": 1.0 - index} for index, text in enumerate(TEXTS[:2])]
    assert evaluate_rows(own, weighted, tmp_path, own.columns).confusion.sum() == 1


@pytest.mark.parametrize(
    "content, what",
    [
        ("text,label\na,pos\nb,positive\n", "positive"),
        ("text,label\na,pos\n,neg\n", "test.csv:3: text: empty text"),
        ("text,label\na,pos\nb,\n", "test.csv:3: label: missing label"),
        ("text,label\n", "no rows"),
    ],
)
def test_labelled_rows_that_cannot_be_evaluated(folder, tmp_path: Path, content, what):
    (tmp_path / "test.csv").write_text(content)
    with pytest.raises(DataError, match=what):
        evaluate_rows(open_model(folder), "test.csv", tmp_path, {})
