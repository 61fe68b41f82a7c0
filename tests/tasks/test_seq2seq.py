"""Sequence to sequence: what the decoder reads and predicts, of texts and of token ids; smoothing; refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from bigbatch.data.tokens import as_table
from bigbatch.errors import DataError, ModelError, RecipeError
from bigbatch.model.logits import DeferredLogits
from bigbatch.recipe.learning import LossSpec
from bigbatch.samples import Targets
from bigbatch.tasks.inputs import NoTokens
from bigbatch.tasks.seq2seq import Seq2Seq
from bigbatch.tasks.vocabulary import vocabulary_of
from tests.models import PAIRS, tiny, tiny_pair, tiny_tokenizer


def task_of(module, tokenizer=None, **options) -> Seq2Seq:
    return Seq2Seq(**options).with_facts(
        vocabulary=vocabulary_of(tokenizer, module), tokenizer=tokenizer, max_length=64
    )


@pytest.mark.parametrize("family", PAIRS)
def test_the_decoder_reads_what_transformers_gives_it(family):
    """Its own shift, of labels without padding."""
    module = tiny_pair(family)
    labels = [7, 9, 8, 2]
    sample = task_of(module).encode({"input_ids": [5, 6], "labels": labels}, None)
    seen = []
    layer = module.get_decoder().embed_tokens
    layer.register_forward_pre_hook(lambda _, args: seen.append(args[0][0].tolist()))
    module(input_ids=torch.tensor([[5, 6]]), labels=torch.tensor([labels]))
    assert sample.ids.tolist() == seen[-1]
    assert sample.values.tolist() == labels and sample.reads.tolist() == [0, 1, 2, 3]
    assert sample.streams["source"]["ids"].tolist() == [5, 6]


def test_labels_that_do_not_count_weigh_nothing_and_padding_is_no_token():
    task = task_of(tiny_pair("t5"))
    row = {"input_ids": [5, 6, 0], "attention_mask": [1, 1, 0], "labels": [7, -100, 1, -100, -100]}
    sample = task.encode(row, None)
    assert sample.streams["source"]["ids"].tolist() == [5, 6]
    assert sample.ids.tolist() == [0, 7, 0] and sample.weights.tolist() == [1, 0, 1]
    nothing = task.encode({"input_ids": [5], "labels": [-100] * 65}, None)
    assert nothing.ids.tolist() == [0] and not len(nothing.reads)
    for wrong in (None, 3, "x", [], [-7], [7, 100], [7] * 65):
        with pytest.raises(DataError, match="labels: "):
            task.encode({"input_ids": [5], "labels": wrong}, None)


def test_texts_end_where_the_model_is_to_stop(tmp_path):
    """BERT's tokenizer writes [SEP] behind a text, which this model does not stop at: its own end comes behind it."""
    tokenizer = tiny_tokenizer(tmp_path)
    task = task_of(tiny_pair("bart"), tokenizer, target_max_length=5, source_prefix="the ")
    row = {"source": "flight was late", "target": "was late"}
    sample, cut = task.encode_batch([row, {**row, "target": "was late was late was"}], tokenizer)
    expected = tokenizer("the flight was late")["input_ids"]
    assert sample.streams["source"]["ids"].tolist() == expected
    assert sample.values.tolist() == [*tokenizer("was late")["input_ids"], 2]
    assert sample.ids.tolist() == [2, *sample.values[:-1]]
    assert bytes(sample.streams["reference"]["bytes"]).decode() == "was late"
    assert (cut.truncated, len(cut.values), cut.values[-1]) == (True, 5, 2)
    alone = task.encode_batch([row], tokenizer, labelled=False)[0]
    assert alone.ids.tolist() == [2] and not len(alone.reads) and "reference" not in alone.streams


def test_a_target_of_marks_alone_is_refused(tmp_path):
    """The tokenizer drops control characters: [CLS] [SEP] would be all that is learnt."""
    tokenizer = tiny_tokenizer(tmp_path)
    task = task_of(tiny_pair("bart"), tokenizer)
    with pytest.raises(NoTokens, match="gives no tokens but the marks around a text"):
        task.encode({"source": "good", "target": "\x01"}, tokenizer)
    assert len(task.encode_batch([{"source": "\x01"}], tokenizer, labelled=False)) == 1


def test_a_tokenizer_is_told_which_text_is_to_be_written():
    """Marian's has two vocabularies."""

    class TwoVocabularies:
        eos_token_id = 2

        def num_special_tokens_to_add(self):
            return 1

        def __call__(self, text=None, *, text_target=None, **_):
            given, first = (text, 10) if text is not None else (text_target, 50)
            return {"input_ids": [[first + len(word) for word in one.split()] + [2] for one in given]}

        def decode(self, ids, **_):
            return str(ids)

    task = Seq2Seq().with_facts(vocabulary=vocabulary_of(None, tiny_pair("marian")))
    sample = task.encode({"source": "a bb", "target": "ccc"}, TwoVocabularies())
    assert sample.streams["source"]["ids"].tolist() == [11, 12, 2]
    assert sample.values.tolist()[0] == 53


@pytest.mark.parametrize("deferred", [False, True])
def test_smoothing_is_torchs_and_needs_no_more_logits(deferred):
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(6, 4).double(), torch.randn(9, 4).double(), torch.randn(9).double()
    logits = hidden @ weight.T + bias
    targets = Targets(values=torch.tensor([1, 8, 0, 3, 3, 5]), weights=torch.tensor([1.0, 1, 0, 1, 0.5, 1]))
    task = Seq2Seq().with_loss(LossSpec(label_smoothing=0.2), None).with_facts(whole_weights=False)  # type: ignore
    outputs = DeferredLogits(hidden, weight, bias) if deferred else logits
    expected = functional.cross_entropy(logits, targets.values, reduction="none", label_smoothing=0.2)
    expected = expected * targets.weights
    found = task.loss(outputs, targets)["cross_entropy"]
    torch.testing.assert_close(found, expected.where(targets.weights > 0, 0.0))
    kept = task.keep(outputs, targets).numpy()
    host = targets.map(lambda values: values.numpy())
    np.testing.assert_allclose(task.kept_loss(kept, host)["cross_entropy"], found.numpy())
    plain = functional.cross_entropy(logits, targets.values, reduction="none")
    np.testing.assert_allclose(task.decode(kept).scores[:, 0], plain.numpy())


def test_both_texts_are_the_cost_and_tokens_the_clock():
    task = task_of(tiny_pair("bart"))
    rows = [{"input_ids": [5] * length, "labels": [6] * 3} for length in (2, 7)]
    table = as_table(task.encode_batch(rows, None), task.sequences)
    assert table.lengths_BS.tolist() == [[2, 3], [7, 3]] and table.lengths_B.tolist() == [5, 10]
    assert task.clock == "tokens" and task.denominators(table.targets) == {"cross_entropy": 6.0}


def test_any_other_loss_is_refused():
    with pytest.raises(RecipeError, match=r"loss\.class_weights: task seq2seq takes the cross-entropy"):
        Seq2Seq().with_loss(LossSpec(class_weights="balanced"), None)  # type: ignore[arg-type]


def test_a_model_that_does_not_say_what_its_decoder_reads_first_is_refused():
    module = tiny_pair("m2m100")
    module.config.decoder_start_token_id = None
    with pytest.raises(ModelError, match="decoder_start_token_id: none given"):
        vocabulary_of(None, module)
    assert vocabulary_of(None, tiny("bert")).start_id is None
    assert vocabulary_of(None, tiny_pair("mbart")).start_id is None
