"""Which task the first recipe has, its figure, and what it says of class weights."""

from __future__ import annotations

import pytest

from bigbatch.recipe.findings import Findings
from bigbatch.recipe.load import load_recipe
from bigbatch.recipe.model_facts import ModelFacts
from bigbatch.recipe.starter import starter_recipe


def start(tmp_path, **changes):
    found = dict(
        files=(str(tmp_path / "t.csv"),), out=tmp_path / "recipe.yaml", text="text", label=None, rows=13456
    )
    text = starter_recipe(Findings(**(found | changes)))
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    return text, load_recipe(tmp_path / "recipe.yaml")


def known(kind, **changes):
    return ModelFacts(**({"name": "m", "kind": kind} | changes))


def test_a_causal_model_without_labels_predicts_the_next_token(tmp_path):
    text, recipe = start(tmp_path, model="m", known=known("causal"))
    assert (recipe.task.name, recipe.task.args["blocks"], recipe.best.metric) == (
        "clm",
        "documents",
        "perplexity",
    )
    assert "the model is causal" in text


@pytest.mark.parametrize(("kind", "task"), [("causal", "clm"), ("masked", "mlm")])
@pytest.mark.parametrize(("positions", "length"), [(None, 512), (64, 64), (131072, 512)])
def test_a_running_text_is_joined_into_blocks(tmp_path, positions, length, kind, task):
    text, recipe = start(tmp_path, model="m", known=known(kind, positions=positions), running=0.72)
    assert (recipe.task.name, recipe.task.args["blocks"], recipe.data.max_length) == (task, "fixed", length)
    assert "72% of the lines are carried on by the next one" in text


def test_labels_are_learnt_whatever_the_model(tmp_path):
    for kind in ("causal", "masked", "unknown"):
        text, recipe = start(
            tmp_path, label="mood", known=known(kind), model="m", class_counts={"a": 5, "b": 4}
        )
        assert (recipe.task.name, recipe.best.metric) == ("classify", "f1_macro")


def test_two_texts_are_matched_and_the_other_tasks_named(tmp_path):
    text, recipe = start(tmp_path, text="en", document="de", negative="other", id="nr")
    assert (
        recipe.task.name == "match"
        and recipe.best.metric == "recall@10"
        and recipe.loss.class_weights == "none"
    )
    assert recipe.data.columns == {"query": "en", "document": "de", "negative": "other", "id": "nr"}
    assert "task: seq2seq" in text and "stratified" not in text
    assert recipe.model.name == "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
    _, few = start(tmp_path, text="q", document="d", rows=300, language="en")
    assert (few.best.metric, few.model.name) == ("mrr@10", "sentence-transformers/all-MiniLM-L6-v2")


@pytest.mark.parametrize(
    ("tags", "best"),
    [(("O", "B-PER", "I-PER"), "f1"), (("O", "U-PER", "L-X"), "f1"), (("NOUN", "VERB"), "accuracy")],
)
def test_tagging_is_judged_by_entities_where_tags_mark_some(tmp_path, tags, best):
    _, recipe = start(tmp_path, kind="tags", label="ner", text="tokens", class_counts=dict.fromkeys(tags, 9))
    assert (recipe.task.name, recipe.best.metric) == ("tag", best)
    assert recipe.data.columns == {"words": "tokens", "tags": "ner"}


def test_tags_without_prefixes_among_words_outside_are_entities_too(tmp_path):
    text, recipe = start(
        tmp_path, kind="tags", label="ner", text="w", class_counts={"O": 90, "PER": 6, "LOC": 4}
    )
    assert (recipe.task.args["scheme"], recipe.best.metric) == (
        "io",
        "f1",
    ) and "a run of words of one tag" in text
    _, words = start(
        tmp_path, kind="tags", label="pos", text="w", class_counts={"O": 10, "NOUN": 50, "VERB": 40}
    )
    assert (words.task.args["scheme"], words.best.metric) == ("auto", "accuracy")


def test_weights_are_never_the_default(tmp_path):
    for kind, loss in (("single", "cross_entropy"), ("multi", "bce")):
        text, recipe = start(tmp_path, label="l", kind=kind, class_counts={"a": 3000, "b": 600})
        assert recipe.loss.class_weights == "none"
        assert (
            f"# loss: {{name: {loss}, class_weights: balanced}}   # the largest class has 5.0 times" in text
        )
    text, recipe = start(tmp_path, label="l", class_counts={"a": 15830, "b": 10})
    assert recipe.loss.class_weights == "none"
    assert "No class weights: the largest class has 1,583.0 times" in text and "(b: 10)" in text
    text, _ = start(tmp_path, label="l", class_counts={"a": 30, "b": 10})
    assert "class_weights" not in text and "class weights" not in text


def test_a_model_folder_without_weights_is_drawn_anew(tmp_path):
    text, recipe = start(tmp_path, model="m", known=known("masked", weights="none"))
    assert (recipe.model.name, recipe.model.init) == ("m", "random") and "no weights in the folder" in text
    text, recipe = start(tmp_path, model="m", known=known("masked", weights="random"))
    assert recipe.model.init == "pretrained" and "its weights look untrained" in text


@pytest.mark.parametrize(
    ("labels", "counts", "fate"),
    [
        (("neg", "pos"), {"neg": 3, "pos": 3}, "which is kept"),
        (("LABEL_0", "LABEL_1"), {"neg": 3, "pos": 3}, "which is kept"),
        (("neg", "pos"), {"a": 3, "pos": 3}, "in whose place comes a new one of 2"),
        (("LABEL_0", "LABEL_1"), {"a": 3, "b": 3, "c": 3}, "in whose place comes a new one of 3"),
    ],
)
def test_what_becomes_of_a_head_of_labels_is_said(tmp_path, labels, counts, fate):
    head = known("masked", labels=labels, labels_of="texts")
    text, _ = start(tmp_path, model="m", label="l", known=head, class_counts=counts)
    assert f"ends in a head of 2 labels ({', '.join(labels)}), {fate}" in text
    text, _ = start(tmp_path, model="m", known=head)
    assert "which this task leaves out" in text


def test_what_is_called_source_and_target_is_written_unless_the_model_cannot(tmp_path):
    both = {"text": "en", "document": "zh", "writes": True}
    text, recipe = start(tmp_path, **both)
    assert (recipe.task.name, recipe.best.metric, recipe.model.name) == (
        "seq2seq",
        "perplexity",
        "google/mt5-small",
    )
    assert recipe.data.columns == {"source": "en", "target": "zh"}
    assert "pip install 'bigbatch[seq2seq]'" in text
    text, recipe = start(tmp_path, text="article", document="highlights", writes=True)
    assert recipe.task.name == "seq2seq" and "metrics: [rouge_l, rouge_lsum, perplexity]" in text
    for kind, writes, task in [
        ("masked", True, "match"), ("causal", True, "match"), ("unknown", True, "seq2seq"),
        ("encoder-decoder", True, "seq2seq"), ("encoder-decoder", False, "seq2seq"),
    ]:  # fmt: skip
        _, recipe = start(tmp_path, **{**both, "writes": writes}, model="m", known=known(kind))
        assert recipe.task.name == task


def test_sequences_with_structures_learn_which_letters_touch(tmp_path):
    text, recipe = start(tmp_path, text="sequence", structure="fold", model="m", known=known("masked"))
    assert (recipe.task.name, recipe.best.metric) == ("contact", "long_precision@L")
    assert recipe.data.columns == {"sequence": "sequence", "structure": "fold"}
    assert "which of its letters touch" in text
