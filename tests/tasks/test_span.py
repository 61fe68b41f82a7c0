"""Questions through windows: what is learnt of each, what is refused, and which answer is picked."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from bigbatch.data.tokens import as_table
from bigbatch.data.windows import BEGIN, END, FLAGS, NULL, WINDOW, window_table
from bigbatch.errors import DataError, ModelError, RecipeError
from bigbatch.metrics.best_span import best_spans, further_spans
from bigbatch.samples import Targets
from bigbatch.tasks.span import Span
from tests.models import tiny_tokenizer
from tests.questions import LENGTH, STRIDE, question_rows, reader, windows_by_hand

TASK = Span(stride=STRIDE).with_facts(max_length=LENGTH)
ROWS = question_rows(30, without=5)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def gold(text: str, start: int) -> str:
    return f'[{{"text": "{text}", "answer_start": {start}}}]'


def encoded(rows, tokenizer, task=TASK):
    import json

    return task.encode_batch([{**row, "answers": json.dumps(row["answers"])} for row in rows], tokenizer)


def test_windows_are_those_of_a_textbook(tokenizer):
    table = window_table(as_table(encoded(ROWS, tokenizer)), np.arange(len(ROWS)), whole=True)
    expected = [window for row in ROWS for window in windows_by_hand(row)["windows"]]
    assert len(table) == len(expected) > len(ROWS)
    bounds = itertools.pairwise(table.token_offsets)
    for window, (first, end) in zip(expected, bounds, strict=True):
        flags = table.values[first:end, FLAGS]
        assert table.ids[first:end].tolist() == window["ids"]
        assert table.segments[first:end].tolist() == window["segments"]
        assert [np.flatnonzero(flags & flag).tolist() for flag in (1, 2, 4)] == [
            [window["start"]],
            [window["end"]],
            [0],
        ]
    # Every token of the text knows its characters.
    for question, row in enumerate(ROWS):
        own = table.values[table.values[:, 3] == question]
        words = {
            row["context"][begin:end] for begin, end in own[own[:, BEGIN] >= 0][:, [BEGIN, END]].tolist()
        }
        assert words == set(row["context"].split())


def test_the_loss_is_transformers_own(tokenizer):
    module = reader().double()
    table = TASK.view(as_table(encoded(ROWS[:4], tokenizer)), np.arange(4), np.zeros(4, np.int64))
    windows = [windows_by_hand(row)["windows"] for row in ROWS[:4]]
    logits, expected = [], []
    for own in windows:
        for window in own:
            given = {
                "input_ids": torch.tensor([window["ids"]]),
                "token_type_ids": torch.tensor([window["segments"]]),
            }
            places = {f"{side}_positions": torch.tensor([window[side]]) for side in ("start", "end")}
            found = module(**given, **places)
            logits.append(torch.stack([found.start_logits[0], found.end_logits[0]], 1))
            expected.append(found.loss / len(own))
    targets = table.targets.map(lambda values: torch.from_numpy(np.array(values)))
    losses = TASK.loss(torch.cat(logits), targets)["span"]
    assert torch.allclose(losses, torch.stack(expected), rtol=1e-10, atol=0)
    # A filler weighs nothing, whatever its outputs.
    nothing = replace(targets, weights=torch.zeros_like(targets.weights))
    assert not TASK.loss(torch.full_like(torch.cat(logits), torch.inf), nothing)["span"].any()
    assert TASK.denominators(Targets(values=table.values, weights=table.weights)) == {"span": 4.0}


@pytest.mark.parametrize(
    ("context", "answers", "words"),
    [
        ("Zoë met my bag", gold("bag", 12), "write answer_start: 11 (12 counts UTF-8 bytes)"),
        ("\U0001d11e my bag", gold("bag", 6), "write answer_start: 5 (6 counts UTF-16 units)"),
        ("my bag", gold("bag", 2), "found ' ba' there; write answer_start: 3"),
        ("a bag a bag a", gold("bag", 9), "stands 2 times in the context, nearest at 8: say which"),
        ("cafe\u0301 on", gold("caf\u00e9", 0), "with other characters of Unicode"),
        ("my bag", gold("flight", 0), "stands nowhere in it: mend or remove the row"),
        ("my bag", gold("bag", 4000), "found '' there; write answer_start: 3"),
    ],
)
def test_an_answer_that_stands_elsewhere_is_refused(tokenizer, context, answers, words):
    with pytest.raises(DataError) as caught:
        TASK.encode({"question": "my bag", "context": context, "answers": answers}, tokenizer)
    assert words in str(caught.value)


def test_what_cannot_be_read_is_refused(tokenizer):
    row = {"question": "my bag", "context": "my bag", "answers": "[]"}
    with pytest.raises(RecipeError, match=r"task.stride.*raise data.max_length to 31 or more"):
        replace(TASK, stride=21).encode(row, tokenizer)
    with pytest.raises(ModelError, match="needs a fast tokenizer"):
        TASK.encode(row, lambda *texts, **options: {})
    with pytest.raises(DataError, match="task span reads texts"):
        TASK.encode({"input_ids": [1, 2]}, tokenizer)
    for option in (
        {"stride": -1},
        {"max_answer_tokens": 0},
        {"null_threshold": float("nan")},
        {"language": "de"},
    ):
        with pytest.raises(RecipeError, match=f"task.{next(iter(option))}: found"):
            Span(**option)


def test_a_long_question_is_cut_and_counted_and_so_is_an_answer_that_no_window_holds(tokenizer):
    context = " ".join(["my bag was late"] * 10)
    long = {"question": "my bag was late again today", "context": context, "answers": []}
    wide = {"question": "my", "context": context, "answers": [{"text": context, "answer_start": 0}]}
    plain = {"question": "my", "context": context, "answers": []}
    samples = encoded([long, wide, plain], tokenizer, replace(TASK, max_query_length=4))
    assert [sample.truncated for sample in samples] == [True, True, False]
    assert samples[0].ids[:6].tolist() == [2, *tokenizer("my bag was late")["input_ids"][1:-1], 3]


def test_the_best_answer_is_the_best_of_all_pairs(tokenizer):
    random = np.random.default_rng(0)
    values = window_table(as_table(encoded(ROWS, tokenizer)), np.arange(len(ROWS)), whole=True).values
    logits = random.normal(size=(len(values), 2))
    found, most = best_spans(logits, values, 3), 3
    several = further_spans(logits, values, most, 4)
    for question in range(len(ROWS)):
        at = np.flatnonzero(values[:, 3] == question)
        pairs = {}
        for start, end in itertools.product(at, at):
            text = values[start, BEGIN] >= 0 and values[end, BEGIN] >= 0
            if text and 0 <= end - start < most and values[start, WINDOW] == values[end, WINDOW]:
                key = int(values[start, BEGIN]), int(values[end, END])
                pairs[key] = max(pairs.get(key, -np.inf), logits[start, 0] + logits[end, 1])
        ordered = sorted(pairs.items(), key=lambda one: -one[1])
        assert ((int(found.first[question]), int(found.end[question])), found.score[question]) == ordered[0]
        assert [((first, end), score) for first, end, score in several[question]] == ordered[:4]
        nulls = [logits[one].sum() for one in at if values[one, FLAGS] & NULL]
        assert found.null[question] == min(nulls)


def test_damaged_logits_give_no_answer_and_a_threshold_decides(tokenizer):
    values = window_table(as_table(encoded(ROWS[:2], tokenizer)), np.arange(2), whole=True).values
    logits = np.full((len(values), 2), np.nan)
    assert best_spans(logits, values, 5).first.tolist() == [-1, -1]
    logits = np.zeros((len(values), 2))
    logits[(values[:, 3] == 1) & (values[:, FLAGS] & NULL > 0)] = 3  # in every window
    found = best_spans(logits, values, 5)
    given = {
        threshold: Span(null_threshold=threshold).answered(found).tolist() for threshold in (None, 0.0, 6.0)
    }
    assert given == {None: [True, True], 0.0: [True, False], 6.0: [True, True]}


def test_predictions_keep_to_the_text(tokenizer):
    rows = [{"question": "my bag", "context": "\u00a0 the bag\u3000was late"}]
    samples = TASK.encode_batch(rows, tokenizer, labelled=False)
    task = replace(TASK, n_best=2)

    def run(table, keep):
        del keep
        wanted = [(text in ("bag", "was")) for text in texts_at(table)]
        return np.array([[float(each), float(each)] for each in wanted])

    def texts_at(table):
        return [
            rows[0]["context"][begin:end] if begin >= 0 else ""
            for begin, end in table.values[:, [BEGIN, END]]
        ]

    [found] = task.predict(rows, samples, run, tokenizer)
    assert rows[0]["context"][found["start"] : found["end"]] == found["answer"]
    assert found["answer"] in ("bag", "was", "bag\u3000was") and len(found["alternatives"]) == 2
    assert 0 < found["probability"] < 1 and found["null_score"] == -2.0
    assert task.nothing().keys() == found.keys()
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
