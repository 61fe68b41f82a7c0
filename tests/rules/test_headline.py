from __future__ import annotations

import pytest

from bigbatch.rules.headline import in_order, telling


@pytest.mark.parametrize(
    ("names", "chosen", "first"),
    [
        (["accuracy", "precision", "f1"], None, "f1"),
        (["accuracy", "f1_macro"], "accuracy", "accuracy"),
        (["accuracy", "f1_macro"], "loss", "f1_macro"),
        (["accuracy", "perplexity"], "loss", "perplexity"),
        (["ndcg@10", "recall@1"], None, "recall@1"),
        (["mine"], "other", "mine"),
        (["loss"], None, "loss"),
        ([], None, None),
    ],
)
def test_the_one_figure_to_compare_by(names, chosen, first):
    assert telling(names, chosen) == first


def test_what_chooses_the_weights_comes_first_even_if_it_is_the_loss():
    assert in_order(["accuracy", "loss", "f1"], "loss") == ["loss", "f1", "accuracy"]
    assert in_order(["odd", "accuracy"], "odd", usual_only=True) == ["odd", "accuracy"]
    assert in_order(["odd", "accuracy"], usual_only=True) == ["accuracy"]
