"""What measuring the gradient noise scale costs: the same updates of the demo, measured and not, in turn.

One process, A B A B …: other work on the machine hits both. A measured update reads the gradient of each random part,
and its parts, cut by length on their own, are smaller micro-batches. The share of the training time is the extra time
of a measured update divided by `scale.every` (20 updates by default) plain ones.

    python benchmarks/noise_scale.py --threads 1 --rounds 5 --save
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from benchmarks.corpora import RECIPES, ready  # noqa: E402

from bigbatch.build.inputs import Live  # noqa: E402
from bigbatch.build.noise import NoiseScale  # noqa: E402
from bigbatch.build.only import plan_only  # noqa: E402
from bigbatch.build.parts import Parts  # noqa: E402
from bigbatch.protocols import Rates  # noqa: E402
from bigbatch.recipe.load import load_recipe  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
EVERY = 20
"""Updates from one measurement to the next: the default of `scale.every`."""


def timed(parts: Parts, number: int) -> float:
    """Seconds of an update of the first batch; measured when `number` is a multiple of EVERY."""
    assert isinstance(parts.noise, NoiseScale)
    batch = replace(parts.batches.at(0, 1), update=number, first_position=(number - 1) * 256)
    started = time.perf_counter()
    parts.strategy.update(batch, parts.strategy.pieces(batch, parts.cut), Rates(lr=1e-9))
    parts.noise.meter.found = {}
    return time.perf_counter() - started


def main() -> int:
    """Measure, print, and keep on request."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=list(RECIPES), default="tweets")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    words = [f"batch={arguments.batch}", f"scale.every={EVERY} updates", "plan.compile=off", "updates=100"]
    words += [] if arguments.threads is None else [f"plan.threads={arguments.threads}"]
    recipe = load_recipe(ready(arguments.only), words, environ={})
    parts = plan_only(recipe, Live(), print)
    parts.module.train()
    timed(parts, EVERY + 1)
    rows = []
    for number in range(arguments.rounds):
        plain, measured = timed(parts, EVERY * (number + 2) + 1), timed(parts, EVERY * (number + 3))
        rows.append((plain, measured))
        print(f"plain {plain:.2f} s, measured {measured:.2f} s", flush=True)
    extra = sorted(measured / plain - 1 for plain, measured in rows)
    lines = [
        f"# What measuring the noise scale costs ({platform.machine()}, {torch.get_num_threads()} threads)",
        "",
        f"{arguments.only}, {arguments.batch} samples an update, torch {torch.__version__}, "
        f"{arguments.rounds} rounds in turn.",
        "",
        "| | median | range |",
        "|---|---|---|",
        f"| a measured update takes longer by | {statistics.median(extra):.1%} | {extra[0]:.1%} to {extra[-1]:.1%} |",
        f"| share of the training time, one of {EVERY} measured | {statistics.median(extra) / EVERY:.2%} "
        f"| {extra[0] / EVERY:.2%} to {extra[-1] / EVERY:.2%} |",
    ]
    print("\n".join(lines))
    if arguments.save:
        path = RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-noise-scale-{arguments.only}.md"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
