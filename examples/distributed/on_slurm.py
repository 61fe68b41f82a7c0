"""The airline recipe as a batch job on a Slurm cluster of two nodes, which this script starts and takes down again.

    sudo .venv/bin/python examples/distributed/on_slurm.py [KEY=VALUE …]

The job is told to end in the middle, as Slurm does before the time limit: it saves, goes back into the queue and
goes on where it was. What is Slurm's own is in a site file, so that the recipe stays the same everywhere.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from examples.distributed.two_hosts import AIRLINE, environ  # noqa: E402

from tools.cluster.network import Network, wait_for, why_not  # noqa: E402
from tools.cluster.slurm import PROGRAMS, Slurm  # noqa: E402

SHORT = ["updates=6", "batch.samples=64", "run.evaluate_every=never", "run.dir=runs/on-slurm"]
SITE = """\
launch:
  slurm: {partition: short, time: "00:30:00", nodes: 2, ranks_per_node: 1}
"""
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")


def main(changes: list[str]) -> int:
    """Build, submit, interrupt, wait, take down."""
    reason = why_not(*PROGRAMS)
    if reason:
        print(f"cannot build a cluster here: {reason}", file=sys.stderr)
        return 1
    if not (AIRLINE / "data" / "train.csv").exists():
        subprocess.run([sys.executable, "make_data.py"], cwd=AIRLINE, check=True)
    with Network(["a", "b"]) as network, Slurm(network) as slurm:
        site = network.folder / "site.yaml"
        site.write_text(SITE)
        words = ["bigbatch", "train", "recipe.yaml", "--slurm", "--submit", *SHORT, *changes]
        tell(f"$ {' '.join(words)}")
        given = {**environ(), "BIGBATCH_SITE": str(site)}
        done = slurm.call([sys.executable, "-P", "-m", *words], cwd=AIRLINE, env=given)
        tell(done.stderr + done.stdout)
        if done.returncode:
            return done.returncode
        return watched(slurm, done.stderr.partition("submitted job ")[2].partition(";")[0])


def watched(slurm: Slurm, job: str) -> int:
    """End the job once on the way, and print what it said."""
    log = AIRLINE / f"slurm-{job}.out"
    wait_for(lambda: log.exists() and "update 2/" in log.read_text(), "update 2", seconds=600)
    for words in (["squeue"], ["scancel", "--signal=TERM", job]):
        tell(f"$ {' '.join(words)}\n{slurm.call(words).stdout}")
    wait_for(lambda: slurm.state(job) == "PENDING", "the requeue", seconds=120)
    # Slurm lets it wait for two minutes; who watches does not have to.
    words = ["scontrol", "update", f"JobId={job}", "StartTime=now"]
    tell(f"$ squeue\n{slurm.call(['squeue']).stdout}\n$ {' '.join(words)}\n{slurm.call(words).stdout}")
    wait_for(lambda: slurm.state(job) in ENDED, "the job's end", seconds=900)
    tell(f"$ cat {log.name}\n{log.read_text()}\njob {job}: {slurm.state(job)}")
    log.unlink()
    return 0 if slurm.state(job) == "COMPLETED" else 1


def tell(text: str) -> None:
    """At once, also into a pipe."""
    print(text.rstrip(), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
