"""Causal language modelling: pieces and blocks, shifted by one; bytes; figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bigbatch.data.tokens import as_table
from bigbatch.errors import DataError, RecipeError
from bigbatch.metrics.perplexity import BYTES
from bigbatch.samples import Table, Targets
from bigbatch.tasks.clm import CausalLM


@pytest.fixture(scope="module")
def bytewise():
    """A byte-level tokenizer, as GPT-2's, without merges: a token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({**{sign: at for at, sign in enumerate(alphabet)}, "<end>": 256}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>")


def table_of(rows: list[list[int]]) -> Table:
    return as_table(CausalLM().encode_batch([{"input_ids": row} for row in rows], None))


def samples_of(table: Table) -> list[tuple[list[int], dict[int, int]]]:
    """(ids, position -> token to predict there) of each sample."""
    found = []
    for row in range(len(table)):
        units = slice(table.unit_offsets[row], table.unit_offsets[row + 1])
        ids = table.ids[table.token_offsets[row] : table.token_offsets[row + 1]].tolist()
        found.append((ids, dict(zip(table.reads[units].tolist(), table.values[units].tolist(), strict=True))))
    return found


documents = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=30), min_size=1, max_size=8)


@given(rows=documents, most=st.integers(2, 12))
def test_pieces_predict_every_token_of_a_document_but_its_first_once(rows, most):
    task = CausalLM().with_facts(block_length=most)
    if all(len(row) < 2 for row in rows):
        alone = task.arrange(table_of(rows))
        assert len(alone) == len(rows) and not len(alone.reads)
        return
    table = task.arrange(table_of(rows))
    expected = [row[first : first + most] for row in rows for first in range(0, len(row) - 1, most - 1)]
    assert samples_of(table) == [
        (ids, {place: ids[place + 1] for place in range(len(ids) - 1)}) for ids in expected
    ]
    assert table.values.tolist() == [token for row in rows for token in row[1:]]
    assert (np.asarray(table.weights) == 1).all() and table.lengths_B.max() <= most


@given(rows=documents, most=st.integers(2, 12))
def test_blocks_are_the_joined_documents_cut(rows, most):
    task = CausalLM(blocks="fixed").with_facts(block_length=most)
    flat = [token for row in rows for token in row]
    if len(flat) < 2:
        return
    table = task.arrange(table_of(rows))
    expected = [flat[first : first + most] for first in range(0, len(flat), most)]
    expected = [block for block in expected if len(block) > 1]
    assert samples_of(table) == [
        (ids, {place: ids[place + 1] for place in range(len(ids) - 1)}) for ids in expected
    ]
    assert set(table.lengths_B[:-1].tolist()) <= {most}


def test_short_documents_and_whole_blocks_are_not_copied():
    rows = table_of([[1, 2, 3], [4, 5], [6, 7, 8]])
    assert np.shares_memory(CausalLM().with_facts(block_length=8).arrange(rows).ids, rows.ids)
    assert np.shares_memory(CausalLM(blocks="fixed").with_facts(block_length=4).arrange(rows).ids, rows.ids)


def test_texts_end_and_know_their_bytes(bytewise):
    task = CausalLM().with_facts(block_length=4)
    sample = task.encode({"text": "né 🙂"}, bytewise)
    assert len(sample.ids) == len("né 🙂".encode()) + 1 and sample.ids[-1] == 256
    assert sample.extras[BYTES].tolist() == [1, 2, 0, 1, 4, 0, 0, 0, 0]
    again = task.encode({"text": "ab<end>"}, bytewise)
    assert again.ids.tolist()[-1] == 256 and (again.ids == 256).sum() == 1, "one end mark is enough"
    table = task.arrange(as_table([sample]))
    # The first byte is predicted by nothing; the end mark costs bits and brings no bytes.
    assert table.extras[BYTES].sum() == len("né 🙂".encode()) - 1
    assert len(table.reads) == len(sample.ids) - 1
    given = task.encode({"input_ids": [5, 6]}, bytewise)
    assert given.ids.tolist() == [5, 6] and given.extras == {}


def test_figures_by_hand(bytewise):
    task = CausalLM().with_facts(block_length=64)
    table = task.arrange(as_table(task.encode_batch([{"text": "ab"}, {"text": "né"}], bytewise)))
    # a|b <end>, n|é(2 bytes) <end>
    nll = np.array([1.0, 2.0, 0.5, 0.25, 4.0])
    hits = np.array([1.0, 0.0, 1.0, 1.0, 0.0])
    targets = Targets(values=table.values, weights=table.weights, extras=table.extras)
    predictions = task.decode(np.stack([nll, hits], 1))
    values = {metric.name: metric.value(metric.add(predictions, targets)) for metric in task.metrics}
    assert values["perplexity"] == pytest.approx(math.exp(7.75 / 5), rel=1e-15)
    assert values["accuracy"] == 0.6
    assert values["bits_per_byte"] == pytest.approx(7.75 / math.log(2) / 3, rel=1e-15)
    assert {metric.name: metric.larger_is_better for metric in task.metrics} == {
        "perplexity": False, "bits_per_byte": False, "accuracy": True,
    }  # fmt: skip


@given(st.lists(st.floats(0, 50), min_size=2, max_size=40), st.data())
def test_figures_do_not_depend_on_cuts(nll, data):
    task = CausalLM()
    cuts = sorted(data.draw(st.sets(st.integers(1, len(nll) - 1), max_size=5)))
    scores = np.stack([nll, np.arange(len(nll)) % 2], 1)
    extras = {BYTES: np.arange(1, len(nll) + 1, dtype=np.float32)}
    weights = np.where(np.arange(len(nll)) % 5 == 4, 0, 1)

    def state_of(metric, part):
        targets = Targets(values=weights[part], weights=weights[part], extras={BYTES: extras[BYTES][part]})
        return metric.add(task.decode(scores[part]), targets)

    for metric in task.metrics:
        whole = state_of(metric, slice(None))
        pieces = [state_of(metric, slice(*ends)) for ends in zip([0, *cuts], [*cuts, len(nll)], strict=True)]
        merged = pieces[0]
        for piece in pieces[1:]:
            merged = metric.merge(merged, piece)
        assert metric.value(merged) == metric.value(whole)


def test_figures_that_do_not_exist():
    task = CausalLM()
    perplexity, bits, accuracy = task.metrics
    none = Targets(values=np.zeros(0), weights=np.zeros(0), extras={})
    nothing = task.decode(np.zeros((0, 2)))
    assert perplexity.value(perplexity.add(nothing, none)).reason == "no samples"
    assert "rows of token ids" in bits.value(bits.add(nothing, none)).reason
    without = Targets(values=np.zeros(0), weights=np.zeros(0), extras={BYTES: np.zeros(0)})
    known = bits.add(nothing, without)
    assert bits.value(known).reason == "no text was predicted"
    assert "rows of token ids" in bits.value(bits.merge(known, bits.add(nothing, none))).reason
    huge = task.decode(np.array([[1000.0, 0.0]]))
    one = Targets(values=np.zeros(1), weights=np.ones(1), extras={})
    assert perplexity.value(perplexity.add(huge, one)) == math.inf
    broken = task.decode(np.array([[math.nan, 0.0]]))
    assert math.isnan(perplexity.value(perplexity.add(broken, one)))


def test_rows_are_scored_whole_however_long(bytewise):
    task = CausalLM().with_facts(block_length=3)
    samples = task.encode_batch([{"text": "abcdef"}, {"text": "x"}], bytewise)
    samples += task.encode_batch([{"input_ids": [7]}], None)

    def run(table, keep):
        assert keep == task.keep
        assert table.lengths_B.max() == 3
        return np.stack([np.asarray(table.values, np.float64), np.ones(len(table.values))], 1)

    found = list(task.predict([], samples, run, bytewise))
    predicted = [sample.ids[1:].astype(float) for sample in samples]
    assert [row["tokens"] for row in found] == [6, 1, 0]
    assert [row["nll"] for row in found[:2]] == [ids.sum() for ids in predicted[:2]]
    assert found[0]["perplexity"] == pytest.approx(math.exp(predicted[0].mean()))
    assert found[2] == {"nll": None, "tokens": 0, "perplexity": None}


def test_options_and_too_short_blocks():
    with pytest.raises(RecipeError, match="task.blocks: found 'pages'; expected documents or fixed"):
        CausalLM(blocks="pages")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="data.max_length: found 1"):
        CausalLM().with_facts(block_length=1).arrange(table_of([[1, 2]]))
    assert CausalLM().head.kind == "causal" and CausalLM().clock == "tokens"
    assert torch.is_tensor(
        CausalLM().keep(torch.zeros(1, 3), Targets(values=torch.zeros(1), weights=torch.ones(1)))
    )


# ---------------------------------------------------------------- tokens that do not count


def weights_of(task, row):
    return task.arrange(as_table(task.encode_batch([row], None))).weights.tolist()


def test_labels_of_minus_100_are_read_and_not_predicted():
    task = CausalLM().with_facts(block_length=64)
    row = {
        "input_ids": [5, 6, 7, 8, 0],
        "attention_mask": [1, 1, 1, 1, 0],
        "labels": [-100, -100, 7, 8, -100],
    }
    assert weights_of(task, row) == [0.0, 1.0, 1.0]
    assert weights_of(task, {"input_ids": [5, 6, 7], "labels": [5, 6, 7]}) == [1.0, 1.0]
    assert weights_of(task, {"input_ids": [5, 6, 7], "labels": 1}) == [1.0, 1.0], "a class of another task"


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [([5, 6], "found 2 labels for 3 input_ids"), ([6, 7, -100], "label 6 of token 1, whose id is 5"),
     ([5, 6, None], "expected the id itself, or -100")],
)  # fmt: skip
def test_labels_that_are_something_else_are_refused(labels, sentence):
    with pytest.raises(DataError, match=sentence):
        CausalLM().encode_batch([{"input_ids": [5, 6, 7], "labels": labels}], None)


def test_ids_that_are_never_predicted():
    task = CausalLM(not_predicted=[7]).with_facts(block_length=64)
    assert weights_of(task, {"input_ids": [7, 6, 7, 8]}) == [1.0, 0.0, 1.0]
    assert weights_of(task, {"input_ids": [7, 6, 7, 8], "labels": [7, -100, 7, 8]}) == [0.0, 0.0, 1.0]
