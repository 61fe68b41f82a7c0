"""Questions, conversations, reward models: bigbatch beside transformers' Trainer and TRL, at equal model and updates.

Each contestant trains the same starting weights on the same rows with the same batch, updates, rate, schedule and
clipping, in a process of its own with one thread; rounds go through the contestants in turn (A B A B). What each saved
is then scored by one function. CPU time compares on a machine that others use, too; memory is the largest resident set
of the process, imports included.

    python examples/questions/prepare.py && python examples/chat/prepare.py
    (cd examples/preferences && python prepare.py)
    python benchmarks/tasks.py --rounds 2                 # --only span, --only chat, --only reward
    python benchmarks/tasks.py --trl /path/to/python      # of an environment that has TRL
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES, RESULTS = ROOT / "examples", ROOT / "benchmarks" / "results"
CONTESTS = {
    "span": ("bigbatch", "trainer"),
    "chat": ("bigbatch", "trainer", "trl"),
    "reward": ("bigbatch", "trl"),
}
WHAT = {
    "span": "MiniLM, examples/questions, windows of 128 tokens that share 64, those of 16 questions an update; F1 of "
    "150 test questions that have an answer. Trainer: AutoModelForQuestionAnswering, windows shuffled one by one as "
    "run_qa.py does, as many an update as 16 questions have on average, padded to the longest of the batch",
    "chat": "a Llama of four layers from one set of random weights, examples/chat, 16 conversations of at most 384 "
    "tokens an update; perplexity of 100 test conversations. Trainer: rows padded to the longest of the batch, labels "
    "of -100 for what the assistant has not said; TRL: SFTTrainer on the conversations, assistant_only_loss",
    "reward": "the same Llama with a new head of one output, examples/preferences, 16 pairs an update; accuracy on 200 "
    "test pairs. TRL: RewardTrainer",
}
BATCH = 16
RATES = {"span": 3e-4, "chat": 2e-3, "reward": 1e-3}
METRIC = {"span": "f1", "chat": "perplexity", "reward": "accuracy"}
STRIDE = 64
"""Tokens that neighbouring windows of a text share."""
LENGTH = {"span": 128, "chat": 384, "reward": 96}


MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}"
    "{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
)
"""The template of examples/chat with a mark around what the assistant says, as TRL needs it."""


def lines(path: Path, most: int | None = None) -> list[dict[str, Any]]:
    """The first rows of a JSON Lines file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file][:most]


def questions(split: str, most: int | None = None) -> list[dict[str, Any]]:
    """The first questions of a SQuAD file, each with its text."""
    document = json.loads((EXAMPLES / "questions" / "data" / f"{split}.json").read_text(encoding="utf-8"))
    return [
        {"question": one["question"], "context": each["context"], "answers": one["answers"]}
        for each in document["data"][0]["paragraphs"]
        for one in each["qas"]
    ][:most]


def rows_of(contest: str, split: str, most: int | None = None) -> list[dict[str, Any]]:
    """The rows of a contest."""
    if contest == "span":
        return questions(split, most)
    folder = {"chat": "chat", "reward": "preferences"}[contest]
    return lines(EXAMPLES / folder / "data" / f"{split}.jsonl", most)


def start_of(contest: str, folder: Path) -> Path:
    """The folder that every contestant starts from."""
    if contest == "span":
        return EXAMPLES / "airline-tweets" / "data" / "model"
    if not folder.exists():
        import torch
        from transformers import (
            AutoConfig,
            AutoModelForCausalLM,
            AutoModelForSequenceClassification,
            AutoTokenizer,
        )

        shape = EXAMPLES / "chat" / "data" / "shape"
        torch.manual_seed(0)
        config = AutoConfig.from_pretrained(shape)
        made = AutoModelForCausalLM
        if contest == "reward":
            config.num_labels, made = 1, AutoModelForSequenceClassification
        made.from_config(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(shape).save_pretrained(folder)
    return folder


# ---------------------------------------------------------------- contestants


def by_bigbatch(contest: str, updates: int, model: Path, folder: Path) -> Path:
    """As it comes: its own plan."""
    import bigbatch

    recipe = {
        "model": str(model),
        "task": {"name": contest, **({"null_threshold": 0, "stride": STRIDE} if contest == "span" else {})},
        "data": {"max_length": LENGTH[contest]},
        "batch": BATCH,
        "updates": updates,
        "optimizer": {"name": "adamw", "lr": RATES[contest], "weight_decay": 0.0},
        "schedule": {"name": "linear", "warmup": "10 %"},
        "clip": 1.0,
        "baseline": "off",
        "run": {"dir": str(folder / "run"), "evaluate_every": "never", "checkpoint_every": "never"},
    }
    bigbatch.train(recipe, rows_of(contest, "train"), quiet=True)
    return folder / "run" / "model"


def arguments(contest: str, updates: int, folder: Path) -> dict[str, Any]:
    """Of a Trainer, the same."""
    return {
        "output_dir": str(folder), "max_steps": updates, "per_device_train_batch_size": BATCH,
        "learning_rate": RATES[contest], "weight_decay": 0.0, "lr_scheduler_type": "linear",
        "warmup_steps": round(0.1 * updates), "max_grad_norm": 1.0, "save_strategy": "no", "report_to": [],
        "disable_tqdm": True, "logging_strategy": "no", "use_cpu": True, "seed": 0,
    }  # fmt: skip


def windows(rows: Sequence[Mapping[str, Any]], tokenizer: Any) -> list[dict[str, Any]]:
    """All windows of the questions with the tokens of their answers, as transformers' own run_qa.py makes them."""
    found = []
    for row in rows:
        encoded = tokenizer(
            row["question"], row["context"], truncation="only_second", max_length=LENGTH["span"], stride=STRIDE,
            return_overflowing_tokens=True, return_offsets_mapping=True,
        )  # fmt: skip
        begin, end = -1, -1
        if row["answers"]:
            begin = row["answers"][0]["answer_start"]
            end = begin + len(row["answers"][0]["text"])
        for number, places in enumerate(encoded["offset_mapping"]):
            text = [at for at, part in enumerate(encoded.sequence_ids(number)) if part == 1]
            own = [at for at in text if places[at][0] < end and places[at][1] > begin]
            whole = bool(own) and places[text[0]][0] <= begin and places[text[-1]][1] >= end
            first, last = (own[0], own[-1]) if whole else (0, 0)
            one = {key: encoded[key][number] for key in ("input_ids", "token_type_ids", "attention_mask")}
            found.append({**one, "start_positions": first, "end_positions": last})
    return found


def answer(model: Any, tokenizer: Any, row: Mapping[str, Any], most: int = 30) -> str:
    """The stretch of the text with the largest sum of start and end over all windows, at most so many tokens long."""
    import torch

    encoded = tokenizer(
        row["question"], row["context"], truncation="only_second", max_length=LENGTH["span"], stride=STRIDE,
        return_overflowing_tokens=True, return_offsets_mapping=True, return_tensors="pt", padding=True,
    )  # fmt: skip
    given = {key: encoded[key] for key in ("input_ids", "token_type_ids", "attention_mask")}
    with torch.inference_mode():
        told = model(**given)
    best, text = -math.inf, ""
    for number, places in enumerate(encoded["offset_mapping"].tolist()):
        own = torch.tensor([part == 1 for part in encoded.sequence_ids(number)])
        start, end = (logits[number].masked_fill(~own, -math.inf) for logits in (told[0], told[1]))
        sums = start[:, None] + end[None, :]
        sums = sums.masked_fill(~torch.ones_like(sums, dtype=torch.bool).triu().tril(most - 1), -math.inf)
        at = int(sums.argmax())
        if float(sums.flatten()[at]) > best:
            first, last = divmod(at, len(places))
            best, text = float(sums.flatten()[at]), row["context"][places[first][0] : places[last][1]]
    return text


def by_trainer(contest: str, updates: int, model: Path, folder: Path) -> Path:
    """The Trainer of transformers, random batches padded to their longest."""
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForQuestionAnswering,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows, saved, asked = rows_of(contest, "train"), folder / "model", arguments(contest, updates, folder)
    if contest == "span":
        module = AutoModelForQuestionAnswering.from_pretrained(model)
        data, collator = windows(rows, tokenizer), DataCollatorWithPadding(tokenizer)
        asked["per_device_train_batch_size"] = round(BATCH * len(data) / len(rows))
    else:
        module = AutoModelForCausalLM.from_pretrained(model)
        data = [
            {"input_ids": ids, "labels": [one if own else -100 for one, own in zip(ids, mask, strict=True)]}
            for ids, mask in masked(rows, tokenizer)
        ]
        collator = DataCollatorForSeq2Seq(tokenizer)
    trainer = Trainer(
        model=module, args=TrainingArguments(**asked), train_dataset=data,
        data_collator=collator, processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    trainer.save_model(str(saved))
    return saved


def masked(rows: Sequence[Mapping[str, Any]], tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    """(ids, 1 where the assistant speaks) of each conversation, through a ChatML template with a generation mark."""
    found = []
    for row in rows:
        told = tokenizer.apply_chat_template(
            row["messages"], chat_template=MARKED, return_assistant_tokens_mask=True, return_dict=True,
        )  # fmt: skip
        most = LENGTH["chat"]
        found.append((told["input_ids"][:most], told["assistant_masks"][:most]))
    return [each for each in found if any(each[1])]


def by_trl(contest: str, updates: int, model: Path, folder: Path) -> Path:
    """TRL's trainer of the task, as it comes."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(model)
    rows, keys = rows_of(contest, "train"), arguments(contest, updates, folder)
    if contest == "chat":
        tokenizer.chat_template = MARKED
        data = Dataset.from_list([{"messages": row["messages"]} for row in rows])
        config = SFTConfig(
            **keys, max_length=LENGTH["chat"], assistant_only_loss=True, gradient_checkpointing=False
        )
        trainer = SFTTrainer(str(model), args=config, train_dataset=data, processing_class=tokenizer)
    else:
        config = RewardConfig(**keys, max_length=LENGTH["reward"], gradient_checkpointing=False)
        trainer = RewardTrainer(
            str(model), args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
        )
    trainer.train()
    trainer.save_model(str(folder / "model"))
    return folder / "model"


CONTESTANTS: Mapping[str, Callable[[str, int, Path, Path], Path]] = {
    "bigbatch": by_bigbatch, "trainer": by_trainer, "trl": by_trl,
}  # fmt: skip


# ---------------------------------------------------------------- rounds


def contest_of(contest: str, name: str, updates: int, model: Path, folder: Path) -> dict[str, float]:
    """What training cost; what is learnt lies in the folder."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    wall = time.perf_counter()
    saved = CONTESTANTS[name](contest, updates, model, folder)
    used = resource.getrusage(resource.RUSAGE_SELF)
    saved.rename(folder / "trained")
    return {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime,
        "peak_bytes": used.ru_maxrss * 1024.0,
    }


def in_process(contest: str, name: str, updates: int, python: str, start: Path) -> dict[str, float]:
    """Trained in a process of its own, with one thread; then scored in this one."""
    with tempfile.TemporaryDirectory() as folder:
        words = [python, __file__, "--only", contest, "--contestant", name, "--updates", str(updates)]
        done = subprocess.run(
            [*words, "--start", str(start), "--folder", folder], capture_output=True, text=True, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"{contest}, {name}: {done.stderr[-3000:]}")
        figure = scored(contest, Path(folder) / "trained")
        return {**json.loads(done.stdout.splitlines()[-1]), METRIC[contest]: figure}


def scored(contest: str, model: Path) -> float:
    """The figure of a model folder, whoever trained it, by plain forward passes."""
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForQuestionAnswering,
        AutoModelForSequenceClassification,
        AutoTokenizer,
    )

    from bigbatch.metrics.span import english_f1

    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    if contest == "span":
        finder: Any = AutoModelForQuestionAnswering.from_pretrained(model).eval()
        answerable = [row for row in questions("test") if row["answers"]][:150]
        given = [answer(finder, tokenizer, row) for row in answerable]
        pairs = zip(answerable, given, strict=True)
        return statistics.mean(
            max(english_f1(right["text"], text) for right in row["answers"]) for row, text in pairs
        )
    with torch.inference_mode():
        if contest == "chat":
            causal: Any = AutoModelForCausalLM.from_pretrained(model).eval()
            nats, count = 0.0, 0
            for ids, mask in masked(rows_of("chat", "test", 100), tokenizer):
                logits = causal(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
                own = [at for at in range(1, len(ids)) if mask[at]]
                nats -= sum(float(logits[at - 1, ids[at]]) for at in own)
                count += len(own)
            return math.exp(nats / count)
        judge: Any = AutoModelForSequenceClassification.from_pretrained(model).eval()
        right, rows = 0, rows_of("reward", "test", 200)
        for row in rows:
            both = []
            for side in ("chosen", "rejected"):
                ids = tokenizer(row["prompt"] + row[side])["input_ids"][: LENGTH["reward"] - 1]
                both.append(float(judge(input_ids=torch.tensor([[*ids, tokenizer.eos_token_id]])).logits))
            right += both[0] > both[1]
        return right / len(rows)


def table(contest: str, rounds: Sequence[Mapping[str, Mapping[str, float]]]) -> list[str]:
    """Medians, and ratios to bigbatch's within a round."""
    metric = METRIC[contest]
    out = [
        f"| {contest} | {metric} | wall s | CPU s | CPU: ratio | peak MiB | peak: ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in rounds[0]:
        own = {key: [one[name][key] for one in rounds] for key in rounds[0][name]}
        ratios = {
            key: [one[name][key] / one["bigbatch"][key] for one in rounds]
            for key in ("cpu_seconds", "peak_bytes")
        }
        cpu = ratios["cpu_seconds"]
        out.append(
            f"| {name} | {statistics.median(own[metric]):.3f} ({min(own[metric]):.3f} to {max(own[metric]):.3f}) "
            f"| {statistics.median(own['seconds']):.0f} | {statistics.median(own['cpu_seconds']):.1f} "
            f"| {statistics.median(cpu):.2f} ({min(cpu):.2f} to {max(cpu):.2f}) "
            f"| {statistics.median(own['peak_bytes']) / 2**20:,.0f} | {statistics.median(ratios['peak_bytes']):.2f} |"
        )
    return out


def main() -> None:
    """Run and write benchmarks/results/DATE-tasks.json and .md."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--updates", type=int, default=60)
    asked.add_argument("--rounds", type=int, default=2)
    asked.add_argument("--only", choices=list(CONTESTS), action="append")
    asked.add_argument(
        "--trl", metavar="PYTHON", help="of an environment with TRL; without it TRL is left out"
    )
    asked.add_argument("--contestant")
    asked.add_argument("--start", type=Path)
    asked.add_argument("--folder", type=Path)
    given = asked.parse_args()
    if given.contestant:
        found = contest_of(given.only[0], given.contestant, given.updates, given.start, given.folder)
        print(json.dumps(found))
        return
    load, results = os.getloadavg()[0], {}
    with tempfile.TemporaryDirectory() as passing:
        for contest in given.only or CONTESTS:
            names = [name for name in CONTESTS[contest] if name != "trl" or given.trl]
            if len(names) < 2:
                print(f"{contest}: nobody to compare with; pass --trl")
                continue
            start, rounds = start_of(contest, Path(passing) / contest), []
            for _ in range(given.rounds):
                rounds.append({})
                for name in names:
                    python = given.trl if name == "trl" else sys.executable
                    rounds[-1][name] = in_process(contest, name, given.updates, python, start)
                    print(contest, name, json.dumps(rounds[-1][name]), flush=True)
            results[contest] = rounds
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": f"python benchmarks/tasks.py --updates {given.updates} --rounds {given.rounds}",
        "versions": {name: version(name) for name in ("torch", "transformers", "numpy")},
        "python": platform.python_version(),
        "commit": _said("git", "rev-parse", "--short", "HEAD"),
        "load_at_the_start": load,
        "load_at_the_end": os.getloadavg()[0],
    }
    if given.trl:
        asking = "from importlib.metadata import version as v; print(v('trl'))"
        about["versions"]["trl"] = _said(given.trl, "-c", asking)
    path = RESULTS / f"{about['date']}-tasks.json"
    path.write_text(json.dumps({**about, "rounds": results}, indent=1) + "\n", encoding="utf-8")
    busy = f"load {load:.0f} to {about['load_at_the_end']:.0f}"
    told = [
        f"# Questions, conversations, rewards: {about['date']}",
        "",
        f"`{about['command']}`, one thread each, on 2 cores that other work used, too ({busy}): CPU times compare.",
        "",
    ]
    for contest, rounds in results.items():
        told += [f"{WHAT[contest]}.", "", *table(contest, rounds), ""]
    path.with_suffix(".md").write_text("\n".join(told).rstrip() + "\n", encoding="utf-8")
    print("\n".join(told))


def _said(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT).stdout.strip()


if __name__ == "__main__":
    main()
