"""Entities equal seqeval's, and their counts do not depend on how the stream was cut."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigbatch.errors import RecipeError
from bigbatch.metrics.entities import PIECE, SEEN, STARTS, entities, scheme_of
from bigbatch.metrics.figures import Undefined
from bigbatch.metrics.tag import default_tag_metrics, known_tag_metrics, tag_metric
from bigbatch.samples import Predictions, Targets

GOLDEN = json.loads(Path(__file__).with_name("seqeval_golden.json").read_text(encoding="utf-8"))
"""Written by make_seqeval_golden.py with seqeval 1.2.2."""
NAMES = ("B-LOC", "B-PER", "E-PER", "I-LOC", "I-PER", "O", "S-LOC")


def units(true, found, names, *, unseen=(), pieces=None):
    """Predictions and targets of sentences; `unseen` and `pieces` are numbers of units."""
    flat = [names.index(tag) for row in true for tag in row]
    count = len(flat)
    starts = np.concatenate([np.arange(len(row)) == 0 for row in true]).astype(np.float32)
    extras = {STARTS: starts, SEEN: (~np.isin(np.arange(count), unseen)).astype(np.float32)}
    if pieces is not None:
        extras[PIECE] = np.isin(np.arange(count), pieces).astype(np.float32)
    values = np.array([names.index(tag) for row in found for tag in row])
    scores = np.eye(len(names))[values]
    predictions = Predictions(kind="single", scores=scores, probabilities=scores, values=values)
    return predictions, Targets(values=np.array(flat), weights=np.ones(count, np.float32), extras=extras)


def cut(predictions, targets, first, end):
    part = slice(first, end)
    shown = Predictions(
        kind="single",
        scores=predictions.scores[part],
        probabilities=predictions.probabilities[part],
        values=predictions.values[part],
    )
    return shown, targets.map(lambda values: values[part])


def value(metric, predictions, targets):
    return metric.value(metric.add(predictions, targets))


@pytest.mark.parametrize("number", range(len(GOLDEN)))
def test_every_figure_equals_seqeval(number: int) -> None:
    case = GOLDEN[number]
    names = sorted({tag for rows in (case["true"], case["found"]) for row in rows for tag in row})
    if names == ["O"]:
        pytest.fail("the golden table must have entities")
    data = units(case["true"], case["found"], names)
    for name, expected in case["expected"].items():
        found = value(tag_metric(name, names, True), *data)
        if isinstance(found, Undefined):
            assert expected == 0, "seqeval says 0 where there is nothing to score"
        else:
            assert found == pytest.approx(expected, abs=1e-12), name


def by_hand(tags):
    """Entities of one sentence, read word by word as the CoNLL task describes it."""
    found, opened = [], None
    for place, tag in enumerate([*tags, "O"]):
        kind = tag[2:]
        goes_on = opened is not None and tag[:1] in "IE" and tag != "O" and kind == opened[0]
        if opened is not None and (not goes_on or tags[place - 1][:1] in "ES"):
            found.append((opened[0], opened[1], place))
            opened = None
        if tag != "O" and opened is None:
            opened = (kind, place)
    return found


sentences = st.lists(st.lists(st.sampled_from(NAMES), min_size=1, max_size=8), min_size=1, max_size=6)


@given(sentences)
@settings(max_examples=80, deadline=None)
def test_entities_are_those_that_a_reader_finds(rows) -> None:
    scheme = scheme_of(NAMES)
    flat = np.array([NAMES.index(tag) for row in rows for tag in row])
    starts = np.concatenate([np.arange(len(row)) == 0 for row in rows])
    found = [(scheme.types[kind], first, end) for kind, first, end in entities(flat, starts, scheme).tolist()]
    firsts = np.cumsum([0, *map(len, rows)])
    wanted = [
        (kind, at + first, at + end)
        for row, at in zip(rows, firsts, strict=False)
        for kind, first, end in by_hand(row)
    ]
    assert found == wanted


@given(sentences, st.data())
@settings(max_examples=30, deadline=None)
def test_figures_do_not_depend_on_where_the_stream_is_cut(rows, data) -> None:
    found = [[data.draw(st.sampled_from(NAMES)) for _ in row] for row in rows]
    predictions, targets = units(rows, found, NAMES)
    count = len(predictions.values)
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=4)))
    bounds = list(zip([0, *cuts], [*cuts, count], strict=True))
    for metric in known_tag_metrics(NAMES, True).values():
        whole = metric.value(metric.add(predictions, targets))
        states = [metric.add(*cut(predictions, targets, *bound)) for bound in bounds]
        forwards = states[0]
        for state in states[1:]:
            forwards = metric.merge(forwards, state)
        backwards = states[-1]
        for state in reversed(states[:-1]):
            backwards = metric.merge(state, backwards)
        assert repr(metric.value(forwards)) == repr(metric.value(backwards)) == repr(whole)


def test_a_word_that_the_model_does_not_see_counts_as_outside() -> None:
    names = ("B-PER", "I-PER", "O")
    true = [["B-PER", "I-PER", "O", "O"]]
    predictions, targets = units(true, true, names, unseen=[1, 3])
    assert value(tag_metric("f1", names, True), predictions, targets) == 0
    assert value(tag_metric("accuracy", names, True), predictions, targets) == 3 / 4
    words = ("NOUN", "VERB")
    data = units([["NOUN", "VERB", "NOUN"]], [["NOUN", "VERB", "NOUN"]], words, unseen=[2])
    assert value(tag_metric("accuracy", words, False), *data) == pytest.approx(2 / 3)
    assert value(tag_metric("precision_NOUN", words, False), *data) == 1
    assert value(tag_metric("recall_NOUN", words, False), *data) == 0.5


def test_further_pieces_of_a_word_are_not_scored() -> None:
    names = ("B-PER", "I-PER", "O")
    true, found = [["B-PER", "I-PER", "O"]], [["B-PER", "O", "O"]]
    data = units(true, found, names, pieces=[1])
    assert (
        value(tag_metric("f1", names, True), *data) == value(tag_metric("accuracy", names, True), *data) == 1
    )


def test_weights_do_not_matter_to_entities() -> None:
    names = ("B-PER", "I-PER", "O")
    true = [["B-PER", "I-PER"], ["O", "O"]]
    predictions, targets = units(true, true, names)
    weightless = Targets(values=targets.values, weights=0 * targets.weights, extras=targets.extras)
    assert value(tag_metric("f1", names, True), predictions, weightless) == 1


def test_names() -> None:
    marked, plain = ("B-PER", "I-PER", "O"), ("NOUN", "VERB")
    assert [metric.name for metric in default_tag_metrics(marked, True)] == [
        "f1", "precision", "recall", "accuracy", "f1_per_type",
    ]  # fmt: skip
    assert [metric.name for metric in default_tag_metrics(plain, False)] == [
        "accuracy", "f1_macro", "f1_weighted", "f1_per_class",
    ]  # fmt: skip
    each = value(tag_metric("f1_per_type", marked, True), *units([["B-PER"]], [["B-PER"]], marked))
    assert each == {"f1_PER": 1.0}
    with pytest.raises(RecipeError, match="unknown metric 'f1_PRE' for task tag; did you mean f1_PER"):
        tag_metric("f1_PRE", marked, True)
    nothing = value(tag_metric("f1", marked, True), *units([["O"]], [["O"]], marked))
    assert isinstance(nothing, Undefined) and "no entities" in nothing.reason


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("B-X L-X O U-X U-X B-X I-X L-X", [(0, 2), (3, 4), (4, 5), (5, 8)]),
        ("B-X E-X O S-X S-X B-X I-X E-X", [(0, 2), (3, 4), (4, 5), (5, 8)]),
        ("B-X E-X O S-X S-X B-X M-X E-X", [(0, 2), (3, 4), (4, 5), (5, 8)]),
        ("B-X I-X O B-X B-X B-X I-X I-X", [(0, 2), (3, 4), (4, 5), (5, 8)]),
        ("I-X I-X O I-X B-X B-X I-X I-X", [(0, 2), (3, 4), (4, 5), (5, 8)]),
        ("I-X I-X O I-X O I-X I-X I-X", [(0, 2), (3, 4), (5, 8)]),
        ("X X O X O X X X", [(0, 2), (3, 4), (5, 8)]),
        ("X X Y X", [(0, 2), (2, 3), (3, 4)]),
    ],
)
def test_the_same_entities_in_every_scheme(tags: str, found: list[tuple[int, int]]) -> None:
    """BILOU, BIOES, BMES, IOB2, IOB1, IO with and without prefix."""
    names = sorted(set(tags.split()))
    ids = np.array([names.index(tag) for tag in tags.split()])
    spans = entities(ids, np.arange(len(ids)) == 0, scheme_of(names))
    assert [tuple(span) for span in spans[:, 1:].tolist()] == found
