"""Matching: texts of rows, candidates that are known to be right, exact ranks, figures equal to ranx's."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bigbatch.data.texts import hash_of, text_table
from bigbatch.data.tokens import as_table
from bigbatch.errors import DataError, RecipeError
from bigbatch.metrics.match import Ranks, ndcg, rank_metrics, ranks_of, recall, reciprocal_rank
from bigbatch.metrics.row_scores import scorer_of
from bigbatch.protocols import Metric
from bigbatch.recipe.learning import LossSpec
from bigbatch.samples import Predictions, Targets
from bigbatch.tasks.contrast import _CHUNK_ROWS, Judge, contrastive_losses, pairs_of
from bigbatch.tasks.inputs import Inputs, joined
from bigbatch.tasks.match import Match
from bigbatch.tasks.teacher import listwise_kl, margin_mse, scored
from tests.models import tiny_tokenizer

GOLDEN = json.loads(Path(__file__).with_name("ranx_golden.json").read_text(encoding="utf-8"))
"""Written by make_ranx_golden.py with ranx 0.3.21."""
FIGURES = {"recall": recall, "mrr": reciprocal_rank, "ndcg": ndcg}


def inputs(*ids: int) -> Inputs:
    return Inputs(ids=np.array(ids, np.int32), segments=np.zeros(len(ids), np.int8))


ROWS = [
    joined([(0, inputs(5, 6)), (1, inputs(7, 8, 9)), (2, inputs(4))]),
    joined([(0, inputs(3)), (1, inputs(7, 8, 9))]),
    joined([(0, inputs(5, 6)), (1, inputs(2, 2))]),
]


# ---------------------------------------------------------------- rows and texts


def test_a_table_of_texts_has_each_text_of_its_rows():
    texts = text_table(as_table(ROWS), np.array([2, 0, 2]))
    cut = np.split(texts.ids, texts.token_offsets[1:-1])
    assert [part.tolist() for part in cut] == [[5, 6], [2, 2], [5, 6], [7, 8, 9], [4], [5, 6], [2, 2]]
    assert texts.values[:, 0].tolist() == [0, 1, 0, 1, 2, 0, 1]
    assert texts.values[:, 2].tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert texts.values[:, 3].tolist() == list(range(7))
    assert texts.reads.tolist() == [1, 1, 1, 2, 0, 1, 1]


def test_equal_texts_have_equal_hashes_on_every_machine():
    assert hash_of(np.array([7, 8, 9], np.int32)) == hash_of(np.array([7, 8, 9], np.int64))
    assert hash_of(np.array([7, 8, 9], np.int32)) == 6779170472795749825
    assert hash_of(np.array([7, 8], np.int32)) != hash_of(np.array([7, 8, 9], np.int32))


# ---------------------------------------------------------------- the loss


def values_of(rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(text_table(as_table(ROWS), rows).values))


def test_what_is_known_to_be_right_is_no_negative():
    """Rows 0 and 1 share a document, rows 0 and 2 a query: query 0 has its own document and the negative left."""
    vectors = torch.nn.functional.normalize(
        torch.randn(7, 4, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    losses = contrastive_losses(
        vectors, values_of(np.array([0, 1, 2])), temperature=0.5, cosine=True, symmetric=False
    )
    query, document, negative = vectors[0], vectors[1], vectors[2]
    scores = torch.stack([query @ document, query @ negative]) / 0.5
    assert losses[0] == pytest.approx(float(scores.logsumexp(0) - scores[0]), rel=1e-6)
    own = vectors[3]
    others = torch.stack([own @ vectors[4], own @ vectors[2], own @ vectors[6]]) / 0.5
    assert losses[1] == pytest.approx(float(others.logsumexp(0) - others[0]), rel=1e-6)


def test_texts_that_are_known_to_be_right_are_none_wherever_they_stand():
    """A negative of another row that answers the query, and one that is the query itself, are left out."""
    rows = [
        joined([(0, inputs(5)), (1, inputs(6)), (2, inputs(9))]),
        joined([(0, inputs(5)), (1, inputs(7)), (2, inputs(5))]),
        joined([(0, inputs(8)), (1, inputs(2)), (2, inputs(7))]),
    ]
    texts = torch.from_numpy(np.array(text_table(as_table(rows), np.arange(3)).values))
    vectors = torch.zeros(9, 3, dtype=torch.float64)
    losses = contrastive_losses(vectors, texts, temperature=1.0, cosine=False, symmetric=True)
    # Query 5 has 6 or 7 of its own, and is held against 9 and 2; backwards each document against both queries.
    asked, back = [np.log(3), np.log(3), np.log(6)], [np.log(2), np.log(2), np.log(3)]
    assert losses.tolist() == pytest.approx(((np.array(asked) + back) / 2).tolist())


@pytest.mark.parametrize(
    ("judge", "left"),
    [({}, 3), ({"margin": 0.45}, 2), ({"margin": -0.25}, 4), ({"margin": 0.75, "relative": True}, 1)],
)
def test_a_judge_leaves_out_what_it_scores_above_the_right_one_less_a_margin(judge, left):
    """It scores the right one .8, the negatives 1, .6 and .3: as many candidates are left, the right one among them."""
    values = torch.tensor([[0, 1, 0, 0], [1, 2, 0, 1], [2, 3, 0, 2], [2, 4, 0, 3], [2, 5, 0, 4]])
    scores = torch.tensor([1.0, 0.8, 1.0, 0.6, 0.3], dtype=torch.float64)
    vectors = torch.stack([scores, (1 - scores**2).sqrt()], 1)
    told = Judge(vectors_KE=vectors, **judge)
    losses = contrastive_losses(
        torch.zeros(5, 2, dtype=torch.float64),
        values,
        temperature=1.0,
        cosine=False,
        symmetric=False,
        judge=told,
    )
    assert losses.exp().tolist() == pytest.approx([left])


def test_a_query_without_its_document_is_left_out():
    values = values_of(np.array([0, 1]))
    kept = pairs_of(values[[0, 2, 3, 4]])
    assert kept.queries_Q.tolist() == [2]
    assert kept.candidates_C.tolist() == [1, 3]


def test_many_queries_are_compared_in_chunks():
    rows = _CHUNK_ROWS + 100
    places = torch.arange(2 * rows)
    values = torch.stack([places % 2, places, places // 2, places], 1)
    vectors = torch.randn(2 * rows, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vectors.requires_grad_()
    options = {"temperature": 0.3, "cosine": False, "symmetric": True}
    losses = contrastive_losses(vectors, values, **options)
    losses.sum().backward()
    scores = vectors[::2] @ vectors[1::2].T / 0.3
    expected = (scores.logsumexp(1) + scores.logsumexp(0)) / 2 - scores.diagonal()
    assert torch.allclose(losses, expected, rtol=1e-12)
    (gradient,) = torch.autograd.grad(expected.sum(), vectors)
    assert torch.allclose(vectors.grad, gradient, rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------- ranks and figures


@pytest.mark.parametrize("number", range(len(GOLDEN)))
def test_every_figure_equals_ranx(number):
    case = GOLDEN[number]
    scores = np.array(case["scores"])
    relevant = np.array(
        [(query, document) for query, found in enumerate(case["relevant"]) for document in found]
    )
    # Embeddings whose products are these very scores.
    ranks = ranks_of(scores, np.eye(scores.shape[1]), relevant)
    for name, expected in case["expected"].items():
        what, depth = name.split("@")
        assert FIGURES[what](ranks, int(depth)).mean() == pytest.approx(expected, rel=1e-12), name


def test_ranks_do_not_depend_on_the_blocks(monkeypatch):
    random = np.random.default_rng(0)
    queries, documents = random.integers(-2, 3, (23, 4)) * 1.0, random.integers(-2, 3, (40, 4)) * 1.0
    relevant = np.unique(random.integers(0, (23, 40), (60, 2)), axis=0)
    whole = ranks_of(queries, documents, relevant)
    monkeypatch.setattr("bigbatch.metrics.match.BLOCK_SCORES", 130)
    assert np.array_equal(ranks_of(queries, documents, relevant).rank_R, whole.rank_R)
    for query, document, rank in zip(whole.query_R, relevant[:, 1], whole.rank_R, strict=True):
        scores = documents @ queries[query]
        assert np.argsort(-scores, kind="stable").tolist().index(document) + 1 == rank


def test_figures_of_a_split_merge_and_share_their_ranks(monkeypatch):
    texts = text_table(as_table(ROWS), np.arange(3))
    vectors = np.random.default_rng(0).normal(size=(len(texts), 5))
    calls = []
    monkeypatch.setattr(
        "bigbatch.metrics.match.ranks_of", lambda *given: calls.append(given) or ranks_of(*given)
    )

    def figures(cuts: list[int]) -> dict[str, float]:
        metrics: tuple[Metric, ...] = rank_metrics(("recall@1", "mrr@10", "ndcg@10"))
        chunks = [
            (
                Predictions(
                    kind="embedding", scores=part, probabilities=None, values=np.zeros(len(part), bool)
                ),
                Targets(values=values, weights=np.ones(len(part))),
            )
            for part, values in zip(np.split(vectors, cuts), np.split(texts.values, cuts), strict=True)
        ]
        found = {}
        scorer = scorer_of("mrr@10", metrics)
        for chunk in chunks:
            scorer.add(*chunk, np.arange(len(chunk[0].scores)))
        for metric in metrics:
            states = [metric.add(*chunk) for chunk in chunks]
            state = states[0]
            for other in states[1:]:
                state = metric.merge(state, other)
            found[metric.name] = metric.value(state)
        scores_N = scorer.scores()
        assert len(scores_N) == 2 and scores_N.mean() == found["mrr@10"], "one a query"
        return found

    assert figures([]) == figures([2, 5])
    assert len(calls) == 2, "three metrics and the scores of queries compute ranks once"
    # Two distinct queries, three distinct documents; the first query has two relevant ones.
    assert calls[0][0].shape == (2, 5)
    assert calls[0][1].shape == (3, 5)
    assert calls[0][2].tolist() == [[0, 0], [0, 2], [1, 0]]


def test_ranks_by_hand():
    ranks = Ranks(query_R=np.array([0, 0, 1]), rank_R=np.array([2, 11, 12]), queries=2)
    assert recall(ranks, 10).tolist() == [0.5, 0.0]
    assert reciprocal_rank(ranks, 10).tolist() == [0.5, 0.0]
    assert ndcg(ranks, 10)[0] == pytest.approx((1 / np.log2(3)) / (1 + 1 / np.log2(3)))


# ---------------------------------------------------------------- the task


def test_evaluations_compare_so_many_pairs_whatever_the_batch(monkeypatch):
    monkeypatch.setattr("bigbatch.tasks.match.EVALUATED_PAIRS", 2)
    task = Match(temperature=0.5)
    texts = text_table(as_table(ROWS), np.arange(3))
    vectors = np.random.default_rng(0).normal(size=(len(texts), 5)).astype(np.float32)
    found = task.kept_loss(vectors, Targets(values=texts.values, weights=texts.weights))["contrastive"]
    first = contrastive_losses(
        torch.from_numpy(vectors[:5]).double(),
        torch.from_numpy(texts.values[:5]),
        temperature=0.5,
        cosine=True,
        symmetric=False,
    )
    assert found[:2] == pytest.approx(first.numpy())
    assert found[2] == 0.0, "alone with its document"


def test_what_the_folder_tells_sentence_transformers():
    task = Match(pooling="last", similarity="dot", query_prefix="query: ").with_facts(max_length=64)
    module = SimpleNamespace(config=SimpleNamespace(hidden_size=8))
    files = {name: json.loads(content) for name, content in task.files(module).items()}
    assert [each["type"].rpartition(".")[2] for each in files["modules.json"]] == ["Transformer", "Pooling"]
    assert files["1_Pooling/config.json"]["pooling_mode_lasttoken"] is True
    assert files["1_Pooling/config.json"]["word_embedding_dimension"] == 8
    assert files["config_sentence_transformers.json"]["prompts"] == {"query": "query: "}
    assert files["sentence_bert_config.json"]["max_seq_length"] == 64
    normalised = Match(pooling="mean").files(module)
    assert "2_Normalize/config.json" in normalised


def test_a_temperature_of_nothing_is_refused():
    with pytest.raises(RecipeError, match=r"task\.temperature"):
        Match(temperature=0.0)


# ---------------------------------------------------------------- a teacher's scores


@pytest.mark.parametrize(
    ("options", "loss", "what"),
    [
        ({}, LossSpec(name="dpo"), "left out .contrastive., or one of margin_mse, listwise_kl"),
        ({}, LossSpec(label_smoothing=0.1), "embeddings have no classes"),
        ({"symmetric": True}, LossSpec(name="margin_mse"), r"task\.symmetric: the contrastive loss's"),
        ({}, LossSpec(name="margin_mse", args={"teacher_temperature": 2}), "expected none"),
        ({}, LossSpec(name="listwise_kl", args={"teacher_temperature": 0}), "a number above 0"),
        ({}, LossSpec(name="listwise_kl", args={"teacher_temperature": "warm"}), "a number above 0"),
    ],
)
def test_a_loss_that_does_not_fit_is_refused(options, loss, what):
    with pytest.raises(RecipeError, match=what):
        Match(**options).with_loss(loss, Path())


@pytest.mark.parametrize(
    ("row", "fine"),
    [
        ({"score": 1.0}, True),
        ({}, False),
        ({"score": 1.0, "negative": "late", "negative_score": 0.5}, True),
        ({"score": 1.0, "negative": "late"}, False),
        ({"score": 1.0, "negative": "", "negative_score": None}, True),
        ({"score": 1.0, "negatives": ["late", "lost"], "negative_scores": [0.1, 0.2]}, True),
        ({"score": 1.0, "negatives": ["late", "lost"], "negative_scores": [0.1]}, False),
        ({"score": 1.0, "negatives": ["late", " "], "negative_scores": [0.1, 0.2]}, False),
        ({"score": 1.0, "negatives": ["late"]}, False),
    ],
    ids=str,
)
def test_each_candidate_has_a_score(row, fine, tmp_path):
    task, tokenizer = (
        Match(pooling="mean").with_loss(LossSpec(name="margin_mse"), Path()),
        tiny_tokenizer(tmp_path),
    )
    whole = {"query": "the crew", "document": "was kind", **row}
    if not fine:
        with pytest.raises(DataError, match="a teacher's scores: found"):
            task.encode(whole, tokenizer)
        return
    sample = task.encode(whole, tokenizer)
    assert len(sample.extras["teacher"]) == len(sample.reads) and sample.extras["teacher"][:2].tolist() == [
        0,
        1,
    ]
    assert not task.encode_batch([whole], tokenizer, labelled=False)[0].extras, "predictions need none"


def test_a_document_alone_has_nothing_to_learn_of_a_list():
    values = torch.tensor([[0, 1, 0, 0], [1, 2, 0, 1], [0, 3, 1, 2], [1, 4, 1, 3], [2, 5, 1, 4]])
    vectors = torch.eye(5, dtype=torch.float64) + 0.1
    found = scored(vectors, values, torch.tensor([0.0, 9.0, 0.0, 1.0, 1.0]))
    assert margin_mse(found).tolist() == [pytest.approx(0.0)]
    assert listwise_kl(found, temperature=0.1, teacher_temperature=1.0).tolist() == pytest.approx([0.0, 0.0])
