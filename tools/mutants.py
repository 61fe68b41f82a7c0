"""`make mutants`: plants one fault at a time in a copy of the sources and checks that a test notices.

Each fault is a small patch (a unique piece of text and what replaces it) with the tests that must fail. A fault
that no test notices has *survived*; a patch that no longer applies is *stale*. Both end with exit code 1. The tests
are run once without any fault first: a failure that was there before would kill every fault.

    python tools/mutants.py                  # all
    python tools/mutants.py mean-of-means    # some, by name
    python tools/mutants.py --list
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "bigbatch"
TIMEOUT_SECONDS = 900


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A planted fault."""

    name: str
    fault: str
    """What a careless programmer would have written, in one line."""
    patches: Sequence[tuple[str, str, str]]
    """(file under src/bigbatch, text that occurs in it once, text instead)."""
    tests: Sequence[str]
    """What pytest is given: at least one of these must fail."""


MUTANTS = (
    Mutant(
        name="mean-of-means",
        fault="every micro-batch averages its own losses, and the averages are averaged",
        patches=(
            (
                "step/executor.py",
                "for micro_batch in self._timed(micro_batches):",
                "micro_batches = list(micro_batches)\n"
                "            self._pieces = len(micro_batches)\n"
                "            for micro_batch in self._timed(micro_batches):",
            ),
            (
                "step/executor.py",
                "value.sum() / denominators[term]",
                "value.sum() / targets.weights.sum() / self._pieces",
            ),
        ),
        tests=("tests/step",),
    ),
    Mutant(
        name="denominator-after-forward",
        fault="the denominator is that of the last micro-batch, not of the global batch",
        patches=(
            (
                "step/update.py",
                "denominators = world.sum_counts(parts.task.denominators(batch.targets))",
                "micro_batches = list(micro_batches)\n"
                "    denominators = world.sum_counts(parts.task.denominators(micro_batches[-1].targets))",
            ),
        ),
        tests=("tests/step",),
    ),
    Mutant(
        name="clip-per-micro-batch",
        fault="the gradient is clipped before each further micro-batch, not once",
        patches=(
            (
                "step/update.py",
                "parts.executor.accumulate(batch.update, micro_batches, denominators)",
                "parts.executor.accumulate(batch.update, (torch.nn.utils.clip_grad_norm_(parts.parameters, parts.clip"
                " or math.inf) is None or piece for piece in micro_batches), denominators)",
            ),
        ),
        tests=("tests/step",),
    ),
    Mutant(
        name="skipped-update-counts",
        fault="an update that is not finite still moves weights and optimiser state",
        patches=(("step/update.py", "    if finite:\n", "    if True:\n"),),
        tests=("tests/step",),
    ),
    Mutant(
        name="positions-run-on",
        fault="position ids run on across the samples of a pack",
        patches=(
            (
                "model/forwards.py",
                "positions_in_sample(cumulative_lengths(micro_batch.lengths_B), parts.position_offset)",
                "np.arange(micro_batch.tokens) + parts.position_offset",
            ),
        ),
        tests=("tests/model",),
    ),
    Mutant(
        name="cumulative-lengths-off-by-one",
        fault="every boundary between two samples of a pack is one token late",
        patches=(
            (
                "model/layout.py",
                "    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths_B, dtype=np.int64)])",
                "    ends = np.cumsum(lengths_B, dtype=np.int64)\n    ends[:-1] += 1\n"
                "    return np.concatenate([np.zeros(1, dtype=np.int64), ends])",
            ),
        ),
        tests=("tests/model",),
    ),
    Mutant(
        name="leakage",
        fault="neighbours in a pack attend to each other",
        patches=(
            (
                "model/layout.py",
                "_group(cumulative_B1, first, end, device) for",
                "_group(cumulative_B1[[first, end]], 0, 1, device) for",
            ),
        ),
        tests=("tests/model",),
    ),
    Mutant(
        name="mask-forgotten",
        fault="samples that share an attention call see each other's padding",
        patches=(("model/attention.py", "    return group.real_BK, False", "    return None, False"),),
        tests=("tests/model",),
    ),
    Mutant(
        name="clocks-in-updates",
        fault="the learning rate counts updates instead of samples",
        patches=(
            (
                "rules/schedules.py",
                "midpoint = first_sample + batch_samples / 2",
                "midpoint = float(first_sample // batch_samples)",
            ),
        ),
        tests=("tests/rules",),
    ),
    Mutant(
        name="order-depends-on-micro-batch",
        fault="which samples an update sees depends on the micro-batch size",
        patches=(
            (
                "data/packs.py",
                "ids_B = batch.sample_ids_B if isinstance(batch, GlobalBatch) else",
                "ids_B = (batch.sample_ids_B + micro_tokens) % len(table) if isinstance(batch, GlobalBatch) else",
            ),
        ),
        tests=("tests/data", "tests/step"),
    ),
)


def planted(mutant: Mutant, source: Path) -> str:
    """Apply the patches below `source`; an empty string, or why one does not apply."""
    for name, old, new in mutant.patches:
        path = source / name
        if not path.exists():
            return f"{name} does not exist"
        text = path.read_text(encoding="utf-8")
        if text.count(old) != 1:
            return f"{name} holds the text {text.count(old)} times, not once: {old!r}"
        path.write_text(text.replace(old, new), encoding="utf-8")
    return ""


def run_tests(tests: Sequence[str], source: Path) -> tuple[int, str]:
    """Exit code and last lines of pytest with the package taken from `source`."""
    command = [
        *(sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=line"),
        *("-o", f"pythonpath={source} ."),
        *tests,
    ]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )
    return done.returncode, "\n".join((done.stdout + done.stderr).strip().splitlines()[-3:])


def verdict(mutant: Mutant) -> tuple[str, str]:
    """(`killed`, `SURVIVED`, `STALE` or `BROKEN`, details) of one fault."""
    with tempfile.TemporaryDirectory(prefix="bigbatch-mutant-") as folder:
        source = Path(folder) / "src"
        shutil.copytree(SOURCE, source / "bigbatch", ignore=shutil.ignore_patterns("__pycache__"))
        stale = planted(mutant, source / "bigbatch")
        if stale:
            return "STALE", stale
        code, tail = run_tests(mutant.tests, source)
    if code == 1:
        return "killed", next((line for line in tail.splitlines() if "failed" in line), "")
    return ("SURVIVED", tail) if code == 0 else ("BROKEN", tail)


def main() -> int:
    """Try the chosen faults; 0 when every one is killed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="faults to try; all when none is given")
    parser.add_argument("--list", action="store_true", help="list the faults and stop")
    arguments = parser.parse_args()
    known = {mutant.name: mutant for mutant in MUTANTS}
    unknown = set(arguments.names) - set(known)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    chosen = [known[name] for name in arguments.names] or list(MUTANTS)
    if arguments.list:
        print("\n".join(f"{mutant.name:<30} {mutant.fault}" for mutant in chosen))
        return 0
    tests = sorted({name for mutant in chosen for name in mutant.tests})
    print(f"without a fault: {' '.join(tests)} ... ", end="", flush=True)
    code, tail = run_tests(tests, SOURCE.parent)
    print("passed" if code == 0 else f"FAILED\n{tail}", flush=True)
    if code:
        return 1
    killed = 0
    for number, mutant in enumerate(chosen, start=1):
        print(f"[{number}/{len(chosen)}] {mutant.name}: {mutant.fault} ... ", end="", flush=True)
        started = time.perf_counter()
        outcome, details = verdict(mutant)
        killed += outcome == "killed"
        print(f"{outcome} ({time.perf_counter() - started:.0f} s)\n      {details}", flush=True)
    print(f"{killed} of {len(chosen)} killed")
    return 0 if killed == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
