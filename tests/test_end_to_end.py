"""The command line, from a data file to predictions, in a folder of its own."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import bigbatch
from bigbatch.cli.app import main
from bigbatch.recipe.load import load_recipe
from tests.jobs import document, events, lines
from tests.models import WORDS, tiny_folder

GOOD, BAD = ("great", "love", "thanks", "best"), ("late", "lost", "rude", "worst")
HOSTILE = ("<img src=x onerror=alert(1)>", '=cmd|"/c calc"!A1', "\x1b[31mred\x1b[0m")
SMALL = "plan.micro_tokens=128"


def texts(count, seed=0):
    """Sentences; the first word is good at odd places and bad at even ones."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        words = random.choice(WORDS[:8], int(random.integers(1, 9))).tolist()
        found.append(" ".join([str(random.choice(GOOD if number % 2 else BAD)), *words]))
    return found


def write(path, rows):
    """Rows as CSV or JSON Lines."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def rows_of(kind, count, seed=0):
    """Rows that `init` recognises."""
    numbers = np.random.default_rng(seed + 100).normal(size=count).round(3).tolist()
    pairs = texts(count, seed + 1)
    found = []
    for number, text in enumerate(texts(count, seed)):
        row = {"id": f"row-{number}", "text": text}
        if kind == "pairs":
            row["text_pair"] = pairs[number]
        label = "pos" if number % 2 else "neg"
        if kind == "multi":
            row["labels"] = [label, "loud"] if number % 3 == 0 else [label]
        elif kind == "regression":
            row["label"] = numbers[number]
        else:
            row["label"] = label
        found.append(row)
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("models") / "bert", dropout=0.1)


@pytest.fixture
def bigbatch_says(capsys, monkeypatch):
    """Run a command in this process: exit code, what it printed, what it complained about."""

    def run(*words, stdin=None):
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8"))
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return run


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def trained(bigbatch_says, model, rows, *changes, test=None, recipe="job.yaml"):
    """A finished run of four updates of this data."""
    write(Path("train.jsonl"), rows)
    split = "train: train.jsonl, validation: 0.25"
    if test is not None:
        write(Path("test.jsonl"), test)
        split += ", test: test.jsonl"
    Path(recipe).write_text(
        f"model: {model}\ndata: {{{split}}}\nbatch: 16\nupdates: 4\noptimizer: {{lr: 1e-3}}\n"
    )
    return bigbatch_says("train", recipe, SMALL, *changes)


# ---------------------------------------------------------------- the whole walk

FIGURES = {
    "single": "accuracy",
    "multi": "f1_micro",
    "regression": "mse",
    "pairs": "accuracy",
}


@pytest.mark.parametrize("kind", FIGURES)
def test_from_a_data_file_to_predictions(bigbatch_says, model, kind):
    suffix = "jsonl" if kind == "multi" else "csv"
    data, held_out, new = (Path(f"{name}.{suffix}") for name in ("data", "held_out", "new"))
    write(data, rows_of(kind, 120))
    write(held_out, rows_of(kind, 30, seed=7))
    unlabelled = [
        {key: row[key] for key in row if not key.startswith("label")} for row in rows_of(kind, 9, seed=8)
    ]
    write(new, unlabelled)

    code, out, _ = bigbatch_says("init", data, "--model", model)
    assert code == 0 and "recipe.yaml" in out and "120" in out
    code, _, err = bigbatch_says("init", data, "--model", model)
    assert code == 2 and "recipe.yaml" in err

    changes = (SMALL, "updates=4", "batch=16", "optimizer.lr=1e-3")
    code, _, err = bigbatch_says("train", "recipe.yaml", *changes)
    assert code == 0, err
    assert "validation" in err and "model" in err
    run = load_recipe("recipe.yaml", environ={}).run_folder.relative_to(Path.cwd())
    code, out, err = bigbatch_says("evaluate", run, held_out)
    assert code == 0, err
    shown = dict(line.split() for line in out.splitlines())
    assert code == 0 and {"loss", FIGURES[kind], "samples"} <= set(shown) and shown["samples"] == "30"

    code, _, err = bigbatch_says("predict", run, new, "--out", "found.jsonl")
    assert code == 0, err
    found = [json.loads(line) for line in Path("found.jsonl").read_text().splitlines()]
    assert [row["id"] for row in found] == [row["id"] for row in unlabelled]
    expected = oracle(run / "model", unlabelled, kind)
    for row, logits in zip(found, expected, strict=True):
        if kind == "regression":
            assert row["value"] == pytest.approx(logits.item(), rel=1e-4, abs=1e-6)
        else:
            shares = logits.sigmoid() if kind == "multi" else logits.softmax(-1)
            assert list(row["probabilities"].values()) == pytest.approx(shares.tolist(), rel=1e-4)

    code, out, _ = bigbatch_says("report", run)
    assert code == 0 and Path(out.strip()).is_file()
    code, _, err = bigbatch_says("train", "recipe.yaml", *changes, "seed=1")
    assert code == 0 and f"{run}-2" in err and "seed" in err, "another what goes beside it"
    code, out, _ = bigbatch_says("compare", run, f"{run}-2")
    assert code == 0 and f"{run.name}-2" in out


def oracle(folder, rows, kind):
    """The plain way to use a Hugging Face folder, one row at a time."""
    module = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        for row in rows:
            pair = (row["text_pair"],) if kind == "pairs" else ()
            yield module(**tokenizer(row["text"], *pair, return_tensors="pt")).logits[0]


# ---------------------------------------------------------------- what a run leaves behind


def test_files_of_a_run_directory(bigbatch_says, model):
    Path("alerts.py").write_text("def notify(record):\n    return None\n")
    rows = rows_of("single", 80)
    code, _, err = trained(
        bigbatch_says, model, rows, "observers=[alerts.py:notify]", test=rows_of("single", 20, 3)
    )
    assert code == 0, err
    run = Path("runs/job")
    names = {path.name for path in run.iterdir() if not path.name.startswith(".")}
    assert names - {"logs"} == {
        "recipe.yaml", "code", "plan.json", "environment.json", "status.json", "metrics.jsonl", "checkpoints",
        "model", "result.json", "report.html", "identity.json", "baseline.json", "evaluation.json", "code.hmac",
    }  # fmt: skip
    assert [path.name for path in (run / "code").iterdir()] == ["alerts.py"]
    assert {"config.json", "model.safetensors", "README.md", "tokenizer.json"} <= {
        path.name for path in (run / "model").iterdir()
    }
    result = document(run, "result.json")
    assert {
        "exit_reason", "updates", "samples", "tokens", "best", "final", "train_seconds", "evaluate_seconds",
        "inference_samples_per_second", "peak_memory_bytes", "predicted",
    } <= set(result)  # fmt: skip
    assert result["exit_reason"] == "completed" and (result["updates"], result["samples"]) == (4, 64)
    assert set(result["final"]) == {"validation", "test"} and "accuracy" in result["final"]["test"]
    assert result["best"]["metric"] == "loss" and result["predicted"]
    status = document(run, "status.json")
    assert set(status) == {"state", "update", "host", "job_id", "updated_at"} and status["update"] == 4
    for name, choice in document(run, "plan.json").items():
        if isinstance(choice, dict) and "value" in choice:
            assert {"reason", "source"} <= set(choice), name
            assert choice["source"] in ("user", "default", "derived", "measured")
    evals = lines(run, "eval")
    assert [line["split"] for line in evals][-1] == "test"
    assert {
        "kind",
        "time",
        "step",
        "split",
        "loss",
        "accuracy",
        "f1_macro",
        "seconds",
        "samples_per_second",
    } <= set(evals[0])
    assert result["tokens"] == lines(run, "update")[-1]["tokens"]


def test_the_model_folder_gives_the_runs_logits_bit_for_bit(bigbatch_says, model):
    trained(bigbatch_says, model, rows_of("single", 80))
    run = bigbatch.train("job.yaml", set={"plan.micro_tokens": 128})
    reloaded = AutoModelForSequenceClassification.from_pretrained("runs/job/model")
    tokenizer = AutoTokenizer.from_pretrained("runs/job/model")
    batch = tokenizer(texts(10), padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(run.model(**batch).logits, reloaded(**batch).logits)
    assert reloaded.config.id2label == {0: "neg", 1: "pos"}


def test_the_same_command_again_has_nothing_to_do(bigbatch_says, model):
    rows = rows_of("single", 80)
    trained(bigbatch_says, model, rows)
    before = {path: path.read_bytes() for path in Path("runs/job").rglob("*") if path.is_file()}
    code, _, err = trained(bigbatch_says, model, rows)
    assert code == 0 and "nothing to do" in err
    assert {path: path.read_bytes() for path in Path("runs/job").rglob("*") if path.is_file()} == before


# ---------------------------------------------------------------- exit codes


def test_a_wrong_recipe_is_2_and_says_everything(bigbatch_says):
    Path("job.yaml").write_text("model: m\ndata: {train: t.csv}\noptimizer:\n  lrr: 1\nbatchsize: 3\n")
    code, _, err = bigbatch_says("train", "job.yaml")
    assert code == 2 and "job.yaml:4: optimizer.lrr" in err and "job.yaml:5: batchsize" in err
    assert not Path("runs").exists()


def test_bad_data_is_2_before_anything_is_written(bigbatch_says, model):
    rows = [*rows_of("single", 40), {"id": "x", "text": "late", "label": None}]
    code, _, err = trained(bigbatch_says, model, rows)
    assert code == 2 and "train.jsonl:41" in err and "label" in err
    assert not Path("runs").exists()
    code, _, err = trained(bigbatch_says, model, rows[:-1])
    assert code == 0 and Path("runs/job/result.json").exists(), err


def test_a_label_that_only_the_test_file_has_is_2(bigbatch_says, model):
    test = [{"id": "x", "text": "late", "label": "unheard of"}]
    code, _, err = trained(bigbatch_says, model, rows_of("single", 40), test=test)
    assert code == 2 and "unheard of" in err and not Path("runs").exists()


def test_a_model_that_is_not_there_is_2_and_does_not_block_the_name(bigbatch_says, model, tmp_path):
    (tmp_path / "empty").mkdir()
    rows = rows_of("single", 40)
    code, _, err = trained(bigbatch_says, tmp_path / "empty", rows)
    assert code == 2 and "config.json" in err
    code, _, err = trained(bigbatch_says, model, rows)
    assert code == 0 and "job-2" not in err


def test_what_does_not_fit_is_3_and_names_what_would(bigbatch_says, model):
    rows = rows_of("single", 40)
    code, _, err = trained(bigbatch_says, model, rows, "plan.memory=1 MiB")
    assert code == 3 and "does not fit" in err and "smaller model" in err, err
    code, out, err = bigbatch_says("plan", "job.yaml", "plan.memory=1 MiB")
    assert code == 3 and "does not fit" in err and "plan.memory" in err
    code, _, err = trained(bigbatch_says, model, rows)
    assert code == 0 and "job-2" not in err, "the name is free for the next start"


def test_a_missed_gate_is_4_after_everything_is_written(bigbatch_says, model):
    code, _, err = trained(bigbatch_says, model, rows_of("single", 80), "gate={accuracy: 1.01}")
    assert code == 4 and "gate missed: validation accuracy" in err
    run = Path("runs/job")
    assert document(run, "result.json")["exit_reason"] == "gate_missed"
    assert (run / "report.html").exists() and (run / "model/model.safetensors").exists()
    assert document(run, "status.json")["state"] == "finished"


def test_divergence_is_5(bigbatch_says, model):
    Path("losses.py").write_text(
        "import torch\ndef broken(logits, targets):\n    return logits.sum(-1) * float('nan')\n"
    )
    code, _, err = trained(
        bigbatch_says, model, rows_of("single", 80), "loss=losses.py:broken", "guard.patience=2"
    )
    assert code == 5 and "2 updates in a row" in err and "losses.py" in err
    assert document(Path("runs/job"), "status.json")["state"] == "failed"
    assert len(events(Path("runs/job"), "nonfinite")) == 2


def test_a_directory_that_cannot_be_written_is_6(bigbatch_says, model):
    Path("runs").write_text("a file where a folder is wanted")
    code, _, err = trained(bigbatch_says, model, rows_of("single", 40))
    assert code == 6 and "runs" in err


def test_evaluating_what_is_no_run_is_2(bigbatch_says):
    Path("folder").mkdir()
    write(Path("new.csv"), [{"text": "late", "label": "neg"}])
    for words in (("evaluate", "folder", "new.csv"), ("predict", "nowhere", "new.csv"), ("report", "folder")):
        code, out, err = bigbatch_says(*words)
        assert code == 2 and (("folder" in err) or ("nowhere" in err)) and not out


# ---------------------------------------------------------------- plan, predict


def test_plan_prints_and_writes_no_run_directory(bigbatch_says, model):
    write(Path("train.jsonl"), rows_of("single", 60))
    Path("job.yaml").write_text(f"model: {model}\ndata: {{train: train.jsonl}}\nbatch: 16\nupdates: 4\n")
    code, out, _ = bigbatch_says("plan", "job.yaml", SMALL)
    assert code == 0 and "4 updates = 64 samples" in out and "micro_tokens" in out and "128" in out
    assert not Path("runs/job").exists()


def test_predict_from_stdin_to_stdout_keeps_order_and_ids(bigbatch_says, model):
    trained(bigbatch_says, model, rows_of("single", 80))
    rows = [{"id": number, "text": text} for number, text in enumerate(reversed(texts(7, seed=3)))]
    code, out, _ = bigbatch_says(
        "predict", "runs/job", "-", stdin="".join(json.dumps(row) + "\n" for row in rows)
    )
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [row["id"] for row in found] == list(range(7))
    alone = bigbatch.predict("runs/job", [row["text"] for row in rows])
    for mine, theirs in zip(found, alone, strict=True):
        assert mine["label"] == theirs["label"] and mine["probability"] == pytest.approx(
            theirs["probability"], rel=1e-6
        )
    code, out, _ = bigbatch_says("predict", "runs/job", "-", stdin="great flight\nlate bag\n")
    assert code == 0 and len(out.splitlines()) == 2, "plain lines are texts"


def test_predict_works_on_any_hugging_face_folder(bigbatch_says, model):
    write(Path("new.csv"), [{"text": text} for text in texts(3)])
    code, out, _ = bigbatch_says("predict", model, "new.csv")
    assert code == 0 and len(out.splitlines()) == 3 and set(json.loads(out.splitlines()[0])["probabilities"]) == {
        "LABEL_0", "LABEL_1", "LABEL_2"
    }  # fmt: skip


def test_predict_does_not_overwrite(bigbatch_says, model):
    write(Path("new.csv"), [{"text": "late"}])
    Path("out.csv").write_text("precious")
    code, _, err = bigbatch_says("predict", model, "new.csv", "--out", "out.csv")
    assert code == 2 and "out.csv" in err and Path("out.csv").read_text() == "precious"


# ---------------------------------------------------------------- hostile labels


def test_hostile_labels_stay_harmless_from_the_file_to_the_spreadsheet(bigbatch_says, model):
    rows = [{"id": str(n), "text": text, "label": HOSTILE[n % 3]} for n, text in enumerate(texts(90))]
    code, out, err = trained(bigbatch_says, model, rows, test=rows[:9])
    assert code == 0, err
    run = Path("runs/job")
    assert "\x1b" not in out + err
    write(Path("new.csv"), [{"id": "=1+1", "text": text} for text in texts(12)])
    for words in (
        ("evaluate", run, "test.jsonl"),
        ("report", run),
        ("predict", run, "new.csv", "--out", "p.csv"),
    ):
        code, out, err = bigbatch_says(*words)
        assert code == 0 and "\x1b" not in out + err, words
    page = (run / "report.html").read_text()
    assert "<img" not in page and "&lt;img src=x onerror=alert(1)&gt;" in page and "\x1b" not in page
    with Path("p.csv").open(newline="") as stream:
        cells = [cell for row in csv.reader(stream) for cell in row]
    assert cells and not any(cell.startswith(("=", "+", "@", "\t")) for cell in cells)
    assert all("\x1b" not in cell or not cell.startswith("\x1b") for cell in cells)
    card = (run / "model/README.md").read_text()
    # Shown as code, which no page obeys; the fence is longer than any run of backticks in the name.
    assert "<img" in card and "<img" not in re.sub(r"(`+).+?\1", "", card)
    names = AutoModelForSequenceClassification.from_pretrained(run / "model").config.id2label
    assert sorted(names.values()) == sorted(HOSTILE), "in the model they are what they were"
    found = bigbatch.predict(run, ["great flight"])[0]
    assert set(found["probabilities"]) == set(HOSTILE)


# ---------------------------------------------------------------- a process of its own


def test_the_command_as_a_process(model, python):
    write(Path("train.jsonl"), rows_of("single", 60))
    Path("job.yaml").write_text(f"model: {model}\ndata: {{train: train.jsonl}}\nbatch: 16\nupdates: 2\n")
    found = subprocess.run(
        [python, "-m", "bigbatch", "train", "job.yaml", SMALL], capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stderr
    assert "2 updates" in found.stderr and "\x1b" not in found.stderr, "plain lines in a log"
    assert found.stdout == "" and "Traceback" not in found.stderr
    assert document(Path("runs/job"), "result.json")["updates"] == 2
    data = json.dumps({"id": 5, "text": "great"}) + "\n"
    found = subprocess.run(
        [python, "-m", "bigbatch", "predict", "runs/job", "-"],
        input=data,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0 and json.loads(found.stdout)["id"] == 5
