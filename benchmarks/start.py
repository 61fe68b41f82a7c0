"""From the command to the first update: bigbatch, and scripts with transformers' Trainer, of as many samples.

Each contestant is a fresh process that reads train.csv and test.csv (columns `text`, `label`), tokenises both, loads
the model and makes one update of 16 samples: bigbatch with everything that it does before one (reading and checking
rows, hashing, comparing its packed path with the plain one, calibrating, planning, the run directory). They take
turns. What counts is CPU seconds, of all processes of a contestant, up to the moment when the first update is
reported: other work on the machine hits the clock on the wall much more.

    python benchmarks/start.py --model MODEL FOLDER
    python benchmarks/start.py --model MODEL FOLDER --rounds 9 --save
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TICKS = os.sysconf("SC_CLK_TCK")
BATCH = 16
WAITING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "2000"}
"""For all of them, as bigbatch sets it: CPU seconds of threads that turn round say nothing."""
OURS, BEST, TUTORIAL = "bigbatch", "Trainer, csv module", "Trainer, datasets and map"

TRAINER = """
import csv, sys
from transformers import (
    AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainerCallback,
    TrainingArguments,
)
model, folder, out, way = sys.argv[1:5]
steps = int(sys.argv[5]) if len(sys.argv) > 5 else 1
tokenizer = AutoTokenizer.from_pretrained(model)
files = {name: f"{folder}/{name}.csv" for name in ("train", "test")}
if way == "map":
    from datasets import load_dataset
    data = load_dataset("csv", data_files=files, cache_dir=out + "/cache")
    names = sorted(set(data["train"]["label"]))
    number = {name: index for index, name in enumerate(names)}
    def tokenised(rows):
        found = tokenizer(rows["text"], truncation=True, max_length=128)
        found["labels"] = [number[name] for name in rows["label"]]
        return found
    data = data.map(tokenised, batched=True, remove_columns=data["train"].column_names)
else:
    def read(path):
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    rows = {name: read(path) for name, path in files.items()}
    names = sorted({row["label"] for row in rows["train"]})
    number = {name: index for index, name in enumerate(names)}
    data = {}
    for name, own in rows.items():
        found = tokenizer([row["text"] for row in own], truncation=True, max_length=128)
        data[name] = [
            {**{key: values[index] for key, values in found.items()}, "labels": number[row["label"]]}
            for index, row in enumerate(own)
        ]
class Watch(TrainerCallback):
    def on_step_end(self, args, state, control, **rest):
        if state.global_step == steps:
            open(out + "/first", "w").write("1")
Trainer(
    model=AutoModelForSequenceClassification.from_pretrained(model, num_labels=len(names)),
    args=TrainingArguments(
        output_dir=out + "/trainer", per_device_train_batch_size=16, num_train_epochs=3, report_to=[],
        use_cpu=True, dataloader_pin_memory=False, disable_tqdm=True,
    ),
    train_dataset=data["train"], eval_dataset=data["test"], processing_class=tokenizer,
    data_collator=DataCollatorWithPadding(tokenizer), callbacks=[Watch()],
).train()
"""


@dataclass(frozen=True, kw_only=True)
class Start:
    """One contestant's time to its first update, in seconds."""

    cpu: float
    wall: float


def started(command: list[str], folder: Path, first: Callable[[], bool], log: Path) -> Start:
    """Run a command until `first` says that there was an update, then end it.

    Args:
        command: of a fresh process.
        folder: it runs there.
        first: whether the first update has been reported.
        log: what it prints.
    """
    environ = {**os.environ, **WAITING, "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as printed:
        begun = time.monotonic()
        process = subprocess.Popen(
            command, cwd=folder, env=environ, stdout=printed, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while not first():
                if process.poll() is not None:
                    raise SystemExit(f"{command[:4]} ended: {log.read_text(errors='replace')[-2000:]}")
                time.sleep(0.005)
            return Start(cpu=cpu_seconds(process.pid), wall=time.monotonic() - begun)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def cpu_seconds(session: int) -> float:
    """User and system time of every process of a session, and of the children that they have waited for."""
    total = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended meanwhile
                continue
            if int(fields[3]) == session:
                total += sum(int(field) for field in fields[11:15])
    return total / TICKS


def contestants(model: str, data: Path, out: Path) -> Mapping[str, tuple[list[str], Callable[[], bool]]]:
    """Name -> command, and whether its first update has been reported."""
    recipe = out / "recipe.yaml"
    recipe.write_text(
        f"model: {model}\ntask: classify\n"
        f"data: {{train: {data}/train.csv, test: {data}/test.csv, validation: 0.1, "
        "columns: {text: text, label: label}, max_length: 128}\n"
        f"batch: {BATCH}\nepochs: 3\noptimizer: {{name: adamw, lr: 5e-5}}\nschedule: {{name: linear}}\n"
        f"run: {{dir: {out}/run}}\n",
        encoding="utf-8",
    )
    script = out / "trainer.py"
    script.write_text(TRAINER, encoding="utf-8")
    metrics = out / "run" / "metrics.jsonl"

    def ours() -> bool:
        return metrics.exists() and '"step":1' in metrics.read_text().replace(" ", "")

    def theirs() -> bool:
        return (out / "first").exists()

    trainer = [sys.executable, str(script), model, str(data), str(out)]
    return {
        OURS: ([sys.executable, "-m", "bigbatch", "train", str(recipe)], ours),
        BEST: ([*trainer, "csv"], theirs),
        TUTORIAL: ([*trainer, "map"], theirs),
    }


def measured(model: str, data: Path, rounds: int, only: list[str]) -> dict[str, list[Start]]:
    """Contestant -> its start of each round; they take turns, the first round is thrown away (cold files)."""
    found: dict[str, list[Start]] = {name: [] for name in only}
    for number in range(rounds + 1):
        for name in only:
            with tempfile.TemporaryDirectory(prefix="first-update-") as folder:
                out = Path(folder)
                command, first = contestants(model, data, out)[name]
                start = started(command, out, first, out / "log")
            if number:
                found[name].append(start)
            print(f"round {number} {name}: {start.cpu:.2f} CPU s, {start.wall:.2f} s", file=sys.stderr)
    return found


def table(found: Mapping[str, list[Start]]) -> list[str]:
    """Markdown: medians and ranges, and ours against each other contestant, round by round."""
    lines = ["| command to first update | CPU seconds | seconds | ours / theirs, CPU | ours / theirs, wall |"]
    lines.append("|---" * 5 + "|")
    for name, starts in found.items():
        cells = [spread([one.cpu for one in starts]), spread([one.wall for one in starts])]
        for kind in ("cpu", "wall"):
            pairs = zip(found.get(OURS, ()), starts, strict=False)
            ratios = [getattr(ours, kind) / getattr(theirs, kind) for ours, theirs in pairs]
            cells.append("" if name == OURS or not ratios else spread(ratios))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def spread(values: Sequence[float]) -> str:
    """Median, least and greatest."""
    return f"{median(values):.2f} ({min(values):.2f} … {max(values):.2f})"


def main() -> None:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="with train.csv and test.csv")
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[OURS, BEST, TUTORIAL])
    parser.add_argument("--save", action="store_true", help="write benchmarks/results")
    asked = parser.parse_args()
    found = measured(str(Path(asked.model).resolve()), asked.folder.resolve(), asked.rounds, asked.only)
    lines = table(found)
    print("\n".join(lines))
    if asked.save:
        date = f"{datetime.now(UTC):%Y-%m-%d}"
        how = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
        title = f"# From the command to the first update, {date}"
        told = f"{asked.folder.name}, {Path(asked.model).name}, {BATCH} samples an update; {how}"
        told += f"; {asked.rounds} rounds: median and range"
        text = "\n".join([title, "", told, "", *lines, ""])
        (RESULTS / f"{date}-start.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
