"""Names that other tools use for what a recipe says: hints for unknown keys, and `from_training_arguments`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Foreign:
    """One name of another tool."""

    tool: str
    name: str
    ours: str
    """Our key, or empty when there is none."""
    why: str = ""
    """What is different here, or why it is not needed."""

    @property
    def hint(self) -> str:
        """What to tell someone who typed the name."""
        if not self.ours:
            return f"not a key here: {self.why}"
        return f"here it is {self.ours}" + (f" ({self.why})" if self.why else "")


_GLOBAL = "the global batch: all ranks and accumulation steps together"
_SPLIT = "how the batch is split does not change the result; plan.micro_tokens bounds it"
_QUANTISED = "4bit | 8bit: the base is rounded once, and adapters are trained beside it"
_RECORDED = "every update is recorded in metrics.jsonl"

HUGGING_FACE = "Hugging Face Trainer"
ACCELERATE = "Accelerate"
DEEPSPEED = "DeepSpeed"
TORCHTITAN = "torchtitan"
COMPOSER = "Composer"
TRL = "TRL"
PEFT = "PEFT, axolotl"
COMMON = "common"

_ROWS: dict[str, tuple[tuple[str, str, str], ...]] = {
    HUGGING_FACE: (
        ("learning_rate", "optimizer.lr", ""),
        ("per_device_train_batch_size", "batch.samples", _GLOBAL),
        ("per_gpu_train_batch_size", "batch.samples", _GLOBAL),
        ("gradient_accumulation_steps", "", f"batch.samples is {_GLOBAL}; {_SPLIT}"),
        ("auto_find_batch_size", "", f"the micro-batch is found by itself; {_SPLIT}"),
        ("num_train_epochs", "epochs", ""),
        ("max_steps", "updates", ""),
        ("lr_scheduler_type", "schedule.name", ""),
        ("lr_scheduler_kwargs", "schedule", "its options stand beside `name`"),
        ("warmup_steps", "schedule.warmup", "with a unit: `200 updates`"),
        ("warmup_ratio", "schedule.warmup", "with a unit: `6 %`"),
        ("optim", "optimizer.name", ""),
        ("optim_args", "optimizer.args", ""),
        ("adam_beta1", "optimizer.betas", "both in one list"),
        ("adam_beta2", "optimizer.betas", "both in one list"),
        ("adam_epsilon", "optimizer.eps", ""),
        ("max_grad_norm", "clip", ""),
        ("label_smoothing_factor", "loss.label_smoothing", ""),
        ("bf16", "plan.precision", ""),
        ("fp16", "plan.precision", ""),
        ("tf32", "plan.precision", ""),
        ("torch_compile", "plan.compile", ""),
        ("gradient_checkpointing", "plan.recompute", ""),
        ("activation_checkpointing", "plan.recompute", ""),
        ("eval_strategy", "run.evaluate_every", "with a unit: `1 epochs`"),
        ("evaluation_strategy", "run.evaluate_every", "with a unit: `1 epochs`"),
        ("eval_steps", "run.evaluate_every", "with a unit: `200 updates`"),
        ("save_strategy", "run.checkpoint_every", "with a unit: `5 min`"),
        ("save_steps", "run.checkpoint_every", "with a unit: `200 updates`"),
        ("save_total_limit", "run.keep", ""),
        ("metric_for_best_model", "best", ""),
        ("load_best_model_at_end", "best", "the best weights are what is kept and exported"),
        ("greater_is_better", "", "every metric knows its direction"),
        ("early_stopping_patience", "early_stopping.patience", "with a unit: `3 evaluations`"),
        ("early_stopping_threshold", "early_stopping.min_delta", ""),
        ("output_dir", "run.dir", ""),
        ("run_name", "run.dir", ""),
        ("data_seed", "seed.data", ""),
        ("use_cpu", "plan.device", "`device: cpu`"),
        ("no_cuda", "plan.device", "`device: cpu`"),
        ("report_to", "observers", ""),
        ("logging_steps", "", _RECORDED),
        ("logging_strategy", "", _RECORDED),
        ("logging_dir", "run.dir", ""),
        ("group_by_length", "", "samples of a batch are always sorted by length; the result does not change"),
        ("length_column_name", "", "lengths are counted from the tokens"),
        ("train_sampling_strategy", "data.shuffle", "`full`, or `shards` for rows that stay on disk"),
        ("dataloader_num_workers", "", "samples are tokenised once and read from a cache"),
        ("dataloader_drop_last", "", "the last batch wraps into the next epoch, so that every update is full"),
        ("per_device_eval_batch_size", "", "evaluation uses plan.micro_tokens; metrics do not depend on it"),
        ("eval_accumulation_steps", "", "metrics are streamed"),
        ("resume_from_checkpoint", "", "`bigbatch train` on the same recipe resumes by itself"),
        ("full_determinism", "plan.reproducible", "`reproducible: run`"),
        ("push_to_hub", "", "RUN/model is a Hugging Face folder; upload it yourself"),
        ("neftune_noise_alpha", "", "noise on embeddings is not built; regularise.dropout is what there is"),
        ("deepspeed", "plan.mesh", "`shard` divides parameters, gradients and optimizer state, as its stage 3"),
        ("fsdp", "plan.mesh.shard", "ranks that share one copy's parameters"),
        ("ddp_timeout", "launch.timeout", ""),
        ("model_name_or_path", "model.name", ""),
        ("model_revision", "model.revision", ""),
        ("tokenizer_name", "model.tokenizer", ""),
        ("config_overrides", "model.config", ""),
        ("train_file", "data.train", ""),
        ("validation_file", "data.validation", ""),
        ("test_file", "data.test", ""),
        ("text_column_name", "data.columns.text", ""),
        ("label_column_name", "data.columns.label", ""),
        ("max_seq_length", "data.max_length", ""),
        ("pad_to_max_length", "", "nothing is padded further than its micro-batch, or not at all"),
        ("problem_type", "task.kind", "single | multi | regression"),
        ("num_labels", "task.labels", "counted from the data; task.labels fixes names and order"),
    ),
    ACCELERATE: (
        ("mixed_precision", "plan.precision", ""),
        ("num_processes", "plan.ranks", ""),
        ("num_machines", "launch.hosts", ""),
        ("main_process_port", "", "ports are chosen by themselves"),
        ("dynamo_backend", "plan.compile", ""),
        ("downcast_bf16", "plan.precision", ""),
    ),
    DEEPSPEED: (
        ("train_batch_size", "batch.samples", ""),
        ("train_micro_batch_size_per_gpu", "plan.micro_tokens", "in tokens; it does not change the result"),
        ("gradient_clipping", "clip", ""),
        ("zero_optimization", "plan.mesh.shard", "parameters, gradients and optimizer state, as its stage 3"),
        ("optimizer.type", "optimizer.name", ""),
        ("optimizer.params", "optimizer", "its options stand beside `name`"),
        ("optimizer.params.lr", "optimizer.lr", ""),
        ("scheduler", "schedule", ""),
        ("activation_checkpointing.partition_activations", "plan.recompute", ""),
        ("steps_per_print", "", _RECORDED),
        ("wall_clock_breakdown", "", "the report shows where the time went"),
    ),
    TORCHTITAN: (
        ("training.local_batch_size", "plan.micro_tokens", "in tokens; it does not change the result"),
        ("training.global_batch_size", "batch.samples", ""),
        ("training.steps", "updates", ""),
        ("training.seq_len", "data.max_length", ""),
        ("training.max_norm", "clip", ""),
        ("training.dataset_path", "data.train", ""),
        ("training", "batch", "batch, length and clip are keys of their own"),
        ("lr_scheduler", "schedule", ""),
        ("lr_scheduler.warmup_steps", "schedule.warmup", "with a unit: `200 updates`"),
        ("lr_scheduler.decay_ratio", "schedule.decay", "with a unit: `20 %`"),
        ("lr_scheduler.min_lr_factor", "schedule.final_fraction", ""),
        ("parallelism", "plan.mesh", ""),
        ("data_parallel_shard_degree", "plan.mesh.shard", ""),
        ("tensor_parallel_degree", "plan.mesh.tensor", ""),
        ("pipeline_parallel_degree", "plan.mesh.pipeline", "planned, not built yet"),
        ("context_parallel_degree", "plan.mesh.context", "planned, not built yet"),
        ("checkpoint.interval", "run.checkpoint_every", "with a unit: `200 updates`"),
        ("checkpoint.keep_latest_k", "run.keep", ""),
        ("metrics.log_freq", "", _RECORDED),
    ),
    COMPOSER: (
        ("max_duration", "epochs", "or updates, samples, tokens"),
        ("device_train_microbatch_size", "plan.micro_tokens", "in tokens; it does not change the result"),
        ("global_train_batch_size", "batch.samples", ""),
        ("eval_interval", "run.evaluate_every", "with a unit: `200 updates`"),
        ("save_interval", "run.checkpoint_every", "with a unit: `5 min`"),
        ("save_num_checkpoints_to_keep", "run.keep", ""),
        ("save_folder", "run.dir", ""),
        ("t_warmup", "schedule.warmup", "with a unit: `6 %`"),
        ("alpha_f", "schedule.final_fraction", ""),
        ("algorithms", "", "what changes the computation is a key of its own: loss, gradient, regularise"),
        ("callbacks", "observers", "they watch and ask; they do not change the loop"),
        ("loggers", "observers", ""),
        ("autoresume", "", "`bigbatch train` on the same recipe resumes by itself"),
        ("parallelism_config", "plan.mesh", ""),
    ),
    TRL: (
        ("loss_type", "loss.name", "sigmoid is dpo; sigmoid_norm and ipo have loss.args.length_normalised"),
        ("simpo_gamma", "loss.args", "`gamma` of simpo"),
        ("ref_model", "", "what answers are held against is the model that the run starts from"),
        ("precompute_ref_log_probs", "", "they are computed once, before update 1"),
        ("max_prompt_length", "data.max_length", "of prompt and answer together; the prompt's beginning is cut first"),
    ),
    PEFT: (
        ("adapter", "model.adapter", "`adapter: {name: lora}` below `model`"),
        ("peft_config", "model.adapter", ""),
        ("lora_r", "model.adapter.r", ""),
        ("lora_rank", "model.adapter.r", ""),
        ("lora_alpha", "model.adapter.alpha", ""),
        ("lora_dropout", "model.adapter.dropout", ""),
        ("target_modules", "model.adapter.targets", "`auto`, or patterns of names"),
        ("lora_target_modules", "model.adapter.targets", "`auto`, or patterns of names"),
        ("lora_target_linear", "model.adapter.targets", "`auto` is every linear layer of the blocks"),
        ("init_lora_weights", "model.adapter.init", "kaiming | gaussian | orthogonal"),
        ("use_dora", "model.adapter.dora", ""),
        ("use_rslora", "model.adapter.rslora", ""),
        ("modules_to_save", "", "the head is always trained whole, and kept"),
        ("lora_modules_to_save", "", "the head is always trained whole, and kept"),
        ("load_in_4bit", "model.adapter.base", _QUANTISED),
        ("load_in_8bit", "model.adapter.base", _QUANTISED),
        ("quantization_config", "model.adapter.base", _QUANTISED),
    ),
    COMMON: (
        ("batch_size", "batch.samples", _GLOBAL),
        ("micro_batch_size", "plan.micro_tokens", "in tokens; it does not change the result"),
        ("accumulate_grad_batches", "", f"batch.samples is {_GLOBAL}; {_SPLIT}"),
        ("num_epochs", "epochs", ""),
        ("n_epochs", "epochs", ""),
        ("max_epochs", "epochs", ""),
        ("steps", "updates", ""),
        ("num_steps", "updates", ""),
        ("max_length", "data.max_length", ""),
        ("seq_len", "data.max_length", ""),
        ("optimiser", "optimizer", ""),
        ("regularize", "regularise", ""),
        ("beta1", "optimizer.betas", "both in one list"),
        ("beta2", "optimizer.betas", "both in one list"),
        ("epsilon", "optimizer.eps", ""),
        ("wd", "optimizer.weight_decay", ""),
        ("gradient_clip_val", "clip", ""),
        ("grad_clip", "clip", ""),
        ("max_norm", "clip", ""),
        ("min_lr_ratio", "schedule.final_fraction", ""),
        ("pos_weight", "loss.class_weights", ""),
        ("class_weight", "loss.class_weights", ""),
        ("val_file", "data.validation", ""),
        ("validation_split", "data.validation", ""),
        ("text_column", "data.columns.text", ""),
        ("label_column", "data.columns.label", ""),
        ("num_workers", "", "samples are tokenised once and read from a cache"),
        ("devices", "plan.ranks", ""),
        ("text_pair", "data.pair", ""),
        ("text_b", "data.pair", ""),
        ("labels", "data.label", "the column; names and order are task.labels"),
        ("target", "data.label", ""),
        ("early_stop", "early_stopping", ""),
        ("accelerator", "plan.device", ""),
        ("num_gpus", "plan.ranks", ""),
    ),
}  # fmt: skip

TABLE: tuple[Foreign, ...] = tuple(Foreign(tool, *row) for tool, rows in _ROWS.items() for row in rows)


@cache
def _by_name() -> dict[str, Foreign]:
    # The first tool that uses a name wins; the tools are listed by how many people come from them.
    return {row.name: row for row in reversed(TABLE)}


def find(key: str) -> Foreign | None:
    """The row for a dotted key as typed: the whole key first, then its last part; case and hyphens do not count."""
    word = key.lower().replace("-", "_")
    rows = _by_name()
    return rows.get(word) or rows.get(word.rpartition(".")[2])


def hint_for(key: str) -> str:
    """`here it is optimizer.lr`, or empty when no other tool has this name."""
    row = find(key)
    return row.hint if row is not None and row.ours != key else ""
