"""The contestants' processes: one at a time, each in a fresh folder; a crash is an outcome, too."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from bigbatch.errors import MachineError
from bigbatch.recipe.schema import Recipe
from bigbatch.study.jobs import Job, Outcome, read_outcome, write_json
from bigbatch.study.tables import TITLES

STDERR_LINES = 20
"""Last lines of what a contestant that crashed had to say."""
_HERE = "bigbatch.study.contestants"
# What `bigbatch train` loads before it reads its first word is part of its time, too.
_OURS = f"import bigbatch.cli.app; from {_HERE}.ours import main; main()"
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """How its process is started."""

    command: tuple[str, ...]
    """After the interpreter; variant, job and outcome follow."""
    tries: bool = False
    """Whether it first looks for the fastest number of samples at once."""
    needs: tuple[str, ...] = ()
    """Packages without which it cannot run."""


CONTESTANTS: Mapping[str, Contestant] = {
    "hf-default": Contestant(command=("-m", f"{_HERE}.trainer"), needs=("accelerate",)),
    "hf-best": Contestant(command=("-m", f"{_HERE}.trainer"), tries=True, needs=("accelerate",)),
    "torch-loop": Contestant(command=("-m", f"{_HERE}.torch_loop")),
    "bigbatch": Contestant(command=("-c", _OURS)),
}
PROFILE = Contestant(command=CONTESTANTS["bigbatch"].command)
"""Not compared: bigbatch under torch's profiler; its variant is `profile`."""
CEILING = Contestant(command=("-m", f"{_HERE}.ceiling"))


class Runner:
    """Starts one process at a time, each in a fresh folder."""

    def __init__(self, work: Path, timeout_seconds: float, say: Say) -> None:
        self._work = work
        self._timeout_seconds = timeout_seconds
        self._turn = 0
        self.say = say

    def run(self, name: str, contestant: Contestant, job: Job) -> Outcome:
        """Run a contestant; whatever goes wrong with it is an outcome, too.

        Args:
            name: of the contestant, which is its variant.
            contestant: how it is started.
            job: what it does.
        """
        self._turn += 1
        folder = self._work / f"{self._turn:03d}-{name}"
        folder.mkdir()
        # A recipe's run directory and token cache lie beside it: a fresh folder means a cold cache.
        recipe = shutil.copyfile(job.recipe, folder / "recipe.yaml")
        for common in ("data.csv", "model"):
            (folder / common).symlink_to(self._work / common)
        own = replace(job, folder=str(folder), recipe=str(recipe))
        place, out = folder / "job.json", folder / "outcome.json"
        write_json(place, own)
        started = time.time()
        command = [sys.executable, "-P", *contestant.command, name, str(place), str(out)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=self._timeout_seconds
            )
        except subprocess.TimeoutExpired:
            return Outcome(failed=f"took longer than {self._timeout_seconds:.0f} s")
        finally:
            self._clean(folder, out)
        if done.returncode or not out.exists():
            return Outcome(failed=_last_words(done))
        try:
            return replace(read_outcome(out), started_at=started)
        except MachineError as error:
            return Outcome(failed=str(error))

    def tell(self, name: str, outcome: Outcome) -> None:
        """One line about a turn."""
        title = TITLES.get(name, name)
        if outcome.failed is not None:
            self.say(f"{title}: failed: {outcome.failed}")
            return
        self.say(
            f"{title}: {outcome.tokens_per_second:,.0f} real tokens/s, "
            f"{outcome.peak_memory_bytes / 2**30:.2f} GiB, first update after {outcome.first_update_seconds:.1f} s"
        )

    @staticmethod
    def _clean(folder: Path, out: Path) -> None:
        """Weights and checkpoints of a turn are not kept; its outcome is."""
        for path in folder.iterdir():
            if path != out:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    said = (done.stderr or done.stdout or "").strip().splitlines()[-STDERR_LINES:]
    return "\n".join([f"exit code {done.returncode}", *said])


def machine_facts(recipe: Recipe) -> dict[str, object]:
    """What the figures were measured on."""
    from bigbatch.probe.hardware import hardware_facts

    facts = hardware_facts(recipe.plan)
    return {
        "device": facts.device,
        "name": facts.device_name,
        "cores": facts.cores,
        "threads": facts.threads,
        "system": f"{platform.system()} {platform.machine()}",
    }


def installed_versions() -> dict[str, str | None]:
    """Of everything whose speed is measured; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("bigbatch", "torch", "transformers", "accelerate", "tokenizers", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found
