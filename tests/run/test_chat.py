"""A run on conversations from beginning to end: the task is told by the column, the model keeps its template."""

from __future__ import annotations

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import TrainingArguments

import bigbatch
from bigbatch.arguments import recipe_and_live
from bigbatch.errors import ModelError
from tests.chats import TEMPLATES, chat_model, chat_tokenizer, talk

SET = {"updates": 6, "batch": 12, "optimizer.lr": 1e-2, "baseline": "off", "plan.micro_tokens": 256}


def test_conversations_are_learnt_and_the_model_keeps_its_template(tmp_path):
    rows = talk(40, most_turns=1, weights=(1,))
    run = bigbatch.train(
        chat_model(),
        rows,
        rows[:8],
        tokenizer=chat_tokenizer("zephyr"),
        set=SET,
        run_dir=tmp_path / "run",
        quiet=True,
    )
    assert "name: chat" in (tmp_path / "run" / "recipe.yaml").read_text()
    assert (tmp_path / "run" / "model" / "chat_template.jinja").read_text() == TEMPLATES["zephyr"]
    losses = bigbatch.read(tmp_path / "run").updates["loss"].to_pylist()
    assert losses[-1] < losses[0] - 0.5
    live, stored = list(run.predict(rows[:3])), list(bigbatch.predict(tmp_path / "run", rows[:3]))
    assert live == stored
    for found in live:
        assert math.isclose(found["nll"], sum(turn["nll"] for turn in found["turns"]), rel_tol=1e-6)
        assert [turn["turn"] for turn in found["turns"]] == [2]
    page = (tmp_path / "run" / "report.html").read_text()
    said = rows[0]["messages"][-1]["content"]
    assert f'<pre class="learnt" dir="auto">{said}&lt;/s&gt;</pre>' in page
    assert '<pre class="read" dir="auto">&lt;|user|&gt;' in page
    assert bigbatch.evaluate(tmp_path / "run", rows[:8])["accuracy"] > 0


@pytest.mark.parametrize("form", ["jsonl", "json", "parquet"])
def test_files_of_conversations_are_known_to_a_live_model(form, tmp_path):
    """As `bigbatch init` knows them: by what the first row holds."""
    rows = talk(16, most_turns=1, weights=(1,))
    path = tmp_path / f"talks.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        written = [json.dumps(row) for row in rows]
        path.write_text("\n".join(written) if form == "jsonl" else f"[{', '.join(written)}]")
    recipe, _ = recipe_and_live(
        chat_model(), str(path), None, task=None, loss=None, metrics=(), observers=(), tokenizer=None, set={}
    )
    assert recipe.task.name == "chat"
    if form == "jsonl":
        keys = {**SET, "updates": 1}
        bigbatch.train(
            chat_model(),
            str(path),
            tokenizer=chat_tokenizer(),
            set=keys,
            run_dir=tmp_path / "run",
            quiet=True,
        )
        assert "name: chat" in (tmp_path / "run" / "recipe.yaml").read_text()


@pytest.mark.parametrize(
    ("rows", "columns", "task"),
    [
        ([{"dialog": "[]"}], {"messages": "dialog"}, "chat"),
        ([{"ask": "a", "say": "b"}], {"prompt": "ask", "completion": "say"}, "chat"),
        ([{"prompt": "a", "output": "b", "text": "c"}], {"text": "text"}, "clm"),
        ([{"text": "a"}], None, "clm"),
        ("nowhere.jsonl", None, "clm"),
        ("https://example.org/talks.jsonl", None, "clm"),
    ],
)
def test_columns_that_are_named_say_what_is_learnt(rows, columns, task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = {"columns": columns} if columns else {}
    recipe, _ = recipe_and_live(
        chat_model(),
        rows,
        None,
        task=None,
        loss=None,
        metrics=(),
        observers=(),
        tokenizer=None,
        set={},
        **short,
    )
    assert recipe.task.name == task


def test_the_trainers_door_knows_conversations(tmp_path):
    rows = talk(16, most_turns=1, weights=(1,))
    args = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=2,
        per_device_train_batch_size=8,
        report_to=[],
        use_cpu=True,
    )
    trainer = bigbatch.Trainer(
        model=chat_model(),
        args=args,
        train_dataset=rows,
        eval_dataset=rows[:4],
        processing_class=chat_tokenizer(),
    )
    assert trainer.task == {"name": "chat"}
    trainer.train()
    found = trainer.evaluate()
    assert 0 < found["eval_loss"] < math.log(len(chat_tokenizer())) + 1
    assert found["eval_loss"] == pytest.approx(
        bigbatch.evaluate(tmp_path / "out", rows[:4])["loss"], rel=1e-6
    )


def test_a_tokenizer_without_a_template_is_refused_before_update_1(tmp_path):
    with pytest.raises(ModelError, match="no chat template: set task.template: chatml"):
        bigbatch.train(
            chat_model(),
            talk(20),
            tokenizer=chat_tokenizer(None),
            set=SET,
            run_dir=tmp_path / "run",
            quiet=True,
        )


def test_another_template_in_the_same_file_is_another_run(tmp_path):
    (tmp_path / "ours.jinja").write_text(TEMPLATES["chatml"])
    recipe = {
        "model": str(tmp_path / "model"), "data": {"train": []}, "run": {"dir": str(tmp_path / "run")},
        "task": {"name": "chat", "template": str(tmp_path / "ours.jinja")}, "optimizer": {"lr": 1e-2},
        "batch": 8, "updates": 2, "baseline": "off", "plan": {"micro_tokens": 256},
    }  # fmt: skip
    chat_model().save_pretrained(tmp_path / "model")
    chat_tokenizer(None).save_pretrained(tmp_path / "model")

    def trained():
        return bigbatch.train(recipe, talk(20), quiet=True).path.name

    assert (trained(), trained()) == ("run", "run")
    (tmp_path / "ours.jinja").write_text(TEMPLATES["zephyr"])
    assert trained() == "run-2"
    assert (tmp_path / "run-2" / "model" / "chat_template.jinja").read_text() == TEMPLATES["zephyr"]
