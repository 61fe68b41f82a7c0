"""results.json: every raw figure of every round, and what follows from them: medians, ranges, ratios.

Ratios are taken within a round, one contestant against another, and summed up after that: two contestants of a
round ran minutes apart, two rounds may have had different neighbours on the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bigbatch.stored import Damaged, read_object
from bigbatch.study.jobs import Outcome, outcome_from, write_json

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Round:
    """One turn of every contestant."""

    ceiling_flops: float | None
    """FLOP/s of the machine's best matrix product, measured at the start of the round."""
    outcomes: Mapping[str, Outcome]
    """By contestant, in the order in which they ran."""
    ceiling_details: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything a benchmark found."""

    date: str
    """UTC, when it started."""
    command: str
    machine: Mapping[str, object]
    """Device, CPU, cores, threads, memory, system."""
    versions: Mapping[str, str | None]
    setting: Mapping[str, object]
    """What was compared."""
    train_flops: float
    """Useful FLOPs of the counted updates, the same for every contestant."""
    rounds: Sequence[Round] = ()

    @property
    def contestants(self) -> tuple[str, ...]:
        """Their names, in the order in which they ran."""
        return tuple(self.rounds[0].outcomes) if self.rounds else ()


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A figure over the rounds."""

    median: float
    low: float
    high: float
    rounds: int
    """In which it exists."""


FIGURES: Mapping[str, Callable[[Outcome], float | None]] = {
    "tokens_per_second": lambda one: one.tokens_per_second,
    "samples_per_second": lambda one: one.samples_per_second,
    "predict_samples_per_second": lambda one: one.predict_samples_per_second,
    "peak_memory_bytes": lambda one: float(one.peak_memory_bytes),
    "first_update_seconds": lambda one: one.first_update_seconds,
}
"""Name -> figure of one outcome. For the last two less is better."""
CEILING = "ceiling_fraction"
"""Useful FLOP/s as a fraction of the round's best matrix product."""


def figure(results: Results, name: str, contestant: str) -> Spread | None:
    """A figure of a contestant over the rounds in which it did not fail; None when there is none.

    Args:
        results: of all rounds.
        name: one of `FIGURES`, or `CEILING`.
        contestant: its name.
    """
    return spread([_value(results, each, name, contestant) for each in results.rounds])


def ratio(results: Results, name: str, contestant: str, reference: str) -> Spread | None:
    """Contestant / reference of each round, over the rounds in which both have the figure.

    Args:
        results: of all rounds.
        name: one of `FIGURES`, or `CEILING`.
        contestant: above the line.
        reference: below it.
    """
    found = []
    for each in results.rounds:
        ours, theirs = (_value(results, each, name, who) for who in (contestant, reference))
        found.append(ours / theirs if ours is not None and theirs else None)
    return spread(found)


def spread(values: Sequence[float | None]) -> Spread | None:
    """Median, least and greatest of the values that exist."""
    found = [value for value in values if value is not None]
    if not found:
        return None
    return Spread(median=median(found), low=min(found), high=max(found), rounds=len(found))


def _value(results: Results, each: Round, name: str, contestant: str) -> float | None:
    outcome = each.outcomes.get(contestant)
    if outcome is None or outcome.failed is not None:
        return None
    if name == CEILING:
        return results.train_flops / outcome.seconds / each.ceiling_flops if each.ceiling_flops else None
    return FIGURES[name](outcome)


def summary(results: Results) -> dict[str, object]:
    """Medians and ranges by contestant, and ratios against every other contestant."""
    names = [*FIGURES, CEILING]
    return {
        contestant: {
            **{name: _plain(figure(results, name, contestant)) for name in names},
            "ratios": {
                other: {name: _plain(ratio(results, name, contestant, other)) for name in FIGURES}
                for other in results.contestants
                if other != contestant
            },
        }
        for contestant in results.contestants
    }


def _plain(found: Spread | None) -> dict[str, object] | None:
    return None if found is None else asdict(found)


def save_results(path: Path, results: Results) -> None:
    """Write results.json, all or nothing. The summary is there for readers; `read_results` works it out anew."""
    write_json(path, {"schema": SCHEMA, **asdict(results), "summary": summary(results)})


def read_results(path: Path) -> Results:
    """The results of a file that `save_results` wrote.

    Raises:
        ValueError: of another schema, or damaged.
    """
    found = read_object(path)
    if found.pop("schema", None) != SCHEMA:
        raise ValueError(f"{path}: not results of schema {SCHEMA}")
    found.pop("summary", None)
    try:
        return _results(found)
    except (KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"does not hold the results of a benchmark: {error}") from None


def _results(found: dict[str, Any]) -> Results:
    rounds = tuple(
        Round(
            ceiling_flops=each["ceiling_flops"],
            ceiling_details=each["ceiling_details"],
            outcomes={name: outcome_from(one) for name, one in each["outcomes"].items()},
        )
        for each in found.pop("rounds")
    )
    return Results(rounds=rounds, **found)
