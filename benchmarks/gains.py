"""What each optimisation of the forward and backward pass gives, and that it changes nothing.

Each row adds one to those above it. Forward and backward of the same three micro-batches of the first update, in one
process and in turn (A B C … A B C …), so that other work on the machine hits all of them; median ratios and their
range. Then, without dropout, the gradient of each against the padded path: fp32, and fp64.

    python benchmarks/gains.py                    # the demo's tweets, Chinese reviews, long documents
    python benchmarks/gains.py --only tweets --rounds 7 --save
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from benchmarks.corpora import RECIPES, ready  # noqa: E402

from bigbatch.build.inputs import Live  # noqa: E402
from bigbatch.build.only import plan_only  # noqa: E402
from bigbatch.build.parts import Parts  # noqa: E402
from bigbatch.build.ready import Ready  # noqa: E402
from bigbatch.build.runners import open_runner  # noqa: E402
from bigbatch.data.batches import batch_of  # noqa: E402
from bigbatch.data.packs import micro_batches  # noqa: E402
from bigbatch.model.adjust import set_dropout  # noqa: E402
from bigbatch.plan.forward import ForwardPlan  # noqa: E402
from bigbatch.recipe.load import load_recipe  # noqa: E402
from bigbatch.samples import MicroBatch  # noqa: E402
from bigbatch.step.executor import OneByOne, Passes, Plain  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
PACKED = ForwardPlan(packing="packed")
CHUNKED = replace(PACKED, attention="chunked")
LAZY = replace(CHUNKED, last_block="read tokens")
ROWS = replace(LAZY, embedding_gradients="rows")
WAYS: Mapping[str, ForwardPlan] = {
    "sorted by length, padded": ForwardPlan(),
    "packed": PACKED,
    "+ chunked attention": CHUNKED,
    "+ last block for read tokens": LAZY,
    "+ embedding gradients by rows": ROWS,
    "+ quick dropout masks": replace(ROWS, dropout_masks="quick"),
}
ALONE: Mapping[str, ForwardPlan] = {
    "recompute: selective": replace(PACKED, recompute="selective", recomputed_blocks=99),
    "recompute: blocks": replace(PACKED, recompute="blocks", recomputed_blocks=99),
}
"""Trade time for memory, so they are compared with `packed` alone."""


class Bench:
    """One data set's model, and some micro-batches of its first update."""

    def __init__(self, parts: Parts, anatomy_source: Ready) -> None:
        self.parts, self.ready = parts, anatomy_source
        batch = parts.batches.at(0, 1)
        self.denominators = parts.task.denominators(batch.targets)
        self.pieces = {
            packing: list(micro_batches(batch, micro_tokens=parts.micro_tokens, packing=packing))
            for packing in ("packed", "padded")
        }
        self.chosen = _spread(self.pieces["packed"])
        samples = [sample for piece in self.chosen for sample in piece.sample_ids_B]
        # The same samples, cut as the padded path cuts them.
        self.padded = list(
            micro_batches(
                batch_of(parts.train, _ids(samples)), micro_tokens=parts.micro_tokens, packing="padded"
            )
        )
        self.tokens = sum(piece.tokens for piece in self.chosen)

    def batches(self, how: ForwardPlan) -> Sequence[MicroBatch]:
        return self.chosen if how.packing == "packed" else self.padded

    def seconds(self, how: ForwardPlan) -> float:
        """Forward and backward of the chosen samples."""
        runner = open_runner(self.ready, how)
        rule = Plain(runner, self.parts.task, runner.device)
        executor = OneByOne(rule, Passes(runner.device, 0, in_place=runner.in_place))
        self.parts.module.train()
        self.parts.module.zero_grad()
        started = time.perf_counter()
        executor.accumulate(1, self.batches(how), self.denominators)
        seconds = time.perf_counter() - started
        runner.close()
        return seconds

    def gradient(self, how: ForwardPlan) -> torch.Tensor:
        self.seconds(how)
        return torch.cat([item.grad.double().flatten() for item in self.parts.strategy.parameters])


def _spread(pieces: Sequence[MicroBatch]) -> list[MicroBatch]:
    return [pieces[(2 * index + 1) * len(pieces) // 6] for index in range(3)]


def _ids(samples: Sequence[int]):
    import numpy as np

    return np.asarray(samples, np.int64)


def open_bench(name: str) -> Bench:
    """Plan the data set's recipe without running it."""
    recipe = load_recipe(ready(name), ["plan.compile=off", "plan.micro_tokens=1024"])
    parts = plan_only(recipe, Live(), lambda text: None)
    parts.forward.close()
    known = replace(parts.model, deferred=False)
    return Bench(parts, known)


def table(name: str, bench: Bench, rounds: int) -> list[str]:
    """Markdown: ratios of speed, then errors of the gradient."""
    ways = {**WAYS, **ALONE}
    seconds: dict[str, list[float]] = {label: [] for label in ways}
    for number in range(rounds + 1):
        for label, how in ways.items():
            found = bench.seconds(how)
            if number:  # the first round warms up
                seconds[label].append(found)
    set_dropout(bench.parts.module, 0.0)
    errors = {label: _error(bench, how) for label, how in ways.items()}
    bench.parts.module.double()
    doubles = {label: _error(bench, how) for label, how in ways.items()}
    bench.parts.module.float()
    lines = [
        f"## {name}: {bench.tokens / sum(len(piece.lengths_B) for piece in bench.chosen):.0f} tokens a sample",
        "",
        "| | tokens/s | times padded | range | gradient error fp32 | fp64 |",
        "|---|---|---|---|---|---|",
    ]
    base = seconds["sorted by length, padded"]
    for label in ways:
        ratios = [one / other for one, other in zip(base, seconds[label], strict=True)]
        lines.append(
            f"| {label} | {bench.tokens / statistics.median(seconds[label]):,.0f} | {statistics.median(ratios):.2f} "
            f"| {min(ratios):.2f}–{max(ratios):.2f} | {errors[label]:.0e} | {doubles[label]:.0e} |"
        )
    return lines


def _error(bench: Bench, how: ForwardPlan) -> float:
    plain = bench.gradient(ForwardPlan())
    return float((bench.gradient(how) - plain).norm() / plain.norm())


def main() -> None:
    """Measure and print; keep when asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=list(RECIPES), action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="keep the tables in benchmarks/results/")
    arguments = parser.parse_args()
    lines = [
        f"# What each optimisation gives, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"`python benchmarks/gains.py {' '.join(sys.argv[1:])}`; {platform.machine()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}; {arguments.rounds} rounds in turn, medians. "
        "MiniLM, 22.7M parameters.",
    ]
    for name in arguments.only or list(RECIPES):
        lines += ["", *table(name, open_bench(name), arguments.rounds)]
        print("\n".join(lines), flush=True)
    if arguments.save:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-gains.md").write_text(
            "\n".join(lines) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
