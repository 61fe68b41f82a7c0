"""Time and memory of attention by length: one sample, forward and backward, by pattern.

A Llama of two blocks (width 64, two heads) reads one packed sample of 1,024 to 32,768 tokens, of which every 64th is
read, so that attention is what grows. All patterns run in turn, in one process of one thread, at each length. Time is
that of the CPU, which other work on the machine changes little, the median of the rounds; memory is by how much a pass
raised the peak of the process. The slope is that of a straight line through the logarithms, over the lengths from 4,096
tokens on: 2 where twice the length takes four times, 1 where it takes twice. GFLOP/s in the results are of the seen
pairs' products alone, three times a forward pass.

    python benchmarks/long.py                 # all lengths: some ten minutes
    python benchmarks/long.py --most 8192
    python benchmarks/long.py --save
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from bigbatch.model.anatomy import anatomy
from bigbatch.model.narrowed import narrow
from bigbatch.model.patterns import Pattern
from bigbatch.model.runner import packed_runner
from bigbatch.recipe.attention import AttentionSpec
from bigbatch.samples import MicroBatch, Table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PATTERNS: dict[str, dict[str, object]] = {
    "full": {"pattern": "full"},
    "local": {"pattern": "local", "window": 256},
    "strided": {"pattern": "strided", "window": 256},
    "fixed": {"pattern": "fixed", "block": 128, "summary": 8},
    "global": {"pattern": "global", "window": 256, "global": 1},
}
LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768)
WIDTH, HEADS, BLOCKS = 64, 2, 2
SLOPE_FROM = 4096


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--most", type=int, default=LENGTHS[-1], help="tokens of the longest sample")
    parser.add_argument("--rounds", type=int, default=3, help="up to 8,192 tokens; beyond that one")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    lengths = [length for length in LENGTHS if length <= asked.most]
    passes = {name: model_of(options) for name, options in PATTERNS.items()}
    for once in passes.values():
        once(LENGTHS[0])
    found: dict[str, dict[int, dict[str, float]]] = {name: {} for name in PATTERNS}
    for length in lengths:
        rounds = asked.rounds if length <= 8192 else 1
        taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in PATTERNS}
        for _ in range(rounds):
            for name, once in passes.items():
                taken[name].append(measured(once, length))
        for name, each in taken.items():
            cpu, wall, memory = zip(*each, strict=True)
            found[name][length] = {
                "cpu_seconds": statistics.median(cpu),
                "least_cpu_seconds": min(cpu),
                "most_cpu_seconds": max(cpu),
                "seconds": statistics.median(wall),
                "peak_bytes": statistics.median(memory),
                "rounds": rounds,
                "gflops": work_of(PATTERNS[name], length) / statistics.median(cpu) / 1e9,
            }
            print(
                f"{length:,} {name}: {statistics.median(cpu):.3f} s, {statistics.median(memory) / 2**20:.0f} MiB",
                flush=True,
            )
    print("\n".join(table_of(found, lengths)))
    if asked.save:
        save(found)


def measured(once: Callable[[int], None], length: int) -> tuple[float, float, float]:
    """CPU seconds, seconds, and bytes by which the peak grew, of one pass."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # the peak is what there is now
    before, cpu, wall = peak_bytes(), time.process_time(), time.perf_counter()
    once(length)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return cpu, wall, peak_bytes() - before


def peak_bytes() -> int:
    """Of this process, since it was told to forget."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def model_of(options: dict[str, object]) -> Callable[[int], None]:
    """Forward and backward of a sample of so many tokens."""
    config = LlamaConfig(
        vocab_size=256, hidden_size=WIDTH, intermediate_size=WIDTH * 2, num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS, max_position_embeddings=LENGTHS[-1],
    )  # fmt: skip
    torch.manual_seed(0)
    module = LlamaForCausalLM(config).train()
    narrow(module, AttentionSpec.model_validate(options), "the model")
    run = packed_runner(module, anatomy(module))

    def once(length: int) -> None:
        module.zero_grad(set_to_none=True)
        run(micro_batch(length)).sum().backward()

    return once


def micro_batch(length: int) -> MicroBatch:
    """One sample, of which some tokens are read."""
    reads = np.arange(0, length, 64, dtype=np.int32)
    table = Table.of_tokens(
        ids=np.random.default_rng(length).integers(0, 256, length).astype(np.int32),
        token_offsets=np.array([0, length]),
        segments=None,
        reads=reads,
        unit_offsets=np.array([0, len(reads)]),
        values=np.zeros(len(reads), np.int64),
        weights=np.ones(len(reads), np.float32),
    )
    return MicroBatch(
        index=0,
        sample_ids_B=np.zeros(1, np.int64),
        table=table,
        targets=table.targets,
        packing="packed",
        capacity_tokens=length,
    )


def work_of(options: dict[str, object], length: int) -> float:
    """FLOPs of attention alone: two products of the model's width for each seen pair, three times."""
    pattern = Pattern.of(AttentionSpec.model_validate(options)) or Pattern(window=length)
    return 3.0 * BLOCKS * 4 * WIDTH * pattern.pairs(length, causal=True)


def slope(found: dict[int, dict[str, float]], what: str) -> float:
    """Of a straight line through the logarithms, from `SLOPE_FROM` tokens on; one length has none."""
    lengths = [length for length in found if length >= SLOPE_FROM]
    if len(lengths) < 2:
        return float("nan")
    values = [max(1.0 if what == "peak_bytes" else 1e-9, found[length][what]) for length in lengths]
    return float(np.polyfit(np.log(lengths), np.log(values), 1)[0])


def table_of(found: dict[str, dict[int, dict[str, float]]], lengths: list[int]) -> list[str]:
    """CPU seconds and MiB by length, slopes behind."""
    lines = [
        f"| pattern | {' | '.join(f'{length:,}' for length in lengths)} | slope of time | of memory |",
        f"|---|{'---|' * len(lengths)}---|---|",
    ]
    for name, each in found.items():
        cells = [
            f"{each[length]['cpu_seconds']:.2f} s, {each[length]['peak_bytes'] / 2**20:,.0f} MiB"
            for length in lengths
        ]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {slope(each, 'cpu_seconds'):.2f} | {slope(each, 'peak_bytes'):.2f} |"
        )
    return lines


def save(found: dict[str, dict[int, dict[str, float]]]) -> None:
    """Write what was found, with date, versions and commit."""
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    told = {
        "date": date, "commit": commit, "machine": platform.machine(), "python": platform.python_version(),
        "torch": torch.__version__, "transformers": transformers.__version__, "threads": 1,
        "load": os.getloadavg()[0], "patterns": PATTERNS, "found": found,
        "slopes": {
            name: {what: slope(each, what) for what in ("cpu_seconds", "peak_bytes")}
            for name, each in found.items()
        },
    }  # fmt: skip
    (RESULTS / f"{date}-long.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
