"""The first recipe: what `bigbatch init` writes, with the reason for every choice in a comment behind it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

from bigbatch.errors import DataError, Problem, UsageError
from bigbatch.recipe.findings import Findings, FirstChoices
from bigbatch.recipe.inputs import held_out_of
from bigbatch.recipe.model_facts import ModelChoice
from bigbatch.recipe.starter_model import check_trainable, language_words, model_words, usual_model
from bigbatch.recipe.starter_task import (
    STRATIFIED,
    best_lines,
    columns_of_task,
    length_lines,
    loss_lines,
    picked_task,
)
from bigbatch.recipe.values import AUTO_WARMUP
from bigbatch.recipe.yaml12 import inline_yaml
from bigbatch.remote.addresses import is_address, unsigned
from bigbatch.written import as_named, open_new, replace_text

VALIDATION_SHARE = 0.1
LONG = 4.0
"""Epochs from which on an evaluation an epoch is often enough to see a plateau."""
_SHOWN_CLASSES = 12
_SPLITS = (("test", r"test"), ("validation", r"val(id(ation)?)?|dev"))


class Profile(Protocol):
    """What `bigbatch.data.guess.profile` knows; a room above this one, so only its shape is named here."""

    @property
    def files(self) -> tuple[str, ...]: ...
    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> Mapping[str, str]: ...
    @property
    def all_columns(self) -> tuple[str, ...]: ...
    @property
    def kind(self) -> Literal["single", "multi", "regression", "tags", "classes"]: ...
    @property
    def encoding(self) -> str: ...
    @property
    def language(self) -> str: ...
    @property
    def class_counts(self) -> Mapping[str, int]: ...
    @property
    def words(self) -> Mapping[str, float]: ...
    @property
    def empty_texts(self) -> int: ...
    @property
    def missing_labels(self) -> int: ...
    @property
    def warnings(self) -> tuple[str, ...]: ...
    @property
    def running(self) -> float | None: ...


_TEXTS = ("words", "sequence", "query", "prompt", "source", "context", "text", "messages", "instruction")
"""Roles whose column holds the text, the first that there is."""


def write_starter(
    out: Path,
    profile: Profile,
    *,
    files: Sequence[str | os.PathLike[str]] | None = None,
    model: ModelChoice | None = None,
    force: bool = False,
    first: Callable[[int, int, bool], FirstChoices] | None = None,
    pretrain: Profile | None = None,
) -> list[str]:
    """Write the first recipe, and say what was found, in lines for people.

    Args:
        out: where the recipe goes.
        profile: what the training files look like.
        files: all files as the user typed them, those of other splits included; None takes the profile's.
        model: the model to train; None picks one for the language.
        force: overwrite an existing file.
        first: what `auto` stands for, from training rows, validation rows and whether the task couples samples.
        pretrain: text without labels that is learnt first, in a stage of its own.

    Raises:
        DataError: no text column was found.
        UsageError: the file exists, or cannot be written.
    """
    columns = profile.columns
    talks = bool({"messages", "completion", "output"} & columns.keys())
    found = Findings(
        files=tuple(os.fspath(file) for file in files) if files is not None else profile.files,
        out=out,
        text=next(
            (columns[role] for role in _TEXTS if role in columns),
            None,
        ),
        image=columns.get("image"),
        boxes=columns.get("boxes"),
        pair=columns.get("pair"),
        document=columns.get("document", columns.get("target")),
        writes="source" in columns,
        negative=columns.get("negative"),
        parts={part: column for part, column in columns.items() if talks and part != "id"},
        question=columns.get("question"),
        answers=columns.get("answers"),
        unanswerable=profile.missing_labels if "answers" in columns else 0,
        structure=columns.get("structure"),
        events={role: column for role, column in columns.items() if "item" in columns and role != "id"},
        chosen=columns.get("chosen"),
        rejected=columns.get("rejected"),
        label=columns.get("tags", columns.get("classes", columns.get("label"))),
        id=profile.columns.get("id") if pretrain is None else None,
        kind=profile.kind,
        rows=profile.rows,
        class_counts=profile.class_counts,
        lengths=profile.words,
        language=None if profile.language == "unknown" else profile.language,
        model=None if model is None else model.name,
        known=None if model is None else model.known,
        model_why="" if model is None else model.why,
        running=profile.running,
        encoding=profile.encoding,
        quoting=getattr(profile, "quoting", "minimal"),
        empty_texts=profile.empty_texts,
    )
    _need_columns(found, profile)
    check_trainable(found.known, picked_task(found).name)
    if first is not None:
        training, held_out = _rows(found)
        found = replace(found, first=first(training, held_out, picked_task(found).name == "match"))
    text = starter_recipe(found) + ("" if pretrain is None else _stages(found, pretrain))
    try:
        if force:
            replace_text(as_named(out), text)
        else:
            with open_new(as_named(out)) as file:
                file.write(text.encode())
    except FileExistsError:
        raise UsageError(f"{out} exists; give another name with --out, or --force to overwrite it") from None
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}") from error
    said = [] if model is None else model.said
    return [*_said(found, profile), *said, f"wrote {out}", f"next: bigbatch train {shlex.quote(str(out))}"]


def _need_columns(found: Findings, profile: Profile) -> None:
    there = ", ".join(profile.all_columns)
    if found.image is not None and found.label is None:
        what = f"no column looks like the class of an image; there are {there}. Expected one folder of images a class"
        raise DataError([Problem(where=found.files[0], key="label", what=what)])
    if found.text is None and found.image is None and not found.events:
        what = f"no column looks like it; there are {there}. Rename one, or write data.columns in a recipe"
        raise DataError([Problem(where=found.files[0], key="text", what=what)])


def _said(found: Findings, profile: Profile) -> list[str]:
    columns = ", ".join(f"{role}: {column}" for role, column in profile.columns.items())
    task = picked_task(found)
    lines = [f"{', '.join(found.files)}: {profile.rows:,} rows; {columns}; {task.said}"]
    lines += _facts(found)
    lines += [f"warning: {warning}" for warning in profile.warnings]
    if found.label and found.kind == "single" and len(found.class_counts) == 1:
        only = next(iter(found.class_counts))
        lines.append(f"warning: every row has the label {only!r}; training refuses that")
    elif min(_rows(found)) < 1:
        lines.append(
            f"warning: {_rows(found)[0]:,} rows are too few to hold some out for validation; name a file under "
            "data.validation"
        )
    if profile.missing_labels and found.label:
        lines.append(f"warning: {profile.missing_labels:,} rows have no label; training refuses them")
    return lines


def starter_recipe(found: Findings) -> str:
    """The text of a recipe that runs as it is."""
    splits = split_files(found.files)
    training_rows, _ = _rows(found)
    lines = [
        "# Written by `bigbatch init`. Everything may be changed; what is left out has a default.",
        *_model(found),
        *_task(found),
        *_data(found, splits),
        *_batch(found, training_rows),
        *_optimizer(found),
        *loss_lines(found),
        *best_lines(found),
        *_run(found),
    ]
    return "\n".join(lines) + "\n"


def _stages(found: Findings, pretrain: Profile) -> str:
    """The text first, then what the rest of the recipe is about."""
    column = pretrain.columns.get("text")
    if column is None:
        there = ", ".join(pretrain.all_columns)
        what = f"no column looks like it; there are {there}. Expected text to pretrain on"
        raise DataError([Problem(where=pretrain.files[0], key="text", what=what)])
    if found.image is not None or found.events:
        what = "images" if found.image is not None else "events of users and items"
        raise UsageError(f"--pretrain learns from text first, and these are {what}: leave it out")
    bare = replace(
        found,
        label=None,
        pair=None,
        document=None,
        chosen=None,
        negative=None,
        kind="single",
        class_counts={},
    )
    first, then = picked_task(bare), picked_task(found)
    data: dict[str, object] = {"train": [_relative(file, found.out) for file in pretrain.files], "test": []}
    data["columns"] = {"text": column}
    if pretrain.encoding != found.encoding:
        data["encoding"] = pretrain.encoding
    lines = [
        "",
        "stages:   # one behind the other in one folder, each from the model of the one before",
        f"  - task: {first.written}   # {pretrain.rows:,} rows of text, no label is read",
        f"    data: {inline_yaml(data)}",
        "    epochs: 1",
        *(["    best: null"] if best_lines(found) else []),
        f"  - task: {then.written}",
    ]
    return "\n".join(lines) + "\n"


def _rows(found: Findings) -> tuple[int, int]:
    """Training and validation rows; a file for validation is held to be large enough."""
    if split_files(found.files)["validation"]:
        return found.rows, found.rows
    rows = found.rows - found.empty_texts  # those are left out before
    classes = [rows]
    if found.kind == "single" and found.class_counts and picked_task(found).name in STRATIFIED:
        classes = list(found.class_counts.values())
    held_out = min(sum(held_out_of(each, VALIDATION_SHARE) for each in classes), rows)
    return rows - held_out, held_out


def split_files(files: tuple[str, ...]) -> dict[str, list[str]]:
    """Files by split, told by their names; with one file, or none left to train on, all are for training."""
    splits: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for file in files:
        words = re.split(r"[^a-z]+", Path(file).stem.lower())
        found = [split for split, name in _SPLITS if any(re.fullmatch(name, word) for word in words)]
        splits[found[0] if found else "train"].append(file)
    if not splits["train"]:
        return {"train": list(files), "validation": [], "test": []}
    return splits


def _model(found: Findings) -> list[str]:
    if found.events and not found.model:
        return [
            "",
            "model:   # new, made of the items: a GPT-2 of SASRec's sizes, whose vocabulary they are",
            "  config: {n_embd: 64, n_layer: 2, n_head: 2}",
        ]
    if found.model is None:
        name, why = usual_model(found.language, picked_task(found).name), found.model_why
        why = why or language_words(found.language)
    else:
        name = _relative(found.model, found.out) if Path(found.model).is_dir() else found.model
        why = found.model_why
    bare = found.known is not None and found.known.weights == "none"
    written = inline_yaml({"name": name, "init": "random"}) if bare else inline_yaml(name)
    shown = [why, *model_words(found)]
    comment = "; ".join(each for each in shown if each)
    return ["", f"model: {written}" + (f"   # {_plain(comment)}" if comment else "")]


def _task(found: Findings) -> list[str]:
    task = picked_task(found)
    return [f"task: {task.written}   # {_plain(task.why)}", *(f"# {_plain(line)}" for line in task.notes)]


def _data(found: Findings, splits: Mapping[str, list[str]]) -> list[str]:
    lines = ["", "data:", f"  train: {_paths(splits['train'], found.out)}   # {found.rows:,} rows"]
    if splits["validation"]:
        lines.append(f"  validation: {_paths(splits['validation'], found.out)}")
    else:
        how = "the last lines of train" if found.running else "this share of train"
        how = "the last of each user's events" if found.events else how
        how += ", stratified by label" if picked_task(found).name in STRATIFIED else ""
        lines.append(f"  validation: {VALIDATION_SHARE}   # {how}")
    if splits["test"]:
        lines.append(f"  test: {_paths(splits['test'], found.out)}   # evaluated once, at the end")
    columns = {**columns_of_task(found), "id": found.id}
    named = {role: column for role, column in columns.items() if column is not None}
    if named:
        lines.append(f"  columns: {inline_yaml(named)}   # role: column")
    if found.encoding.lower().replace("_", "-") != "utf-8":
        lines.append(f"  encoding: {inline_yaml(found.encoding)}")
    if found.quoting != "minimal":
        lines.append(f"  quoting: {found.quoting}   # quotes are characters like any other")
    if found.empty_texts:
        what = "text" if found.image is None else "image"
        lines.append(f"  empty_text: drop   # {found.empty_texts:,} rows have no {what}")
    lines += [f"  # {_plain(line)}" for line in _facts(found)]
    return [*lines, *length_lines(found)]


def _facts(found: Findings) -> list[str]:
    lines = []
    if found.lengths:
        lines.append(
            "words a row: " + ", ".join(f"{name} {words:g}" for name, words in found.lengths.items())
        )
    total = sum(found.class_counts.values())
    ordered = sorted(found.class_counts.items(), key=lambda entry: (-entry[1], entry[0]))
    if ordered:
        shown = [f"{label} {count:,} ({count / total:.0%})" for label, count in ordered[:_SHOWN_CLASSES]]
        more = f", and {len(ordered) - _SHOWN_CLASSES} more" if len(ordered) > _SHOWN_CLASSES else ""
        lines.append("labels: " + ", ".join(shown) + more)
    return lines


def _batch(found: Findings, rows: int) -> list[str]:
    if found.events:
        return [
            "",
            "batch: 32     # histories an update; where there are few of them small batches go through them more often",
            "epochs: 6     # MovieLens 100K takes 6; the best weights are kept",
        ]
    few = found.first
    sizes = "few at first, more as the measured noise of the gradient allows"
    most = f"at most {few.epochs:g}: " if few else ""
    if few:
        grows = "" if few.last_batch == few.first_batch else f", up to {few.last_batch}"
        sizes = f"{few.first_batch}{grows} ({few.batch_reason})"
    end = "the rate cools down to 0 once validation no longer improves beyond chance"
    if few and not few.measured:
        most, end = f"{few.epochs:g}: ", few.epochs_reason
    return [
        "",
        f"batch: auto    # samples per update, however they are split: {sizes}",
        f"epochs: auto   # {most}{end}; {rows:,} training rows",
    ]


def _optimizer(found: Findings) -> list[str]:
    if found.events:
        return ["", "optimizer: {name: adamw, lr: 2e-3}", "schedule: {name: cosine, warmup: 5 %}"]
    return [
        "",
        "optimizer: {name: adamw, lr: auto}   # by the model's width, tested before update 1; `bigbatch plan` shows it",
        f"schedule: {{name: wsd, warmup: {AUTO_WARMUP}, decay: 20 %}}   # rise, stay, cool down over the last 20 %",
    ]


def _run(found: Findings) -> list[str]:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(found.files[0]).stem).strip("-.") or "run"
    long = bool(found.events) or found.first is None or found.first.epochs >= LONG
    every = "1 epochs" if long else "0.25 epochs"
    return ["run:", f"  dir: {inline_yaml(f'runs/{name}')}", f"  evaluate_every: {every}"]


def _paths(files: list[str], out: Path) -> str:
    relative = [_relative(file, out) for file in files]
    return inline_yaml(relative[0] if len(relative) == 1 else relative)


def _relative(file: str, out: Path) -> str:
    if is_address(file):
        return unsigned(file)
    if Path(file).is_absolute():
        return file
    return Path(os.path.relpath(file, out.parent)).as_posix()


def _plain(text: str) -> str:
    """Text that may stand in a comment: nothing in it can end the line."""
    shown = "".join(character if character.isprintable() else " " for character in text)
    return shown if len(shown) <= 300 else shown[:297] + "..."
