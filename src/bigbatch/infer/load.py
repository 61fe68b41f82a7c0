"""Open what was trained: a run directory, or any Hugging Face folder of a model with a head."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from bigbatch.data.labels import LabelSet
from bigbatch.data.tables import DataTable
from bigbatch.documents import last_stage, read_document
from bigbatch.errors import ModelError, UsageError
from bigbatch.infer.devices import devices_of, only_cpu
from bigbatch.infer.embed import guided
from bigbatch.infer.start import base_of, deriving, guide_of, start_of
from bigbatch.model.adapter_folder import is_adapter_folder
from bigbatch.model.folder import CONFIG, read_in, read_list_in
from bigbatch.model.heads import HEADS
from bigbatch.model.size import check_numbers
from bigbatch.plan.forward import ForwardPlan
from bigbatch.plan.frozen import Plan
from bigbatch.protocols import Forward, Tokenizer
from bigbatch.recipe.made_here import code_named, why_to_ask
from bigbatch.recipe.references import is_reference
from bigbatch.stored import Damaged
from bigbatch.tasks.base import Task
from bigbatch.tasks.catalog import TASKS, task_from_recipe, task_named_by
from bigbatch.tasks.classify import PROBLEM_TYPES, Classify
from bigbatch.tasks.derived import Guide
from bigbatch.tasks.facts import BuildFacts
from bigbatch.tasks.losses import Kind
from bigbatch.tasks.match import Match, width_of
from bigbatch.tasks.reward import REWARD, Reward

if TYPE_CHECKING:
    from torch import nn

    from bigbatch.recipe.learning import ModelSpec
    from bigbatch.recipe.schema import Recipe

_KINDS: Mapping[str, Kind] = {problem: kind for kind, problem in PROBLEM_TYPES.items()}

MICRO_TOKENS = 4096
"""On a CPU 2,048 to 4,096 are a quarter faster than 8,192: caches. Changes rounding only."""
ACCELERATOR_TOKENS = 32_768
"""Enough to be busy with; halved where there is no room for them."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model that is ready to evaluate and predict."""

    module: nn.Module
    tokenizer: Tokenizer | None
    """None when the model was trained on rows of token ids: then it predicts such rows only."""
    task: Task
    forward: Forward
    """Padded, as every model can; the packed path for tables that are worth trying it (`infer.quick`)."""
    max_length: int
    positions: int | None = None
    """Tokens that the model has positions for; None: any number."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Role -> column, as in training."""
    recipe: Recipe | None = None
    """Of a run; None for a plain folder."""
    notes: tuple[str, ...] = ()
    micro_tokens: int = MICRO_TOKENS
    """Computed tokens at a time."""

    @property
    def encoding(self) -> str:
        """Of text files: `data.encoding` of the run."""
        return self.recipe.data.encoding if self.recipe else "utf-8"

    @property
    def quoting(self) -> str:
        """Of CSV and TSV: `data.quoting` of the run."""
        return self.recipe.data.quoting if self.recipe else "minimal"


def open_model(
    place: Path | str, *, device: str | None = None, code: bool = False, metrics: bool = True
) -> Loaded:
    """The model of a run directory (`recipe.yaml` and `model/`), or of a Hugging Face folder.

    Args:
        place: the folder.
        device: where the model runs, as `devices.devices_of` has it; None: as the run was planned, else everywhere.
        code: whether code that the run names (its own task, its own metrics) may run, wherever it came from. What this
            user trained on this machine runs unasked. Its loss is never run: neither figures nor predictions need it.
        metrics: whether its metrics are wanted; prediction does without.

    Raises:
        UsageError: there is no such folder, or nothing in it that can be opened; or code that nobody asked for.
        ModelError: the model or tokenizer cannot be used.
    """
    folder = Path(place)
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; expected a run directory or a Hugging Face model folder")
    stage = last_stage(folder, of_all=True)
    if (folder / "recipe.yaml").is_file() and not stage.is_dir():
        raise UsageError(f"{folder}: its last stage has not begun, so there is no model yet; let it finish")
    if (folder / "recipe.yaml").is_file():
        return _open_run(stage, device, code, metrics)
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"{folder}: found neither recipe.yaml (a run) nor config.json (a Hugging Face model)"
        )
    task = task_of(folder)
    return _open(folder, task, task.longest, devices_of(device))


def _open_run(run: Path, device: str | None, code: bool, metrics: bool) -> Loaded:
    from bigbatch.recipe.load import load_recipe

    model = run / "model"
    if not (model / "config.json").is_file():
        raise UsageError(f"{run}: this run has no model yet; train it first, or let it finish")
    recipe = load_recipe(run / "recipe.yaml", environ={})
    needed, notes = _without_loss(recipe if metrics else recipe.model_copy(update={"metrics": []}))
    named = code_named(needed)
    why = why_to_ask(run) if named and not code else None
    if why is not None:
        raise UsageError(
            f"{run}: this needs code that the run names ({', '.join(named)}), and {why}. Read that code; then allow it "
            "with --code (in Python: code=True)"
        )
    task = task_from_recipe(_with_copies(needed, run.absolute() / "code"))
    devices = devices_of(device, recipe.plan.device)
    base = base_of(run, recipe) if is_adapter_folder(str(model)) else None
    opened = _open(model, task, recipe.data.max_length, devices, _way_of(run), base)
    opened = replace(opened, task=with_start(opened.task, run, recipe, devices[0]))
    return replace(opened, columns=dict(recipe.data.columns), recipe=recipe, notes=(*notes, *opened.notes))


def with_start(task: Task, run: Path, recipe: Recipe, device: str) -> Task:
    """A task that needs the model which a run started from, able to ask it; it is loaded when it is asked first.

    Args:
        task: any; most need none.
        run: the directory of the run.
        recipe: of that run.
        device: where that model is put.
    """

    def opened() -> Forward:
        facts = BuildFacts(seed=0, dropout=None, module=None, note=lambda _: None)
        module = task.build(start_of(run, recipe), facts)
        return _assembled(module, None, task, None, "mean", [device]).forward

    def judged(guide: Guide, rows: DataTable) -> np.ndarray:
        loaded = open_model(guide_of(run, recipe, guide), device=device)
        return guided(loaded, guide, rows, lambda what, done, total: None)

    return task.with_facts(derive=deriving(task.needs, opened, judged)) if task.needs else task


def _without_loss(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """The recipe with the usual loss of its task instead of one of the user's own."""
    own = recipe.loss.name
    if not is_reference(own):
        return recipe, []
    usual = type(recipe.loss)(class_weights=recipe.loss.class_weights)
    note = f"the loss {own} is training's and is not run here: `loss` is the usual one of the task"
    return recipe.model_copy(update={"loss": usual}), [note]


def _way_of(run: Path) -> ForwardPlan | None:
    """How the run ran its model; None when nothing readable says it."""
    try:
        return ForwardPlan.of(Plan.from_json(read_document(run / "plan.json")).choices)
    except (OSError, Damaged):
        return None


def _with_copies(recipe: Recipe, code: Path) -> Recipe:
    """The recipe with references to the copies of the user's files that training ran, wherever the originals lay."""

    def copied(name: str) -> str:
        place, _, item = name.rpartition(":")
        copy = code / Path(place).name
        return f"{copy}:{item}" if place.endswith(".py") and copy.is_file() else name

    task = recipe.task.model_copy(update={"name": copied(recipe.task.name)})
    return recipe.model_copy(update={"task": task, "metrics": [copied(name) for name in recipe.metrics]})


def _open(
    folder: Path,
    task: Task,
    max_length: int | None,
    devices: Sequence[str],
    planned: ForwardPlan | None = None,
    base: ModelSpec | None = None,
) -> Loaded:
    from bigbatch.model.tokenizer import load_tokenizer
    from bigbatch.recipe.learning import ModelSpec

    spec = ModelSpec(name=str(folder.resolve()))
    if HEADS[task.head.kind].labelled:
        names = head_of(folder)[0]
        one_number = task.kind == "regression" and len(names) == 1
        task = task.with_facts(labels=None if one_number else LabelSet(names))
    notes: list[str] = []
    module = task.build(spec, BuildFacts(seed=0, dropout=None, module=None, note=notes.append, base=base))
    tokenizer = None
    if any(any(folder.glob(pattern)) for pattern in ("tokenizer*", "vocab*", "*.model")):
        tokenizer = load_tokenizer(spec)
    found = _assembled(module, tokenizer, task, max_length, str(folder), devices, planned)
    return replace(found, notes=tuple(notes))


def open_live(
    module: nn.Module,
    tokenizer: Tokenizer | None,
    task: Task,
    columns: Sequence[str],
    device: str | None = None,
) -> Loaded:
    """A live model, moved to the device and into evaluation mode, with a task that knows its labels.

    `columns` are those of the rows that it will see.

    Args:
        module: a Hugging Face model with a head.
        tokenizer: None where rows are token ids.
        task: as the caller named it.
        columns: those of the rows that the model will see.
        device: `cpu`, `cuda:0`, …; None: the first accelerator there is, else the CPU.

    Raises:
        ModelError: the model has another head than the task needs, or the tokenizer does not fit it.
    """
    from bigbatch.model.adjust import read_given_types
    from bigbatch.recipe.learning import ModelSpec

    module = task.build(ModelSpec(), BuildFacts(seed=0, dropout=None, module=module, note=str))
    read_given_types(module, columns)
    return _assembled(module, tokenizer, task, task.longest, None, devices_of(device)[:1])


def _assembled(
    module: nn.Module,
    tokenizer: Tokenizer | None,
    task: Task,
    max_length: int | None,
    folder: str | None,
    devices: Sequence[str],
    planned: ForwardPlan | None = None,
) -> Loaded:
    """Model, tokenizer and task, made to fit each other and ready to run; `folder`: that the model came from."""
    from bigbatch.infer.quick import Quick
    from bigbatch.model.anatomy import anatomy
    from bigbatch.tasks.ready import made_ready

    first, *others = devices
    ready = made_ready(module.to(first).eval(), tokenizer, task, max_length=max_length, folder=folder)

    def copies() -> list[Quick]:
        modules = [copy.deepcopy(module).to(device) for device in others]
        return [Quick(replace(ready, module=each, anatomy=anatomy(each)), planned) for each in modules]

    return Loaded(
        module=ready.module,
        tokenizer=tokenizer,
        task=ready.task,
        forward=Quick(ready, planned, copies),
        micro_tokens=MICRO_TOKENS if only_cpu(devices) else ACCELERATOR_TOKENS,
        max_length=ready.max_length,
        positions=ready.anatomy.max_positions,
    )


def cut_to(dimension: int | None, opened: Loaded) -> Loaded:
    """A model whose embeddings are cut to their first numbers (None: as they are).

    Raises:
        UsageError: it gives no embeddings, or they have fewer.
    """
    if dimension is None:
        return opened
    if not isinstance(opened.task, Match):
        raise UsageError("--dimension is for embeddings (task: match); this model gives none")
    width = width_of(opened.module)
    if not 1 <= dimension <= width:
        raise UsageError(f"--dimension: found {dimension}; this model's embeddings have {width} numbers")
    return replace(opened, task=replace(opened.task, dimension=dimension))


def task_of(folder: Path) -> Task:
    """The task that the head of a Hugging Face folder is for, told by the class named in its config.json.

    Raises:
        ModelError: config.json cannot be read, or names a class without a head that a task here has.
    """
    if (folder / "modules.json").is_file():
        return Match(similarity=_similarity(folder)).with_facts(max_length=_kept_tokens(folder))
    found = read_in(folder).get("architectures")
    names = [str(name) for name in found] if isinstance(found, list) else []
    for name in filter(None, map(task_named_by, names)):
        return _classify(folder) if name == "classify" else TASKS[name]()
    if names:
        raise ModelError(f"{folder}: {', '.join(names)} has no head that a task here has; train it first")
    return _classify(folder)


def _similarity(folder: Path) -> Literal["cosine", "dot"]:
    """Of a folder of sentence-transformers: by whether it brings embeddings to length 1.

    Raises:
        ModelError: it has parts that are not read here; without them the embeddings would be others.
    """
    found = read_list_in(folder, "modules.json")
    types = [str(part.get("type")) if isinstance(part, dict) else "" for part in found if part]
    kinds = [kind.rpartition(".")[2] for kind in types]
    known = [kind.startswith("sentence_transformers.") for kind in types]
    if not all(known) or kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ModelError(
            f"{folder / 'modules.json'}: found {', '.join(types) or 'no parts'}; expected a Transformer and a "
            "Pooling of sentence_transformers, and perhaps a Normalize: no other part is read, and none is imported"
        )
    return "cosine" if "Normalize" in kinds else "dot"


def _kept_tokens(folder: Path) -> int | None:
    """Tokens that sentence-transformers keeps of a text."""
    try:
        return int(read_in(folder, "sentence_bert_config.json")["max_seq_length"])
    except (ModelError, ValueError, KeyError, TypeError):
        return None


def _classify(folder: Path) -> Task:
    """A reward model calls its one output so; as transformers decides, one of another name is a number."""
    names, kind = head_of(folder)
    if names == (REWARD,) and not read_in(folder).get("problem_type"):
        return Reward()
    return Classify(kind=kind)


def head_of(folder: Path) -> tuple[tuple[str, ...], Kind]:
    """Label names in class order and kind of classification, from a folder's config.json.

    Without `problem_type` one output is regression and several are single label, as transformers decides.

    Raises:
        ModelError: config.json cannot be read, or its labels are not numbered from 0.
    """
    config, where = read_in(folder), folder / CONFIG
    check_numbers(config, str(where))
    found = config.get("id2label") or {
        str(label): f"LABEL_{label}" for label in range(config.get("num_labels") or 2)
    }
    numbered = {int(label): str(name) for label, name in found.items() if str(label).isdecimal()}
    if len(numbered) < len(found) or sorted(numbered) != list(range(len(numbered))):
        raise ModelError(f"{where}: id2label is not numbered from 0 without gaps")
    problem = config.get("problem_type")
    if problem is not None and (not isinstance(problem, str) or problem not in _KINDS):
        raise ModelError(f"{where}: unknown problem_type {problem!r}; expected {', '.join(_KINDS)}")
    kind = _KINDS[problem] if problem else "regression" if len(numbered) == 1 else "single"
    return tuple(numbered[label] for label in range(len(numbered))), kind
