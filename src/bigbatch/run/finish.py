"""After the last update: best weights, final evaluation, model folder, result.json. Repeatable after a kill."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace

import numpy as np
from torch import nn

from bigbatch.build.graph import analyse_parts
from bigbatch.build.noise import obstacle
from bigbatch.build.noise import result as noise_result
from bigbatch.build.parts import Parts
from bigbatch.data.augment import IMAGE
from bigbatch.data.pixels import thumbnail
from bigbatch.data.tables import DataTable
from bigbatch.graph.compiled import compilations
from bigbatch.infer.draw import grid_of
from bigbatch.infer.evaluate import EvalResult, Example
from bigbatch.metrics.entities import PIECE
from bigbatch.metrics.watched import figure_of, gate_splits, larger_is_better
from bigbatch.model.export import save_model
from bigbatch.records import Event, Record
from bigbatch.run.about import base_name
from bigbatch.run.adapters import base_of
from bigbatch.run.baseline.kept import kept_or_fitted
from bigbatch.run.between import Between
from bigbatch.run.card import model_card
from bigbatch.run.choice import Kept, choose, needs_final_scores
from bigbatch.run.drawn import scene_facts
from bigbatch.run.excerpt import marked
from bigbatch.run.verdict import run_verdict
from bigbatch.samples import Table
from bigbatch.store.directory import RunDirectory
from bigbatch.store.progress import Progress
from bigbatch.tasks.diffuse import Diffuse

SHOWN_EXAMPLES = 20
DRAWN_EACH, DRAWN_PIXELS = 8, 640
"""Images of each class that a model of images draws, and pixels of the longer side of them all."""
SHOWN_LETTERS = 1000
"""Of a text that was written, of its source and of its target."""
SHOWN_WORDS = 12
"""Words of a sentence that are shown before and behind a mistake."""
LONG_ENOUGH_SECONDS = 60.0
"""Training that took less is not analysed on its own: tracing takes about a second."""
Figures = Mapping[str, Mapping[str, float | None]]
"""Split -> name -> loss or metric; None where the figure does not exist."""


def finish(parts: Parts, directory: RunDirectory, between: Between) -> Iterator[Record]:
    """Evaluate and export the kept weights, and write the final files; status.json is the caller's.

    Args:
        parts: of the run.
        directory: where the model and the files go.
        between: knows the results of the last evaluation, and evaluates what is missing.

    Yields:
        An event when the weights are not the latest ones, and the evaluation of the test split.
    """
    progress = between.progress
    parts.strategy.settle()
    if needs_final_scores(parts, progress):
        split = parts.evaluated_with(figure_of(parts.best_metric or "loss", parts.judged)[0])
        if split not in between.results:  # after a kill
            between.evaluate_split(split)
    kept = choose(parts, progress, between.results)
    # All ranks have the same scores; that they decide alike must not hang on the last bit of a logarithm.
    kept = Kept(**between.world.share(asdict(kept)))
    # The newest checkpoint may still be on its way to the disk, and whole weights are read from it.
    between.keeper.flush()
    trouble = between.keeper.load_earlier(kept.update) if kept.of == "best" else None
    restored = kept.of == "best" and trouble is None
    if trouble:
        kept = replace(kept, update=progress.update, of="final", why=trouble)
    if kept.best_update is not None:
        yield between.emit(_weights_event(progress, kept, trouble))
    late, between.texts.due = between.texts.late, True
    for split in parts.validation:
        # After a kill, or with other weights than the latest, the details have to be computed again.
        if restored or split not in between.results or late:
            between.evaluate_split(split)
    yield from map(between.emit, between.texts.samples(progress.update) if late else ())
    if "test" in parts.tables:
        yield from map(between.emit, between.evaluate_split("test"))
    yield from between.failures_beside()
    final = {split: dict(figures) for split, figures in progress.figures.items()}
    world = between.world
    yield from _written(parts, directory, between, final, kept) if directory.writes else ()
    # Nobody reads the result before it is there.
    world.barrier()


def _written(
    parts: Parts, directory: RunDirectory, between: Between, final: Figures, kept: Kept
) -> Iterator[Record]:
    """Rank 0 writes the model and the final files."""
    found = kept_or_fitted(parts, directory)
    base = base_name(parts)
    said = run_verdict(parts, between, final, found)
    base_model = base_of(parts)
    about = {"base": base, "verdict": said, "kept": kept.why}
    adapters = base_model is not None
    card = model_card(parts, final, between.progress, **about, baselines=found.figures, adapters=adapters)
    # No rank holds all of a divided model; its checkpoint does.
    stored = between.keeper.stored_weights() if between.world.divides else None
    files = parts.task.files(parts.module)
    save_model(
        parts.module, parts.model.tokenizer, directory.model, card, stored, files=files, base=base_model
    )
    directory.write_json(
        directory.evaluation, evaluation_file(parts, between.results, divided=between.world.divides)
    )
    if stored is None:  # the analysis runs the model, which takes every rank of a divided one
        yield from _keep_analysis(parts, directory, between)
    # A report of an earlier moment would otherwise pass for this result's after a kill.
    directory.report.unlink(missing_ok=True)
    directory.write_json(
        directory.result,
        {
            **_signatures(between.results),
            **result_file(parts, between, final, kept),
            "model": base,
            "baseline": found.figures,
            "verdict": said,
        },
    )


def _weights_event(progress: Progress, kept: Kept, trouble: str | None) -> Event:
    """Where an earlier evaluation was better than the final one: which weights are kept all the same."""
    best = progress.best
    assert best is not None
    did = "keeps the final weights"
    if kept.of == "best":
        did = f"keeps the weights of update {kept.update}"
    elif trouble:
        did = "keeps the latest weights"
    return Event(
        step=progress.update,
        event="best_weights" if kept.of == "best" or trouble else "final_weights",
        why=kept.why,
        did=did,
        details={"step": best.step, "metric": best.metric, "value": best.value, "p": kept.p},
    )


def result_file(parts: Parts, between: Between, final: Figures, kept: Kept) -> dict[str, object]:
    """Contents of result.json.

    Args:
        parts: of the run.
        between: knows why it ended.
        final: split -> figure -> value, of the kept weights.
        kept: which those are.
    """
    progress = between.progress
    best = progress.best
    return {
        "exit_reason": "gate_missed" if missed_gates(parts, final) else between.exit_reason,
        "updates": progress.update,
        "samples": progress.position,
        "tokens": progress.tokens,
        "best": None if best is None else {"metric": best.metric, "value": best.value, "step": best.step},
        "kept": asdict(kept),
        "final": {split: _finite(figures) for split, figures in final.items()},
        "train_seconds": progress.train_seconds,
        "evaluate_seconds": progress.evaluate_seconds,
        "inference_samples_per_second": progress.evaluated_samples / max(progress.evaluate_seconds, 1e-9),
        "real_tokens_per_second": progress.tokens / max(progress.train_seconds, 1e-9),
        "padding_share": 1 - progress.tokens / max(progress.computed_tokens, 1),
        "peak_memory_bytes": progress.peak_memory_bytes,
        **_recompilations(parts),
        "noise_scale": noise_result(progress.noise, obstacle(parts.recipe, parts.task)),
        "missed_gates": missed_gates(parts, final),
        "predicted": parts.plan.predictions(),
    }


def _signatures(results: Mapping[str, EvalResult]) -> dict[str, object]:
    """How figures of texts were counted, in sacrebleu's words."""
    found = {name: words for result in results.values() for name, words in result.signatures.items()}
    return {"signatures": found} if found else {}


def _recompilations(parts: Parts) -> dict[str, int]:
    if not parts.forward.compiled:
        return {}
    return {"recompilations": compilations() - parts.graphs_compiled}


def _finite(figures: Mapping[str, float | None]) -> dict[str, float | None]:
    return {
        name: value if value is not None and math.isfinite(value) else None for name, value in figures.items()
    }


def missed_gates(parts: Parts, final: Figures) -> list[str]:
    """Gates below (or, for errors and losses, above) their bar, each as a sentence."""
    missed = []
    splits = gate_splits(final)
    for name, bar in parts.recipe.gate.items():
        split, metric = figure_of(name, splits)
        value = final[split].get(metric)
        larger = larger_is_better(metric, parts.metrics)
        if value is None or not (value >= bar if larger else value <= bar):
            relation = "at least" if larger else "at most"
            missed.append(f"gate missed: {split} {metric} is {value}, expected {relation} {bar:g}")
    return missed


def evaluation_file(
    parts: Parts, results: Mapping[str, EvalResult], *, divided: bool = False
) -> dict[str, dict[str, object]]:
    """Contents of evaluation.json: what the report draws beyond single figures.

    Args:
        parts: of the run.
        results: split -> what its last evaluation found.
        divided: whether each rank holds a part of the model, so that none can draw with it alone.
    """
    found = {split: _details(parts, split, result) for split, result in results.items()}
    if isinstance(parts.task, Diffuse) and not divided:  # of a divided model each rank has a part
        for details in [*found.values()][:1]:
            details["drawn"] = _drawn(parts.module, parts.task)
    return found


def _drawn(module: nn.Module, task: Diffuse) -> dict[str, object]:
    """A picture of what the model draws, a row a class."""
    pixels = grid_of(module, task, DRAWN_EACH, seed=0)
    by = f"{task.steps} steps of Heun's method, guidance {task.guidance:g}"
    return {"image": thumbnail(pixels, DRAWN_PIXELS), "labels": list(task.label_names), "by": by}


def _details(parts: Parts, split: str, result: EvalResult) -> dict[str, object]:
    rows = parts.rows[split]
    return {
        "labels": list(parts.task.label_names),
        "confusion": None if result.confusion is None else result.confusion.tolist(),
        "calibration": list(result.calibration or ()),
        "examples": [
            {
                "text": _text_of(rows, example, parts.tables[split]),
                **_picture_of(example, parts.tables[split]),
                "where": rows.where(example.row),
                "label": example.label,
                "predicted": example.predicted,
                "probability": example.probability,
            }
            for example in result.examples[:SHOWN_EXAMPLES]
        ],
        "contacts": [{**asdict(each), "where": rows.where(each.row)} for each in result.contacts],
        "scenes": [
            scene_facts(
                scene,
                np.asarray(parts.tables[split][IMAGE].columns["pixels"][scene.row]),
                parts.task.label_names,
                rows.where(scene.row),
            )
            for scene in result.scenes
        ],
        "texts": [
            {
                "source": _column(rows, "source", text.row),
                "wanted": text.wanted[:SHOWN_LETTERS],
                "written": text.written[:SHOWN_LETTERS],
                "score": text.score,
                "by": text.by,
                "place": text.place,
                "where": rows.where(text.row),
            }
            for text in result.texts[:SHOWN_EXAMPLES]
        ],
    }


def _text_of(rows: DataTable, example: Example, table: Table) -> str:
    """The text of a row, shortened; of a sentence, the words around the one that is meant, which stands in brackets."""
    names = rows.rows.column_names
    if "words" in names:
        words, word = rows.rows.column("words")[example.row].as_py(), _word_of(example, table)
        words[word] = f"[{words[word]}]"
        return " ".join(words[max(0, word - SHOWN_WORDS) : word + SHOWN_WORDS + 1])[:500]
    if {"question", "context", "answers"} <= set(names):
        row = {
            name: rows.rows.column(name)[example.row].as_py() for name in ("question", "context", "answers")
        }
        return marked(row["question"], row["context"], row["answers"], (example.unit, str(example.predicted)))
    if "text" not in names:
        return ""
    return str(rows.rows.column("text")[example.row].as_py())[:500]


def _column(rows: DataTable, name: str, row: int) -> str:
    """The text of a column; empty where rows are token ids."""
    if name not in rows.rows.column_names:
        return ""
    return str(rows.rows.column(name)[row].as_py())[:SHOWN_LETTERS]


def _picture_of(example: Example, table: Table) -> dict[str, str]:
    """Of a row that is an image, a small picture."""
    if IMAGE not in table.streams:
        return {}
    return {"image": thumbnail(np.asarray(table[IMAGE].columns["pixels"][example.row]))}


def _word_of(example: Example, table: Table) -> int:
    """Number of the word in its sentence that a unit belongs to; a word may have several units."""
    if PIECE not in table.extras:
        return example.unit
    first = int(table.unit_offsets[example.row])
    further_U = np.asarray(table.extras[PIECE][first : first + example.unit + 1])
    return int((further_U == 0).sum()) - 1


def _keep_analysis(parts: Parts, directory: RunDirectory, between: Between) -> Iterator[Record]:
    """Write `RUN/graph.json` at the end of a long run, for the report; a failure is an event, not the run's.

    At the end, because a start should be short, and because the weights do not matter to it.
    """
    if between.progress.train_seconds < LONG_ENOUGH_SECONDS or directory.graph.exists():
        return
    try:
        found = analyse_parts(parts)
    except Exception as error:
        first = str(error).partition("\n")[0]
        yield between.emit(
            Event(
                step=between.progress.update,
                event="graph_not_analysed",
                why=f"{type(error).__name__}: {first}",
                did="the report comes without that section",
            )
        )
        return
    directory.write_json(directory.graph, found.to_json())
