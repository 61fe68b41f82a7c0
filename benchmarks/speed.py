"""Speed and memory of bigbatch, Hugging Face's Trainer and a plain PyTorch loop on three data sets.

`bigbatch bench` for each of them, with the demo's MiniLM (22.7M parameters). About half an hour on 2 cores; needs
the machine for itself. Saves after every round; `--resume` goes on with the rounds that are missing.

    python benchmarks/speed.py                       # measure, keep the results in benchmarks/results/
    python benchmarks/speed.py --only tweets --rounds 1 --out scratch
    python benchmarks/speed.py --write               # and put the table into the READMEs
    python benchmarks/speed.py --write --no-measure  # only that, from the newest results
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.corpora import RECIPES, ready  # noqa: E402
from benchmarks.pages import write_between  # noqa: E402

from bigbatch.recipe.load import load_recipe  # noqa: E402
from bigbatch.study.bench import bench  # noqa: E402
from bigbatch.study.results import Results, figure, ratio, read_results  # noqa: E402
from bigbatch.study.tables import OURS, shown  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
MARKER = "speed-table"
PAGES = {"README.md": "en", "README.zh-CN.md": "zh"}
WORDS = {
    "en": {
        "title": "## Speed",
        "tweets": "tweets, {mean} tokens each",
        "reviews": "Chinese reviews, {mean} tokens each, very uneven",
        "newsgroups": "long documents, {mean} tokens each",
        "intro": "bigbatch against Hugging Face's Trainer and a plain PyTorch loop: the same samples, model, batch "
        "and optimiser; {name}, {threads} threads, {date}; {rounds}. "
        "[How it is made fair](docs/benchmarks.md).",
        "rest": "The rest, over these data sets, from the least to the greatest; every figure with its range is in "
        "[benchmarks/results](benchmarks/results):",
        "rounds": {
            "one": "one round",
            "same": "median of {most} rounds and their range",
            "mixed": "{fewest} to {most} rounds: their median and, where there is more than one, their range",
        },
        "head": ("training", "real tokens/s"),
        "against": {
            "hf-default": "times the Trainer, defaults",
            "hf-best": "times the Trainer at its best",
            "torch-loop": "times a plain loop",
        },
        "figures": {
            "predict_samples_per_second": "speed of prediction",
            "peak_memory_bytes": "peak memory of training (less is better)",
            "first_update_seconds": "command to first update (less is better)",
        },
    },
    "zh": {
        "title": "## 速度",
        "tweets": "推文，平均 {mean} 个词元",
        "reviews": "中文评论，平均 {mean} 个词元，长短悬殊",
        "newsgroups": "长文档，平均 {mean} 个词元",
        "intro": "bigbatch 与 Hugging Face Trainer 以及一个普通的 PyTorch 循环相比：样本、模型、批量和优化器都相同；"
        "{name}，{threads} 个线程，{date}；{rounds}。[怎样做到公平](docs/benchmarks.md)。",
        "rest": "其余各项，取各数据集中的最小值到最大值；全部数字与范围见 [benchmarks/results](benchmarks/results)：",
        "rounds": {
            "one": "只测了一轮",
            "same": "{most} 轮的中位数与范围",
            "mixed": "{fewest} 到 {most} 轮：中位数，多于一轮时附范围",
        },
        "head": ("训练", "每秒真实词元"),
        "against": {
            "hf-default": "Trainer 默认设置的倍数",
            "hf-best": "调到最好的 Trainer 的倍数",
            "torch-loop": "普通循环的倍数",
        },
        "figures": {
            "predict_samples_per_second": "预测速度",
            "peak_memory_bytes": "训练的峰值内存（越小越好）",
            "first_update_seconds": "从命令到第一次更新（越小越好）",
        },
    },
}


def section(found: Mapping[str, Results], language: str) -> str:
    """The READMEs' section on speed: what was reached, and what times as much as the others that is.

    Args:
        found: by data set.
        language: a key of `WORDS`.
    """
    words = WORDS[language]
    newest = max(found.values(), key=lambda results: results.date)
    intro = words["intro"].format(
        name=newest.machine["name"],
        threads=newest.machine["threads"],
        date=newest.date[:10],
        rounds=_rounds(words, [len(results.rounds) for results in found.values()]),
    )
    references = [
        name for name in words["against"] if all(name in each.contestants for each in found.values())
    ]
    head = (*words["head"], *(words["against"][name] for name in references))
    lines = [words["title"], "", intro, "", *_row(head), "|---" * len(head) + "|"]
    for name, results in found.items():
        ratios = [shown(ratio(results, "tokens_per_second", OURS, each), 1, 2) for each in references]
        reached = shown(figure(results, "tokens_per_second", OURS), 1, 0)
        lines += _row((_called(words, name, results), reached, *ratios))
    lines += ["", words["rest"], ""]
    for key, title in words["figures"].items():
        compared = [f"{_span(found, key, each)} {words['against'][each]}" for each in references]
        lines.append(f"- {title}: {', '.join(compared)}")
    return "\n".join(lines)


def _span(found: Mapping[str, Results], key: str, reference: str) -> str:
    """From the least to the greatest median of the data sets: `1.12 to 1.25`."""
    medians = [
        each.median for each in (ratio(results, key, OURS, reference) for results in found.values()) if each
    ]
    if not medians:
        return "–"
    low, high = f"{min(medians):.2f}", f"{max(medians):.2f}"
    return low if low == high else f"{low}–{high}"


def _rounds(words: Mapping, counts: Sequence[int]) -> str:
    """How often was measured; a range exists only where that was more than once."""
    fewest, most = min(counts), max(counts)
    kind = "mixed" if fewest < most else "one" if most == 1 else "same"
    return words["rounds"][kind].format(fewest=fewest, most=most)


def _called(words: Mapping, name: str, results: Results) -> str:
    return words[name].format(mean=round(results.setting["mean_tokens"]))


def _row(cells: tuple[str, ...]) -> list[str]:
    return ["| " + " | ".join(cells) + " |"]


def newest_results(folder: Path = RESULTS) -> dict[str, Results]:
    """The newest saved results of each data set."""
    found = {}
    for name in RECIPES:
        paths = sorted(folder.glob(f"*-speed-{name}.json"))
        if paths:
            found[name] = read_results(paths[-1])
    return found


def main() -> None:
    """Measure, keep, and write when asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=list(RECIPES), action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=5, help="counted updates of a round")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipes")
    parser.add_argument(
        "--minutes", type=float, default=35, help="no round is begun that would end after this"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results are kept")
    parser.add_argument("--resume", action="store_true", help="keep the rounds of an earlier start")
    parser.add_argument("--write", action="store_true", help="put the table into the READMEs")
    parser.add_argument("--no-measure", action="store_true", help="only write")
    arguments = parser.parse_args()
    names = arguments.only or list(RECIPES)
    started = time.monotonic()
    for index, name in enumerate([] if arguments.no_measure else names):
        left = 60 * arguments.minutes - (time.monotonic() - started)
        measure(name, arguments, left / (len(names) - index))
    if arguments.write:
        found = newest_results(arguments.out)
        for page, language in PAGES.items():
            write_between(ROOT / page, MARKER, section(found, language) if found else "")


def measure(name: str, arguments: argparse.Namespace, seconds: float) -> None:
    """Bench one data set and keep what was found, under today's date."""
    print(f"\n== {name}", flush=True)
    recipe = ready(name)
    scratch = ROOT / "benchmarks" / ".data" / f"bench-{name}"
    bench(
        load_recipe(recipe, arguments.set),
        out=scratch,
        updates=arguments.updates,
        rounds=arguments.rounds,
        max_seconds=seconds,
        command=f"python benchmarks/speed.py {' '.join(sys.argv[1:])}".strip(),
        resume=arguments.resume,
        say=lambda text: print(text, flush=True),
        saved=lambda: keep(scratch, arguments.out, name),
    )


def keep(scratch: Path, out: Path, name: str) -> None:
    """Copy the results of a data set to where they are kept."""
    out.mkdir(parents=True, exist_ok=True)
    for kind in ("json", "md"):
        shutil.copyfile(
            scratch / f"results.{kind}", out / f"{datetime.now(UTC):%Y-%m-%d}-speed-{name}.{kind}"
        )


if __name__ == "__main__":
    main()
