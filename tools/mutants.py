"""`make mutants`: plants one fault at a time in a copy of the sources and checks that a test notices.

Each fault is a small patch (a unique piece of text and what replaces it) with the tests that must fail. A fault
that no test notices has *survived*; a patch that no longer applies is *stale*. Both end with exit code 1.

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
from collections.abc import Mapping, Sequence
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
    patches: Mapping[str, tuple[str, str]]
    """File under src/bigbatch -> (text that occurs once, text instead)."""
    tests: Sequence[str]
    """What pytest is given: at least one of these must fail."""


MUTANTS = (
    Mutant(
        name="mean-of-means",
        fault="every micro-batch divides by its own weights; the means are averaged",
        patches={
            "step/executor.py": (
                "losses_U.sum() / denominators[term]",
                "losses_U.sum() / float(micro_batch.targets.weights.sum()) / 4",
            )
        },
        tests=["tests/step"],
    ),
    Mutant(
        name="positions-run-on",
        fault="position ids run on across the samples of a pack",
        patches={
            "model/packing.py": (
                "np.repeat(starts_of(lengths_B), lengths_B)",
                "np.zeros(lengths_B.sum(), int)",
            )
        },
        tests=["tests/model"],
    ),
    Mutant(
        name="cumulative-lengths-off-by-one",
        fault="every sample's end is one token late",
        patches={"model/attention.py": ("cumulative_lengths[1:]", "cumulative_lengths[1:] + 1")},
        tests=["tests/model"],
    ),
    Mutant(
        name="leakage",
        fault="padded attention inside a pack forgets its mask: samples see each other's padding",
        patches={"model/attention.py": ("attn_mask=mask", "attn_mask=None")},
        tests=["tests/model"],
    ),
    Mutant(
        name="denominator-after-forward",
        fault="the denominator counts only what has been forwarded so far",
        patches={"step/update.py": ("task.denominators(batch.targets)", "task.denominators(micro.targets)")},
        tests=["tests/step"],
    ),
    Mutant(
        name="clip-per-micro-batch",
        fault="the gradient is clipped after each micro-batch instead of once",
        patches={
            "step/executor.py": ("loss.backward()", "loss.backward(); clip_grad_norm_(parameters, 1.0)")
        },
        tests=["tests/step"],
    ),
    Mutant(
        name="clocks-in-updates",
        fault="the learning rate follows updates, so its sum depends on the batch",
        patches={"rules/schedules.py": ("first_sample + batch_samples / 2", "first_sample")},
        tests=["tests/rules", "tests/step"],
    ),
    Mutant(
        name="skipped-update-counts",
        fault="a non-finite update still moves the optimiser's state",
        patches={"step/update.py": ("if finite:", "if True:")},
        tests=["tests/step"],
    ),
    Mutant(
        name="order-depends-on-micro-batch",
        fault="the order of the samples is drawn with the micro-batch size",
        patches={"data/order.py": ("mixed(seed, epoch)", "mixed(seed, epoch, samples % 7)")},
        tests=["tests/data"],
    ),
)


def planted(mutant: Mutant, source: Path) -> str:
    """Apply the patches below `source`; an empty string, or why one does not apply."""
    for name, (old, new) in mutant.patches.items():
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
