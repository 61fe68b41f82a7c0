"""ROUGE-L by hand, by its definition tried on every subsequence, and of rows; BLEU and chrF of single rows."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from bigbatch.metrics.rouge import MOST_WORDS, common, rouge_l, rouge_lsum, sentences_of
from bigbatch.metrics.written import written_metrics

METRICS = written_metrics()


def longest(one: list[str], other: list[str]) -> int:
    """By trying: the most words of one that the other has in this order."""
    for size in range(len(one), 0, -1):
        for chosen in combinations(one, size):
            rest = iter(other)
            if all(word in rest for word in chosen):
                return size
    return 0


def test_a_longest_common_subsequence_is_one():
    random = np.random.default_rng(0)
    for _ in range(60):
        ours, theirs = (random.choice([*"abcd"], random.integers(0, 9)).tolist() for _ in range(2))
        places = common(ours, theirs)
        assert places == sorted(set(places)) and len(places) == longest(ours, theirs)
        rest = iter(ours)
        assert all(theirs[place] in rest for place in places)


def test_figures_of_lins_paper_and_their_edges():
    """Lin 2004, section 3: S2 keeps the order of S1, S3 does not; the union of two candidates' subsequences."""
    wanted = "police killed the gunman"
    assert rouge_l("police kill the gunman", wanted) == 3 / 4
    assert rouge_l("the gunman kill police", wanted) == 2 / 4
    assert rouge_lsum("w1 w2 w6 w7 w8.\nw1 w3 w8 w9 w5.", "w1 w2 w3 w4 w5.") == 2 * 4 / (10 + 5)
    assert rouge_lsum("a a a. b", "a. a. b") == 2 * 3 / (4 + 3), "no oftener than either has it"
    assert (rouge_l("", ""), rouge_l("…", "a"), rouge_lsum("", "a")) == (1.0, 0.0, 0.0)
    assert rouge_l("打开文件", "打开旧文件") == 2 * 4 / 9 and sentences_of("打开。关闭!") == [
        ["打", "开"],
        ["关", "闭"],
    ]
    assert rouge_l("x " * 3 * MOST_WORDS, "x " * 2 * MOST_WORDS) == 1.0


def test_a_mean_over_texts_adds_up():
    written, wanted = ["a b c", "", "d"], ["a c", "x", "d e f"]
    for name in ("rouge_l", "rouge_lsum"):
        metric = METRICS[name]
        state = metric.merge(
            metric.of_texts(written[:1], wanted[:1]), metric.of_texts(written[1:], wanted[1:])
        )
        assert metric.value(state) == pytest.approx(100 * (4 / 5 + 0 + 1 / 2) / 3)
        assert metric.rows(written, wanted).tolist() == pytest.approx([80, 0, 50])
        assert "no stemming" in metric.signature(state)


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_what_a_row_adds_is_the_slope_of_the_whole_figure_in_its_weight(name):
    """By writing every row ten times, and one of them eleven times."""
    pytest.importorskip("sacrebleu", reason="an extra: bigbatch[seq2seq]")
    written = ["the cat sat on the mat today", "a dog ran over the old road", "hello there my good friend"]
    wanted = [
        "the cat is on the mat today",
        "the dog ran over an old road",
        "hello there my very good friend",
    ]
    metric = METRICS[name]
    rows = metric.rows(written, wanted)
    whole = metric.value(metric.of_texts(written, wanted))
    assert rows.mean() == pytest.approx(whole, abs=1e-4)
    for row in range(3):
        many = [text for text in range(3) for _ in range(500 + (text == row))]
        once = metric.value(metric.of_texts([written[at] for at in many], [wanted[at] for at in many]))
        assert whole + 3 * 500 * (once - whole) == pytest.approx(rows[row], abs=0.05)
