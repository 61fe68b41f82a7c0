"""Two machines with a slow link between them: every update together, or apart with a meeting every T updates.

The machines are two network namespaces on this one, joined by a veth pair that `tc` shapes; bytes are what the
interfaces count, TCP and agreements included. A small BERT with random weights learns the demo's tweets. Needs root,
`ip` and `tc`. Without a link (`--local`) one process computes the replicas in turn: the same losses, for several seeds.

    python benchmarks/periodic.py --save                # bytes, time and loss on a link of 100 Mbit/s
    python benchmarks/periodic.py --folder runs/p       # what was measured stays there: the same command goes on
    python benchmarks/periodic.py --local --seeds 3     # losses alone
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.corpora import ready  # noqa: E402
from benchmarks.split import versions  # noqa: E402

REPLICAS = 2
PORT = 29517
MODEL = "{hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4, intermediate_size: 256}"
FIXED = (
    "model.init=random", f"model.config={MODEL}", "batch=64", "run.evaluate_every=never", "run.checkpoint_every=never",
    "plan.micro_tokens=1024", "plan.threads=1", "plan.compile=off",
)  # fmt: skip
"""What every run has; nothing is measured before it, so that both machines need not agree on a plan for long."""
WAYS: Mapping[str, Sequence[str]] = {
    "synchronous": (),
    "T = 8": ("sync.period=8",),
    "T = 32": ("sync.period=32",),
    "T = 128": ("sync.period=128",),
    "T = auto": ("sync.period=auto",),
    "T = 32, DiLoCo": ("sync.period=32", "sync.outer=diloco"),
}


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of one run."""

    sent_bytes: int
    """By both machines together; 0 without a link."""
    train_seconds: float
    """Of all updates, meetings included."""
    test_loss: float
    """Of the final weights, in nats."""
    periods: tuple[tuple[int, int], ...]
    """Of the automatic rule: update, and the period from there on."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """Two namespaces, and how to start a program in each."""

    names: tuple[str, str]
    addresses: tuple[str, str]

    def inside(self, number: int) -> list[str]:
        """The words before a command that runs on one of them."""
        return ["ip", "netns", "exec", self.names[number]]

    def sent_bytes(self) -> int:
        """By both, since they were joined."""
        return sum(
            int(output([*self.inside(number), "cat", f"/sys/class/net/{name}/statistics/tx_bytes"]))
            for number, name in enumerate(self.names)
        )


def slug(name: str) -> str:
    """A name for files."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def output(words: Sequence[str]) -> str:
    """What a command prints; it must succeed."""
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@contextmanager
def link(rate: str) -> Iterator[Link]:
    """Two namespaces joined by a veth pair; each side sends at most at this rate."""
    names = (f"bb{os.getpid()}a", f"bb{os.getpid()}b")
    addresses = ("10.77.0.1", "10.77.0.2")
    found = Link(names=names, addresses=addresses)
    try:
        for name in names:
            output(["ip", "netns", "add", name])
        ends = [["name", name, "netns", name] for name in names]
        output(["ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1]])
        for number, (name, address) in enumerate(zip(names, addresses, strict=True)):
            for words in (
                ["ip", "addr", "add", f"{address}/24", "dev", name],
                ["ip", "link", "set", "lo", "up"],
                ["ip", "link", "set", name, "up"],
                ["tc", "qdisc", "add", "dev", name, "root", "tbf", "rate", rate, "burst", "256kb", "latency", "400ms"],
            ):  # fmt: skip
                output([*found.inside(number), *words])
        yield found
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def command(recipe: Path, folder: Path, words: Sequence[str]) -> list[str]:
    """The run, as every rank has it."""
    return [
        sys.executable, "-P", "-m", "bigbatch", "train", str(recipe), *FIXED, *words, f"run.dir={folder}",
    ]  # fmt: skip


def one_process(recipe: Path, folder: Path, words: Sequence[str]) -> Figures:
    """One process computes everything."""
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        subprocess.run(
            command(recipe, folder, words), check=True, env=environ, stdout=log, stderr=subprocess.STDOUT
        )
    return figures(folder, 0)


def two_machines(recipe: Path, folder: Path, words: Sequence[str], joined: Link) -> Figures:
    """One process on each machine, as torchrun would start them."""
    before, workers = joined.sent_bytes(), []
    for rank, name in enumerate(joined.names):
        environ = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "RANK": str(rank), "WORLD_SIZE": str(REPLICAS), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
            "MASTER_ADDR": joined.addresses[0], "MASTER_PORT": str(PORT), "GLOO_SOCKET_IFNAME": name,
        }  # fmt: skip
        with (folder.parent / f"{folder.name}-{rank}.log").open("w") as log:
            run = [*joined.inside(rank), *command(recipe, folder, words)]
            workers.append(subprocess.Popen(run, env=environ, stdout=log, stderr=subprocess.STDOUT))
    codes = [worker.wait() for worker in workers]
    if any(codes):
        raise RuntimeError(f"workers ended with {codes}; see {folder.parent}/{folder.name}-*.log")
    return figures(folder, joined.sent_bytes() - before)


def figures(folder: Path, sent_bytes: int) -> Figures:
    """From the files of a run."""
    result = json.loads((folder / "result.json").read_text())
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    changes = [record for record in records if record.get("event") == "sync_period"]
    return Figures(
        sent_bytes=sent_bytes,
        train_seconds=result["train_seconds"],
        test_loss=result["final"]["test"]["loss"],
        periods=tuple((change["step"], change["period"]) for change in changes),
    )


def measured(path: Path, measure: Callable[[], Figures]) -> Figures:
    """What the file holds, else what is measured now: a benchmark that was interrupted goes on."""
    if path.exists():
        found = json.loads(path.read_text())
        return Figures(**{**found, "periods": tuple(map(tuple, found["periods"]))})
    figures = measure()
    path.write_text(json.dumps(asdict(figures)))
    return figures


# ---------------------------------------------------------------- tables


def link_table(found: Mapping[str, Figures]) -> list[str]:
    """Bytes, time and loss, each against the synchronous run."""
    plain = found["synchronous"]
    lines = [
        "| | bytes sent | times fewer | seconds | times faster | test loss | against synchronous |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, own in found.items():
        lines.append(
            f"| {name} | {own.sent_bytes / 1e6:,.1f} MB | {plain.sent_bytes / own.sent_bytes:.1f} "
            f"| {own.train_seconds:.0f} | {plain.train_seconds / own.train_seconds:.1f} "
            f"| {own.test_loss:.4f} | {100 * (own.test_loss / plain.test_loss - 1):+.2f} % |"
        )
    for name, own in found.items():
        if own.periods:
            steps = ", ".join(f"{period} from update {update}" for update, period in own.periods)
            lines += ["", f"{name}: {steps}."]
    return lines


def loss_table(found: Mapping[str, Sequence[Figures]]) -> list[str]:
    """Losses of several seeds, and by how much each is above the synchronous one of the same seed."""
    plain = found["synchronous"]
    lines = ["| | test loss of each seed | against synchronous, mean (each) |", "|---|---|---|"]
    for name, own in found.items():
        above = [100 * (mine.test_loss / base.test_loss - 1) for mine, base in zip(own, plain, strict=True)]
        each = ", ".join(f"{value:+.2f}" for value in above)
        losses = ", ".join(f"{mine.test_loss:.4f}" for mine in own)
        lines.append(f"| {name} | {losses} | {statistics.mean(above):+.2f} % ({each}) |")
    return lines


def save(lines: Sequence[str], title: str, name: str, arguments: Sequence[str]) -> Path:
    """Keep a table with its date, versions and command."""
    from bigbatch import __version__

    now = datetime.now(UTC)
    path = ROOT / "benchmarks" / "results" / f"{now:%Y-%m-%d}-{name}.md"
    head = [
        f"# {title}",
        "",
        f"- Date: {now:%Y-%m-%d %H:%M} UTC",
        f"- Versions: bigbatch {__version__}, {versions(('torch', 'transformers', 'numpy'))}",
        f"- Machine: {platform.system()} {platform.machine()}, {os.cpu_count()} cores for both sides, fp32",
        f"- Command: `python benchmarks/periodic.py {' '.join(arguments)}`",
        "",
    ]
    path.write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")
    return path


def main() -> None:
    """Measure, print, and keep when asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--local", action="store_true", help="one process, no link: losses alone")
    parser.add_argument("--updates", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=1, help="with --local: how many")
    parser.add_argument("--rate", default="100mbit", help="of the link, as tc writes it")
    parser.add_argument("--only", choices=list(WAYS), action="append", help="beside the synchronous run")
    parser.add_argument("--folder", type=Path, help="keep the runs here")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE, for every run")
    parser.add_argument("--save", action="store_true", help="keep the table in benchmarks/results/")
    arguments = parser.parse_args()
    recipe = ready("tweets")
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="bigbatch-periodic-"))
    folder.mkdir(parents=True, exist_ok=True)
    ways = {
        name: [*words, f"sync.replicas={REPLICAS}"] if words else []
        for name, words in WAYS.items()
        if not arguments.only or name in arguments.only or name == "synchronous"
    }
    length = f"updates={arguments.updates}"
    if arguments.local:
        losses: dict[str, list[Figures]] = {name: [] for name in ways}
        for (name, words), seed in itertools.product(ways.items(), range(arguments.seeds)):
            run = folder / f"local-{slug(name)}-{seed}"
            given = [*words, length, *arguments.set, f"seed={seed}"]
            losses[name].append(measured(run.with_suffix(".json"), partial(one_process, recipe, run, given)))
            print(f"{name}, seed {seed}: {losses[name][-1]}", flush=True)
        lines, title, kept = (
            loss_table(losses),
            "Replicas that train apart: the loss it costs",
            "periodic-loss",
        )
    else:
        if os.geteuid() != 0:
            sys.exit("skipped: network namespaces and tc need root; --local compares losses without them")
        found: dict[str, Figures] = {}
        with link(arguments.rate) as joined:
            for name, words in ways.items():
                run = folder / f"link-{slug(name)}"
                given = [*words, length, *arguments.set]
                found[name] = measured(
                    run.with_suffix(".json"), partial(two_machines, recipe, run, given, joined)
                )
                print(f"{name}: {found[name]}", flush=True)
        title = f"Two machines on a link of {arguments.rate}/s, {arguments.updates} updates"
        lines, kept = link_table(found), "periodic-link"
    print("\n".join(lines))
    if arguments.save:
        print(f"kept in {save(lines, title, kept, sys.argv[1:])}")


if __name__ == "__main__":
    main()
