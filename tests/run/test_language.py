"""mlm and clm from the recipe to the model folder: what the journal holds, what is exported, what is evaluated."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

import bigbatch
from bigbatch.data.order import epoch_order
from bigbatch.errors import DataError, RecipeError
from bigbatch.graph import embeddings
from bigbatch.graph.analyse import analyse
from bigbatch.model.anatomy import anatomy
from bigbatch.model.logits import deferred
from bigbatch.model.runner import padded_runner
from bigbatch.tasks.mlm import MaskedLM
from tests.jobs import document, exhaust, lines, start
from tests.language import EVALUATION, MASK, PIECE, SPECIAL, documents, model_of, oracle_row, oracle_samples
from tests.models import VOCABULARY, WORDS, tiny, tiny_batch, tiny_folder
from tests.reference import language_loss, masked, padded, reference_updates
from tests.split import CLIP

ROWS = documents(50, seed=5)
HELD_OUT = documents(20, seed=6)
UPDATES, BATCH, LR = 6, 20, 1e-3
TASKS = {
    "mlm": {"name": "mlm", "mask_id": MASK},
    "documents": {"name": "clm"},
    "fixed": {"name": "clm", "blocks": "fixed"},
}


def oracle(task: dict, dtype: torch.dtype) -> tuple[list[tuple[float, float]], float]:
    """Loss and norm of each update and the last validation loss: order, masks, pieces and clock written out again."""
    samples = oracle_samples(ROWS, task)
    order = [(epoch, int(row)) for epoch in range(9) for row in epoch_order(0, epoch, len(samples))]
    chunks = [order[first : first + BATCH] for first in range(0, UPDATES * BATCH, BATCH)]
    batches = [
        [oracle_row(samples[row], task, seed=0, epoch=epoch, sample=row) for epoch, row in chunk]
        for chunk in chunks
    ]
    # The clock of a causal model counts tokens, that of a masked one samples.
    sizes = [sum(len(row["ids"]) if task["name"] == "clm" else 1 for row in batch) for batch in batches]
    middles = [sum(sizes[:update]) + sizes[update] / 2 for update in range(UPDATES)]
    lrs = [LR * (1 - middle / sum(sizes)) for middle in middles]
    model = model_of(task["name"]).to(dtype).train()
    figures = reference_updates(
        model, batches, kind="language", pad_id=0, lrs=lrs, clip=CLIP, weight_decay=0.01
    )
    held_out = oracle_samples(HELD_OUT, task)
    if task["name"] == "clm":
        rows = [oracle_row(ids, task, seed=0, epoch=0, sample=0) for ids in held_out]
    else:
        rows = [
            masked(ids, SPECIAL, key=(0, EVALUATION, 0, row), vocabulary=VOCABULARY, mask_id=MASK)
            for row, ids in enumerate(held_out)
        ]
    with torch.no_grad():
        loss = language_loss(model.eval()(**padded(rows, 0)).logits, rows)
    return figures, float(loss)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["fp64", "fp32"]
)
@pytest.mark.parametrize("name", TASKS)
def test_the_journal_holds_what_the_oracle_computes(tmp_path, name, dtype, tolerance):
    task = TASKS[name]
    keys = {
        "task": task, "updates": UPDATES, "batch": BATCH, "plan.micro_tokens": 128, "plan.packing": "packed",
        "optimizer.lr": LR, "optimizer.weight_decay": 0.01, "clip": CLIP, "schedule.warmup": 0,
        "data.max_length": PIECE if task["name"] == "clm" else None,
    }  # fmt: skip
    run = exhaust(
        start(tmp_path / "r", model_of(task["name"]).to(dtype), rows=ROWS, validation=HELD_OUT, set=keys)
    )
    figures, held_out = oracle(task, dtype)
    for line, (loss, norm) in zip(lines(tmp_path / "r", "update"), figures, strict=True):
        assert norm > CLIP
        assert line["loss"] == pytest.approx(loss, rel=tolerance, abs=0)
        assert line["grad_norm"] == pytest.approx(norm, rel=tolerance, abs=0)
    last = lines(tmp_path / "r", "eval")[-1]
    assert last["loss"] == pytest.approx(held_out, rel=10 * tolerance, abs=0)
    assert last["perplexity"] == pytest.approx(np.exp(last["loss"]), rel=1e-12)
    assert 0 <= last["accuracy"] <= 1
    assert ("bits_per_byte" in last) == (task["name"] == "clm") and last.get("bits_per_byte") is None
    assert run.plan.value("micro_tokens") == 128


def test_validation_masks_do_not_move(tmp_path):
    """Evaluated twice with the same weights: a learning rate of almost nothing leaves them."""
    keys = {
        "task": TASKS["mlm"],
        "updates": 3,
        "optimizer.lr": 1e-30,
        "optimizer.weight_decay": 0,
        "run.evaluate_every": "1 updates",
    }
    exhaust(start(tmp_path / "r", model_of("mlm"), rows=ROWS, validation=HELD_OUT, set=keys))
    losses = {line["loss"] for line in lines(tmp_path / "r", "eval")}
    assert len(losses) == 1
    assert len({line["loss"] for line in lines(tmp_path / "r", "update")}) == 3, (
        "training draws others each time"
    )


def test_tied_embeddings_whose_gradient_comes_in_rows(tmp_path, monkeypatch):
    """The table's own gradient is dense (the output layer's) and sparse (the tokens'): both arrive."""
    losses = []
    for fewest in (10, 10**9):
        monkeypatch.setattr(embeddings, "FEWEST_ROWS", fewest)
        keys = {
            "task": TASKS["mlm"],
            "updates": 4,
            "batch": BATCH,
            "plan.micro_tokens": 128,
            "clip": CLIP,
            "plan.packing": "packed",
        }
        module = model_of("mlm").double()
        run = exhaust(start(tmp_path / str(fewest), module, rows=ROWS, set=keys))
        assert run.plan.value("embedding_gradients") == ("rows" if fewest == 10 else "whole")
        losses.append([(line["loss"], line["grad_norm"]) for line in lines(tmp_path / str(fewest), "update")])
    assert np.array(losses[0]) == pytest.approx(np.array(losses[1]), rel=1e-10)


# ---------------------------------------------------------------- text, files and folders


def write_text(path: Path, count: int, seed: int) -> Path:
    """Lines in which every word follows from the one before, so that there is something to learn."""
    few = WORDS[:10]
    random, order = np.random.default_rng(seed), dict(zip(few, [*few[1:], few[0]], strict=True))
    lines = []
    for _ in range(count):
        words = [str(random.choice(few))]
        while len(words) < random.integers(4, 16):
            words.append(order[words[-1]])
        lines.append(" ".join(words))
    path.write_text("\n".join(lines) + "\n")
    return path


def recipe_of(folder: Path, task: dict, model: Path, **keys) -> dict:
    write_text(folder / "train.txt", 240, 1), write_text(folder / "held.txt", 40, 2)
    return {
        "model": str(model),
        "task": task,
        "data": {"train": str(folder / "train.txt"), "validation": str(folder / "held.txt")},
        "batch": 16,
        "epochs": 6,
        "optimizer": {"lr": 5e-3},
        "plan": {"micro_tokens": 512},
        "run": {"dir": str(folder / "run"), "evaluate_every": "2 epochs"},
        **keys,
    }


def test_masked_words_are_learnt_from_plain_text(tmp_path):
    model = tiny_folder(tmp_path / "model", "bert", head="masked")
    recipe = recipe_of(tmp_path, {"name": "mlm", "whole_word": True, "probability": 0.3}, model, epochs=15)
    run = bigbatch.train(recipe)
    assert lines(tmp_path / "run", "eval")[-1]["accuracy"] > 0.25, "a tenth by guessing"
    folder = tmp_path / "run" / "model"
    opened = AutoModelForMaskedLM.from_pretrained(folder).eval()
    assert opened.get_output_embeddings().weight is opened.get_input_embeddings().weight
    again = bigbatch.evaluate(tmp_path / "run", str(tmp_path / "held.txt"))
    assert again["loss"] == pytest.approx(
        document(tmp_path / "run", "result.json")["final"]["validation"]["loss"], rel=1e-5
    )
    plain = bigbatch.evaluate(folder, str(tmp_path / "held.txt"))
    assert plain["perplexity"] < 5, "a folder without a recipe is masked as task mlm is by default"
    (found,) = run.predict(["the a flight [MASK] great late"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = opened(**tokenizer("the a flight [MASK] great late", return_tensors="pt")).logits[0, 4]
    shares, ids = logits.double().softmax(-1).topk(5)
    assert [each["token"] for each in found["masks"][0]] == tokenizer.convert_ids_to_tokens(ids)
    assert [each["probability"] for each in found["masks"][0]] == pytest.approx(shares.tolist(), rel=1e-4)
    assert found["text"] == f"the a flight {found['masks'][0][0]['token']} great late"
    assert "fill-mask" in (folder / "README.md").read_text()
    assert "AutoModelForMaskedLM" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize("blocks", ["documents", "fixed"])
def test_the_next_word_is_learnt_from_plain_text(tmp_path, blocks):
    model = tiny_folder(tmp_path / "model", "gpt2", head="causal")
    keys = {"batch": {"tokens": 256}}
    recipe = recipe_of(tmp_path, {"name": "clm", "blocks": blocks}, model, **keys)
    recipe["data"]["max_length"] = 12
    bigbatch.train(recipe)
    last = lines(tmp_path / "run", "eval")[-1]
    assert last["accuracy"] > 0.6
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").eval()
    assert opened.get_output_embeddings().weight is opened.get_input_embeddings().weight
    again = bigbatch.evaluate(tmp_path / "run", str(tmp_path / "held.txt"))
    assert again["loss"] == pytest.approx(last["loss"], rel=1e-5)
    text_bytes = sum(len(line.encode()) for line in (tmp_path / "held.txt").read_text().splitlines())
    assert again["bits_per_byte"] is not None
    if blocks == "documents":  # [CLS] is the first token, so that every byte is predicted
        units = sum(len(row) for row in _tokens_of(tmp_path)) - 40
        assert again["bits_per_byte"] == pytest.approx(
            again["loss"] * units / np.log(2) / text_bytes, rel=1e-9
        )
    sentence = bigbatch.predict(tmp_path / "run", ["a flight was great"])[0]
    noise = bigbatch.predict(tmp_path / "run", ["great a was flight"])[0]
    assert sentence["tokens"] == noise["tokens"] and sentence["perplexity"] < noise["perplexity"]


def _tokens_of(folder: Path) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(folder / "run" / "model")
    return tokenizer((folder / "held.txt").read_text().splitlines())["input_ids"]


def test_predictions_of_a_file(tmp_path):
    model = tiny_folder(tmp_path / "model", "bert", head="masked")
    (tmp_path / "in.txt").write_text("the [MASK]\nbad\n")
    rows = bigbatch.answers.predict_file(model, str(tmp_path / "in.txt"), str(tmp_path / "out.jsonl"))
    assert rows == 2
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [len(row["masks"]) for row in found] == [1, 0]


def test_texts_that_are_their_own_target_need_no_labels(tmp_path):
    """Rows of dictionaries, with a column that nobody reads; an empty one is named."""
    model = tiny_folder(tmp_path / "model", "bert", head="masked")
    rows = [{"text": f"the {word} flight", "label": 1} for word in WORDS]
    run = bigbatch.train(str(model), rows, 0.2, task="mlm", epochs=1, batch_size=8, run_dir=tmp_path / "r")
    assert run.metrics["validation.perplexity"] > 1
    with pytest.raises(DataError, match="empty text"):
        bigbatch.train(
            str(model), [*rows, {"text": " "}], task="mlm", epochs=1, batch_size=8, run_dir=tmp_path / "s"
        )


def test_what_does_not_fit_is_said(tmp_path):
    causal = tiny("llama", head="causal")
    with pytest.raises(RecipeError, match="loss.label_smoothing: a language model's loss"):
        keys = {"task": {"name": "clm"}, "loss.label_smoothing": 0.1}
        start(tmp_path / "a", causal, rows=ROWS, set=keys)
    with pytest.raises(RecipeError, match="unknown metric 'f1_macro' for a language model"):
        start(tmp_path / "b", causal, rows=ROWS, set={"task": {"name": "clm"}, "metrics": ["f1_macro"]})


def test_capped_logits_are_computed_whole_and_said(tmp_path):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    module = Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8, pad_token_id=0, final_logit_softcapping=2.0, attn_logit_softcapping=None,
        )
    )  # fmt: skip
    run = start(tmp_path / "r", module, rows=ROWS, set={"task": {"name": "clm"}, "data.max_length": PIECE})
    with run:
        assert any("logits are computed whole" in note for note in run._parts.notes)
        assert run._parts.forward.output_layer is None
        for _ in run:
            pass
    assert len(lines(tmp_path / "r", "update")) == 4


def test_the_analysis_counts_chunked_logits_as_it_counts_whole_ones():
    """The chunked product is one operation of torch's, forward and backward: its FLOPs are those of three products."""
    found = []
    model = model_of("mlm")
    batch = tiny_batch((9, 12, 5), pools="tokens")
    parts = anatomy(model)
    for defers in (False, True):
        with closing(padded_runner(model, 0)) as plain:
            forward = deferred(plain, model.get_output_embeddings()) if defers else plain
            found.append(analyse(forward, MaskedLM(), model, parts, replace(batch, packing="padded")))
    whole, chunked = (sum(part.cost.flops for part in each.parts) for each in found)
    # The padded path computes the logits of every position, the deferred one those of the units.
    positions, units = 3 * 12, len(batch.reads_U)
    head = 3 * 2 * VOCABULARY * 16
    assert whole - chunked == head * (positions - units)
    assert not any("no FLOP formula" in note for note in found[1].notes)


@pytest.mark.parametrize("task", ["mlm", "clm"])
def test_a_language_model_in_a_low_format(tmp_path, task):
    """The cast reaches the forward that stops in front of the logits; loss and logits stay fp32."""
    model = tiny_folder(
        tmp_path / "model", "bert" if task == "mlm" else "gpt2", head="masked" if task == "mlm" else "causal"
    )
    recipe = recipe_of(tmp_path, {"name": task}, model, epochs=1)
    losses = []
    for name in ("fp32", "bf16"):
        keys = {
            "plan": {"micro_tokens": 512, "precision": name, "attention": "sdpa"},
            "run": {"dir": str(tmp_path / name)},
        }
        bigbatch.train({**recipe, **keys, "regularise": {"dropout": 0.0}})
        losses.append([line["loss"] for line in lines(tmp_path / name, "update")])
    plan = document(tmp_path / "bf16", "plan.json")
    assert plan["precision"]["value"] == "bf16" and "plain path" in plan["precision"]["reason"]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
