"""One offline `report.html` for a run: everything in one file, everything escaped, no scripts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from bigbatch.report import facts, figures, shapes
from bigbatch.report.contacts import contacts_view
from bigbatch.report.drawn import drawn_view
from bigbatch.report.graph import section_of
from bigbatch.report.noise import noise_section
from bigbatch.report.page import render, write_atomic
from bigbatch.report.quality import Example, SplitQuality, split_quality
from bigbatch.report.read import RunData, head_in, read_run
from bigbatch.report.recipes import flat_recipe
from bigbatch.report.scenes import scenes_view
from bigbatch.report.stages import stages_section
from bigbatch.report.talks import talks_view
from bigbatch.report.text import clean, shorten, show_measured, show_number, show_share, title_of
from bigbatch.report.texts import samples_view, texts_view
from bigbatch.units import show_bytes, show_seconds

_EVENTS_SHOWN = 100
_CLASSES_SHOWN = 25
_CONFUSED_SHOWN = 6
_EXAMPLES_SHOWN = 12
_MEMORY_SLACK = 0.02
"""By how much a run may need more memory than predicted before that is marked."""
_STATES = ("running", "finished", "interrupted", "failed")
_SOURCES = ("user", "default", "derived", "measured")


def write_report(run_dir: str | Path) -> Path:
    """Write `report.html` into a run directory; an older one is replaced in one step.

    Raises:
        UsageError: the directory holds no run.
    """
    run = replace(read_run(run_dir), path=Path(run_dir))
    path = run.path / "report.html"
    write_atomic(path, render_report(run))
    return path


def render_report(run: RunData) -> str:
    """The report as one HTML text; of a run with stages that of the last one, behind a table of all."""
    qualities = [
        split_quality(split, entry)
        for split, entry in sorted(run.evaluation.items(), key=lambda item: (item[0] != "test", item[0]))
        if isinstance(entry, Mapping)
    ]
    view = _learning(run) | _quality(run, qualities) | _plan(run) | _events(run) | _use(run)
    view |= texts_view(run.evaluation) | samples_view(run.path) | talks_view(run.path)
    view |= contacts_view(run.evaluation) | scenes_view(run.evaluation)
    view |= drawn_view(run.evaluation)
    view |= {
        "name": clean(run.name),
        "when": _when(run),
        "state": run.state if run.state in _STATES else "unknown",
        "verdict": _verdict(run),
        "lead": _lead(run),
        "tiles": _tiles(run),
        "problems": [clean(line) for line in run.problems],
        "recipe": clean(run.recipe),
        "graph": section_of(run.graph),
        "environment": facts.flat_environment(run.environment),
        **stages_section(run.path),
    }
    view["sections"] = _sections(view)
    return render("report.html.j2", view)


def _verdict(run: RunData) -> str:
    """What the run is worth, as its result says it: the first thing to read."""
    said = run.result.get("verdict")
    text = shorten(clean(said), 600) if isinstance(said, str) else ""
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _lead(run: RunData) -> str:
    """What was trained on what, in two or three short sentences."""
    recipe = flat_recipe(run.recipe)
    base = run.result.get("model")
    model = (
        base
        if isinstance(base, str) and base
        else recipe.get("model.name") or recipe.get("model") or "A model"
    )
    task = recipe.get("task.name") or recipe.get("task")
    model = shorten(clean(model.rstrip("/") if base else model.rstrip("/").rsplit("/", 1)[-1]), 120)
    unit = "samples" if recipe.get("batch.samples") not in (None, "", "null") else "tokens"
    amount = recipe.get(f"batch.{unit}") or recipe.get("batch")
    words = [f"{model}, trained to {clean(task)}." if task else f"{model}."]
    if amount:
        words.append(f"{show_number(_as_number(amount))} {unit} per update.")
    optimizer = recipe.get("optimizer.name")
    if optimizer:
        # The plan's, after the rules that rescale it with the batch.
        planned = run.plan.get("learning_rate")
        lr = (planned.get("value") if isinstance(planned, Mapping) else None) or recipe.get("optimizer.lr")
        rate = f", learning rate {show_number(_as_number(str(lr)))}" if lr else ""
        words.append(f"Optimiser {clean(optimizer)}{rate}.")
    return " ".join(words)


def _when(run: RunData) -> str:
    """The day of the newest record, empty when nothing was recorded yet."""
    times = [facts.last(run, "time"), *(record.get("time") for record in run.evals[-1:])]
    newest = max((str(time) for time in times if time), default="")
    try:
        day = datetime.fromisoformat(newest)
    except ValueError:
        return ""
    return f"{day.day} {day:%B %Y}"


def _as_number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _tile(name: str, figure: str, note: str = "", unit: str = "") -> dict[str, str]:
    return {"name": name, "figure": figure, "unit": unit, "note": note}


def _tiles(run: RunData) -> list[dict[str, str]]:
    """The headline numbers; a figure that is not known yet is left out."""
    tiles = []
    best = facts.best(run)
    if best:
        split, metric = clean(best.split or "validation"), best.metric
        after = f", after update {show_number(best.step)}" if best.step else ""
        after += "; the final weights are kept" if facts.kept_final(run) else ""
        name = f"Loss on {split}" if metric == "loss" else title_of(metric)
        tiles.append(_tile(name, show_number(best.value), f"best on {split}{after}"))
    metrics = facts.final_metrics(run)
    test = {} if not metrics else next(iter(metrics.values()))
    split = clean(next(iter(metrics), ""))
    # The loss says little to most readers: it comes only where there is nothing else to show.
    leading = [name for name in figures.leading_metrics(run, 5) if name in test and name != "loss"]
    for name in leading[: 2 if best else 3]:
        tiles.append(_tile(title_of(name), show_number(test[name]), f"on {split}"))
    if "loss" in test and len(tiles) < 3:
        tiles.append(_tile(f"Loss on {split}", show_number(test["loss"]), "at the end"))
    return tiles + _cost_tiles(run)


def _cost_tiles(run: RunData) -> list[dict[str, str]]:
    tiles = []
    updates, samples = run.updates.num_rows, facts.last(run, "samples")
    seconds = facts.train_seconds(run)
    if seconds is not None:
        note = f"{show_number(updates)} updates" + (f", {show_number(samples)} samples" if samples else "")
        tiles.append(_tile("Training time", show_seconds(seconds), note))
    rate, tokens = facts.per_second(run, "batch_samples"), facts.per_second(run, "batch_tokens")
    if rate is not None:
        tiles.append(_tile("Speed", show_number(rate), "training, without evaluation", "samples/s"))
    if tokens is not None:
        note = "real tokens, no padding counted"
        tiles.append(_tile("Throughput", show_number(round(tokens)), note, "tokens/s"))
    memory = facts.measured(run, "peak_memory_bytes")
    if memory:
        tiles.append(_tile("Peak memory", show_bytes(memory), "largest process"))
    padding = facts.padding(run)
    if padding is not None and padding.saved is not None:
        note = "of the tokens that random padded batches of 32 compute"
        tiles.append(_tile("Padding avoided", show_share(max(0.0, padding.saved)), note))
    elif padding is not None:
        tiles.append(_tile("Padding", show_share(padding.share, 1), "of computed tokens"))
    return tiles


def _learning(run: RunData) -> dict[str, object]:
    skipped = sum(1 for value in facts.column(run, "skipped") if value)
    caption = "Each update is one exact gradient of the whole batch: the curves do not depend on its split."
    if skipped:
        caption += f" {show_number(skipped)} {'update was' if skipped == 1 else 'updates were'} skipped."
    return {
        "learning_caption": caption,
        "loss_caption": "Dotted lines are events; they are listed below." if figures.event_marks(run) else "",
        "loss": figures.responsive(figures.loss_chart(run)),
        "training": figures.training_cards(run),
        "evaluations": figures.evaluation_cards(run),
        "noise": noise_section(run),
    }


def _quality(run: RunData, qualities: Sequence[SplitQuality]) -> dict[str, object]:
    metrics = facts.final_metrics(run)
    shown = {**metrics, **facts.baseline_metrics(run, metrics)}
    known = "test" in metrics or "test" in run.evaluation
    examples = next((quality.examples for quality in qualities if quality.examples), ())
    return {
        "quality_caption": "Measured on samples that training never saw."
        if known
        else "Measured on validation data; there is no test split yet.",
        "qualities": [_split_view(quality) for quality in qualities],
        "splits": [clean(split) for split in shown],
        "metric_rows": facts.metric_rows(shown),
        "examples": [_example_view(example) for example in examples[:_EXAMPLES_SHOWN]],
    }


def _example_view(example: Example) -> dict[str, object]:
    sure = example.probability
    return {
        "text": shorten(example.text, 600),
        "image": example.image,
        "where": shorten(example.where, 120),
        "label": shorten(example.label, 80),
        "predicted": shorten(example.predicted, 80),
        "probability": sure,
        "share": "" if sure is None else show_share(sure, 1),
    }


def _split_view(quality: SplitQuality) -> dict[str, object]:
    shown = quality.classes
    note = ""
    if len(shown) > _CLASSES_SHOWN:
        shown = sorted(shown, key=lambda line: -1.0 if line.f1 is None else line.f1)[:_CLASSES_SHOWN]
        note = f"The {_CLASSES_SHOWN} weakest of {len(quality.classes)} classes."
    return {
        "split": clean(quality.split),
        "confusion_figure": figures.confusion_figure(quality),
        "reliability_figure": figures.reliability_figure(quality),
        "classes_note": note,
        "classes": [
            {
                "label": shorten(line.label, 60),
                "samples": show_number(line.samples),
                "precision": show_number(line.precision),
                "recall": show_number(line.recall),
                "f1": show_number(line.f1),
                "bar": shapes.meter(line.f1 or 0.0),
            }
            for line in shown
        ],
        "confused": [
            {
                "label": shorten(pair.label, 40),
                "predicted": shorten(pair.predicted, 40),
                "samples": show_number(pair.samples),
                "share": show_share(pair.share),
            }
            for pair in quality.confused[:_CONFUSED_SHOWN]
        ],
    }


def _plan(run: RunData) -> dict[str, object]:
    padding = facts.padding(run)
    compared = facts.compared(run)
    done = any(line.measured is not None for line in compared)
    return {
        "compared": [_compared_view(line) for line in compared],
        "compared_caption": " ".join(
            [
                "The plan said so before the first update.",
                *_corrected_sentence(run),
                "Error is predicted minus measured."
                if done
                else "The measurement follows when the run has finished.",
            ]
        ),
        "padding_figure": figures.padding_figure(padding) if padding else None,
        "padding_sentence": facts.padding_sentence(padding) if padding else "",
        "choices": [
            {
                "name": line.name,
                "value": line.value,
                "reason": line.reason,
                "source": line.source,
                "prediction": line.prediction,
                "badge": line.source if line.source in _SOURCES else "",
            }
            for line in facts.plan_lines(run)
        ],
        "warnings": facts.plan_warnings(run),
        "audit": _audit(run),
    }


def _audit(run: RunData) -> dict[str, object] | None:
    """The precision audit as a table; None in fp32."""
    blocks = run.audit.get("blocks")
    if not isinstance(blocks, list):
        return None
    scale = facts.number(run.audit.get("loss_scale"))
    told = f"{clean(run.audit.get('format'))} against fp32 on {show_number(run.audit.get('samples'))} real samples"
    scaled = f", gradients at a loss scale of {show_number(scale)}" if scale and scale != 1 else ""
    return {
        "caption": f"{told}{scaled}. Measured before the first update.",
        "verdict": clean(run.audit.get("verdict") or ""),
        "blocks": [_audit_view(block) for block in blocks if isinstance(block, Mapping)],
    }


def _audit_view(block: Mapping[str, object]) -> dict[str, object]:
    def share(name: str) -> str:
        value = facts.number(block.get(name))
        return "–" if value is None else show_share(value, 2)

    return {
        "name": shorten(clean(block.get("block")), 60),
        "format": clean(block.get("format")),
        "numbers": [
            share(name)
            for name in (
                "forward_error",
                "gradient_error",
                "overflow_share",
                "gradient_underflow_share",
                "unmoved_share",
            )
        ],
        "verdict": shorten(clean(block.get("verdict")), 300),
    }


def _corrected_sentence(run: RunData) -> list[str]:
    later, said = facts.corrected(run), facts.planned_seconds(run)
    if later is None or said is None:
        return []
    return [
        f"Training time alone is as it was corrected after update {later.step:,} ({later.why}); the plan had said "
        f"{show_measured('train_seconds', said)}."
    ]


def _compared_view(line: facts.Compared) -> dict[str, object]:
    longest = max(abs(line.predicted), abs(line.measured or 0.0)) or 1.0
    error = line.error
    grade = "" if error is None else "good" if abs(error) <= 0.1 else "" if abs(error) <= 0.25 else "warn"
    # More memory than was said is what ends runs; less only leaves some of it unused.
    if line.name == "peak_memory_bytes" and error is not None and error < -_MEMORY_SLACK:
        grade = "warn"
    return {
        "title": title_of(line.name),
        "predicted": show_measured(line.name, line.predicted),
        "measured": "" if line.measured is None else show_measured(line.name, line.measured),
        "predicted_bar": shapes.meter(line.predicted / longest, tone=8),
        "measured_bar": shapes.meter((line.measured or 0.0) / longest, tone=1),
        "error": "" if error is None else f"{100 * error:+.0f} %".replace("-", "−"),
        "grade": grade,
    }


def _events(run: RunData) -> dict[str, object]:
    shown = run.events[:_EVENTS_SHOWN]
    left = len(run.events) - len(shown)
    return {
        "events": [
            {
                "when": f"{clean(event.get('time', ''))[11:19]} · {_after(event.get('step'))}",
                "name": clean(event.get("event", "event")).replace("_", " "),
                "why": shorten(clean(event.get("why", "")), 500),
                "did": shorten(clean(event.get("did", "")), 500),
                "details": shorten(facts.event_details(event), 300),
            }
            for event in shown
        ],
        "events_left": f"{show_number(left)} more are in metrics.jsonl." if left > 0 else "",
    }


def _after(step: object) -> str:
    return f"update {show_number(step)}" if step else "start"


def _use(run: RunData) -> dict[str, object]:
    """How to use the model folder; left out while there is none."""
    run_folder = str(run.path)
    folder = str(run.path / "model")
    head = head_in(run.path / "model")
    auto, reader, name = head.auto, *head.reader
    return {
        "has_model": (run.path / "model").is_dir() or run.state == "finished",
        "use_shell": clean(
            f"bigbatch predict {shlex.quote(run_folder)} new.csv --out predictions.jsonl\n"
            f"bigbatch evaluate {shlex.quote(run_folder)} test.csv"
        ),
        "use_python": clean(
            f"from transformers import {auto}, {reader}\n\n"
            f"model = {auto}.from_pretrained({folder!r})\n"
            f"{name} = {reader}.from_pretrained({folder!r})"
        ),
    }


def _sections(view: Mapping[str, object]) -> list[tuple[str, str]]:
    """The page's contents: sections that have something to say."""
    known = (
        ("stages", "Stages", view["stages"]),
        ("learning", "Learning", True),
        ("quality", "Quality", view["metric_rows"] or view["qualities"]),
        ("mistakes", "Mistakes", view["examples"]),
        ("scenes", "Boxes", view["scenes"]),
        ("drawn", "Drawn", view["drawn"]),
        ("contacts", "Contacts", view["contact_maps"]),
        ("texts", "Texts", view["texts"]),
        ("samples", "Samples", view["sample_rows"]),
        ("conversations", "Conversations", view["talks"]),
        ("plan", "Plan", True),
        ("graph", "Graph", view["graph"]),
        ("events", "Events", True),
        ("use", "Use the model", view["has_model"]),
        ("details", "To repeat it", True),
    )
    return [(key, words) for key, words, there in known if there]
