"""Texts that a model writes: as transformers writes them, whatever the batches and ranks; figures by sacrebleu."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache

from bigbatch.data.tokens import as_table
from bigbatch.errors import DataError, RecipeError
from bigbatch.infer import decoding, generate
from bigbatch.infer.evaluate import evaluate, impossible_figures, judged
from bigbatch.infer.generate import texts_of, written
from bigbatch.infer.predict import predict_rows
from bigbatch.infer.sampling import Decoding
from bigbatch.metrics import bleu
from bigbatch.metrics.written import written_metrics
from bigbatch.model.heads import HEADS
from bigbatch.model.runner import padded_runner
from bigbatch.samples import Table
from bigbatch.tasks.seq2seq import Seq2Seq
from bigbatch.tasks.vocabulary import vocabulary_of
from tests.models import PAIRS, tiny_pair, tiny_tokenizer
from tests.translation import pairs

ROWS = pairs(12, longest=12, gaps=False)


def opened(family: str, tokenizer=None, **options):
    """A model that writes, its task, and how it is fed."""
    fields = (
        {"initializer_factor": 2.0} if "t5" in family else {}
    )  # with its own it writes one token for ever
    module = tiny_pair(family, **fields, **({"vocab_size": len(tokenizer) + 60} if tokenizer else {}))
    task = Seq2Seq(target_max_length=9, **options).with_facts(
        vocabulary=vocabulary_of(tokenizer, module), tokenizer=tokenizer, max_length=64
    )
    return module, task, padded_runner(module, module.config.pad_token_id, HEADS["seq2seq"].inputs)


def table_of(task: Seq2Seq, rows) -> Table:
    return as_table(task.encode_batch(rows, task.facts.tokenizer), task.sequences)


@pytest.mark.parametrize("family", PAIRS)
@pytest.mark.parametrize("micro_tokens", [8, 4096])
def test_each_text_is_the_one_that_transformers_writes_of_it_alone(family, micro_tokens):
    module, task, forward = opened(family)
    table = table_of(task, ROWS)
    found = written(forward, task, table, micro_tokens=micro_tokens)
    for row, ids, sample in zip(ROWS, found, task.encode_batch(ROWS, None), strict=True):
        alone = module.generate(
            torch.tensor([row["input_ids"]]), max_new_tokens=10, num_beams=1, do_sample=False,
            decoder_start_token_id=int(sample.ids[0]),
            past_key_values=EncoderDecoderCache(DynamicCache(), DynamicCache()),
        )[0, 1:10].tolist()  # fmt: skip
        end = module.config.eos_token_id
        assert ids == (alone[: alone.index(end)] if end in alone else alone)
    assert len({tuple(ids) for ids in found}) > 3, "they differ, or nothing is shown"


@pytest.mark.parametrize("family", PAIRS)
def test_passes_of_the_whole_model_choose_the_same_tokens(family):
    """As ranks that divide a model take them."""
    module, task, _ = opened(family)
    table, chosen, marks = table_of(task, ROWS), np.array([3, 0, 7]), generate.marks_of(task)
    batch = decoding.batch_of_pairs(table, chosen, np.full(3, 9), marks, torch.device("cpu"))
    with torch.inference_mode():
        both = [decoding.stepwise(module, batch, 9), decoding.by_transformers(module, batch, Decoding())]
    ours, theirs = (decoding.until_their_ends(each, batch.most_B, marks.ends)[0] for each in both)
    assert ours[:, : theirs.shape[1]].tolist() == theirs.tolist() and (ours[:, theirs.shape[1] :] == -1).all()


@pytest.mark.parametrize("family", ["bart", "mbart"])
@pytest.mark.parametrize("micro_tokens", [8, 4096])
def test_a_text_that_never_ends_stops_at_the_last_position_or_at_its_own_bound(
    family, micro_tokens, monkeypatch
):
    """Whatever is written beside it; mBART's decoder is shown the target's frame first, which takes positions too."""
    module, task, forward = opened(family)
    module.config.eos_token_id = module.generation_config.eos_token_id = None
    task = Seq2Seq().with_facts(vocabulary=vocabulary_of(None, module), max_length=64)
    table = table_of(task, ROWS)
    found = written(forward, task, table, micro_tokens=micro_tokens)
    assert [len(ids) for ids in found] == [min(64, 2 * len(row["input_ids"]) + 50) for row in ROWS]
    monkeypatch.setattr(Seq2Seq, "target_frame", ((7, 8), ()))
    assert {len(ids) for ids in written(forward, task, table, micro_tokens=micro_tokens)} <= {*range(50, 63)}


def test_a_row_is_predicted_as_text_whatever_stands_beside_it(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path)
    _, task, forward = opened("bart", tokenizer)
    sources = ["the flight was late", "good", "", "my bag was lost again and again"]
    found = list(predict_rows(forward, task, tokenizer, [{"source": each} for each in sources]))
    assert all(each.keys() == {"text"} and isinstance(each["text"], str) for each in found)
    assert list(predict_rows(forward, task, tokenizer, "good")) == [found[1]]
    assert found[0]["text"] and "[SEP]" not in found[0]["text"]
    rows = [{"source": each, "target": "never again"} for each in sources]
    assert list(predict_rows(forward, task, tokenizer, rows)) == found


@pytest.mark.parametrize(
    ("ids", "what"),
    [
        ([5, 100], "token id 100, but the model's embedding has 100 rows"),
        ([5] * 65, "65 tokens, but max_length is 64"),
    ],
)
def test_a_source_that_the_model_cannot_read_is_refused_by_its_row(ids, what):
    _, task, forward = opened("bart")
    with pytest.raises(DataError, match=f"row 2: input_ids: .*{what}"):
        list(predict_rows(forward, task, None, [{"input_ids": [5, 6]}, {"input_ids": ids}]))


@pytest.mark.parametrize("family", ["t5", "marian", "bart"])
@pytest.mark.parametrize("micro_tokens", [8, 4096])
def test_beams_write_what_transformers_writes_of_each_source_alone(family, micro_tokens):
    """In whatever batches: beams of short sources end before those of long ones beside them."""
    module, task, forward = opened(family, beams=3)
    found = written(forward, task, table_of(task, ROWS), micro_tokens=micro_tokens)
    end = module.config.eos_token_id
    for row, ids, sample in zip(ROWS, found, task.encode_batch(ROWS, None), strict=True):
        alone = module.generate(
            torch.tensor([row["input_ids"]]), max_new_tokens=9, num_beams=3, do_sample=False,
            decoder_start_token_id=int(sample.ids[0]), forced_eos_token_id=None,
            past_key_values=EncoderDecoderCache(DynamicCache(), DynamicCache()),
        )[0, 1:].tolist()  # fmt: skip
        assert ids == (alone[: alone.index(end)] if end in alone else alone)
    _, greedy, _ = opened(family)
    assert found != written(forward, greedy, table_of(greedy, ROWS), micro_tokens=4096)


def test_figures_of_texts_are_sacrebleus(tmp_path):
    sacrebleu = pytest.importorskip("sacrebleu", reason="an extra: bigbatch[seq2seq]")
    tokenizer = tiny_tokenizer(tmp_path)
    _, task, forward = opened("bart", tokenizer)
    task = task.with_facts(metrics=("bleu", "chrf", "perplexity"))
    rows = [
        {"source": "the flight was late", "target": "the crew was great, thanks"},
        {"source": "good", "target": "Never again!"},
    ]
    table = table_of(task, rows)
    texts, wanted = texts_of(forward, task, table, micro_tokens=64)
    assert wanted == [row["target"] for row in rows], "as they were typed, not as the tokenizer has them"
    found = evaluate(forward, task, table, micro_tokens=64)
    assert found.metrics["chrf"] == pytest.approx(sacrebleu.corpus_chrf(texts, [wanted]).score)
    assert found.metrics["bleu"] == pytest.approx(sacrebleu.corpus_bleu(texts, [wanted]).score)
    assert "tok:13a" in found.signatures["bleu"] and "nrefs:1" in found.signatures["chrf"]
    alike = judged(task, table, np.zeros((len(table.reads), 2)), texts=(wanted, wanted))
    assert alike.metrics["chrf"] == 100
    unwritten = judged(task, table, np.zeros((len(table.reads), 2)))
    assert unwritten.undefined["bleu"] == "no text was written"
    assert not impossible_figures(task, table, task.metrics)


def test_counts_add_up_and_chinese_is_told_from_english():
    sacrebleu = pytest.importorskip("sacrebleu", reason="an extra: bigbatch[seq2seq]")
    written_, wanted = (
        ["打开文件菜单", "另一个文件", "单击确定"],
        ["打开文件菜单。", "另一个旧文件", "点击确定按钮"],
    )
    for name in ("bleu", "chrf"):
        metric = written_metrics()[name]
        state = metric.merge(
            metric.of_texts(written_[:1], wanted[:1]), metric.of_texts(written_[1:], wanted[1:])
        )
        whole = (
            sacrebleu.corpus_bleu(written_, [wanted], tokenize="zh")
            if name == "bleu"
            else sacrebleu.corpus_chrf(written_, [wanted])
        )
        assert metric.value(state) == pytest.approx(whole.score)
        assert metric.value(metric.merge(None, state)) == metric.value(state)
    assert bleu.words_of(["hello 文"]) == "13a" and bleu.words_of(["文件"]) == "zh"


def test_without_sacrebleu_one_sentence_says_what_to_install(monkeypatch):
    import sys

    for name in ("sacrebleu", "sacrebleu.metrics", "sacrebleu.metrics.bleu"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RecipeError, match=r"bleu needs sacrebleu, .*: pip install 'bigbatch\[seq2seq\]'"):
        Seq2Seq().check_metric("bleu")
    with pytest.raises(
        RecipeError, match=r"unknown metric 'blue' .*perplexity, accuracy, bleu, chrf, rouge_l"
    ):
        Seq2Seq().check_metric("blue")
