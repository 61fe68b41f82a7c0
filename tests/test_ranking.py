"""From candidates of queries to a reranker that sentence-transformers opens: one run, as a user makes it."""

from __future__ import annotations

import csv

import numpy as np
import pytest

import bigbatch
from bigbatch.errors import DataError
from tests.jobs import document, lines
from tests.models import WORDS, tiny_folder


def rows(count: int, seed: int) -> list[dict]:
    """Of four candidates of a query one begins with its first word."""
    random, found = np.random.default_rng(seed), []
    for number in range(count):
        query = [str(word) for word in random.choice(WORDS, 2, replace=False)]
        for place in random.permutation(4).tolist():
            first = query[0] if place == 0 else str(random.choice([w for w in WORDS if w != query[0]]))
            text = " ".join([first, *map(str, random.choice(WORDS, 2))])
            found.append(
                {"query": f"{' '.join(query)}", "candidate": text, "label": int(place == 0), "group": number}
            )
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranking")
    for name, count, seed in (("train", 60, 0), ("dev", 20, 1)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["query", "candidate", "label", "group"])
            writer.writeheader()
            writer.writerows(rows(count, seed))
    tiny_folder(folder / "model", hidden_size=16, num_attention_heads=2, intermediate_size=32)
    (folder / "recipe.yaml").write_text(
        "{model: model, task: rank, data: {train: train.csv, validation: dev.csv}, updates: 6, batch: 20, "
        "optimizer: {lr: 1e-2}, best: ndcg@10, plan: {threads: 1}}"
    )
    bigbatch.train(folder / "recipe.yaml", run_dir=folder / "run")
    return folder / "run"


def test_a_run_is_judged_query_by_query(run):
    figures = lines(run, "eval")[-1]
    assert {"ndcg@10", "mrr@10", "map", "accuracy"} <= figures.keys() and 0 < figures["map"] <= 1
    assert lines(run, "update")[0]["batch_samples"] == 20
    found = bigbatch.evaluate(run, run.parent / "dev.csv")
    assert found["samples"] == 20 and found["loss"] == figures["loss"] and found["map"] == figures["map"]
    baseline = document(run, "baseline.json")["figures"]["bm25"]["validation"]
    assert baseline["accuracy"] > 0.3, "the right candidate has a word of the query"


def test_transformers_and_cross_encoder_open_the_folder(run):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    pairs = [(row["query"], row["candidate"]) for row in rows(5, 2)]
    found = bigbatch.predict(run, [{"query": query, "candidate": text} for query, text in pairs])
    scores = [each["score"] for each in found]
    model, tokenizer = (
        each.from_pretrained(run / "model") for each in (AutoModelForSequenceClassification, AutoTokenizer)
    )
    with torch.no_grad():
        logits = model(
            **tokenizer(*map(list, zip(*pairs, strict=True)), padding=True, return_tensors="pt")
        ).logits
    assert scores == pytest.approx(logits[:, 0].sigmoid().tolist(), abs=1e-5)
    [whole] = bigbatch.predict(run, [{"query": pairs[0][0], "candidate": [pair[1] for pair in pairs[:4]]}])
    assert whole["best"] == int(np.argmax(whole["scores"])) and len(whole["scores"]) == 4
    sentence_transformers = pytest.importorskip("sentence_transformers")
    encoder = sentence_transformers.CrossEncoder(str(run / "model"), device="cpu")
    assert scores == pytest.approx(encoder.predict(pairs).tolist(), abs=1e-5)


def test_bad_rows_cost_no_update(run, tmp_path):
    (tmp_path / "train.csv").write_text("query,candidate,label\na,b,1\na,c,-2\na,,0\n")
    with pytest.raises(DataError, match=r"train.csv:4: candidate: no candidate"):
        bigbatch.train(run.parent / "recipe.yaml", tmp_path / "train.csv", run_dir=tmp_path / "run")


def few(folder, *, every: int, labels: tuple[int, int] = (0, 0)) -> None:
    """24 queries with two candidates each: in one of `every` the first is relevant, in the others labels are as told."""
    with (folder / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["query", "candidate", "label", "group"])
        for number in range(24):
            own = (1, 0) if every and number % every == 0 else labels
            for place, label in enumerate(own):
                writer.writerow([WORDS[number % 5], f"{WORDS[place]} {WORDS[number % 7]}", label, number])


def job(run, folder, **keys) -> dict:
    return {
        "model": str(run.parent / "model"), "task": "rank", "data": {"train": str(folder / "train.csv")},
        "updates": 12, "batch": 1, "plan": {"threads": 1}, "run": {"evaluate_every": "end"}, **keys,
    }  # fmt: skip


@pytest.mark.parametrize(("loss", "labels"), [("listwise", (0, 0)), ("pairwise", (1, 1))])
def test_an_update_in_which_no_query_counts_changes_nothing(run, tmp_path, loss, labels):
    few(tmp_path, every=3, labels=labels)
    bigbatch.train(job(run, tmp_path, loss=loss), run_dir=tmp_path / "run")
    records = lines(tmp_path / "run", "update")
    idle = [record for record in records if record.get("empty", False)]
    assert len(records) == 12 and 2 < len(idle) < 12, "both kinds of update"
    assert all(record["loss"] is None and record["grad_norm"] is None for record in idle)
    assert all(record["loss"] > 0 for record in records if record not in idle)
    notes = [event["why"] for event in lines(tmp_path / "run", "event") if event["event"] == "note"]
    assert any("train: 16 of 24 samples have nothing to be learnt from" in note for note in notes), notes


@pytest.mark.parametrize(
    ("loss", "labels", "why"),
    [("listwise", (0, 0), "no candidate of the query is relevant"), ("pairwise", (2, 2), "the same label")],
)
def test_a_split_without_anything_to_learn_is_refused(run, tmp_path, loss, labels, why):
    few(tmp_path, every=0, labels=labels)
    with pytest.raises(DataError, match=f"none of its 24 samples has anything to learn from: .*{why}"):
        bigbatch.train(job(run, tmp_path, loss=loss), run_dir=tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists() or not lines(tmp_path / "run", "update")


def test_irrelevance_is_something_to_learn_point_by_point(run, tmp_path):
    few(tmp_path, every=0)
    bigbatch.train(job(run, tmp_path, loss="pointwise", updates=2), run_dir=tmp_path / "run")
    assert all(record["loss"] > 0 for record in lines(tmp_path / "run", "update"))
