"""RunData -> the figures that reports state. Each is worked out once; None is a figure nobody knows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bigbatch.report.read import RunData
from bigbatch.report.recipes import flat_recipe
from bigbatch.report.text import clean, show_measured, show_number, show_share, show_unit, title_of

# Measured figures of result.json that people compare; the order in which a table shows them.
COSTS = ("train_seconds", "evaluate_seconds", "peak_memory_bytes", "inference_samples_per_second")
_NOT_CHOICES = ("predictions", "warnings", "choices")


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best value of the metric by which a run is judged."""

    metric: str
    value: float
    split: str
    step: int | None


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A prediction of the plan against what was measured."""

    name: str
    predicted: float
    measured: float | None

    @property
    def error(self) -> float | None:
        """(predicted - measured) / measured."""
        return (self.predicted - self.measured) / self.measured if self.measured else None


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """The training time as it was expected once updates had shown the plan's forecast to be wrong, such as one that was
    made beside other work.
    """

    step: int
    """Update after which it was said first."""
    seconds: float
    """Of the whole run: of the updates until then, and what was expected of the others."""
    why: str


@dataclass(frozen=True, kw_only=True)
class Padding:
    """Tokens that ran through the model in training, and what random padded batches of 32 would have cost."""

    real_tokens: float
    computed_tokens: float
    random_tokens: float | None
    """Computed tokens of random padded batches of 32; None when the lengths were not recorded."""

    @property
    def share(self) -> float:
        """Padding's share of computed tokens."""
        return 1 - self.real_tokens / self.computed_tokens if self.computed_tokens else 0.0

    @property
    def saved(self) -> float | None:
        """Share of the random batches' computed tokens that this run did not have to compute."""
        return 1 - self.computed_tokens / self.random_tokens if self.random_tokens else None


@dataclass(frozen=True, kw_only=True)
class PlanLine:
    """One choice of the plan, ready to be shown."""

    name: str
    value: str
    reason: str
    source: str
    prediction: str


def column(run: RunData, name: str) -> list[Any]:
    """A column of the updates as a list; empty when it was not recorded."""
    return run.updates[name].to_pylist() if name in run.updates.column_names else []


def last(run: RunData, name: str) -> Any:
    """The newest value of a column that is not null."""
    return next((value for value in reversed(column(run, name)) if value is not None), None)


def number(value: object) -> float | None:
    """The value if it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def step_of(record: Mapping[str, object]) -> int:
    """The update after which something happened; -1 where it does not say."""
    step = record.get("step")
    return step if isinstance(step, int) else -1


def train_seconds(run: RunData) -> float | None:
    """Training time: of the result, or while there is none the sum over updates so far."""
    stated = number(run.result.get("train_seconds"))
    if stated is not None:
        return stated
    seconds = [value for value in column(run, "seconds") if value is not None]
    return sum(seconds) if seconds else None


def per_second(run: RunData, name: str) -> float | None:
    """Samples or real tokens a second over all updates: `batch_samples` or `batch_tokens`."""
    pairs = [
        (amount, seconds)
        for amount, seconds in zip(column(run, name), column(run, "seconds"), strict=True)
        if amount is not None and seconds
    ]
    total = sum(seconds for _, seconds in pairs)
    return sum(amount for amount, _ in pairs) / total if total else None


def measured(run: RunData, name: str) -> float | None:
    """A figure of result.json, or what the updates say about it so far."""
    if name == "train_seconds":
        return train_seconds(run)
    stated = number(run.result.get(name))
    if stated is None and name == "padding_share":
        own = padding(run)
        return own.share if own else None
    if stated is None and name == "peak_memory_bytes":
        return number(last(run, name)) or None
    return stated


def final_metrics(run: RunData) -> dict[str, dict[str, float]]:
    """Metrics of each split: of the result, or of its last evaluation while there is none."""
    splits: dict[str, dict[str, float]] = {}
    for record in run.evals:
        figures = {key: value for key, value in record.items() if key not in _EVAL_FACTS}
        splits[str(record.get("split"))] = _numbers(figures)
    final = run.result.get("final")
    for split, metrics in final.items() if isinstance(final, Mapping) else ():
        if isinstance(metrics, Mapping):
            splits[str(split)] = _numbers(metrics)
    # The test split answers the question, so it comes first.
    return dict(sorted(splits.items(), key=lambda item: (item[0] != "test", item[0])))


def baseline_metrics(run: RunData, splits: Iterable[str]) -> dict[str, dict[str, float]]:
    """`bag of words: test` -> figures of a simple model of the same rows, of these splits in their order."""
    found = run.result.get("baseline")
    baselines = found if isinstance(found, Mapping) else {}
    return {
        f"{str(name).replace('_', ' ')}: {split}": _numbers(of_splits[split])
        for split in splits
        for name, of_splits in baselines.items()
        if isinstance(of_splits, Mapping) and isinstance(of_splits.get(split), Mapping)
    }


def _numbers(figures: Mapping[str, object]) -> dict[str, float]:
    return {
        key: value
        for key, value in figures.items()
        if isinstance(value, (int, float)) and number(value) is not None
    }


_EVAL_FACTS = ("kind", "time", "step", "split", "seconds", "samples_per_second", "nonfinite")


def best(run: RunData) -> Best | None:
    """The best value so far: as the result states it, else searched in the evaluations."""
    stated = run.result.get("best")
    if isinstance(stated, Mapping):
        metric, value = stated.get("metric"), number(stated.get("value"))
        if metric and value is not None:
            step = stated.get("step", stated.get("update"))
            return Best(metric=str(metric), value=value, split=str(stated.get("split", "")), step=step)
    recipe = flat_recipe(run.recipe)
    name = recipe.get("best.metric") or recipe.get("best", "")
    found = [
        (value, record)
        for record in run.evals
        if record.get("split") != "test" and (value := number(record.get(name))) is not None
    ]
    if not found:
        return None
    value, record = (min if smaller_is_better(name) else max)(found, key=lambda pair: pair[0])
    return Best(metric=name, value=value, split=str(record.get("split", "")), step=step_of(record))


def smaller_is_better(name: str) -> bool:
    """Whether a figure of this name is an error."""
    of_class = name.startswith(("f1_", "precision_", "recall_"))  # a class may be called `error`
    return name == "loss" or ("error" in name and not of_class) or name in ("log_loss", "mse", "mae")


def kept_final(run: RunData) -> bool:
    """Whether the final weights are kept although an earlier evaluation had a better figure."""
    kept = run.result.get("kept")
    return isinstance(kept, Mapping) and kept.get("of") == "final" and kept.get("best_update") is not None


def compared(run: RunData) -> list[Compared]:
    """Every prediction that was recorded, with its measurement where there is one."""
    done, later = bool(run.result), corrected(run)
    lines = []
    for name, value in predicted(run).items():
        stated = later.seconds if later is not None and name == "train_seconds" else number(value)
        if stated is not None:
            figure = measured(run, str(name)) if done else None
            lines.append(Compared(name=str(name), predicted=stated, measured=figure))
    return lines


def planned_seconds(run: RunData) -> float | None:
    """Training time as the plan had it."""
    return number(predicted(run).get("train_seconds"))


def corrected(run: RunData) -> Corrected | None:
    """The first correction of the forecast; None where the plan's own stands."""
    for event in run.events:
        left, step = number(event.get("train_seconds_left")), number(event.get("step"))
        if event.get("event") != "forecast" or left is None or step is None:
            continue
        columns = run.updates.select(["step", "seconds"]).to_pydict()
        until = [
            seconds or 0.0
            for at, seconds in zip(columns["step"], columns["seconds"], strict=True)
            if at <= step
        ]
        return Corrected(step=int(step), seconds=sum(until) + left, why=clean(event.get("why") or ""))
    return None


def predicted(run: RunData) -> Mapping[str, object]:
    """What was predicted: listed in result or plan, else the choices that are named like measured figures."""
    for document, key in ((run.result, "predicted"), (run.plan, "predictions")):
        listed = document.get(key)
        if isinstance(listed, Mapping):
            return listed
    choices = {name: run.plan.get(name) for name in (*COSTS, "padding_share")}
    return {name: choice.get("prediction") for name, choice in choices.items() if isinstance(choice, Mapping)}


def plan_lines(run: RunData) -> list[PlanLine]:
    """The plan's choices in their order, whatever they are."""
    choices = run.plan.get("choices")
    choices = choices if isinstance(choices, Mapping) else run.plan
    lines = []
    for name, choice in choices.items():
        if name in _NOT_CHOICES or not isinstance(choice, Mapping) or "value" not in choice:
            continue
        stated = number(choice.get("prediction"))
        value = _value(str(name), choice["value"])
        prediction = "" if stated is None else show_unit(stated, choice.get("unit"))
        if prediction and (isinstance(choice["value"], Mapping) or stated == choice["value"]):
            value, prediction = prediction, ""  # the choice is the prediction; its parts are in the reason
        lines.append(
            PlanLine(
                name=clean(name),
                value=value,
                reason=clean(choice.get("reason") or ""),
                source=clean(choice.get("source") or ""),
                prediction="" if prediction == value else prediction,
            )
        )
    return lines


def _value(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{clean(key)} {show_number(item)}" for key, item in value.items())
    if name == "keep_fp32" and not value:
        return "by role"
    if isinstance(value, (list, tuple)):
        return ", ".join(show_number(item) for item in value)
    return show_measured(name, value)


def plan_warnings(run: RunData) -> list[str]:
    """The plan's warnings, one sentence each."""
    warnings = run.plan.get("warnings")
    if isinstance(warnings, Mapping):
        warnings = warnings.get("value")
    return [clean(line) for line in warnings] if isinstance(warnings, list) else []


def padding(run: RunData) -> Padding | None:
    """Real and computed tokens over all updates; None before the first update."""
    real = computed = 0.0
    for tokens, share in zip(column(run, "batch_tokens"), column(run, "padding_share"), strict=True):
        if tokens and share is not None and share < 1:
            real += tokens
            computed += tokens / (1 - share)
    if not computed:
        return None
    random = _found("padding_share_random", run.plan, run.environment, run.result)
    would_be = real / (1 - random) if random is not None and 0 <= random < 1 else None
    return Padding(real_tokens=real, computed_tokens=computed, random_tokens=would_be)


def _found(key: str, *documents: Mapping[str, object]) -> float | None:
    """A number of the facts that the plan was made from, wherever a run writes them down."""
    waiting: list[object] = list(documents)
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, Mapping):
            choice = node.get(key)
            value = number(choice.get("value") if isinstance(choice, Mapping) else choice)
            if value is not None:
                return value
            waiting.extend(node.values())
    return None


def padding_sentence(facts: Padding) -> str:
    """What packing saved, in one sentence."""
    own = f"{show_share(facts.share, 1)} of the computed tokens were padding."
    if facts.saved is None:
        return own
    random = 1 - facts.real_tokens / facts.random_tokens if facts.random_tokens else 0.0
    return f"{own} Random padded batches of 32 would have been {show_share(random)} padding."


def flat_environment(environment: Mapping[str, object]) -> list[tuple[str, str]]:
    """Environment facts as (name, value) lines; nested names are joined by a dot."""
    lines: list[tuple[str, str]] = []
    _flatten("", environment, lines)
    return lines


def _flatten(prefix: str, node: object, lines: list[tuple[str, str]]) -> None:
    if isinstance(node, Mapping):
        for key, value in node.items():
            _flatten(f"{prefix}.{key}" if prefix else str(key), value, lines)
    elif isinstance(node, (list, tuple)):
        lines.append((clean(prefix), ", ".join(clean(item) for item in node)))
    else:
        name = prefix.rsplit(".", 1)[-1]
        text = show_measured(name, node) if node is None or isinstance(node, (int, float)) else clean(node)
        # clean() also takes out the values of keys such as `api_key`, which only shows on the whole line.
        lines.append((clean(prefix), clean(f"{prefix}: {text}")[len(clean(prefix)) + 2 :]))


def metric_rows(metrics: Mapping[str, Mapping[str, float]]) -> list[tuple[str, str, list[str]]]:
    """(name, title, value of each split) lines of a metrics table, in the order of the first split."""
    names = dict.fromkeys(name for split in metrics.values() for name in split)
    columns = list(metrics.values())
    return [(name, title_of(name), [show_number(split.get(name)) for split in columns]) for name in names]


def event_details(event: Mapping[str, object]) -> str:
    """An event's further fields in one line."""
    known = ("kind", "time", "step", "event", "why", "did", "nonfinite", "details")
    pairs: Sequence[tuple[str, object]] = [(key, value) for key, value in event.items() if key not in known]
    return ", ".join(f"{clean(key)} {_detail(str(key), value)}" for key, value in pairs)


def _detail(key: str, value: object) -> str:
    """Identifiers are names, not amounts: no thousands separators."""
    if key.endswith(("_id", "_ids", "pid", "port")):
        return ", ".join(map(clean, value)) if isinstance(value, (list, tuple)) else clean(value)
    return _value(key, value)
