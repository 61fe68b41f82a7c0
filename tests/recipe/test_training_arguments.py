from __future__ import annotations

import subprocess
import sys
from enum import StrEnum
from types import SimpleNamespace

import pytest

from bigbatch.recipe.schema import Recipe
from bigbatch.recipe.training_arguments import translate
from bigbatch.units import Quantity


class Strategy(StrEnum):
    EPOCH = "epoch"


def arguments(**changes):
    """The defaults of transformers' TrainingArguments that matter, with changes."""
    values = dict(
        output_dir="out", per_device_train_batch_size=8, gradient_accumulation_steps=1, world_size=1, n_gpu=0,
        num_train_epochs=3.0, max_steps=-1, learning_rate=5e-5, weight_decay=0.0, adam_beta1=0.9, adam_beta2=0.999,
        adam_epsilon=1e-8, max_grad_norm=1.0, lr_scheduler_type="linear", warmup_steps=0, optim="adamw_torch_fused",
        eval_strategy="no", save_strategy="steps", save_steps=500, logging_steps=500, seed=42, data_seed=None,
        bf16=False, fp16=False, report_to=[], label_smoothing_factor=0.0, use_cpu=False,
    )  # fmt: skip
    return SimpleNamespace(**(values | changes))


def test_the_defaults_become_the_same_training():
    recipe, notes = Recipe.from_training_arguments(arguments())
    assert recipe.batch.samples == 8
    assert recipe.length == Quantity(3.0, "epochs")
    assert (recipe.optimizer.name, recipe.optimizer.lr, recipe.optimizer.weight_decay) == ("adamw", 5e-5, 0.0)
    assert (recipe.schedule.name, recipe.schedule.warmup) == ("linear", Quantity(0.0, "none"))
    assert (recipe.seed.model, recipe.seed.data, recipe.run.dir) == (42, 42, "out")
    assert recipe.run.evaluate_every == Quantity(0.0, "end")
    assert not [note for note in notes if "dropped" in note]


def test_the_global_batch_is_the_product_of_all_three():
    recipe, notes = Recipe.from_training_arguments(
        arguments(per_device_train_batch_size=16, gradient_accumulation_steps=4, world_size=8)
    )
    assert recipe.batch.samples == 512
    assert (
        "the global batch is 16 per device x 4 accumulation x 8 devices = 512 samples; "
        "here it stays 512 on any number of devices"
    ) in notes


@pytest.mark.parametrize(
    ("changes", "read", "expected"),
    [
        ({"max_steps": 500}, lambda r: r.length, Quantity(500.0, "updates")),
        ({"adam_beta2": 0.98}, lambda r: r.optimizer.betas, (0.9, 0.98)),
        ({"max_grad_norm": 0.0}, lambda r: r.clip, None),
        ({"optim": "sgd"}, lambda r: (r.optimizer.name, r.optimizer.momentum), ("sgd", 0.0)),
        ({"lr_scheduler_type": "cosine"}, lambda r: r.schedule.name, "cosine"),
        (
            {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 9},
            lambda r: str(r.schedule.warmup),
            "9 updates",
        ),
        ({"lr_scheduler_type": "warmup_stable_decay"}, lambda r: r.schedule.name, "wsd"),
        ({"warmup_ratio": 0.06}, lambda r: str(r.schedule.warmup), "6 %"),
        ({"warmup_steps": 0.1}, lambda r: str(r.schedule.warmup), "10 %"),
        ({"eval_strategy": Strategy.EPOCH}, lambda r: str(r.run.evaluate_every), "1 epochs"),
        ({"eval_strategy": "steps", "eval_steps": 50}, lambda r: str(r.run.evaluate_every), "50 updates"),
        ({"eval_strategy": "steps", "eval_steps": None}, lambda r: str(r.run.evaluate_every), "500 updates"),
        ({"eval_strategy": "steps", "eval_steps": 0.1}, lambda r: str(r.run.evaluate_every), "0.3 epochs"),
        ({"save_strategy": "no"}, lambda r: str(r.run.checkpoint_every), "never"),
        ({"save_total_limit": 3}, lambda r: r.run.keep, 3),
        ({"data_seed": 7}, lambda r: (r.seed.model, r.seed.data), (42, 7)),
        ({"label_smoothing_factor": 0.1}, lambda r: r.loss.label_smoothing, 0.1),
        ({"use_cpu": True}, lambda r: r.plan.device, "cpu"),
        ({}, lambda r: r.plan.precision.name, None),
        ({"bf16": True, "tf32": True}, lambda r: r.plan.precision.name, "bf16"),
        ({"fp16": True}, lambda r: r.plan.precision.name, "fp16"),
        ({"tf32": True}, lambda r: r.plan.precision.name, "tf32"),
        ({"optim": "adamw_torch_8bit"}, lambda r: (r.optimizer.name, r.optimizer.state), ("adamw", "8bit")),
    ],
)
def test_each_argument_lands_in_its_key(changes, read, expected):
    recipe, _ = Recipe.from_training_arguments(arguments(**changes))
    assert read(recipe) == expected


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"gradient_checkpointing": True}, "gradient_checkpointing=True -> plan.recompute: blocks"),
        ({"torch_compile": True}, "torch_compile=True -> plan.compile: blocks"),
        (
            {"optim": "adafactor"},
            "optim=adafactor dropped: only torch's AdamW, SGD and Lion in fp32 are translated",
        ),
        (
            {"lr_scheduler_type": "polynomial"},
            "lr_scheduler_type=polynomial dropped: no counterpart; linear is used",
        ),
        (
            {"group_by_length": True},
            "group_by_length=True dropped: samples of a batch are always sorted by length",
        ),
        ({"report_to": ["wandb"]}, "report_to=['wandb'] dropped: see observers"),
        ({"metric_for_best_model": "eval_f1"}, "metric_for_best_model=f1: set `best: f1`"),
        ({"activation_checkpointing": True}, "activation_checkpointing=True dropped: see plan.recompute"),
        ({"deepspeed": "ds.json"}, "deepspeed=ds.json dropped: see plan.mesh: `shard` divides parameters"),
    ],
)
def test_what_is_left_out_is_said_with_the_reason(changes, note):
    _, notes = translate(arguments(**changes))
    assert [line for line in notes if line.startswith(note)], notes


def test_the_real_class_is_translated_by_attributes_alone(tmp_path):
    code = (
        "import sys\n"
        "from types import SimpleNamespace\n"
        "from bigbatch.recipe.schema import Recipe\n"
        "Recipe.from_training_arguments(SimpleNamespace(learning_rate=1e-4))\n"
        "print({'torch', 'transformers'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_transformers_own_object(tmp_path):
    transformers = pytest.importorskip("transformers")
    args = transformers.TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        warmup_steps=10,
        use_cpu=True,
    )
    recipe, notes = Recipe.from_training_arguments(args)
    assert (recipe.batch.samples, str(recipe.schedule.warmup)) == (8, "10 updates")
    assert not [note for note in notes if "dropped" in note], notes
