"""The READMEs' first figures, written from the run of `make demo`.

    make demo
    python benchmarks/demo.py               # keep its figures in benchmarks/results/, put them into the READMEs
    python benchmarks/demo.py --keep-cost   # times and memory stay those kept before: other work disturbed this run
    python benchmarks/demo.py --no-read     # only write, from the newest ones that are kept

The losses of the first updates are kept, too, with what decides them beside the recipe: the type of CPU and how the
batch was split (other micro-batches draw other dropout masks). tests/docs/test_demo.py trains these updates again.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.pages import write_between  # noqa: E402

EXAMPLE = ROOT / "examples" / "airline-tweets"
RUN = ROOT / "runs" / "airline-tweets"
RESULTS = ROOT / "benchmarks" / "results"
MARKER = "figures: demo"
PAGES = {"README.md": "en", "README.zh-CN.md": "zh"}
FIRST_LOSSES = 3
WORDS = {
    "en": {
        "quality": ("`make demo`: {test_rows:,} tweets never seen in training", "accuracy", "macro F1"),
        "baseline": "TF-IDF and logistic regression",
        "ours": "bigbatch, {updates} updates of {batch} samples, {epochs:g} epochs",
        "cost": ("a quiet run, {threads} CPU cores, {cost_date}", "predicted before update 1", "measured"),
        "seconds": "training, seconds",
        "memory": "peak memory, GiB",
        "rest": "{tokens_per_second:,.0f} real tokens per second, no padding (random padded batches of 32 would have\n"
        "had {padding} %). Accuracy and F1 are those of {cpu} with {threads} threads, torch {torch} and\n"
        "{micro_tokens} tokens a micro-batch ({date}, seed {seed}); there\n"
        "`make demo ARGS=plan.micro_tokens={micro_tokens}` gives them again. Other processors round\n"
        "otherwise, and other micro-batches draw other dropout masks: the figures then move by about a point.",
    },
    "zh": {
        "quality": ("`make demo`：训练中从未见过的 {test_rows:,} 条推文", "准确率", "宏平均 F1"),
        "baseline": "TF-IDF 加逻辑回归",
        "ours": "bigbatch：{updates} 次更新，每次 {batch} 个样本，共 {epochs:g} 轮",
        "cost": ("一次空闲机器上的运行，{threads} 个 CPU 核，{cost_date}", "第 1 次更新前的预测", "实测"),
        "seconds": "训练时间（秒）",
        "memory": "峰值内存（GiB）",
        "rest": "每秒 {tokens_per_second:,.0f} 个真实词元，没有填充（随机取 32 个样本组成的补齐批次会有\n"
        "{padding} % 的填充）。准确率与 F1 来自 {cpu}、{threads} 个线程、torch {torch}、\n"
        "每个微批量 {micro_tokens} 个词元（{date}，seed {seed}）；\n"
        "在那里 `make demo ARGS=plan.micro_tokens={micro_tokens}` 会再次得到它们。\n"
        "别的处理器舍入不同，别的微批量会抽到别的 dropout 掩码，这些数字会有一个百分点左右的变化。",
    },
}


def read_run(run: Path = RUN, example: Path = EXAMPLE) -> dict[str, Any]:
    """What a finished demo says of itself."""
    result, plan, environment = (
        json.loads((run / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("result", "plan", "environment")
    )
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    updates = [record for record in records if record["kind"] == "update"]
    with (example / "data" / "test.csv").open(encoding="utf-8", newline="") as file:
        test_rows = sum(1 for _ in csv.DictReader(file))
    date, hardware = updates[-1]["time"][:10], environment["hardware"]
    quality = {
        "date": date,
        "cpu": hardware["device_name"],
        "threads": hardware["threads"],
        "torch": environment["versions"]["torch"].partition("+")[0],
        "seed": 0,
        "micro_tokens": plan["micro_tokens"]["value"],
        "first_losses": [record["loss"] for record in updates[:FIRST_LOSSES]],
        "test_rows": test_rows,
        "batch": updates[0]["batch_samples"],
        "updates": result["updates"],
        "epochs": float(
            re.findall(r"^epochs: (\S+)", (run / "recipe.yaml").read_text(encoding="utf-8"), re.M)[0]
        ),
        "baseline": json.loads((example / "data" / "baseline.json").read_text(encoding="utf-8")),
        "final": {key: result["final"]["test"][key] for key in ("accuracy", "f1_macro")},
    }
    cost = {
        "cost_date": date,
        "train_seconds": result["train_seconds"],
        "peak_memory_bytes": result["peak_memory_bytes"],
        "predicted": {key: result["predicted"][key] for key in ("train_seconds", "peak_memory_bytes")},
        "tokens_per_second": result["real_tokens_per_second"],
        "padding_share_random": environment["lengths"]["padding_share_random"],
    }
    return {"quality": quality, "cost": cost}


def section(found: Mapping[str, Any], language: str) -> str:
    """The READMEs' first tables."""
    words, gib = WORDS[language], 2**30
    quality_of, cost = found["quality"], found["cost"]
    padding = f"{100 * cost['padding_share_random']:.0f}"

    def said(text: str) -> str:
        return text.format(**quality_of, **cost, padding=padding)

    def row(*cells: str) -> str:
        return f"| {' | '.join(cells)} |"

    def quality(name: str, figures: Mapping[str, float]) -> str:
        return row(said(name), f"{figures['accuracy']:.4f}", f"{figures['f1_macro']:.4f}")

    guess = cost["predicted"]
    lines = [
        row(*map(said, words["quality"])),
        "|---|---|---|",
        quality(words["baseline"], quality_of["baseline"]),
        quality(words["ours"], quality_of["final"]),
        "",
        row(*map(said, words["cost"])),
        "|---|---|---|",
        row(words["seconds"], f"{guess['train_seconds']:.0f}", f"{cost['train_seconds']:.0f}"),
        row(
            words["memory"],
            f"{guess['peak_memory_bytes'] / gib:.2f}",
            f"{cost['peak_memory_bytes'] / gib:.2f}",
        ),
        "",
        said(words["rest"]),
    ]
    return "\n".join(lines)


def newest(folder: Path = RESULTS) -> dict[str, Any]:
    """The newest figures that are kept."""
    return json.loads(max(folder.glob("*-demo.json")).read_text(encoding="utf-8"))


def main() -> None:
    """Keep and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--no-read", action="store_true", help="only write, from the newest kept figures")
    parser.add_argument("--keep-cost", action="store_true", help="times and memory stay as they are kept")
    arguments = parser.parse_args()
    if not arguments.no_read:
        found = read_run()
        if arguments.keep_cost:
            found["cost"] = newest()["cost"]
        text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
        (RESULTS / f"{found['quality']['date']}-demo.json").write_text(text, encoding="utf-8")
    for page, language in PAGES.items():
        write_between(ROOT / page, MARKER, section(newest(), language))


if __name__ == "__main__":
    main()
