"""`task: match` from files to embeddings, with a tiny random model that has to learn which texts belong together."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from transformers import AutoModel, AutoTokenizer

import bigbatch
from bigbatch.cli.app import main
from bigbatch.errors import BigbatchError, DataError, UsageError
from bigbatch.infer.load import open_model
from bigbatch.tasks.match import Match
from tests.matching import guide_at
from tests.models import WORDS, tiny_folder

TOPICS = WORDS[8:38]
FILLERS = WORDS[:8]


def rows(count: int, seed: int) -> list[dict[str, str]]:
    """A query of two words; its document has both, among others that say nothing."""
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        topic = chance.sample(TOPICS, 2)
        document = [*topic, *chance.choices(FILLERS, k=chance.randint(1, 12))]
        chance.shuffle(document)
        found.append({"question": " ".join(topic), "answer": " ".join(document)})
    return found


def written(path: Path, found: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(found[0]))
        table.writeheader()
        table.writerows(found)
    return path


def typed(*words: Any) -> None:
    """`bigbatch WORDS`, which must succeed."""
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, words)))
    assert ended.value.code == 0


RECIPE = """
model: {{name: model, init: random}}
task: {{name: match, temperature: 0.1}}
data: {{train: train.csv, validation: dev.csv, test: test.csv}}
batch: 128
epochs: 12
optimizer: {{name: adamw, lr: 1e-2}}
best: mrr@10
metrics: [recall@1, mrr@10]
plan: {{compile: off}}
run: {{dir: "{place}/runs/match", evaluate_every: 4 epochs}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("matching")
    tiny_folder(place / "model", "bert", num_hidden_layers=1, initializer_range=0.1)
    for seed, (name, count) in enumerate((("train", 640), ("dev", 60), ("test", 60))):
        written(place / f"{name}.csv", rows(count, seed))
    (place / "recipe.yaml").write_text(RECIPE.format(place=place))
    return place


@pytest.fixture(scope="module")
def run(place: Path) -> Any:
    return bigbatch.train(str(place / "recipe.yaml"))


def test_what_belongs_together_is_learnt(run: Any) -> None:
    assert run.metrics["test.recall@1"] > 0.6
    assert set(run.metrics) >= {"test.recall@1", "test.mrr@10", "test.loss"}
    assert run.plan.value("packing") == "packed"
    assert "couples" in run.plan.choices["noise_scale"].reason


def test_it_is_held_against_tf_idf(run: Any) -> None:
    """Ranked again by scikit-learn's weights, words of one and two."""
    said = run.result["baseline"]["tf_idf"]["test"]
    found = rows(60, 2)
    texts = list(dict.fromkeys(row["answer"] for row in found))
    kinds = [
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]"),
        TfidfVectorizer(sublinear_tf=True, ngram_range=(2, 4), analyzer="char"),
    ]
    every = [text for row in found for text in (row["question"], row["answer"])]
    scores = np.zeros((len(found), len(texts)))
    for kind, shown in zip(kinds, ("{}", " {} "), strict=True):
        kind.fit([shown.format(text) for text in every])
        left, right = (
            kind.transform([shown.format(text) for text in some])
            for some in ([row["question"] for row in found], texts)
        )
        scores += (left @ right.T).toarray()
    own = np.array([texts.index(row["answer"]) for row in found])
    hits = [float(scores[query].argmax() == own[query]) for query in range(len(found))]
    assert said["recall@1"] == pytest.approx(np.mean(hits), abs=0.035) and set(said) == {"recall@1", "mrr@10"}
    assert "TF-IDF retrieval" in run.result["verdict"] and "mrr@10" in run.result["verdict"]


def test_the_loss_starts_at_what_guessing_costs(run: Any, place: Path) -> None:
    first = bigbatch.read(str(place / "runs/match")).updates["loss"][0].as_py()
    assert first < 2 * np.log(128)


def test_the_folder_is_a_model_without_head(run: Any, place: Path) -> None:
    """transformers' own pooling and normalisation give what `predict` gives."""
    folder = place / "runs/match/model"
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    texts = ["crew late", "the service was very kind"]
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**encoded).last_hidden_state
    mask = encoded["attention_mask"][..., None]
    expected = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    found = [row["embedding"] for row in run.predict(texts)]
    assert np.abs(np.array(found) - expected.numpy()).max() < 1e-6
    modules = json.loads((folder / "modules.json").read_text())
    assert [each["type"].rpartition(".")[2] for each in modules] == ["Transformer", "Pooling", "Normalize"]


def test_the_folder_opens_as_it_was_trained(run: Any, place: Path) -> None:
    opened = open_model(place / "runs/match/model")
    assert isinstance(opened.task, Match)
    assert (opened.task.pooled_by, opened.task.similarity) == ("mean", "cosine")


def test_evaluate_gives_the_run_s_figures(run: Any, place: Path) -> None:
    found = bigbatch.evaluate(str(place / "runs/match"), str(place / "test.csv"))
    assert found["recall@1"] == run.metrics["test.recall@1"]
    assert found["loss"] == pytest.approx(run.metrics["test.loss"], rel=1e-5)


@pytest.mark.parametrize("column", ["question", "answer"])
def test_predict_embeds_whichever_text_there_is(run: Any, place: Path, tmp_path: Path, column: str) -> None:
    source = written(tmp_path / "new.csv", [{column: row[column]} for row in rows(70, 9)])
    typed("predict", place / "runs/match", source, "--out", tmp_path / "found.jsonl")
    found = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert len(found) == 70
    assert np.linalg.norm(found[0]["embedding"]) == pytest.approx(1.0)


def test_predict_scores_pairs(run: Any, place: Path, tmp_path: Path) -> None:
    source = written(tmp_path / "new.csv", rows(5, 9))
    typed("predict", place / "runs/match", source, "--out", tmp_path / "found.jsonl")
    found = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert found[0]["score"] == pytest.approx(np.dot(found[0]["query"], found[0]["document"]))


def test_a_row_without_document_is_no_pair(place: Path, tmp_path: Path) -> None:
    source = written(tmp_path / "bad.csv", [{"question": "late", "answer": ""}, *rows(9, 9)])
    with pytest.raises(DataError, match=r"bad\.csv:2: document: empty text"):
        bigbatch.train(str(place / "recipe.yaml"), str(source), None, run_dir=str(tmp_path / "run"))


def test_an_interrupted_run_goes_on_with_the_same_bits(place: Path, tmp_path: Path) -> None:
    def losses(folder: Path) -> list[float]:
        return bigbatch.read(str(folder)).updates["loss"].to_pylist()

    settings = {"updates": 4, "data.validation": None, "best": None, "metrics": []}

    def begun(folder: Path) -> Any:
        return bigbatch.start(str(place / "recipe.yaml"), set=settings, run_dir=str(folder))

    with begun(tmp_path / "whole") as whole:
        list(whole)
    with begun(tmp_path / "broken") as broken:
        for record in broken:
            if record.kind == "update" and record.step == 2:
                broken.save()
            if record.kind == "update" and record.step == 3:
                break
    with begun(tmp_path / "broken") as again:
        list(again)
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")


def test_prepared_tokens_are_what_training_uses(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokenizer is not called again."""
    settings = {"data.max_length": 24, "updates": 1, "run.dir": str(tmp_path / "run")}
    words = [f"{key}={value}" for key, value in settings.items()]
    lines = bigbatch.prepare(str(place / "recipe.yaml"), words)
    assert any(line.startswith("train: 640 samples, ") for line in lines)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(Match, "encode_batch", lambda *_: pytest.fail("tokenised again"))
    run = bigbatch.train(str(place / "recipe.yaml"), set={**settings, "batch": 32})
    assert run.status == "finished"


# ---------------------------------------------------------------- embeddings that may be cut


def test_the_first_numbers_are_enough(place: Path, tmp_path: Path) -> None:
    """Trained for 32 and for 8 numbers, both are measured; predictions are cut, and of length 1 again."""
    nested = {
        "task": {"name": "match", "temperature": 0.1, "dimensions": [32, 8]},
        "epochs": 4,
        "metrics": [],
    }
    settings = {**nested, "best": "recall@10@8", "run.dir": str(tmp_path / "run")}
    run = bigbatch.train(str(place / "recipe.yaml"), set=settings)
    assert {"test.recall@10@32", "test.recall@10@8", "test.recall@10"} <= set(run.metrics)
    assert run.metrics["test.recall@10@32"] == run.metrics["test.recall@10"]
    update = bigbatch.read(str(tmp_path / "run")).updates.to_pylist()[0]
    assert update["loss"] == pytest.approx(update["loss.contrastive@32"] + update["loss.contrastive@8"])
    source = written(tmp_path / "new.csv", rows(5, 9))
    found = {}
    for name, more in (("whole", ()), ("cut", ("--dimension", 8))):
        typed("predict", tmp_path / "run", source, "--out", tmp_path / f"{name}.jsonl", *more)
        lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()
        found[name] = np.array([json.loads(line)["document"] for line in lines])
    expected = found["whole"][:, :8]
    assert found["cut"] == pytest.approx(expected / np.linalg.norm(expected, axis=1, keepdims=True))
    by_python = bigbatch.predict(tmp_path / "run", rows(5, 9)[:1], dimension=8)[0]["document"]
    assert by_python == pytest.approx(found["cut"][0].tolist(), abs=1e-6)
    with pytest.raises(UsageError, match="33; this model's embeddings have 32 numbers"):
        bigbatch.predict(tmp_path / "run", ["late"], dimension=33)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (
            {"task.dimensions": [64, 32]},
            r"task\.dimensions: found 64; the model's embeddings have 32 numbers",
        ),
        ({"metrics": ["ndcg@10@40"], "best": None}, "metrics: found 40; the model's"),
        ({"task.dimensions": [8, 32]}, "the largest first"),
        (
            {"task.dimensions": [32], "task.dimension_weights": [1.0, 2.0]},
            "a weight for each of task.dimensions",
        ),
        ({"metrics": ["recall@10@0"], "best": None}, "unknown metric"),
        ({"task.false_negatives": {"margin": "much"}}, r"task\..*margin"),
    ],
)
def test_what_no_embedding_has_is_refused(place: Path, tmp_path: Path, settings: Any, what: str) -> None:
    with pytest.raises(BigbatchError, match=what):
        bigbatch.train(str(place / "recipe.yaml"), set=settings, run_dir=str(tmp_path / "run"))
    assert not (tmp_path / "run/metrics.jsonl").exists()


# ---------------------------------------------------------------- a guide


def test_a_guide_is_part_of_the_run(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its vectors outlive a kill; figures are told by it; another guide makes another run; none is refused in time."""
    monkeypatch.chdir(tmp_path)
    guide_at(tmp_path / "guide")
    settings = {
        "task": {"name": "match", "temperature": 0.1, "false_negatives": {"guide": str(tmp_path / "guide")}},
        **{"updates": 3, "epochs": None, "metrics": [], "best": None, "run.evaluate_every": "end"},
    }

    def begun(folder: str, **more: Any) -> Any:
        return bigbatch.start(str(place / "recipe.yaml"), set={**settings, **more}, run_dir=folder)

    with begun("whole") as whole:
        list(whole)
    with begun("broken") as broken:
        for record in broken:
            if record.kind == "update" and record.step == 2:
                broken.save()
                break
    with begun("broken") as again:
        list(again)
    losses = [bigbatch.read(name).updates["loss"].to_pylist() for name in ("whole", "broken")]
    assert losses[0] == losses[1]
    own = {"name": "match", "temperature": 0.1, "false_negatives": {"margin": 0.0}}
    with begun("own", task=own) as alone:
        list(alone)
    assert bigbatch.read("own").updates["loss"].to_pylist() != losses[0]
    kept = json.loads(Path("whole/derived/guide.json").read_text())
    assert (kept["dtype"], kept["width"], kept["splits"]["test"]["samples"]) == ("<f4", 48, 120)
    said = json.loads(Path("whole/result.json").read_text())["final"]["test"]["loss"]
    assert bigbatch.evaluate("whole", str(place / "test.csv"))["loss"] == pytest.approx(said, rel=1e-5)
    guide_at(tmp_path / "guide", seed=8)
    with pytest.raises(UsageError, match="guide is another model now"):
        bigbatch.evaluate("whole", str(place / "test.csv"))
    for name in ("nowhere", str(place / "model")):
        no_guide = {**own, "false_negatives": {"guide": name}}
        with pytest.raises(
            BigbatchError, match=r"task\.false_negatives\.guide: .* is no model of embeddings"
        ):
            begun("other", task=no_guide)
    assert not Path("other").exists()
