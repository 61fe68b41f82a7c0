"""A finished run in one sentence: is it better than a simple model, was it done, does it know all classes?

    better than a bag of words by 3.1 points of macro F1 (0.945 against 0.914 on test); still improving when it ended

"Better" and "worse" are said of what chance does not explain: the same rows are paired where both were scored row by
row (`rules.paired`), else the two shares are held apart as if of different rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from bigbatch.rules.paired import BEYOND_CHANCE, paired
from bigbatch.units import show_seconds

_BASELINES = {
    "majority": "always saying the most frequent class",
    "mean": "always saying the mean",
    "bag_of_words": "a bag of words",
    "linear_pixels": "a linear model of the pixels",
    "similar_images": "the 5 most similar images",
    "most_frequent_tag": "each word's most frequent tag",
    "tf_idf": "TF-IDF retrieval",
    "copied_source": "the source as it is",
    "nearest_target": "the target of the most similar training source",
    "lead_1": "the first sentence",
    "lead_3": "the first three sentences",
    "longer_answer": "preferring the longer answer",
    "starting_model": "what the starting model finds likelier",
    "no_answer": "never giving an answer",
    "normal_pixels": "pixels that are normal by themselves, by class",
    "how_far_apart": "how far apart two letters are, and nothing else",
    "near_question_words": "the stretch nearest to the question's words",
    "5_gram": "a 5-gram",
    "most_frequent_token": "always saying the most frequent token",
    "neighbours": "guessing a token from its neighbours",
    "bm25": "BM25",
    "popular": "recommending what is popular",
    "next_item": "recommending what most often came behind the last item",
    "item_knn": "recommending what goes with a user's items",
}
"""What the baselines are called in a sentence."""
CONSTANT = ("majority", "mean", "most_frequent_token", "no_answer")
_TITLES = {
    "f1": "F1",
    "f1_macro": "macro F1",
    "f1_micro": "micro F1",
    "f1_weighted": "weighted F1",
    "r2": "R²",
    "mae": "mean error",
    "mse": "squared error",
    "matthews_corrcoef": "Matthews correlation",
}
_SHARES = (
    "accuracy",
    "f1",
    "precision",
    "recall",
    "mrr",
    "ndcg",
    "roc_auc",
    "exact_match",
    "average_precision",
)
_LEAST_GAIN, _LEAST_FALL = 0.01, 0.05
"""Of a share, and of a loss (relative), over the last third of a run: it was still improving."""
_LEAST_NATS = 0.02
"""Below it a loss that is next to nothing halves without any meaning."""
_STEEP = 0.25
"""A loss that falls by so much there has not nearly arrived."""
_FEW_UPDATES, _SMALL_BATCH = 300, 32
_FLAT = 0.98
"""A training loss that ends above so much of what it began with has hardly moved."""
_RISEN = 1.05
_FEWEST_ROWS = 20
"""Evaluated rows below which a difference within chance says nothing, and nor do curves."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """A run beside the best of its baselines, by one figure."""

    metric: str
    ours: float
    larger_is_better: bool
    split: str
    rows: int
    """That were scored; of matching: queries."""
    baselines: Mapping[str, float]
    """Name -> its figure."""
    entities: bool = False
    """Whether rows are words with tags that mark entities: then F1, precision and recall are of those."""
    our_scores: Sequence[float] | None = None
    """One a row, larger is better."""
    their_scores: Mapping[str, Sequence[float]] | None = None

    @property
    def title(self) -> str:
        """The figure's name in a sentence: `macro F1`, `F1 of entities`."""
        of_entities = self.entities and self.metric in ("f1", "precision", "recall")
        return f"{title(self.metric)} of entities" if of_entities else title(self.metric)

    @property
    def best(self) -> str | None:
        """The best baseline."""
        if not self.baselines:
            return None
        return (max if self.larger_is_better else min)(self.baselines, key=lambda name: self.baselines[name])

    def beats(self, name: str) -> bool | None:
        """Whether the run is better than a baseline (True) or worse (False); None where chance explains it."""
        theirs = self.baselines[name]
        gain = self.ours - theirs if self.larger_is_better else theirs - self.ours
        if not gain:
            return None
        scores = (self.their_scores or {}).get(name)
        if scores is not None and self.our_scores is not None and len(scores) == len(self.our_scores) > 1:
            then, now = np.asarray(scores, np.float64), np.asarray(self.our_scores, np.float64)
            p = paired(then, now).p if gain > 0 else paired(now, then).p
        elif is_share(self.metric):
            error = math.sqrt(
                sum(max(share * (1 - share), 0.0) for share in (self.ours, theirs)) / max(self.rows, 1)
            )
            p = 1 - NormalDist().cdf(abs(gain) / error) if error else 0.0
        else:
            p = 0.0 if abs(gain) > _LEAST_GAIN * abs(theirs) else 1.0
        return None if p > BEYOND_CHANCE else gain > 0


@dataclass(frozen=True, kw_only=True)
class Curves:
    """What a run left behind while it trained."""

    steps: Sequence[int]
    """Updates after which validation was evaluated."""
    values: Sequence[float]
    """The figure then."""
    losses: Sequence[float]
    """The validation loss then."""
    training: Sequence[float]
    """The loss of each update."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a run was laid out."""

    length: str
    """Key of its length: epochs, updates, samples or tokens."""
    amount: float
    seconds: float
    """That it took, evaluations included."""
    batch_samples: int | None
    updates: int
    lr: float
    stopped: bool
    """Whether something ended it before its length."""


def verdict(
    held: Held | None, curves: Curves, course: Course, *, never: Sequence[str] = (), kind: str = "class"
) -> str:
    """The sentence; `never`: names of the classes (or types of entities: `kind`) that are never predicted.

    Args:
        held: the run's figure beside those of simple models; None: not evaluated.
        curves: figures and losses by update.
        course: how the run went and ended.
        never: names of the classes, or types of entities, that are never predicted.
        kind: which of the two.
    """
    if held is None:
        return "not evaluated: the recipe names no validation or test data"
    if _told_by_too_few(held):
        return f"{_comparison(held)}; more rows to evaluate on would tell"
    won = held.best is None or held.beats(held.best) is True
    parts = [_comparison(held)]
    improving = not course.stopped and still_improving(curves, held.larger_is_better, is_share(held.metric))
    if won and improving:
        parts.append("still improving when it ended")
    elif not won:
        parts.append(_advice(curves, course, improving))
    if never:
        shown = f"{len(never)} {_plural(kind)} are" if len(never) > 1 else f"{kind} {never[0]} is"
        parts.append(f"{shown} never predicted")
    return "; ".join(parts)


def _plural(kind: str) -> str:
    return f"{kind}es" if kind.endswith("s") else f"{kind}s"


def title(metric: str) -> str:
    """A figure's name in a sentence: `macro F1`."""
    return _TITLES.get(metric, metric.replace("_", " "))


def baseline_title(name: str) -> str:
    """A baseline's name in a sentence: `a bag of words`."""
    return _BASELINES.get(name, name.replace("_", " "))


def is_share(metric: str) -> bool:
    """Whether a figure lies between 0 and 1, so that points of it mean something."""
    return any(metric == name or metric.startswith((f"{name}_", f"{name}@")) for name in _SHARES)


def _comparison(held: Held) -> str:
    name = held.best
    where = f"on {held.split}"
    if name is None:
        return f"{held.title} {shown(held.ours)} {where}"
    beats = held.beats(name)
    if beats is not True:
        # What cannot beat a constant is better told so.
        constant = next((other for other in CONSTANT if other in held.baselines), None)
        if constant is not None and held.beats(constant) is not True:
            name, beats = constant, held.beats(constant)
    theirs = held.baselines[name]
    both = f"{shown(held.ours)} against {shown(theirs)} {where}"
    if beats is None:
        if _told_by_too_few(held):
            rows = f"{held.rows:,} {'row is' if held.rows == 1 else 'rows are'} too few to tell it"
            return f"{held.title} {both}: {rows} from {baseline_title(name)}"
        rows = f"{held.rows:,} {'row' if held.rows == 1 else 'rows'}"
        return f"no better than {baseline_title(name)}: {held.title} {both}, {rows}, is within chance"
    word = "better" if beats else "worse"
    if is_share(held.metric):
        points = 100 * abs(held.ours - theirs)
        return f"{word} than {baseline_title(name)} by {points:.1f} points of {held.title} ({both})"
    return f"{word} than {baseline_title(name)}: {held.title} {both}"


def _told_by_too_few(held: Held) -> bool:
    """Whether no baseline is told from the run, on so few rows that none could be."""
    return (
        held.rows < _FEWEST_ROWS
        and bool(held.baselines)
        and all(held.beats(name) is None for name in held.baselines)
    )


def shown(value: float) -> str:
    """Four significant digits; shares to three places."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.4g}"


# ---------------------------------------------------------------- what the curves suggest


def still_improving(curves: Curves, larger_is_better: bool, share: bool) -> bool:
    """Whether the last third of a run brought something, and its end was its best.

    Args:
        curves: figures and losses by update.
        larger_is_better: of the figure that chooses the weights.
        share: whether that figure lies between 0 and 1.
    """
    if len(curves.values) >= 2:
        at = _two_thirds(curves.steps)
        signed = [value if larger_is_better else -value for value in curves.values]
        gain = signed[-1] - signed[at]
        least = _LEAST_GAIN if share else _LEAST_FALL * abs(signed[at])
        return (gain >= least and signed[-1] >= max(signed)) or _fall(curves) >= _LEAST_FALL
    return _training_fall(curves.training) >= 2 * _LEAST_FALL


def _two_thirds(steps: Sequence[int]) -> int:
    """Index of the last evaluation within the first two thirds of a run, at least the one before the last."""
    within = [index for index, step in enumerate(steps[:-1]) if step <= steps[-1] * 2 / 3 + 1e-9]
    return within[-1] if within else 0


def _fall(curves: Curves) -> float:
    """By what share the validation loss fell in the last third; 0 where its end is not its lowest."""
    if len(curves.losses) < 2 or curves.losses[-1] > min(curves.losses):
        return 0.0
    before = curves.losses[_two_thirds(curves.steps)]
    fall = before - curves.losses[-1]
    return fall / before if fall >= _LEAST_NATS else 0.0


def _training_fall(losses: Sequence[float]) -> float:
    """By what share the training loss fell between the middle and the end; of tenths, since updates are noisy."""
    tenth = len(losses) // 10
    if tenth < 2:
        return 0.0
    before, end = np.mean(losses[6 * tenth : 7 * tenth]), np.mean(losses[-tenth:])
    return float((before - end) / before) if before > 0 else 0.0


def _advice(curves: Curves, course: Course, improving: bool) -> str:
    smaller = _smaller_batch(course)
    if improving:
        factor = 3 if max(_fall(curves), _training_fall(curves.training)) >= _STEEP else 2
        amount = math.ceil(course.amount * factor)
        more = show_seconds(course.seconds * (amount / course.amount - 1))
        longer = f"still improving when it ended: {course.length}={amount} would take about {more} more"
        return f"{longer}, or {smaller}" if smaller else longer
    lowest = int(np.argmin(curves.losses)) if len(curves.losses) >= 3 else -1
    if 0 <= lowest < len(curves.losses) - 1 and curves.losses[-1] > _RISEN * curves.losses[lowest]:
        return (
            f"the validation loss was lowest after update {curves.steps[lowest]:,} and has risen since: "
            "a shorter run, a lower optimizer.lr or more data"
        )
    tenth = max(1, len(curves.training) // 10)
    if len(curves.training) >= 10:
        began, ended = np.mean(curves.training[:tenth]), np.mean(curves.training[-tenth:])
        if ended > _FLAT * began > 0:
            return f"the training loss hardly moved: try optimizer.lr={10 * course.lr:g}"
    if smaller:
        return f"only {course.updates:,} updates: {smaller}"
    if course.updates < _FEW_UPDATES // 3 and not course.stopped:
        return f"only {course.updates:,} updates: a longer run"
    return "its curves have levelled off: another optimizer.lr or model, or the simple model itself"


def _smaller_batch(course: Course) -> str:
    """`batch=64 makes 424 updates of the same samples`, where a run had few; else nothing."""
    batch = course.batch_samples
    if batch is None or batch <= _SMALL_BATCH or course.updates >= _FEW_UPDATES:
        return ""
    smaller = max(_SMALL_BATCH, batch // 4)
    return f"batch={smaller} makes {round(course.updates * batch / smaller):,} updates of the same samples"
