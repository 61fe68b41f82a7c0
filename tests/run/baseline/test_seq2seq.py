"""What written texts are held against: the source, its first sentences, the most similar training source's target."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from bigbatch.data.tables import DataTable
from bigbatch.data.tokens import as_table
from bigbatch.metrics.rouge import rouge_l
from bigbatch.run.baseline.fit import fitted
from bigbatch.run.baseline.model import Split
from bigbatch.tasks.seq2seq import Seq2Seq
from bigbatch.tasks.vocabulary import vocabulary_of
from tests.models import WORDS, tiny_pair, tiny_tokenizer


def split_of(task, sources, targets) -> Split:
    rows = [{"source": one, "target": other} for one, other in zip(sources, targets, strict=True)]
    table = as_table(task.encode_batch(rows, task.facts.tokenizer), task.sequences)
    return Split(rows=DataTable(rows=pa.table({"source": sources, "target": targets})), table=table)


@pytest.mark.parametrize("summaries", [False, True])
def test_they_are_scored_by_the_texts_alone(summaries, tmp_path):
    tokenizer = tiny_tokenizer(tmp_path)
    module = tiny_pair("bart", vocab_size=len(tokenizer) + 3)
    task = Seq2Seq().with_facts(
        vocabulary=vocabulary_of(tokenizer, module), tokenizer=tokenizer, max_length=64,
        metrics=("rouge_l", "perplexity"),
    )  # fmt: skip
    random = np.random.default_rng(0)
    sources = [" ".join(random.choice(WORDS, 6)) + ". " + "The crew was late! " * 4 for _ in range(30)]
    targets = [text.split(".")[0] if summaries else text.upper()[::-1] for text in sources]
    train = split_of(task, sources, targets)
    held_out = split_of(task, [*sources[5:8], "never again"], ["one", *targets[6:8], "two"])
    found = fitted(
        task, train, {"validation": held_out}, seconds=30, vocabulary=100, scored={"validation": "rouge_l"}
    )
    names = {"lead_1", "lead_3"} if summaries else {"copied_source"}
    assert {*found.figures} == {*names, "nearest_target"}
    assert all(splits["validation"].keys() == {"rouge_l"} for splits in found.figures.values())
    nearest = found.scores["nearest_target"]["validation"]
    assert nearest[1:3].tolist() == [100, 100], "the very source is the most similar one"
    assert nearest[0] == pytest.approx(100 * rouge_l(targets[5], "one"))
    if summaries:
        assert found.scores["lead_1"]["validation"][1:3].tolist() == [100, 100]
        assert (
            found.figures["lead_3"]["validation"]["rouge_l"]
            < found.figures["lead_1"]["validation"]["rouge_l"]
        )


def test_rows_of_token_ids_have_none(tmp_path):
    task = Seq2Seq().with_facts(vocabulary=vocabulary_of(None, tiny_pair("bart")), metrics=("rouge_l",))
    rows = [{"input_ids": [5, 6], "labels": [7, 2]}]
    split = Split(
        rows=DataTable(rows=pa.table({"input_ids": [[5, 6]], "labels": [[7, 2]]})),
        table=as_table(task.encode_batch(rows, None), task.sequences),
    )
    assert fitted(task, split, {"validation": split}, seconds=30, vocabulary=100).figures == {}
