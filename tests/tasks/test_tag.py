"""Tagging: which token stands for which word, what is learnt from, and how predictions read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bigbatch.data.labels import LabelSet
from bigbatch.errors import DataError, RecipeError
from bigbatch.metrics.entities import PIECE, SEEN, STARTS
from bigbatch.model.heads import Head
from bigbatch.samples import Targets
from bigbatch.tasks.inputs import encode_words
from bigbatch.tasks.losses import IGNORED
from bigbatch.tasks.tag import Tag
from tests.models import WORDS, tiny_tokenizer

TAGS = LabelSet(("B-LOC", "B-PER", "I-PER", "O"))
B_LOC, B_PER, I_PER, OUT = range(4)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """WordPiece in which `greatly` is `great` and `##ly`."""
    return tiny_tokenizer(tmp_path_factory.mktemp("words"), [*WORDS, "##ly"])


def tag(**fields: Any) -> Tag:
    options = {name: fields.pop(name) for name in ("scheme", "pieces") if name in fields}
    return Tag(**options).with_facts(**{"labels": TAGS, **fields})


def row(words: str, tags: str) -> dict[str, Any]:
    return {"words": words.split(), "tags": tags.split()}


def test_a_word_is_read_at_its_first_piece(tokenizer: Any) -> None:
    sample = tag().encode(row("greatly kind staff", "O B-PER I-PER"), tokenizer)
    names = tokenizer.convert_ids_to_tokens(sample.ids.tolist())
    assert names == ["[CLS]", "great", "##ly", "kind", "staff", "[SEP]"]
    assert sample.reads.tolist() == [1, 3, 4]
    assert sample.values.tolist() == [OUT, B_PER, I_PER]
    assert sample.weights.tolist() == [1, 1, 1]
    assert sample.extras[STARTS].tolist() == [1, 0, 0] and sample.extras[SEEN].tolist() == [1, 1, 1]
    assert PIECE not in sample.extras and not sample.truncated


def test_all_pieces_of_a_word_can_carry_its_tag(tokenizer: Any) -> None:
    sample = tag(pieces="all").encode(row("greatly kindly gately", "B-PER O B-LOC"), tokenizer)
    assert sample.reads.tolist() == [1, 2, 3, 4, 5, 6]
    assert sample.values.tolist() == [B_PER, I_PER, OUT, OUT, B_LOC, B_LOC], "there is no I-LOC"
    assert sample.extras[PIECE].tolist() == [0, 1, 0, 1, 0, 1]
    assert sample.extras[STARTS].tolist() == [1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("pieces", ["first", "all"])
def test_words_that_the_model_does_not_see_are_units_without_weight(tokenizer: Any, pieces: str) -> None:
    given = row("the \u200b great gate was", "O B-PER O B-LOC O")
    sample = tag(max_length=5, pieces=pieces).encode(given, tokenizer)
    assert sample.truncated and len(sample.ids) == 5
    assert sample.values.tolist() == [OUT, B_PER, OUT, B_LOC, OUT]
    assert sample.extras[SEEN].tolist() == [1, 0, 1, 1, 0]
    assert sample.weights.tolist() == [1, 0, 1, 1, 0]
    assert sample.reads.tolist() == [1, 0, 2, 3, 0]


def test_the_first_word_starts_the_sentence_even_unseen(tokenizer: Any) -> None:
    sample = tag().encode(row("\u200b the", "O O"), tokenizer)
    assert sample.extras[STARTS].tolist() == [1, 0] and sample.extras[SEEN].tolist() == [0, 1]


def test_many_rows_at_once_are_the_same_samples(tokenizer: Any) -> None:
    rows = [row("the great gate", "O O B-LOC"), row("staff", "B-PER"), row("greatly kind", "O O")]
    task = tag(max_length=6)
    for found, each in zip(task.encode_batch(rows, tokenizer), rows, strict=True):
        alone = task.encode(each, tokenizer)
        for name in ("ids", "segments", "reads", "values", "weights"):
            assert np.array_equal(getattr(found, name), getattr(alone, name))


def test_rows_without_tags(tokenizer: Any) -> None:
    (sample,) = tag().encode_batch([{"words": "the great gate"}], tokenizer, labelled=False)
    assert sample.weights.tolist() == [0, 0, 0] and sample.reads.tolist() == [1, 2, 3]
    (given,) = tag().encode_batch([{"input_ids": [2, 7, 3]}], None, labelled=False)
    assert given.reads.tolist() == [0, 1, 2]


def test_rows_of_token_ids() -> None:
    given = {
        "input_ids": [2, 7, 8, 9, 3, 0],
        "attention_mask": [1, 1, 1, 1, 1, 0],
        "labels": [-100, 3, -100, 1, -100, -100],
    }
    sample = tag().encode(given, None)
    assert sample.ids.tolist() == [2, 7, 8, 9, 3]
    assert sample.reads.tolist() == [1, 3] and sample.values.tolist() == [OUT, B_PER]
    assert sample.extras[STARTS].tolist() == [1, 0]
    with pytest.raises(DataError, match="found 2 labels for 3 input_ids"):
        tag().encode({"input_ids": [1, 2, 3], "labels": [0, 1]}, None)
    with pytest.raises(DataError, match="labels holds class 4; expected 0 to 3, or -100"):
        tag().encode({"input_ids": [1], "labels": [4]}, None)


def test_unequal_numbers_and_slow_tokenizers_are_refused(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="found 2 words, but 1 tags"):
        tag().encode(row("the gate", "O"), tokenizer)
    with pytest.raises(DataError, match="needs a fast tokenizer"):
        tag().encode(row("the", "O"), object())


def byte_level(folder: Path) -> Any:
    """A tokenizer that marks the space before a word, as GPT-2's."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(["the gate was great a a"] * 5, vocab_size=300)
    return PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, unk_token="!", pad_token="!")


def test_words_keep_the_space_before_them(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path)
    (found,) = encode_words([["the", "gate", "was"]], tokenizer, None)
    ids = tokenizer(" the gate was")["input_ids"]
    assert found.inputs.ids.tolist() == ids, "as in running text, with a space in front"
    first = tokenizer.convert_ids_to_tokens([ids[pieces[0]] for pieces in found.pieces])
    assert all(token.startswith("Ġ") for token in first)


def test_loss_and_denominator_count_weights() -> None:
    task = tag(weights_C=(1.0, 2.0, 1.0, 0.5))
    targets = Targets(
        values=np.array([B_PER, OUT, OUT, IGNORED]), weights=np.array([1, 1, 0, 0], np.float32), extras={}
    )
    prepared = task.weigh(targets)
    assert prepared.weights.tolist() == [2, 0.5, 0, 0]
    assert task.denominators(prepared) == {"cross_entropy": 2.5}
    logits = torch.tensor(
        [[1.0, 2, 3, 4], [0, 0, 0, 0], [float("nan")] * 4, [1, 1, 1, 1]], dtype=torch.float64
    )
    (losses,) = task.loss(logits, prepared.map(torch.from_numpy)).values()
    plain = -torch.log_softmax(logits[:2], -1)
    expected = [2 * plain[0, B_PER].item(), 0.5 * plain[1, OUT].item(), 0, 0]
    assert losses.tolist() == pytest.approx(expected, rel=1e-12)


def test_class_weights_come_from_the_words_that_are_seen() -> None:
    from bigbatch.data.tokens import as_table
    from bigbatch.samples import Sample

    values = np.array([OUT, OUT, OUT, B_PER], np.int64)
    sample = Sample(
        ids=np.arange(4, dtype=np.int32),
        reads=np.arange(4, dtype=np.int32),
        values=values,
        weights=np.array([1, 1, 0, 1], np.float32),
    )
    weighted = tag(class_weights="balanced").fit(as_table([sample]))
    assert weighted.facts.weights_C == pytest.approx((1.0, 3 / 4, 1.0, 3 / 8))


def test_predictions_are_tags_and_entities(tokenizer: Any) -> None:
    task, given = tag(max_length=6), {"words": ["staff", "kind", "the", "gate", "late"]}
    (sample,) = task.encode_batch([given], tokenizer, labelled=False)
    logits = np.full((5, 4), 0.0)
    logits[[0, 1, 2, 3, 4], [B_PER, I_PER, OUT, B_LOC, B_LOC]] = 2.0
    found = task.describe(given, sample, task.decode(logits))
    share = np.exp(2) / (np.exp(2) + 3)
    assert found["tags"] == ["B-PER", "I-PER", "O", "B-LOC", "O"], "the last word was cut off"
    person, place = found["entities"]
    assert person == {
        "type": "PER", "start": 0, "end": 2, "text": "staff kind", "probability": pytest.approx(share**2)
    }  # fmt: skip
    assert (place["type"], place["start"], place["end"], place["text"]) == ("LOC", 3, 4, "gate")


def test_predictions_without_entities(tokenizer: Any) -> None:
    task = Tag().with_facts(labels=LabelSet(("NOUN", "VERB")), max_length=3)
    (sample,) = task.encode_batch([{"words": ["the", "gate"]}], tokenizer, labelled=False)
    found = task.describe({"words": ["the", "gate"]}, sample, task.decode(np.array([[0.0, 1.0], [1.0, 0.0]])))
    assert found == {"tags": ["VERB", None], "probabilities": [pytest.approx(1 / (1 + np.exp(-1))), None]}


def test_options_and_head() -> None:
    assert tag().head == Head(kind="tokens", outputs=4, id2label=dict(enumerate(TAGS.names)))
    assert tag().marked and not tag(scheme="none").marked
    assert not Tag().with_facts(labels=LabelSet(("NOUN", "VERB"))).marked
    with pytest.raises(
        RecipeError, match="task.scheme: found 'bio'; expected auto, iob1, iob2, bioes, bilou, io or none"
    ):
        Tag(scheme="bio")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="task.pieces: found 'last'"):
        Tag(pieces="last")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="iob2, but the tags are NOUN; expected O, B-"):
        Tag(scheme="iob2", labels=["NOUN", "O"])


def test_metrics_by_name() -> None:
    names = [metric.name for metric in tag(metrics=("f1", "recall_PER")).metrics]
    assert names == ["f1", "recall_PER"]
    Tag().check_metric("f1_anything")
    with pytest.raises(RecipeError, match="did you mean accuracy"):
        Tag().check_metric("acuracy")
    with pytest.raises(RecipeError, match="did you mean f1_PER"):
        tag().check_metric("f1_PERS")


def test_a_word_of_minus_100_is_no_unit_in_any_form(tokenizer: Any) -> None:
    words = tag().encode(row("the great gate", "-100 B-PER -100"), tokenizer)
    ids = {"input_ids": words.ids.tolist(), "labels": [-100, -100, B_PER, -100, -100]}
    given = tag().encode(ids, None)
    for sample in (words, given):
        assert sample.reads.tolist() == [2] and sample.values.tolist() == [B_PER]
        assert sample.weights.tolist() == [1] and sample.extras[STARTS].tolist() == [1]
    nothing = tag().encode(row("the gate", "-100 -100"), tokenizer)
    assert nothing.reads.tolist() == [] and len(nothing.ids) == 4
    every = tag(pieces="all").encode(row("greatly the greatly", "-100 O B-PER"), tokenizer)
    assert every.values.tolist() == [OUT, B_PER, I_PER]
    mixed = tag().encode_batch([row("the gate", "O O"), ids], tokenizer)
    assert [sample.reads.tolist() for sample in mixed] == [[1, 2], [2]]


@pytest.mark.parametrize(
    ("scheme", "names"),
    [
        ("auto", ("B-PER", "I-PER", "L-PER", "U-PER", "O")),
        ("bilou", ("B-PER", "I-PER", "L-PER", "U-PER", "O")),
        ("auto", ("B-PER", "I-PER", "E-PER", "S-PER", "O")),
        ("auto", ("I-PER", "O")),
        ("io", ("PER", "O")),
    ],
)
def test_schemes_that_mark_entities(scheme: Any, names: tuple[str, ...]) -> None:
    task = Tag(scheme=scheme).with_facts(labels=LabelSet(names))
    assert task.marked and task.metrics[0].name == "f1" and not task.data_warnings


def test_tags_without_prefix_are_said() -> None:
    task = Tag().with_facts(labels=LabelSet(("LOC", "O", "PER")))
    assert not task.marked and "task.scheme: io" in task.data_warnings[0]
    assert not Tag(scheme="none").with_facts(labels=LabelSet(("O", "PER"))).data_warnings
    with pytest.raises(RecipeError, match="bilou, but the tags are PER"):
        Tag(scheme="bilou").with_facts(labels=LabelSet(("O", "PER")))
