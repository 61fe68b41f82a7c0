"""A run held against simple models: fitted once, by rank 0, and kept in RUN/baseline.json for resumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

import numpy as np

from bigbatch.build.parts import Parts
from bigbatch.documents import readable
from bigbatch.metrics.naming import is_own, reported_names
from bigbatch.metrics.watched import figure_of
from bigbatch.parallel.agree import by_leader
from bigbatch.protocols import World
from bigbatch.records import Event
from bigbatch.rules.headline import telling
from bigbatch.rules.verdict import baseline_title, shown
from bigbatch.run.baseline.fit import Figures, fitted, has_baselines
from bigbatch.run.baseline.model import Split
from bigbatch.store.directory import RunDirectory

_LEAST_SECONDS, _SHARE = 30.0, 0.03
"""What fitting may take: the larger of a time and of a share of the predicted run."""
_MOST_SCORES = 50_000
"""Rows up to which each row's score is kept; with more, chance explains little."""


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """Contents of baseline.json."""

    of: str = ""
    """Hash of what they were fitted on and scored by."""
    metric: str = ""
    """The figure that is told first."""
    figures: Figures = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, list[float]]] = field(default_factory=dict)
    """Name -> split -> one score a row by that figure, larger is better."""
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def words(self, split: str) -> str:
        """`always saying the most frequent class 0.012, a bag of words 0.914`; empty where there is none."""
        found = [
            f"{baseline_title(name)} {shown(value)}"
            for name, splits in self.figures.items()
            if (value := splits.get(split, {}).get(self.metric)) is not None
        ]
        return ", ".join(found)


NONE = Baselines()


def wanted(parts: Parts) -> bool:
    """Whether this run is held against anything."""
    return parts.recipe.baseline == "auto" and has_baselines(parts.task) and bool(_evaluated(parts))


def figure(parts: Parts) -> str | None:
    """The figure that a run is compared by: what chooses its weights, unless that is the loss."""
    names = [name for metric in parts.metrics if not is_own(metric) for name in reported_names(metric)]
    best = parts.best_metric
    return telling(names, None if best is None else figure_of(best, parts.judged)[1])


def scored_figures(parts: Parts, split: str) -> tuple[str, ...]:
    """By what rows of a split are scored, so that they can be paired with those of a baseline."""
    name = figure(parts) if wanted(parts) and split == told_split(parts) else None
    return () if name is None else (name,)


def told_split(parts: Parts) -> str:
    """The split that a run is judged on: the test split, else the main validation set."""
    return "test" if "test" in parts.tables else (*parts.validation, "")[0]


def baselines(parts: Parts, directory: RunDirectory, world: World) -> Baselines:
    """Those of this run, from its directory or fitted now; every rank calls it, and whatever goes wrong, goes on.

    Args:
        parts: of the run.
        directory: where they are kept.
        world: the ranks; the leader fits them, the others get them without scores of rows.
    """
    return by_leader(
        world, lambda: kept_or_fitted(parts, directory), _without_scores, lambda words: Baselines(**words)
    )


def _without_scores(found: Baselines) -> dict[str, object]:
    """What other ranks need of them."""
    return {**asdict(found), "scores": {}}


def kept_or_fitted(parts: Parts, directory: RunDirectory) -> Baselines:
    """The same on the rank that owns the directory, alone."""
    if not wanted(parts) or parts.recipe.data.shuffle == "shards":  # they read all rows at once
        return NONE
    digest = _digest(parts)
    content = readable(directory.baseline)
    if content is not None and content["of"] == digest:
        known = {each.name for each in fields(Baselines)}
        return Baselines(**{key: value for key, value in content.items() if key in known})
    try:
        found = _fitted(parts, digest)
    except Exception as error:  # no simple model is worth a run
        reason = str(error).partition("\n")[0]
        found = Baselines(of=digest, notes=[f"could not be computed ({type(error).__name__}: {reason})"])
    directory.write_json(directory.baseline, asdict(found))
    return found


def told(parts: Parts, directory: RunDirectory, world: World, step: int) -> Event | None:
    """What is said with the first evaluation; every rank calls it.

    Args:
        parts: of the run.
        directory: where they are kept.
        world: the ranks; the leader fits them.
        step: update after which it is said.
    """
    return event(parts, baselines(parts, directory, world), step)


def event(parts: Parts, found: Baselines, step: int) -> Event | None:
    """What is said with the first evaluation.

    Args:
        parts: of the run.
        found: the baselines.
        step: update after which it is said.
    """
    split = (*parts.validation, "test")[0]
    words = found.words(split)
    if not words and not found.notes:
        return None
    why = f"{words} ({found.metric} on {split})" if words else "none"
    did = "; ".join([f"fitted in {found.seconds:.1f} s", *found.notes] if words else found.notes)
    return Event(step=step, event="baseline", why=why, did=did)


def _fitted(parts: Parts, digest: str) -> Baselines:
    predicted = parts.plan.predictions()
    run_seconds = predicted.get("train_seconds", 0.0) + predicted.get("evaluate_seconds", 0.0)
    told = figure(parts)
    found = fitted(
        parts.task,
        Split(rows=parts.rows["train"], table=parts.train),
        {name: Split(rows=parts.rows[name], table=parts.tables[name]) for name in _evaluated(parts)},
        seconds=max(_LEAST_SECONDS, _SHARE * run_seconds),
        vocabulary=int(getattr(parts.module.config, "vocab_size", 0) or 0),
        scored={} if told is None else {told_split(parts): told},
    )
    scores = {
        name: {split: rows.tolist() for split, rows in splits.items() if 0 < len(rows) <= _MOST_SCORES}
        for name, splits in found.scores.items()
    }
    return Baselines(
        of=digest,
        metric=told or "",
        figures=found.figures,
        scores={name: splits for name, splits in scores.items() if _finite(splits)},
        notes=list(found.notes),
        seconds=found.seconds,
    )


def _finite(splits: Mapping[str, list[float]]) -> bool:
    return all(np.isfinite(rows).all() for rows in splits.values())


def _evaluated(parts: Parts) -> list[str]:
    return [name for name in parts.tables if name != "train"]


def _digest(parts: Parts) -> str:
    """Of rows, classes and figures: `--continue` may change some of them."""
    what: object = {
        "rows": {name: rows.content_digest for name, rows in parts.rows.items()},
        "task": [type(parts.task).__name__, parts.recipe.task.model_dump(mode="json")],
        "classes": list(parts.task.label_names),
        "figures": [name for metric in parts.metrics for name in reported_names(metric)],
        "told": [figure(parts), told_split(parts)],
        "length": parts.model.max_length,
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()
