"""From Hugging Face's `TrainingArguments` to a recipe: attributes in, keys and notes out.

Which name belongs to which key stands in `foreign.TABLE`; here are the values. transformers is never imported.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

from bigbatch.recipe.foreign import HUGGING_FACE, TABLE

_SCHEDULES = {
    "linear": {"name": "linear"},
    "cosine": {"name": "cosine"},
    "constant": {"name": "constant", "warmup": 0},
    "constant_with_warmup": {"name": "constant"},
    "warmup_stable_decay": {"name": "wsd"},
    "cosine_with_min_lr": {"name": "cosine"},
    "cosine_warmup_with_min_lr": {"name": "cosine"},
}
_LOSSY = {
    "warmup_stable_decay": "num_decay_steps is not read; set schedule.decay",
    "cosine_with_min_lr": "min_lr is not read; set schedule.final_fraction",
    "cosine_warmup_with_min_lr": "min_lr is not read; set schedule.final_fraction",
}
_DROPPED_DEFAULTS: dict[str, tuple[object, ...]] = {
    "activation_checkpointing": (False, None),
    "deepspeed": (None, "", {}), "fsdp": (None, "", [], {}, False),
    "group_by_length": (False, None), "train_sampling_strategy": (None, "random"),
    "auto_find_batch_size": (False, None), "dataloader_drop_last": (False, None),
    "neftune_noise_alpha": (None,), "optim_args": (None, ""), "lr_scheduler_kwargs": (None, {}),
    "push_to_hub": (False, None), "full_determinism": (False, None), "resume_from_checkpoint": (None, "", False),
    "report_to": (None, "none", [], ["none"], "all", ["all"]),
    "logging_steps": (None, 500, 500.0), "dataloader_num_workers": (None, 0),
    "eval_accumulation_steps": (None,),
}  # fmt: skip
"""Names that are left out, with the values that nobody chose: those are dropped without a note."""
_NO_MATTER = (
    "per_device_eval_batch_size", "per_gpu_eval_batch_size", "load_best_model_at_end", "remove_unused_columns",
    "do_train", "do_eval", "do_predict", "run_name", "project", "disable_tqdm", "skip_memory_metrics", "local_rank",
    "prediction_loss_only", "label_names", "average_tokens_across_devices", "save_safetensors", "overwrite_output_dir",
    "use_cache",
)  # fmt: skip
"""Names that change neither the model nor its figures here."""
_NO_MATTER_FAMILIES = (
    "hub_",
    "log",
    "dataloader_",
    "ddp_",
    "trackio_",
    "push_to_hub",
    "save_only_model",
    "torchdynamo",
)
_MISSING = object()


@dataclass(frozen=True, kw_only=True)
class Translated:
    """What a `TrainingArguments` says, in a recipe's words."""

    values: dict[str, Any]
    """For `Recipe.model_validate`."""
    notes: list[str]
    """One for each thing translated or dropped."""
    lost: list[str]
    """Those of the notes that tell of something that was asked for and is not done, or done otherwise."""


class _Translation:
    """The keys and notes gathered so far."""

    def __init__(self, args: Any, devices: int | None) -> None:
        self.args = args
        self.devices = devices
        self.values: dict[str, Any] = {}
        self.notes: list[str] = []
        self.lost: list[str] = []
        self.read: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        value = getattr(self.args, name, _MISSING)
        value = default if value is _MISSING or value is None else value
        return getattr(value, "value", value)  # enumerations of transformers carry their text

    def set(self, key: str, value: object, origin: str) -> None:
        section = self.values
        *path, last = key.split(".")
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
        self.notes.append(f"{origin} -> {key}: {_short(value)}")

    def drop(self, name: str, why: str) -> None:
        self.lose(f"{name}={_short(self.get(name))} dropped: {why}")

    def lose(self, note: str) -> None:
        self.notes.append(note)
        self.lost.append(note)


def translate(args: Any) -> tuple[dict[str, Any], list[str]]:
    """The recipe's keys and notes for `args`, read by attribute.

    Returns:
        A mapping for `Recipe.model_validate`, and one note for each thing translated or dropped.
    """
    found = translated(args)
    return found.values, found.notes


def translated(args: Any, devices: int | None = None) -> Translated:
    """As `translate`, with what was lost apart.

    Args:
        args: read by attribute.
        devices: that will share an update, where somebody knows better than `args`.
    """
    translation = _Translation(args, devices)
    steps = (_batch, _length, _optimizer, _schedule, _evaluation, _seeds, _means, _rest, _dropped, _unread)
    for step in steps:
        step(translation)
    return Translated(values=translation.values, notes=translation.notes, lost=translation.lost)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _batch(found: _Translation) -> None:
    per_device = int(found.get("per_device_train_batch_size", 8))
    accumulation = int(found.get("gradient_accumulation_steps", 1))
    # train_batch_size = per_device x the GPUs that one process drives; world_size counts processes.
    processes = int(found.get("world_size", 1))
    devices = found.devices or processes * max(1, int(found.get("n_gpu", 1)))
    batch = per_device * accumulation * devices
    found.set("batch", {"samples": batch}, "per_device_train_batch_size, gradient_accumulation_steps")
    found.notes.append(
        f"the global batch is {per_device} per device x {accumulation} accumulation x {devices} "
        f"{'device' if devices == 1 else 'devices'} = {batch} samples; here it stays {batch} on any number of devices"
    )


def _length(found: _Translation) -> None:
    max_steps = int(found.get("max_steps", -1))
    if max_steps > 0:
        found.set("updates", max_steps, "max_steps")
        return
    found.set("epochs", float(found.get("num_train_epochs", 3.0)), "num_train_epochs")


def _optimizer(found: _Translation) -> None:
    name = str(found.get("optim", "adamw_torch"))
    if name == "sgd":
        found.set("optimizer.name", "sgd", "optim=sgd")
        found.set("optimizer.momentum", 0.0, "optim=sgd (torch's default)")
    elif name == "adamw_torch_8bit":
        found.set("optimizer.name", "adamw", f"optim={name}")
        found.set("optimizer.state", "8bit", f"optim={name} (torchao's, as there)")
    elif name in ("lion_32bit", "paged_lion_32bit"):
        found.set("optimizer.name", "lion", f"optim={name}")
    else:
        found.set("optimizer.name", "adamw", f"optim={name}")
        if not name.startswith("adamw_torch") or name.endswith("bit"):
            found.drop("optim", "only torch's AdamW, SGD and Lion in fp32 are translated; adamw is used")
    found.set("optimizer.lr", float(found.get("learning_rate", 5e-5)), "learning_rate")
    found.set("optimizer.weight_decay", float(found.get("weight_decay", 0.0)), "weight_decay")
    betas = [float(found.get("adam_beta1", 0.9)), float(found.get("adam_beta2", 0.999))]
    found.set("optimizer.betas", betas, "adam_beta1, adam_beta2")
    found.set("optimizer.eps", float(found.get("adam_epsilon", 1e-8)), "adam_epsilon")
    norm = float(found.get("max_grad_norm", 1.0))
    found.set("clip", norm if norm > 0 else None, "max_grad_norm")


def _schedule(found: _Translation) -> None:
    name = str(found.get("lr_scheduler_type", "linear"))
    translated = _SCHEDULES.get(name)
    if translated is None:
        found.drop("lr_scheduler_type", "no counterpart; linear is used")
    for key, value in (translated or {"name": "linear"}).items():
        found.set(f"schedule.{key}", value, f"lr_scheduler_type={name}")
    if name in _LOSSY:
        found.lose(f"lr_scheduler_type={name}: {_LOSSY[name]}")
    if name != "constant":
        steps, ratio = float(found.get("warmup_steps", 0)), float(found.get("warmup_ratio", 0.0))
        if 0 < steps < 1:  # transformers 5 reads a fraction here
            steps, ratio = 0.0, steps
        warmup: object = f"{int(steps)} updates" if steps else f"{ratio * 100:.10g} %" if ratio else 0
        found.set("schedule.warmup", warmup, "warmup_steps" if steps else "warmup_ratio")


def _evaluation(found: _Translation) -> None:
    for strategy, steps, key in (
        ("eval_strategy", "eval_steps", "run.evaluate_every"),
        ("save_strategy", "save_steps", "run.checkpoint_every"),
    ):
        chosen = str(found.get(strategy, "no" if strategy == "eval_strategy" else "steps"))
        if chosen == "epoch":
            found.set(key, "1 epochs", f"{strategy}=epoch")
        elif chosen == "no":
            found.set(key, "end" if strategy == "eval_strategy" else "never", f"{strategy}=no")
        elif chosen == "steps":
            every = float(found.get(steps) or found.get("logging_steps", 500))
            _interval(found, key, steps, every)
    limit = found.get("save_total_limit")
    if limit:
        found.set("run.keep", max(1, int(limit)), "save_total_limit")
    metric = str(found.get("metric_for_best_model", "")).removeprefix("eval_")
    if metric and metric != "loss":
        found.notes.append(
            f"metric_for_best_model={metric}: set `best: {metric}` together with data.validation"
        )
    larger = found.get("greater_is_better")
    if larger not in (None, not metric.endswith("loss")):  # else transformers has filled it in itself
        found.drop("greater_is_better", "every metric knows its direction")


def _interval(found: _Translation, key: str, name: str, every: float) -> None:
    if every >= 1:
        found.set(key, f"{int(every)} updates", name)
        return
    steps = found.values.get("updates")
    if steps:
        found.set(key, f"{max(1, round(every * steps))} updates", f"{name}={every:g} of the run")
    else:
        found.set(key, f"{every * found.values['epochs']:.10g} epochs", f"{name}={every:g} of the run")


def _seeds(found: _Translation) -> None:
    seed = int(found.get("seed", 42))
    data_seed = int(found.get("data_seed", seed))
    found.set("seed", {"model": seed, "data": data_seed, "dropout": seed}, "seed, data_seed")


def _means(found: _Translation) -> None:
    for name, key in (("torch_compile", "plan.compile"), ("gradient_checkpointing", "plan.recompute")):
        if found.get(name, False) is True:
            found.set(key, "blocks", f"{name}=True")


def _rest(found: _Translation) -> None:
    output = found.get("output_dir")
    if output:
        found.set("run.dir", str(output), "output_dir")
    smoothing = float(found.get("label_smoothing_factor", 0.0))
    if smoothing:
        found.set("loss.label_smoothing", smoothing, "label_smoothing_factor")
    for name in ("bf16", "fp16", "tf32"):  # a half wins over tf32, as there
        if found.get(name, False):
            found.set("plan.precision.name", name, name)
            break
    if found.get("use_cpu", False) or found.get("no_cuda", False):
        found.set("plan.device", "cpu", "use_cpu")


def _dropped(found: _Translation) -> None:
    rows = {row.name: row for row in TABLE if row.tool == HUGGING_FACE}
    for name, unchosen in _DROPPED_DEFAULTS.items():
        value = found.get(name, unchosen[0])
        if any(value == other and type(value) is type(other) for other in unchosen):
            continue
        row = rows[name]
        found.drop(name, f"see {row.ours}" + (f": {row.why}" if row.why else "") if row.ours else row.why)


def _unread(found: _Translation) -> None:
    """What a real `TrainingArguments` has been told that nothing above has read."""
    if not is_dataclass(found.args):
        return
    rows = {row.name: row for row in TABLE if row.tool == HUGGING_FACE}
    for field in fields(found.args):
        name, value = field.name, getattr(found.args, field.name, None)
        unchosen = field.default_factory() if field.default_factory is not MISSING else field.default
        skipped = name in found.read or name in _NO_MATTER or name.startswith(_NO_MATTER_FAMILIES)
        if skipped or name.startswith("_") or not value or value == unchosen or _is_untouched(value):
            continue
        row = rows.get(name)
        found.drop(name, row.hint if row is not None else "nothing here corresponds to it")


def _is_untouched(value: object) -> bool:
    """Whether it is a settings object as it is made without a word."""
    return is_dataclass(value) and value == type(value)()  # type: ignore[operator]
