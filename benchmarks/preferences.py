"""Preferences: bigbatch, and TRL's DPOTrainer, on the same pairs in the same batches.

Both begin with the same weights (a GPT-2 of two layers that has learnt nothing, without dropout), see the same rows in
the same order, by DPO with beta 0.1 and AdamW at the same constant rate; TRL takes `--micro` rows at a time and adds
gradients up, bigbatch plans for itself. TRL is asked both ways: it runs the starting model beside the trained one, or
computes what it says first (`precompute_ref_log_probs`), as bigbatch does. Each is a fresh process with one thread;
they take turns. Counted are the processor seconds of the updates after the first, which other work on the machine does
not change much, and their losses are held against each other: what is faster has to learn the same.

    python benchmarks/preferences.py --save      # needs trl
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

RESULTS = Path(__file__).resolve().parent / "results"
CONTESTANTS = ("bigbatch", "trl", "trl precomputed")
LR, BETA, EPS = 1e-3, 0.1, 1e-5
"""Of AdamW: with 1e-8 gradients that are nothing but rounding move weights as far as any."""


def rows(count: int) -> list[dict[str, str]]:
    """Prompts of 4 to 40 words, answers of a skewed 2 to 60: of the chosen one every third word is kind."""
    random = np.random.default_rng(0)
    words = [f"w{number}" for number in range(500)]

    def text(length: int, kind: range) -> str:
        own = [
            words[int(random.integers(kind.start, kind.stop))] if at % 3 else str(each)
            for at, each in enumerate(random.choice(words, length))
        ]
        return " ".join(own)

    def lengths() -> list[int]:
        return np.clip(random.lognormal(2.5, 0.7, 2), 2, 60).astype(int).tolist()

    found = []
    for _ in range(count):
        chosen, rejected = lengths()
        prompt = text(int(random.integers(4, 41)), range(500))
        answers = {
            "chosen": " " + text(chosen, range(250)),
            "rejected": " " + text(rejected, range(200, 500)),
        }
        found.append({"prompt": prompt, **answers})
    return found


def model_folder(folder: Path) -> None:
    """A GPT-2 of two layers, and a tokenizer of whole words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    vocabulary = ["[PAD]", "[END]", "[UNK]", *(f"w{number}" for number in range(500))]
    inner = Tokenizer(models.WordLevel({word: at for at, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", eos_token="[END]", unk_token="[UNK]", model_max_length=256
    )
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(vocabulary), n_embd=128, n_layer=2, n_head=2, n_positions=256, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=1, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def by_bigbatch(place: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Losses and processor seconds of each update, by a run."""
    import bigbatch

    keys = {
        "task": {"name": "prefer", "beta": BETA}, "batch": asked.batch, "updates": asked.updates, "clip": None,
        "optimizer": {"lr": LR, "weight_decay": 0.0, "eps": EPS}, "schedule": {"name": "constant", "warmup": 0},
        "data.max_length": 256, "plan": {"precision": "fp32", "compile": "off", "threads": 1}, "baseline": "off",
    }  # fmt: skip
    pairs = json.loads((place / "rows.json").read_text())
    losses, seconds = [], []
    with bigbatch.start(
        str(place / "model"), pairs, None, set=keys, run_dir=place / f"run-{os.getpid()}"
    ) as run:
        began = time.process_time()
        for record in run:
            if record.kind == "update":
                losses.append(record["loss"])
                seconds.append(time.process_time() - began)
                began = time.process_time()
    return {"losses": losses, "seconds": seconds}


def by_trl(place: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """The same by the other library's trainer, in bigbatch's order."""
    import torch
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    from bigbatch.data.order import epoch_order

    torch.set_num_threads(1)
    pairs = json.loads((place / "rows.json").read_text())
    epochs = asked.updates * asked.batch // len(pairs) + 1
    order = np.concatenate([epoch_order(0, epoch, len(pairs)) for epoch in range(epochs)])
    mine = [pairs[int(row)] for row in order[: asked.updates * asked.batch]]
    losses: list[float] = []
    seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.process_time() - self.began)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in logs:
                losses.append(float(logs["loss"]))

    class InOrder(DPOTrainer):
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return SequentialSampler(self.train_dataset)

    config = DPOConfig(
        output_dir=str(place / f"trl-{os.getpid()}"), per_device_train_batch_size=asked.micro,
        gradient_accumulation_steps=asked.batch // asked.micro, max_steps=asked.updates, learning_rate=LR, beta=BETA,
        lr_scheduler_type="constant", weight_decay=0.0, adam_epsilon=EPS, max_grad_norm=0.0, logging_steps=1,
        max_length=256, report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False, disable_dropout=True,
        save_strategy="no", disable_tqdm=True, precompute_ref_log_probs="precomputed" in asked.contestant,
    )  # fmt: skip
    trainer = InOrder(
        model=AutoModelForCausalLM.from_pretrained(place / "model"), args=config, train_dataset=Dataset.from_list(mine),
        processing_class=AutoTokenizer.from_pretrained(place / "model"), callbacks=[Clock()],
    )  # fmt: skip
    trainer.train()
    return {"losses": losses, "seconds": seconds}


def measured(contestant: str, place: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """One round in a process of its own."""
    words = [sys.executable, __file__, "--as", contestant, "--place", place, "--batch", asked.batch]
    words += ["--micro", asked.micro, "--updates", asked.updates]
    done = subprocess.run(
        list(map(str, words)),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def summary(found: dict[str, list[dict[str, Any]]], asked: argparse.Namespace) -> dict[str, Any]:
    """What was measured."""
    seconds = {name: [median(one["seconds"][1:]) for one in rounds] for name, rounds in found.items()}
    ours = np.array(found[CONTESTANTS[0]][0]["losses"])
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": commit.stdout.strip(),
        "machine": f"{platform.machine()}, one thread",
        "load": os.getloadavg()[0],
        "versions": {name: version(name) for name in ("torch", "transformers", "trl")},
        "batch": asked.batch,
        "micro": asked.micro,
        "updates": asked.updates,
        "processor_seconds_an_update": {name: median(each) for name, each in seconds.items()},
        "ratio_by_round": {
            name: [round(b / a, 3) for a, b in zip(seconds[CONTESTANTS[0]], seconds[name], strict=True)]
            for name in CONTESTANTS[1:]
        },
        "losses": {name: rounds[0]["losses"] for name, rounds in found.items()},
        "largest_difference_of_losses": {
            name: float(np.max(np.abs(ours - np.array(found[name][0]["losses"])))) for name in CONTESTANTS[1:]
        },
    }


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--micro", type=int, default=8)
    parser.add_argument("--updates", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--as", dest="contestant", choices=CONTESTANTS)
    parser.add_argument("--place", type=Path)
    asked = parser.parse_args()
    if asked.contestant:
        run = by_bigbatch if asked.contestant == CONTESTANTS[0] else by_trl
        print("\n" + json.dumps(run(asked.place, asked)))
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "rows.json").write_text(json.dumps(rows(asked.rows)))
        model_folder(place / "model")
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}
        for _ in range(asked.rounds):
            for name in CONTESTANTS:
                found[name].append(measured(name, place, asked))
    text = json.dumps(summary(found, asked), indent=1) + "\n"
    print(text)
    if asked.save:
        (RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-preferences.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
