"""What becomes of training beside other work, by how threads wait for each other: torch's own way, and passively.

One process a way; they take turns of a second, so that whatever else the machine does hits both. Beside them nothing,
one or two endless Python loops. The demo's model, forward and backward, with as many threads as there are cores.

    python benchmarks/busy.py                        # prints the table
    python benchmarks/busy.py --rounds 12 --write    # and keeps it in benchmarks/results/
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "examples" / "airline-tweets" / "data" / "model"
RESULTS = ROOT / "benchmarks" / "results"
WAYS: Mapping[str, Mapping[str, str]] = {
    "torch's own": {},
    "passive": {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "2000"},
}
BUSY = (0, 1, 2)
_SETS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
# No import of bigbatch: it would choose the way of waiting itself.
_WORK = """
import json, sys, time, torch
from transformers import AutoModelForSequenceClassification
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], num_labels=3)
ids, labels = torch.randint(5, 1000, (16, 28)), torch.randint(0, 3, (16,))
def work(): model(input_ids=ids, labels=labels).loss.backward()
for _ in range(3): work()
print("ready", flush=True)
for line in sys.stdin:
    wall, own, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - wall < float(line): work(); count += 1
    seconds = time.perf_counter() - wall
    print(json.dumps([count * ids.numel() / seconds, (time.process_time() - own) / seconds]), flush=True)
"""


def measured(rounds: int, seconds: float) -> dict[int, dict[str, list[list[float]]]]:
    """Busy processes -> way -> [tokens/s, cores that it had] of each round."""
    quiet = {name: value for name, value in os.environ.items() if name not in _SETS}
    found: dict[int, dict[str, list[list[float]]]] = {}
    with ExitStack() as stack:
        ways = {name: _started(stack, {**quiet, **own}) for name, own in WAYS.items()}
        for busy in BUSY:
            with ExitStack() as beside:
                for _ in range(busy):
                    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                    beside.callback(other.wait)
                    beside.callback(other.kill)
                turns: dict[str, list[list[float]]] = {name: [] for name in ways}
                for _ in range(rounds):
                    for name, process in ways.items():
                        turns[name].append(_turn(process, seconds))
                found[busy] = turns
    return found


def _started(stack: ExitStack, environ: Mapping[str, str]) -> Any:
    command = [sys.executable, "-c", _WORK, str(MODEL)]
    process = subprocess.Popen(
        command,
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise SystemExit(f"{MODEL} cannot be loaded: python examples/airline-tweets/make_data.py makes it")
    return process


def _turn(process: Any, seconds: float) -> list[float]:
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def table(found: Mapping[int, Mapping[str, Sequence[Sequence[float]]]], cores: int) -> list[str]:
    """Markdown: medians of the rounds; of the passive way also against its own speed beside nothing."""
    lines = [
        "| busy processes | torch's own, tokens/s | cores | passive, tokens/s | cores | passive / own, in each round "
        "| passive / passive beside none | fair share |",
        "|---" * 8 + "|",
    ]
    alone = median(speed for speed, _ in found[0]["passive"])
    for busy, ways in found.items():
        own, passive = ways["torch's own"], ways["passive"]
        ratio = median(ours[0] / theirs[0] for ours, theirs in zip(passive, own, strict=True))
        speed = median(one[0] for one in passive)
        # Of cores among threads of equal right: ours, and one of each busy process.
        fair = min(1.0, cores / (cores + busy) if busy >= cores else (cores - busy / 2) / cores)
        lines.append(
            f"| {busy} | {median(one[0] for one in own):,.0f} | {median(one[1] for one in own):.2f} "
            f"| {speed:,.0f} | {median(one[1] for one in passive):.2f} "
            f"| {ratio:.2f} | {speed / alone:.2f} | {fair:.2f} |"
        )
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    parser.add_argument("--write", action="store_true", help="keep the table in benchmarks/results/")
    asked = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    load = os.getloadavg()[0]
    lines = table(measured(asked.rounds, asked.seconds), cores)
    today = datetime.now(UTC).date().isoformat()
    cpu = names[0].partition(":")[2].strip() if names else "unknown CPU"
    head = [
        "# A busy machine",
        "",
        f"{today}, {cpu}, {cores} cores; {asked.rounds} rounds of {asked.seconds:g} s, the ways in turn. "
        f"Load of the machine before anything of this was started: {load:.1f}.",
        "",
    ]
    text = "\n".join([*head, *lines, ""])
    print(text)
    if asked.write:
        (RESULTS / f"{today}-busy.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
