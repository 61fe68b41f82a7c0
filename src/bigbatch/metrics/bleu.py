"""BLEU and chrF of written texts, by sacrebleu; counts are summed, so neither a cut nor ranks change a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard

import numpy as np

from bigbatch.errors import Problem, RecipeError
from bigbatch.metrics.figures import Undefined
from bigbatch.protocols import Metric
from bigbatch.samples import Predictions, Targets

PIP = "pip install 'bigbatch[seq2seq]'"
_STEPS, _DIGITS = 1000, 6
"""As `metrics.row_scores` has them: the part of its weight that a row gains and loses for its slope, and digits that
are kept."""
_HAN = ("\u3400", "\u9fff")


class _Scorer(Protocol):
    """What is asked of `sacrebleu.metrics`."""

    def corpus_score(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> object: ...


@dataclass(frozen=True, kw_only=True)
class WrittenMetric:
    """A figure of texts that a model wrote, each held against the one that was wanted; from 0 to 100."""

    name: str
    larger_is_better: bool = True
    own = False

    def add(self, predictions: Predictions, targets: Targets) -> None:
        """Nothing: it is no figure of single tokens."""

    def of_texts(self, written: Sequence[str], wanted: Sequence[str]) -> tuple[np.ndarray, str]:
        """Counts of some texts (k,) int64, and how their words were told apart.

        Args:
            written: by the model.
            wanted: as many.
        """
        words = words_of(wanted)
        found = scorer(self.name, words)._extract_corpus_statistics(list(written), [list(wanted)])
        return np.sum(np.asarray(found, np.int64), axis=0), words

    def rows(self, written: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
        """(N,) float64: what each text adds to the figure of all, as `metrics.row_scores` has it of counts: the figure
        and N times its slope in the weight of this text. Their mean is the figure.

        Args:
            written: by the model.
            wanted: as many.
        """
        if not written:
            return np.empty(0)
        made = scorer(self.name, words_of(wanted))
        counts_N = np.asarray(made._extract_corpus_statistics(list(written), [list(wanted)]), np.int64)
        sums, count = counts_N.sum(0), len(counts_N)

        def figure(counts: np.ndarray) -> float:
            return float(made._compute_score_from_stats(counts.tolist()).score)

        # A figure of counts is that of a thousand times as many, of which whole ones can be added and taken away.
        many = _STEPS * sums
        slopes_N = [_STEPS * (figure(many + each) - figure(many - each)) / 2 for each in counts_N]
        return np.round(figure(sums) + count * np.array(slopes_N), _DIGITS)

    def merge(
        self, left: tuple[np.ndarray, str] | None, right: tuple[np.ndarray, str] | None
    ) -> tuple[np.ndarray, str] | None:
        """Counts of both."""
        if left is None or right is None:
            return left or right
        return left[0] + right[0], left[1]

    def value(self, state: tuple[np.ndarray, str] | None) -> float:
        """The figure."""
        if state is None:
            return Undefined("no text was written")
        counts, words = state
        return float(scorer(self.name, words)._aggregate_and_compute([counts.tolist()]).score)

    def signature(self, state: tuple[np.ndarray, str]) -> str:
        """What sacrebleu says of how it counts: two figures can be compared where it is the same."""
        made = scorer(self.name, state[1])
        made._aggregate_and_compute([state[0].tolist()])
        made.num_refs = 1
        return str(made.get_signature())


def is_written(metric: Metric) -> TypeGuard[WrittenMetric]:
    """Whether a metric needs texts that the model writes."""
    return isinstance(metric, WrittenMetric)


def words_of(texts: Sequence[str]) -> str:
    """How BLEU tells words apart, in sacrebleu's terms: `zh` where most letters are Chinese, else its usual `13a`."""
    letters = [sign for text in texts for sign in text if sign.isalpha()]
    han = sum(_HAN[0] <= sign <= _HAN[1] for sign in letters)
    return "zh" if 2 * han > len(letters) else "13a"


def scorer(name: str, words: str):  # type: ignore[no-untyped-def]  # of a library that may not be there
    """The scorer of sacrebleu, of one reference a text.

    Raises:
        RecipeError: it is not installed.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError as error:
        what = f"{name} needs sacrebleu, which is not installed: {PIP}"
        raise RecipeError([Problem(where="recipe", key="metrics", what=what)]) from error
    return BLEU(tokenize=words) if name == "bleu" else CHRF()
