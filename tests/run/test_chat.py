"""A run on conversations from beginning to end: the task is told by the column, the model keeps its template."""

from __future__ import annotations

import math

import pytest

import bigbatch
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
