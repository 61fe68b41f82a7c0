"""The recipe: everything that decides what is computed, and the wishes about how.

A `Recipe` is complete: every default is filled in. `bigbatch.recipe.load.load_recipe` makes one from a file with
layers, lines and messages; `Recipe.model_validate` takes a mapping as it is, short forms included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from bigbatch.recipe import training_arguments
from bigbatch.recipe.adapters import with_adapter_rate
from bigbatch.recipe.inputs import BatchSpec, DataFile, DataSpec
from bigbatch.recipe.layers import STAGES
from bigbatch.recipe.learning import (
    BestSpec,
    EarlyStoppingSpec,
    GradientSpec,
    LossSpec,
    ModelSpec,
    OptimizerSpec,
    RegulariseSpec,
    ScheduleSpec,
    SeedSpec,
)
from bigbatch.recipe.machine import (
    GuardSpec,
    LaunchSpec,
    MeshSpec,
    ObserverName,
    PlanSpec,
    RunSpec,
    ScaleSpec,
    SyncSpec,
)
from bigbatch.recipe.stages import START_KEYS
from bigbatch.recipe.sugar import LENGTH_KEYS, desugar
from bigbatch.recipe.tasks import TASKS, ClassifyOptions, TaskSpec
from bigbatch.recipe.values import (
    AUTO,
    AUTO_WARMUP,
    AutoPasses,
    Count,
    Number,
    PositiveNumber,
    Section,
    Text,
)
from bigbatch.units import Quantity

HOW_KEYS = ("plan", "launch", "observers", "run", "guard", "scale")
"""Top-level keys outside the fingerprint: they say how, where and how carefully, not what."""
DEFAULT_EPOCHS = 3.0

__all__ = [
    "HOW_KEYS",
    "BatchSpec",
    "BestSpec",
    "ClassifyOptions",
    "DataFile",
    "DataSpec",
    "EarlyStoppingSpec",
    "GradientSpec",
    "GuardSpec",
    "LaunchSpec",
    "LossSpec",
    "MeshSpec",
    "ModelSpec",
    "OptimizerSpec",
    "PlanSpec",
    "Recipe",
    "RegulariseSpec",
    "RunSpec",
    "ScaleSpec",
    "ScheduleSpec",
    "SeedSpec",
    "Stage",
    "SyncSpec",
    "TaskSpec",
]


class Recipe(Section):
    """One training job. Read its parts by the keys of the YAML: `recipe.optimizer.lr`."""

    model: ModelSpec = ModelSpec()
    """What is trained."""
    task: TaskSpec = TaskSpec()
    """What is learnt."""
    data: DataSpec = DataSpec()
    """What it is learnt from."""
    batch: BatchSpec = BatchSpec(samples=256)
    """How much one update consumes, over all ranks; a number alone means samples."""
    epochs: AutoPasses | None = None
    """Length in passes over the training data; 3 when no length is given. One of epochs, updates, samples, tokens.
    auto: until validation no longer improves, then a cool-down of the rate (schedule.decay) to its end; at most as many
    as the data's size suggests."""
    updates: Count | None = None
    """Length in optimizer updates."""
    samples: Count | None = None
    """Length in samples."""
    tokens: Count | None = None
    """Length in real tokens."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """How a gradient becomes an update."""
    schedule: ScheduleSpec = ScheduleSpec()
    """How the learning rate moves."""
    clip: PositiveNumber | None = 1.0
    """Largest L2 norm of the whole gradient of an update; null: no clipping."""
    loss: LossSpec = LossSpec()
    """What is minimised."""
    gradient: GradientSpec = GradientSpec()
    """How one global batch becomes a gradient."""
    regularise: RegulariseSpec = RegulariseSpec()
    """Regularisers beside weight decay."""
    metrics: list[Text] = Field(default_factory=list)
    """Metrics of every evaluation, named as scikit-learn names them, or your own; empty: the task's."""
    best: BestSpec = BestSpec()
    """Which weights are kept."""
    early_stopping: EarlyStoppingSpec | None = None
    """Stop when validation no longer improves; null: never."""
    gate: dict[str, Number] = Field(default_factory=dict)
    """Metric -> bar: a finished run below a bar exits with code 4."""
    baseline: Literal["auto", "off"] = "auto"
    """`auto`: the run is held against simple models of the same rows (a bag of words, TF-IDF retrieval, an n-gram, …),
    fitted in at most 30 s or 3 % of the predicted run; tasks of your own have none."""
    sync: SyncSpec = SyncSpec()
    """How replicas agree."""
    seed: SeedSpec = SeedSpec()
    """Where randomness starts; a number alone sets all three."""
    guard: GuardSpec = GuardSpec()
    """What happens when numbers break."""
    scale: ScaleSpec = ScaleSpec()
    """Measuring the gradient noise scale."""
    plan: PlanSpec = PlanSpec()
    """How it is computed."""
    launch: LaunchSpec = LaunchSpec()
    """Where processes start."""
    observers: list[ObserverName] = Field(default_factory=list)
    """Who watches the run: `tensorboard`, `wandb`, `mlflow`, `trackio`, each in a process of its own, and your own
    functions of a record."""
    run: RunSpec = RunSpec()
    """Where results go, and when."""

    _source: Path | None = PrivateAttr(default=None)
    _place: Callable[[tuple[str | int, ...]], str] | None = PrivateAttr(default=None)
    _stages: tuple[Stage, ...] = PrivateAttr(default=())
    _home: Path | None = PrivateAttr(default=None)
    _before: str | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        values, _ = desugar(dict(value))
        if all(values.get(key) is None for key in LENGTH_KEYS):
            values["epochs"] = DEFAULT_EPOCHS
        if values.get("best") is None:
            values.pop("best", None)
        if values.get("epochs") == AUTO and values.get("schedule") is None:
            values["schedule"] = {"name": "wsd", "warmup": AUTO_WARMUP}
        if values.get("gradient") is None and _is_match(values.get("task")):
            values["gradient"] = {"name": "cached"}
        return with_adapter_rate(values)

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        problems = list(self._contradictions())
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _contradictions(self):
        given = [key for key in LENGTH_KEYS if getattr(self, key) is not None]
        if len(given) > 1:
            yield f"found {' and '.join(given)}; expected one of them"
        if self.epochs == AUTO and self.schedule.name != "wsd":
            yield (
                f"epochs: auto needs schedule: wsd, whose cool-down begins when validation no longer improves; "
                f"{self.schedule.name} must know its end from the start: write epochs as a number, such as epochs=5"
            )
        if self.is_auto and self.sync.apart:
            yield "auto (epochs, batch, optimizer.lr) with sync.replicas is not built: write numbers"
        sync, batch = self.sync, None if self.batch.samples == AUTO else self.batch.samples
        if self.gradient.name == "cached" and self.task.name in set(TASKS) - {"match"}:
            yield f"gradient: cached is for losses that need the whole batch (task match); {self.task.name} has none"
        if sync.period != 1 and not sync.apart:
            yield f"sync.period: {sync.period} needs sync.replicas of 2 or more: one replica has nobody to meet"
        if self.batch.ramp is not None and sync.apart:
            yield "batch.ramp with sync.replicas is not built: leave one of them out"
        if batch is not None and sync.replicas > batch:
            yield f"sync.replicas: {sync.replicas} cannot share batch.samples: {batch}; each needs a sample"
        averages = "optimizer.args.average:" if self.optimizer.args.get("average") is not None else ""
        averages = "optimizer.name: schedule_free" if self.optimizer.name == "schedule_free" else averages
        if averages:
            mesh = self.plan.mesh
            if sync.apart:
                yield f"{averages} keeps an average of its own; sync.replicas has no mean of averages"
            if mesh is not None and (mesh.shard > 1 or mesh.tensor > 1):
                yield (
                    f"{averages} changes the weights between updates and evaluations, which parts "
                    "that are gathered do not see: plan.mesh replicate alone"
                )
        if self.schedule.warmup_rule != "keep" and self.optimizer.base_batch is None:
            yield "schedule.warmup_rule: legw needs optimizer.base_batch, the batch that the warm-up was tuned for"
        # Without training files the data comes from Python, and validation may come with it.
        if self.data.train and self.data.validation is None:
            if self.early_stopping is not None:
                yield "early_stopping needs data.validation; early_stopping=null leaves it out"
            if self.best.metric is not None:
                yield "best needs data.validation; best=null leaves it out"
            if self.gate and not self.data.test:
                yield "gate needs data.validation or data.test"

    def __eq__(self, other: object) -> bool:
        """Equal in every key; where the recipe was read from does not count."""
        return isinstance(other, Recipe) and self.__dict__ == other.__dict__ and self._stages == other._stages

    __hash__ = None  # type: ignore[assignment]

    @property
    def source(self) -> Path | None:
        """The file this recipe was read from, or None when it came from Python."""
        return self._source

    def from_source(self, source: Path | None) -> Recipe:
        """The same recipe, as read from `source`."""
        copy = self.model_copy()
        copy._source = source
        return copy

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Of a recipe with `stages:`, which as a recipe is its last one; empty: it is a training of its own."""
        return self._stages

    def with_stages(self, stages: Sequence[Stage]) -> Recipe:
        """The same recipe as the last of these."""
        copy = self.model_copy()
        copy._stages = tuple(stages)
        return copy

    @property
    def before(self) -> str | None:
        """Of a later stage: digest of the fingerprint of the one before (`Stage.placed_in`)."""
        return self._before

    def place(self, key: str) -> str:
        """Where a dotted key was written, such as `recipe.yaml:12`; the recipe's name for what nobody wrote."""
        fallback = self._source.name if self._source is not None else "recipe"
        return self._place(tuple(key.split("."))) if self._place is not None else fallback

    @property
    def base(self) -> Path:
        """The folder that relative paths start from: the recipe's, or the current one."""
        return self._source.parent if self._source is not None else Path.cwd()

    def resolve_path(self, path: str) -> Path:
        """`path` relative to the recipe's folder, `~` expanded; absolute paths stay."""
        return self.base / Path(path).expanduser()

    @property
    def is_auto(self) -> bool:
        """Whether something is left for the run to decide (`build.settled`)."""
        return AUTO in (self.epochs, self.batch.samples, self.optimizer.lr)

    @property
    def length(self) -> Quantity:
        """How long the run is, in the unit the user chose; of a recipe whose `epochs` are a number."""
        for unit in LENGTH_KEYS:
            amount = getattr(self, unit)
            if amount is not None:
                return Quantity(float(amount), unit)
        raise AssertionError("a validated recipe has a length")

    @property
    def shared_folder(self) -> Path:
        """Beside the run directories: for what runs have in common."""
        return (self._home or self.run_folder).parent

    @property
    def run_folder(self) -> Path:
        """The run directory: `run.dir` with `{recipe}` filled in, inside `run.root` or the current folder."""
        name = self._source.stem if self._source is not None else "run"
        root = Path(self.run.root).expanduser() if self.run.root else Path.cwd()
        return root / Path(self.run.dir.replace("{recipe}", name)).expanduser()

    @property
    def cache_folder(self) -> Path:
        """Where runs keep what they share; it can be deleted at any time that none of them reads it."""
        own = self.run.cache
        return Path(own).expanduser() if own else self.shared_folder / ".cache"

    @classmethod
    def from_training_arguments(cls, args: Any) -> tuple[Recipe, list[str]]:
        """Translate Hugging Face `TrainingArguments`; only attributes are read, transformers is not imported.

        Returns:
            The recipe (model and data are for the caller to add), and notes: what was translated to what, and what
            was dropped and why.
        """
        values, notes = training_arguments.translate(args)
        return cls.model_validate(values), notes


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One entry of `stages:`: a run of its own in the run's folder."""

    number: int
    """From 1."""
    name: str
    recipe: Recipe
    """Resolved; its model is that of the first stage, and its directory the whole run's, until `placed_in`."""

    @property
    def folder(self) -> str:
        """Its directory in `RUN/stages`, where no other run has taken the name."""
        return f"{self.number}-{self.name}"

    def placed_in(self, run: Path, model: Path | None, before: str | None) -> Recipe:
        """The recipe of the run that this stage is.

        Args:
            run: the directory of all stages.
            model: folder that the stage before left; None: this is the first.
            before: digest of the fingerprint of the stage before.
        """
        recipe = self.recipe
        folder = recipe.run.model_copy(update={"dir": str(run / STAGES / self.folder), "root": None})
        start = recipe.model
        if model is not None:
            fresh = {
                key: type(start).model_fields[key].get_default(call_default_factory=True)
                for key in START_KEYS
            }
            start = start.model_copy(update={**fresh, "name": str(model)})
        placed = recipe.model_copy(update={"run": folder, "model": start})
        placed._home, placed._before = run, before
        return placed


def _is_match(task: object) -> bool:
    """Whether a task section, in any of its forms, is `match`."""
    name = task.get("name") if isinstance(task, Mapping) else getattr(task, "name", None)
    return name == "match"
