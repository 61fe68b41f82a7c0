"""seq2seq from the recipe to the model folder: killed while it writes, gone on to the bit, evaluated, predicting."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import bigbatch
from bigbatch.errors import DataError, RecipeError
from bigbatch.facts import CalibrationFacts
from bigbatch.plan.timing import Measuring, Work, predict_seconds
from bigbatch.rules.clocks import Length
from bigbatch.units import parse_quantity
from tests.jobs import exhaust, lines, start
from tests.models import WORDS, tiny_pair, tiny_tokenizer
from tests.run.forks import Kill
from tests.run.jobs import leftovers, outcome, write_job
from tests.translation import pairs

pytest.importorskip("sacrebleu", reason="an extra: bigbatch[seq2seq]")
TRAIN = ("train", "recipe.yaml")
SECTIONS = {
    "task": {"name": "seq2seq", "target_max_length": 12},
    "data": {"columns": {"source": "en", "target": "zh"}},
    "metrics": ["bleu", "chrf", "perplexity"],
    "best": "chrf",
    "updates": 12,
    "loss": {"label_smoothing": 0.1},
    "plan": {"attention": "sdpa"},
    "run": {"evaluate_every": "4 updates", "checkpoint_every": "3 updates", "prompts": "prompts.txt"},
}


def translator(folder: Path) -> Path:
    """A tiny BART with a tokenizer."""
    tokenizer = tiny_tokenizer(folder)
    marks = {"pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 3, "bos_token_id": 2}
    tiny_pair("bart", vocab_size=len(tokenizer) + 3, dropout=0.1, **marks).save_pretrained(folder)
    return folder


def reversed_rows(path: Path, count: int, seed: int) -> None:
    """Sentences, and the same backwards."""
    random = np.random.default_rng(seed)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["en", "zh"])
        for _ in range(count):
            words = random.choice(WORDS, random.integers(2, 9)).tolist()
            rows.writerow([" ".join(words), " ".join(reversed(words))])


@pytest.fixture(scope="module")
def jobs(tmp_path_factory, parent):
    """One that nobody disturbed, and one that was killed while it saved and while it wrote texts."""
    folder = tmp_path_factory.mktemp("translation")
    model = translator(folder / "model")
    found = []
    for name in ("whole", "killed"):
        job = write_job(folder / name, model, **SECTIONS)
        reversed_rows(job.folder / "train.csv", 90, 1)
        reversed_rows(job.folder / "test.csv", 20, 2)
        (job.folder / "prompts.txt").write_text("the flight was late\ngood crew\n")
        found.append(job)
    kills = [
        Kill(target="bigbatch.store.durable:FileOps.rename", when="after", about=".tmp-step-"),
        Kill(target="bigbatch.infer.generate:by_transformers", when="after", nth=2),
    ]
    for kill in kills:
        code, output = parent.run(found[1].folder, TRAIN, kill)
        assert code == -9, output
    for job in found:
        code, output = parent.run(job.folder, TRAIN)
        assert code == 0, output
    return found


def test_killed_and_gone_on_with_it_is_the_same_to_the_bit(jobs):
    whole, killed = jobs
    assert outcome(killed.run) == outcome(whole.run)
    assert leftovers(killed.run) == []


def test_plan_journal_and_result_know_both_texts(jobs):
    run = jobs[0].run
    updates, evaluations = lines(run, "update"), lines(run, "eval")
    assert all({"loss", "bleu", "chrf", "perplexity"} <= line.keys() for line in evaluations)
    assert [line["split"] for line in evaluations] == ["validation"] * 3 + ["test"]
    assert all(line["batch_tokens"] > 4 * line["batch_samples"] for line in updates)
    plan = json.loads((run / "plan.json").read_text())
    assert plan["packing"]["value"] == "packed" and "texts as long as" in plan["evaluate_seconds"]["reason"]
    assert plan["micro_tokens"]["value"] == 96
    result = json.loads((run / "result.json").read_text())
    assert "tok:13a" in result["signatures"]["bleu"]
    texts = json.loads((run / "evaluation.json").read_text())["test"]["texts"]
    assert [text["score"] for text in texts] == sorted(text["score"] for text in texts)
    assert texts[0].keys() == {"source", "wanted", "written", "score", "by", "where", "place"}
    samples = [path.name for path in sorted((run / "samples").iterdir())]
    assert samples == ["step-000004.jsonl", "step-000008.jsonl", "step-000012.jsonl"]
    records = [json.loads(line) for line in (run / "samples" / samples[-1]).read_text().splitlines()]
    assert [record["source"] for record in records] == ["the flight was late", "good crew"]
    page = (run / "report.html").read_text()
    assert 'id="texts"' in page and 'id="samples"' in page
    assert result["best"]["metric"] == "chrf"
    assert result["predicted"]["train_seconds"] > 0 and result["predicted"]["peak_memory_bytes"] > 0


def test_the_plan_counts_the_writing_of_texts():
    length = Length(updates=10, samples=400, epochs=4.0, exact=True)
    written = {"validation": 5.0, "validation.hard": 1.0, "test": 2.0}
    work = Work(validation_tokens=100, test_tokens=50, measuring=Measuring(writing_seconds=written))
    quick = CalibrationFacts(
        seconds_per_token=1e-3, seconds_per_update=0.0, seconds_per_token_forward=1e-2,
        activation_bytes_per_token=0.0, resting_bytes=0, micro_tokens=64,
    )  # fmt: skip
    every = parse_quantity("2 updates")
    for words, writings in (("1 evaluations", 5), ("2 evaluations", 3), ("end", 1)):
        asked = {"evaluate_every": every, "generate_every": parse_quantity(words), "work": work}
        found = predict_seconds(quick, length, 100, **asked)
        assert (found.evaluations, found.writings) == (5, writings)
        assert found.evaluate == pytest.approx((5 * 100 + 50) * 1e-2 + writings * 6 + 2)


def test_the_folder_opens_with_transformers_and_predicts_what_it_writes(jobs):
    folder, rows = jobs[0].run / "model", ["the flight was late", "good crew"]
    found = bigbatch.predict(jobs[0].run, rows)
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for text, prediction in zip(rows, found, strict=True):
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=12, do_sample=False, num_beams=1)[0]
        assert prediction == {"text": tokenizer.decode(ids, skip_special_tokens=True).strip()}
    alone = bigbatch.predict(folder, rows)  # a folder says what it is for, not how long a text may be
    assert all(other["text"].startswith(one["text"]) for one, other in zip(found, alone, strict=True))


def test_rows_are_written_to_a_file_and_figures_come_with_their_signature(jobs, tmp_path):
    from bigbatch.answers import predict_file

    out = tmp_path / "out.jsonl"
    assert predict_file(jobs[0].run, str(jobs[0].folder / "test.csv"), str(out)) == 20
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(written) == 20 and all(line.keys() == {"text"} for line in written)
    found = bigbatch.evaluate(jobs[0].run, str(jobs[0].folder / "test.csv"))
    last = lines(jobs[0].run, "eval")[-1]
    assert found["chrf"] == pytest.approx(last["chrf"]) and found["loss"] == pytest.approx(
        last["loss"], rel=1e-5
    )
    assert "tok:13a" in found["signatures"]["bleu"]


def test_texts_of_some_evaluations_alone_and_of_the_last(tmp_path):
    """What the run is steered by has to be there at each of them; what cannot be written from is refused at once."""
    rows, keys = (
        pairs(30, longest=9),
        {"task": {"name": "seq2seq", "target_max_length": 6}, "metrics": ["chrf"]},
    )
    keys |= {
        "batch": 10,
        "updates": 5,
        "run.evaluate_every": "1 updates",
        "run.generate_every": "2 evaluations",
    }
    with pytest.raises(RecipeError, match="best: chrf is of texts, which not every evaluation writes"):
        start(tmp_path / "r", tiny_pair("bart"), rows=rows, validation=rows[:6], set={**keys, "best": "chrf"})
    with pytest.raises(DataError, match=r"wrong\.jsonl:1: token id 4000"):
        (tmp_path / "wrong.jsonl").write_text('{"input_ids": [4000]}\n')
        asked = {**keys, "run.prompts": str(tmp_path / "wrong.jsonl")}
        start(tmp_path / "r", tiny_pair("bart"), rows=rows, validation=rows[:6], set=asked)
    assert not (tmp_path / "r").exists()
    (tmp_path / "p.jsonl").write_text('{"input_ids": [7, 8, 2]}\n')
    asked = {**keys, "run.prompts": str(tmp_path / "p.jsonl"), "run.prompt_tokens": 4}
    exhaust(start(tmp_path / "r", tiny_pair("bart"), rows=rows, validation=rows[:6], set=asked))
    assert ["chrf" in line for line in lines(tmp_path / "r", "eval")] == [False, True, False, True, True]
    written = sorted(path.name for path in (tmp_path / "r" / "samples").iterdir())
    assert written == ["step-000002.jsonl", "step-000004.jsonl", "step-000005.jsonl"]
