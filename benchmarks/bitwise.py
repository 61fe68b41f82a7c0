"""What the same bits on any number of ranks cost: gradients summed in a tree's order against a plain all-reduce.

Processes of one machine joined by gloo; both sums in turn (A B A B …), so that other work hits both. What is timed is
the sum alone, of 22.7M fp32 values in the shapes of MiniLM; the rest of an update does not change.

    python benchmarks/bitwise.py --ranks 2 4 --rounds 7 --save
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from benchmarks.optimizers import shapes  # noqa: E402
from torch import nn  # noqa: E402

from bigbatch.parallel.bitwise import AlignedGroup  # noqa: E402
from bigbatch.parallel.group import GroupWorld  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"


def rank_seconds(rank: int, size: int, rounds: int, port: int, answers: Any) -> None:
    """One rank; rank 0 leaves the seconds of every round."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=size)
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes().values()]
    worlds = (GroupWorld(), AlignedGroup())
    seconds = []
    for _ in range(rounds + 1):
        row = []
        for world in worlds:
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, 1e-3 * (rank + 1))
            world.barrier()
            started = time.perf_counter()
            world.reduce_gradients(parameters)
            world.barrier()
            row.append(time.perf_counter() - started)
        seconds.append(row)
    if rank == 0:
        answers.put(seconds[1:])
    dist.destroy_process_group()


def measured(size: int, rounds: int) -> list[list[float]]:
    """Seconds of (all-reduce, tree) of every round."""
    context = torch.multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [
        context.Process(target=rank_seconds, args=(rank, size, rounds, port, answers)) for rank in range(size)
    ]
    for process in ranks:
        process.start()
    found = answers.get()
    for process in ranks:
        process.join()
    return found


def main() -> int:
    """Measure, print, and keep on request."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    lines = [
        f"# The same bits on any number of ranks, and what that costs ({platform.machine()}, gloo)",
        "",
        f"22.7M fp32 values, torch {torch.__version__}, {arguments.rounds} rounds in turn, one thread a rank.",
        "",
        "| ranks | all-reduce, ms | tree, ms | ratio, median (range) |",
        "|---|---|---|---|",
    ]
    for size in arguments.ranks:
        rows = measured(size, arguments.rounds)
        ratios = sorted(tree / plain for plain, tree in rows)
        plain, tree = (statistics.median(column) * 1e3 for column in zip(*rows, strict=True))
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        lines.append(f"| {size} | {plain:,.0f} | {tree:,.0f} | {spread} |")
    print("\n".join(lines))
    if arguments.save:
        path = RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-bitwise.md"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
