"""What the page shows of the runs that were chosen: charts, tiles, tables; and the same figures as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bigbatch.protocols import Json
from bigbatch.report.compare import Row
from bigbatch.report.facts import event_details, number, smaller_is_better
from bigbatch.report.recipes import differing_keys, flat_recipe
from bigbatch.report.text import clean, shorten, show_measured, show_number, show_share, title_of
from bigbatch.rules.headline import in_order
from bigbatch.units import show_bytes, show_seconds
from bigbatch.watch.charts import Seen, cards, chosen, is_routine, large, metrics_of
from bigbatch.watch.curves import Curve
from bigbatch.watch.observed import Observed

_EVENTS_SHOWN = 60
_SETTINGS_SHOWN = 40
_RANKS_SHOWN = 64
_PREDICTED = ("train_seconds", "evaluate_seconds", "peak_memory_bytes", "padding_share")


def view(runs: Sequence[Seen]) -> dict[str, object]:
    """What the template of the runs shows."""
    return {
        "runs": [{"name": clean(seen.name), "tone": seen.tone, **_about(seen.run)} for seen in runs],
        "charts": large(runs) + cards(runs),
        "rows": _rows(runs) if len(runs) > 1 else [],
        "settings": _settings(runs) if len(runs) > 1 else [],
    }


def as_json(seen: Seen) -> dict[str, Json]:
    """One run's figures, for programs: the newest of each, and its curves as [samples, value] pairs."""
    run = seen.run
    journal = run.journal
    return {
        "name": clean(seen.name),
        "state": run.state,
        "update": _step(journal.last),
        "updates": run.updates,
        "samples": journal.samples,
        "quiet_seconds": round(run.quiet_seconds, 1),
        "left_bytes": run.left_bytes,
        "last": {name: curve.last for name, curve in journal.updates.items()},
        "curves": {name: _pairs(curve) for name, curve in journal.updates.items()},
        "evaluations": {
            split: {name: _pairs(curve) for name, curve in curves.items()}
            for split, curves in journal.evaluations.items()
        },
        "ranks": [
            {"rank": one.rank, "host": one.host, "update": one.update, "phase": one.phase,
             "age_seconds": round(one.age_seconds, 1)} for one in run.ranks
        ],
        "predicted": {name: [predicted, measured] for name, predicted, measured in _predictions(run)},
        "events": [
            {"step": _step(event), "event": str(event.get("event")), "why": str(event.get("why", "")),
             "did": str(event.get("did", ""))} for _, event in journal.events
        ],
        "problems": list(run.problems),
    }  # fmt: skip


def _pairs(curve: Curve) -> Json:
    return [[x, y] for x, y in curve.means()]


# ---------------------------------------------------------------- a run's figures


def _about(run: Observed) -> dict[str, object]:
    journal, last = run.journal, run.journal.last
    done, planned = _step(last), run.updates
    return {
        "state": run.state,
        "quiet": show_seconds(run.quiet_seconds) if run.state in ("silent", "running") else "",
        "part": f"{min(1.0, done / planned):.4f}" if planned else "",
        "progress": f"update {show_number(done)}" + (f" of {show_number(planned)}" if planned else ""),
        "tiles": _tiles(run),
        "ranks": [
            {"rank": str(one.rank), "host": shorten(clean(one.host), 60), "update": show_number(one.update),
             "phase": clean(one.phase), "age": show_seconds(one.age_seconds), "late": one.age_seconds > 20
             and run.state == "running" and one.phase != "ended"} for one in run.ranks[:_RANKS_SHOWN]
        ],
        "compared": [_compared(*line) for line in _predictions(run)],
        "events": [_event(event) for _, event in reversed(journal.events) if not is_routine(event)][
            :_EVENTS_SHOWN
        ],
        "event_count": show_number(journal.event_count),
        "left": show_bytes(run.left_bytes) if run.left_bytes > 2**16 else "",
        "problems": [shorten(clean(line), 300) for line in run.problems],
    }  # fmt: skip


def _tiles(run: Observed) -> list[tuple[str, str, str]]:
    """(name, figure, note)"""
    journal = run.journal
    last = {name: curve.last for name, curve in journal.updates.items()}
    tiles = []
    if (judged := chosen(run)) is not None:
        split, name, curve = judged
        best = (min if smaller_is_better(name) else max)(y for _, y in curve.extremes())
        tiles.append(
            (f"{title_of(name)}, {clean(split)}", show_number(curve.last), f"best {show_number(best)}")
        )
    if last.get("loss") is not None:
        tiles.append(("Loss", show_number(last["loss"]), f"learning rate {show_number(last.get('lr'))}"))
    left = _left_seconds(run)
    if left is not None and run.state == "running":
        tiles.append(("Left", show_seconds(left), "training alone, at the pace so far"))
    elif (spent := _spent_seconds(run)) is not None:
        tiles.append(("Trained for", show_seconds(spent), f"{show_number(journal.samples)} samples"))
    if (speed := last.get("tokens_per_second")) is not None:
        waits = show_share(last.get("wait_share") or 0.0, 1)
        tiles.append(("Real tokens/s", show_number(speed), f"{waits} of the update waited for data"))
    if journal.noise:
        scale, low, high = (number(journal.noise.get(f"noise_scale{end}")) for end in ("", "_low", "_high"))
        band = "" if low is None else f", 95 %: {show_number(round(low))} to " + (
            "–" if high is None else show_number(round(high)))  # fmt: skip
        value = "beyond measure" if scale is None else show_number(round(scale))
        tiles.append(
            ("Noise scale", value, f"samples; the batch is {show_number(last.get('batch_samples'))}{band}")
        )
    return tiles


def _spent_seconds(run: Observed) -> float | None:
    stated = number(run.documents.get("result", {}).get("train_seconds"))
    curve = run.journal.updates.get("seconds")
    return stated if stated is not None else curve.total if curve else None


def _left_seconds(run: Observed) -> float | None:
    curve, planned, done = run.journal.updates.get("seconds"), run.updates, _step(run.journal.last)
    if curve is None or planned is None or run.left_bytes:
        return None
    recent = curve.means()[-20:]
    return max(0, planned - done) * sum(value for _, value in recent) / len(recent)


def _predictions(run: Observed) -> list[tuple[str, float, float | None]]:
    """(name, predicted, measured: so far, or as it is going to be)."""
    result, plan = run.documents.get("result", {}), run.documents.get("plan", {})
    said = result.get("predicted")
    lines: list[tuple[str, float, float | None]] = []
    for name in _PREDICTED:
        choice = plan.get(name)
        stated = said.get(name) if isinstance(said, Mapping) else None
        stated = choice.get("prediction") if stated is None and isinstance(choice, Mapping) else stated
        if (predicted := number(stated)) is not None:
            lines.append((name, predicted, _measured(run, name)))
    return lines


def _measured(run: Observed, name: str) -> float | None:
    stated = number(run.documents.get("result", {}).get(name))
    if stated is not None:
        return stated
    curves = run.journal.updates
    if name == "train_seconds":
        spent, left = _spent_seconds(run), _left_seconds(run)
        return spent + left if spent is not None and left is not None else spent
    if name == "evaluate_seconds":
        spent = [each["seconds"].total for each in run.journal.evaluations.values() if "seconds" in each]
        return sum(spent) if spent and run.state == "finished" else None
    if name == "padding_share":
        curve = curves.get(name)
        return curve.total / curve.count if curve else None
    curve = curves.get(name)
    return max(y for _, y in curve.extremes()) if curve else None


def _compared(name: str, predicted: float, measured: float | None) -> dict[str, str]:
    error = (predicted - measured) / measured if measured else None
    return {
        "title": title_of(name),
        "predicted": show_measured(name, predicted),
        "measured": "–" if measured is None else show_measured(name, measured),
        "error": "" if error is None else f"{100 * error:+.0f} %".replace("-", "−"),
        "grade": ""
        if error is None
        else "good"
        if abs(error) <= 0.1
        else ""
        if abs(error) <= 0.25
        else "warn",
    }


def _event(event: Mapping[str, object]) -> dict[str, str]:
    step = _step(event)
    return {
        "when": f"{clean(event.get('time', ''))[11:19]} · {f'update {show_number(step)}' if step else 'start'}",
        "name": clean(event.get("event", "event")).replace("_", " ")[:80],
        "why": shorten(clean(event.get("why", "")), 400),
        "did": shorten(clean(event.get("did", "")), 400),
        "details": shorten(event_details(event), 240),
    }


def _step(record: Mapping[str, object]) -> int:
    step = record.get("step")
    return step if isinstance(step, int) else 0


# ---------------------------------------------------------------- side by side


def _rows(runs: Sequence[Seen]) -> list[Row]:
    """Name and each run's value; rows that no run has are left out."""
    lists = [dict(_figures(seen.run)) for seen in runs]
    names = list(dict.fromkeys(name for one in lists for name in one))
    return [Row(name=name, values=tuple(one.get(name, "–") for one in lists)) for name in names]


def _figures(run: Observed) -> list[tuple[str, str]]:
    journal, last = run.journal, {name: curve.last for name, curve in run.journal.updates.items()}
    found = [("state", run.state), ("update", show_number(_step(journal.last)))]
    found.append(("samples", show_number(journal.samples)))
    found += [
        (name, show_number(last[key]))
        for name, key in (("loss", "loss"), ("learning rate", "lr"))
        if key in last
    ]
    for split, curves in list(journal.evaluations.items())[:4]:
        names = in_order(metrics_of(curves))[:6]
        found += [(f"{clean(split)} {clean(name)}", show_number(curves[name].last)) for name in names]
    if "noise_scale" in last:
        found.append(("noise scale", show_number(last["noise_scale"])))
    if (spent := _spent_seconds(run)) is not None:
        found.append(("training time", show_seconds(spent)))
    if "tokens_per_second" in last:
        found.append(("real tokens/s", show_number(last["tokens_per_second"])))
    if (memory := _measured(run, "peak_memory_bytes")) is not None:
        found.append(("peak memory", show_bytes(memory)))
    return found


def _settings(runs: Sequence[Seen]) -> list[Row]:
    recipes = [flat_recipe(seen.run.recipe) for seen in runs]
    keys = [key for key in differing_keys(recipes) if key != "run.dir"]
    return [
        Row(name=clean(key), values=tuple(_setting(key, one.get(key)) for one in recipes))
        for key in keys[:_SETTINGS_SHOWN]
    ]


def _setting(key: str, value: str | None) -> str:
    return "–" if value is None else shorten(clean(f"{key}: {value}")[len(clean(key)) + 2 :], 120)
