"""`task: tag` from files to predictions, with a tiny random model that has to learn a rule."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

import bigbatch
from bigbatch.cli.app import main
from bigbatch.errors import DataError
from bigbatch.infer.files import predict_file
from bigbatch.infer.load import open_model
from bigbatch.infer.rows import evaluate_rows
from tests.models import tiny_folder

NAMES = {"staff": "PER", "crew": "PER", "gate": "LOC", "plane": "LOC"}
SECOND = {"PER": "kind", "LOC": "cold"}
PLAIN = ("the", "was", "great", "late", "never", "again", "greatly")


def sentence(chance: random.Random) -> tuple[list[str], list[str]]:
    """Plain words, and entities of one word or two."""
    words, tags = [], []
    for _ in range(chance.randint(1, 6)):
        word = chance.choice([*NAMES, *PLAIN])
        kind = NAMES.get(word)
        words.append(word)
        tags.append("O" if kind is None else f"B-{kind}")
        if kind is not None and chance.random() < 0.5:
            words.append(SECOND[kind])
            tags.append(f"I-{kind}")
    return words, tags


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tagging")
    words = [*NAMES, *SECOND.values(), *PLAIN[:-1], "##ly"]
    tiny_folder(
        place / "model", "bert", head="masked", words=words, tie_word_embeddings=True, initializer_range=0.1
    )
    chance = random.Random(0)
    for name, count in (("train", 400), ("dev", 80)):
        rows = [sentence(chance) for _ in range(count)]
        lines = [json.dumps({"tokens": words, "tags": tags}) for words, tags in rows]
        (place / f"{name}.jsonl").write_text("\n".join(lines))
    rows = [sentence(chance) for _ in range(80)]
    blocks = ["\n".join(map("{} {}".format, *row)) for row in rows]
    (place / "test.conll").write_text("\n\n".join(blocks) + "\n")
    return place


def typed(*words: Any) -> None:
    """`bigbatch WORDS`, which must succeed."""
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, words)))
    assert ended.value.code == 0


RECIPE = """
model: model
task: {{name: tag, pieces: {pieces}}}
data: {{train: train.jsonl, validation: dev.jsonl, test: test.conll}}
batch: 32
epochs: 6
optimizer: {{name: adamw, lr: 4e-3}}
loss: {{class_weights: {{O: 0.5}}}}
best: f1
run: {{dir: "{place}/runs/{pieces}"}}
"""


@pytest.fixture(scope="module", params=["first", "all"])
def run(place: Path, request: pytest.FixtureRequest) -> Any:
    recipe = place / f"{request.param}.yaml"
    recipe.write_text(RECIPE.format(pieces=request.param, place=place))
    return bigbatch.train(str(recipe))


def test_the_rule_is_learnt(run: Any) -> None:
    assert run.metrics["test.f1"] > 0.9 and run.metrics["test.accuracy"] > 0.9
    assert {"test.f1_PER", "test.f1_LOC", "test.precision", "test.recall"} <= set(run.metrics)
    assert run.plan.value("packing") == "packed"


def test_it_is_held_against_each_words_most_frequent_tag(run: Any, place: Path) -> None:
    """Every word has one tag only, so that baseline is perfect; worked out from the files again."""
    figures = run.result["baseline"]["most_frequent_tag"]["test"]
    assert figures["f1"] == figures["accuracy"] == 1.0 and figures["f1_PER"] == 1.0
    assert run.result["verdict"].startswith(("no better than each word's", "worse than each word's"))
    assert "F1 of entities" in run.result["verdict"]


def test_a_model_that_is_opened_again_gives_the_same_figures(run: Any, place: Path) -> None:
    for folder in (run.path, run.path / "model"):
        opened = open_model(folder)
        found = evaluate_rows(opened, "test.conll", place, {})
        for name in ("f1", "precision", "recall", "accuracy", "f1_PER"):
            assert found.metrics[name] == run.metrics[f"test.{name}"]


def test_the_folder_is_a_model_of_transformers(run: Any, place: Path) -> None:
    """Its tags by transformers alone, each word at its first piece, are those that `predict` gives."""
    model = AutoModelForTokenClassification.from_pretrained(run.path / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(run.path / "model")
    words = ["the", "crew", "kind", "was", "greatly", "gate"]
    encoded = tokenizer([words], is_split_into_words=True, return_tensors="pt")
    with torch.no_grad():
        shares = model(**encoded).logits[0].double().softmax(-1)
    owners = encoded.word_ids(0)
    places = [owners.index(word) for word in range(len(words))]
    tags = [model.config.id2label[int(shares[place].argmax())] for place in places]
    (found, again) = run.predict([{"words": words}, " ".join(words)])
    assert found == again and found["tags"] == tags == ["O", "B-PER", "I-PER", "O", "O", "B-LOC"]
    person, gate = found["entities"]
    assert (person["text"], person["type"], person["start"], person["end"]) == ("crew kind", "PER", 1, 3)
    assert gate["probability"] == pytest.approx(float(shares[places[5]].max()), abs=1e-5)
    assert person["probability"] == pytest.approx(float(shares[places[1:3]].max(-1).values.prod()), abs=1e-5)
    assert "pipeline_tag: token-classification" in (run.path / "model" / "README.md").read_text()


def test_files_of_every_kind_are_predicted(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("the crew kind\nthe gate\n")
    (tmp_path / "a.conll").write_text("the\ncrew\nkind\n\nthe\ngate\n")
    (tmp_path / "a.jsonl").write_text('{"tokens": ["the", "crew", "kind"]}\n{"tokens": ["the", "gate"]}\n')
    outputs = []
    for name in ("a.txt", "a.conll", "a.jsonl"):
        typed("predict", run.path, tmp_path / name)
        outputs.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    assert outputs[0] == outputs[1] == outputs[2]
    assert [row["tags"] for row in outputs[0]] == [["O", "B-PER", "I-PER"], ["O", "B-LOC"]]
    out = tmp_path / "out.csv"
    typed("predict", run.path, tmp_path / "a.txt", "--out", out)
    header, first, _ = out.read_text().splitlines()
    assert (
        header == "tags,entities"
        and first.startswith("O|B-PER|I-PER,")
        and '""text"": ""crew kind""' in first
    )
    (tmp_path / "bad.jsonl").write_text('{"tokens": []}\n')
    predict_file(open_model(run.path), tmp_path / "bad.jsonl", tmp_path / "empty.jsonl")
    assert json.loads((tmp_path / "empty.jsonl").read_text()) == {"tags": [], "entities": []}
    (tmp_path / "bad.jsonl").write_text('{"tokens": ["crew", 5, null]}\n')
    with pytest.raises(DataError, match="bad.jsonl:1: tokens: word 3 is missing"):
        predict_file(open_model(run.path), tmp_path / "bad.jsonl", tmp_path / "no.jsonl")


def test_the_report_shows_types_and_mistakes(run: Any) -> None:
    page = (run.path / "report.html").read_text()
    assert "AutoModelForTokenClassification" in page and "F1 PER" in page
    details = json.loads((run.path / "evaluation.json").read_text())["test"]
    assert details["labels"] == ["B-LOC", "B-PER", "I-LOC", "I-PER", "O"]
    assert all("[" in example["text"] for example in details["examples"])


def test_words_that_were_cut_off_are_said_and_count_as_outside(place: Path, tmp_path: Path) -> None:
    rows = [{"tokens": ["the", "crew"] * 3, "tags": ["O", "B-PER"] * 3}] * 40
    run = bigbatch.train(
        str(place / "model"), rows, rows[:8], task="tag", batch_size=8, run_dir=tmp_path / "r",
        set={"data.max_length": 6, "optimizer.lr": 4e-3, "epochs": 8},
    )  # fmt: skip
    assert run.metrics["validation.recall"] == pytest.approx(2 / 3), "one name in three lies behind the cut"
    assert run.metrics["validation.accuracy"] == pytest.approx(5 / 6)
    assert run.metrics["validation.precision"] == 1
    events = (run.path / "plan.json").read_text() + (run.path / "metrics.jsonl").read_text()
    assert "does not see 16 words" in events


def test_init_proposes_it(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new.yaml"
    typed("init", place / "train.jsonl", place / "test.conll", "--out", out)
    text = out.read_text()
    assert "\ntask: tag " in text and "best: f1 " in text and "words: tokens" in text
