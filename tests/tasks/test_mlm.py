"""Masked language modelling: what is encoded, what is refused, what is predicted."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bigbatch.data.masks import WORD
from bigbatch.data.tokens import as_table
from bigbatch.errors import DataError, ModelError, RecipeError
from bigbatch.model.logits import DeferredLogits
from bigbatch.samples import Targets
from bigbatch.tasks.catalog import build_task, with_settings
from bigbatch.tasks.documents import byte_ends, token_bytes
from bigbatch.tasks.mlm import TOP, MaskedLM
from bigbatch.tasks.vocabulary import Vocabulary, vocabulary_of
from tests.models import tiny, tiny_tokenizer


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A WordPiece tokenizer that knows pieces: `delay` + `##ed`."""
    return tiny_tokenizer(
        tmp_path_factory.mktemp("t"), words=("the", "flight", "delay", "##ed", "was", "!", "un")
    )


@pytest.fixture(scope="module")
def task(words):
    return MaskedLM().with_facts(vocabulary=vocabulary_of(words, tiny("bert", head="masked")), max_length=16)


def test_the_units_are_the_tokens_that_are_text(task, words):
    sample = task.encode({"text": "the delayed xyz [SEP] flight!"}, words)
    tokens = words.convert_ids_to_tokens(sample.ids)
    assert tokens == ["[CLS]", "the", "delay", "##ed", "[UNK]", "[SEP]", "flight", "!", "[SEP]"]
    assert [tokens[place] for place in sample.reads] == ["the", "delay", "##ed", "flight", "!"]
    assert sample.values.tolist() == sample.ids[sample.reads].tolist()
    assert sample.extras == {} and not sample.truncated and sample.segments is not None


def test_whole_words_know_their_first_piece(task, words):
    whole = replace(task, whole_word=True)
    sample = whole.encode({"text": "delayed the delayed!"}, words)
    assert words.convert_ids_to_tokens(sample.ids[sample.reads]) == [
        "delay",
        "##ed",
        "the",
        "delay",
        "##ed",
        "!",
    ]
    assert sample.extras[WORD].tolist() == [1, 1, 3, 4, 4, 6]
    with pytest.raises(DataError, match="nothing says where words start"):
        whole.encode({"input_ids": [5, 6]}, words)


def test_long_texts_are_cut_and_rows_of_ids_taken_as_they_are(task, words):
    sample = task.encode({"text": "the flight was " * 9}, words)
    assert (len(sample.ids), sample.truncated) == (16, True)
    ids = task.encode({"input_ids": [2, 5, 6, 0, 0], "attention_mask": [1, 1, 1, 0, 0]}, None)
    assert ids.ids.tolist() == [2, 5, 6] and ids.reads.tolist() == [1, 2]
    assert task.encode_batch([], words) == []


def test_without_a_tokenizer_the_configuration_says_what_is_special():
    model = tiny("roberta", head="masked", bos_token_id=0, eos_token_id=[2, 7])
    found = vocabulary_of(None, model)
    assert (found.size, found.special_ids, found.mask_id) == (100, (0, 1, 2, 7), None)
    with pytest.raises(ModelError, match=r"no mask token; .*task\.mask_id"):
        MaskedLM().with_facts(vocabulary=found).encode({"input_ids": [5, 6]}, None)
    with pytest.raises(ModelError, match="task.mask_id: found 100; expected an id from 0 to 99"):
        MaskedLM(mask_id=100).with_facts(vocabulary=found).encode({"input_ids": [5, 6]}, None)
    sample = MaskedLM(mask_id=9).with_facts(vocabulary=found).encode({"input_ids": [5, 9, 7, 8]}, None)
    assert sample.reads.tolist() == [0, 3]


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"probability": 0.0}, "task.probability"),
        ({"probability": 1.5}, "task.probability"),
        ({"mask_share": -0.1}, "task.mask_share"),
        ({"mask_share": 0.8, "random_share": 0.3}, "task.mask_share"),
    ],
)
def test_options_out_of_range(options, key):
    with pytest.raises(RecipeError, match=key):
        MaskedLM(**options)


def test_metrics_and_losses_that_it_does_not_have(task, tmp_path):
    assert build_task("mlm", {"probability": 0.3}, tmp_path) == MaskedLM(probability=0.3)
    assert [metric.name for metric in task.metrics] == ["perplexity", "accuracy"]
    loss = {"name": "cross_entropy", "label_smoothing": 0.0, "class_weights": "none", "args": {}}
    recipe = {"source": None, "metrics": ["accuracy"], "data": SimpleNamespace(max_length=7)}
    kept = with_settings(task, SimpleNamespace(loss=SimpleNamespace(**loss), **recipe))
    assert [metric.name for metric in kept.metrics] == ["accuracy"]
    for change, key in (
        ({"label_smoothing": 0.1}, "loss.label_smoothing"),
        ({"class_weights": "balanced"}, "loss.class_weights"),
        ({"name": "own.py:loss"}, "loss.name"),
    ):
        with pytest.raises(RecipeError, match=key):
            with_settings(task, SimpleNamespace(loss=SimpleNamespace(**{**loss, **change}), **recipe))
    recipe["metrics"] = ["f1_macro"]
    with pytest.raises(RecipeError, match=r"unknown metric 'f1_macro'.*perplexity, accuracy"):
        with_settings(task, SimpleNamespace(loss=SimpleNamespace(**loss), **recipe))


def outputs_of(units: int, deferred: bool):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(units, 8, generator=generator)
    weight, bias = torch.randn(40, 8, generator=generator), torch.randn(40, generator=generator)
    found = DeferredLogits(hidden, weight, bias)
    return (found if deferred else found.logits()), found.logits()


@pytest.mark.parametrize("deferred", [True, False])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 0.0, 1.0], [0.5, 2.0, 0.0, 1.0]])
def test_weights_count_in_the_loss_and_below_it(deferred, weights):
    outputs, logits = outputs_of(4, deferred)
    targets = Targets(values=torch.tensor([3, 39, 7, 0], dtype=torch.int32), weights=torch.tensor(weights))
    whole = set(weights) <= {0.0, 1.0}
    task = MaskedLM().with_facts(whole_weights=whole)
    expected = (F.cross_entropy(logits, targets.values.long(), reduction="none") * targets.weights).sum()
    (found,) = task.loss(outputs, targets).values()
    assert found.shape == (() if whole else (4,))
    assert float(found.sum()) == pytest.approx(float(expected), rel=1e-6)
    assert task.denominators(targets.map(lambda each: each.numpy())) == {"cross_entropy": sum(weights)}


@pytest.mark.parametrize("deferred", [True, False])
def test_no_units_are_no_loss(deferred):
    outputs, _ = outputs_of(4, deferred)
    none = (
        DeferredLogits(outputs.hidden_UD[:0].requires_grad_(), outputs.weight_VD, None)
        if deferred
        else outputs[:0]
    )
    targets = Targets(values=torch.zeros(0, dtype=torch.int32), weights=torch.zeros(0))
    task = MaskedLM()
    (loss,) = task.loss(none, targets).values()
    assert float(loss.detach()) == 0.0
    if deferred:
        loss.backward()
    assert task.keep(none, targets).shape == (0, 2)


@pytest.mark.parametrize("deferred", [True, False])
def test_evaluation_keeps_likelihood_and_hit_of_each_unit(deferred, monkeypatch):
    monkeypatch.setattr("bigbatch.model.logits._SMALLEST_CHUNK", 3)
    monkeypatch.setattr("bigbatch.model.logits._CPU_CHUNK_BYTES", 0)
    monkeypatch.setattr("bigbatch.tasks.language._WHOLE_CHUNK_ROWS", 3)
    outputs, logits = outputs_of(20, deferred)
    values = torch.where(torch.arange(20) % 2 == 0, logits.argmax(-1), torch.arange(20))
    targets = Targets(values=values.int(), weights=torch.ones(20))
    task = MaskedLM()
    reduced = task.keep(outputs, targets)
    assert reduced.dtype == torch.float64 and reduced.shape == (20, 2)
    expected = F.cross_entropy(logits, values, reduction="none")
    torch.testing.assert_close(reduced[:, 0].float(), expected)
    assert reduced[:, 1].tolist() == (logits.argmax(-1) == values).double().tolist()
    found = task.kept_loss(reduced.numpy(), Targets(values=values.numpy(), weights=np.arange(20.0)))
    assert found["cross_entropy"] == pytest.approx(reduced[:, 0].numpy() * np.arange(20.0))
    decoded = task.decode(reduced.numpy())
    assert (decoded.kind, decoded.values.dtype) == ("language", bool)


def test_masks_are_filled_with_what_is_likeliest(task, words):
    rows = [{"text": "the [MASK] was [MASK]"}, {"text": "the flight"}, {"text": "[MASK]"}]
    samples = task.encode_batch(rows, words, labelled=False)
    assert [len(sample.reads) for sample in samples] == [2, 0, 1]
    flight, delay = words.convert_tokens_to_ids(["flight", "delay"])

    def run(table, keep):
        logits = torch.zeros(3, 40)
        logits[torch.arange(3), torch.tensor([flight, delay, flight])] = 5.0
        return keep(logits, Targets(values=None, weights=None)).numpy()

    found = list(task.predict(rows, samples, run, words))
    assert [row["text"] for row in found] == ["the flight was delay", "the flight", "flight"]
    assert [len(row["masks"]) for row in found] == [2, 0, 1]
    best = found[0]["masks"][0]
    assert len(best) == TOP and best[0]["token"] == "flight"
    assert best[0]["probability"] == pytest.approx(
        float(torch.tensor([5.0] + [0.0] * 39).double().softmax(0)[0])
    )


def test_bytes_of_tokens_sum_to_the_text():
    text = "aé 漢 🙂b"
    assert byte_ends(text).tolist() == [0, 1, 3, 4, 7, 8, 12, 13]
    assert byte_ends(text)[-1] == len(text.encode())
    # [CLS], "aé", " 漢", two pieces of the emoji, "b", [SEP]
    offsets = np.array([[0, 0], [0, 2], [3, 4], [5, 6], [5, 6], [6, 7], [0, 0]])
    assert token_bytes(text, offsets).tolist() == [0, 3, 4, 5, 0, 1, 0]


def test_vocabularies_of_tokenizers(words):
    found = vocabulary_of(words, tiny("bert", head="masked"))
    assert found == Vocabulary(
        size=len(words), rows=100, special_ids=(0, 1, 2, 3, 4), mask_id=4, before=(2,), behind=(3,), pad_id=0
    )


def table_of(task, words, texts):
    return as_table(task.encode_batch([{"text": text} for text in texts], words))


def samples_of(table, words):
    ends = table.token_offsets
    return [words.convert_ids_to_tokens(table.ids[first:end]) for first, end in itertools.pairwise(ends)]


LINES = ["the delayed flight", "was xyz", "[MASK] the", "!", "flight was the delayed"]
JOINED = [
    "the",
    "delay",
    "##ed",
    "flight",
    "was",
    "[UNK]",
    "[MASK]",
    "the",
    "!",
    "flight",
    "was",
    "the",
    "delay",
    "##ed",
]


@pytest.mark.parametrize("most", [3, 5, 7, 16, 64])
@pytest.mark.parametrize("whole_word", [False, True])
def test_lines_are_joined_into_blocks_between_the_marks(task, words, most, whole_word):
    fixed = replace(task, blocks="fixed", whole_word=whole_word).with_facts(block_length=most)
    table = fixed.arrange(table_of(fixed, words, LINES))
    samples = samples_of(table, words)
    assert [token for sample in samples for token in sample[1:-1]] == JOINED
    assert all((sample[0], sample[-1]) == ("[CLS]", "[SEP]") for sample in samples)
    assert all(len(sample) == most for sample in samples[:-1]) and 3 <= len(samples[-1]) <= most
    assert not table.segments.any()
    read = []
    for number, sample in enumerate(samples):
        units = slice(*table.unit_offsets[number : number + 2])
        read += [sample[place] for place in table.reads[units]]
        if whole_word:
            # The first piece of each word, where the block has it; else the block's first token.
            for place, start in zip(table.reads[units], table.extras[WORD][units].astype(int), strict=True):
                head = start if start == 1 else place - sample[place].startswith("##")
                assert head == start
    assert read == [token for token in JOINED if token not in ("[UNK]", "[MASK]")]
    assert table.values.tolist() == words.convert_tokens_to_ids(read)


def test_documents_stay_as_they_are_and_long_ones_are_not_cut_in_blocks(task, words):
    texts = [" ".join(["flight"] * 40), "the"]
    documents = table_of(task.with_facts(block_length=16), words, texts)
    assert task.with_facts(block_length=16).arrange(documents) is documents
    assert documents.lengths_B.tolist() == [16, 3] and documents.truncated_samples == 1
    fixed = replace(task, blocks="fixed").with_facts(block_length=16)
    table = table_of(fixed, words, texts)
    assert table.truncated_samples == 0
    assert fixed.arrange(table).lengths_B.tolist() == [16, 16, 15]


def test_rows_of_token_ids_are_joined_with_and_without_their_marks(task, words):
    fixed = replace(task, blocks="fixed").with_facts(block_length=8)
    rows = [{"input_ids": [2, 5, 6, 3]}, {"input_ids": [6, 9]}, {"input_ids": [3]}, {"input_ids": [2, 3]}]
    table = fixed.arrange(as_table(fixed.encode_batch(rows, words)))
    assert table.ids.tolist() == [2, 5, 6, 6, 9, 3, 3]
    assert table.reads.tolist() == [1, 2, 3, 4]


def test_blocks_are_masked_anew_each_epoch_and_need_room(task, words):
    fixed = replace(task, blocks="fixed", probability=0.3).with_facts(block_length=7)
    table = fixed.arrange(table_of(fixed, words, LINES))
    rows = np.arange(len(table))
    epochs = [fixed.view(table, rows, np.full(len(rows), epoch)) for epoch in (0, 1)]
    assert [len(each) for each in epochs] == [len(table)] * 2
    assert epochs[0].reads.tolist() != epochs[1].reads.tolist()
    with pytest.raises(DataError, match=r"data.max_length: found 2; a block has room for a token from 3 on"):
        fixed.with_facts(block_length=2).arrange(table_of(fixed, words, LINES))
    with pytest.raises(RecipeError, match="expected documents or fixed"):
        MaskedLM(blocks="some")
    empty = as_table(fixed.encode_batch([{"input_ids": [2, 3]}], words))
    assert fixed.arrange(empty) is empty
