"""Seconds of one update of the demo's model, of every optimiser, against torch's foreach AdamW.

All in one process and in turn (A B C … A B C …), so that other work on the machine hits all of them; the ratio is taken
within a round, and its median and range are told. Tensors have the shapes of MiniLM (22.7M values); gradients are there
already. Nothing is downloaded.

    python benchmarks/optimizers.py                     # as many threads as torch takes
    python benchmarks/optimizers.py --threads 1 --rounds 9 --save
    python benchmarks/optimizers.py --device cuda --save
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch.optim import Optimizer  # noqa: E402

from bigbatch.errors import RecipeError  # noqa: E402
from bigbatch.optim.build import build_optimizer  # noqa: E402
from bigbatch.optim.depths import Depths  # noqa: E402
from bigbatch.probe.stand_in import stand_in  # noqa: E402
from bigbatch.rules.batch_size import Effective  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
HIDDEN, INNER, LAYERS, ROWS = 384, 1536, 6, 30_522
BASE = "torch AdamW, foreach"


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of BERT's parameters at MiniLM's size."""
    found: dict[str, tuple[int, ...]] = {
        "embeddings.words": (ROWS, HIDDEN),
        "embeddings.positions": (512, HIDDEN),
        "embeddings.segments": (2, HIDDEN),
    }
    for layer in range(LAYERS):
        for name in ("query", "key", "value", "output"):
            found[f"layer.{layer}.{name}.weight"] = (HIDDEN, HIDDEN)
            found[f"layer.{layer}.{name}.bias"] = (HIDDEN,)
        found[f"layer.{layer}.up.weight"] = (INNER, HIDDEN)
        found[f"layer.{layer}.up.bias"] = (INNER,)
        found[f"layer.{layer}.down.weight"] = (HIDDEN, INNER)
        for name in ("down.bias", "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            found[f"layer.{layer}.{name}"] = (HIDDEN,)
    return {**found, "pooler.weight": (HIDDEN, HIDDEN), "pooler.bias": (HIDDEN,)}


def ours(name: str, **changes: Any) -> Callable[[Any], Optimizer]:
    """One of bigbatch's, as a recipe builds it."""
    depths = {
        each: int(each.split(".")[1]) + 1
        if each.startswith("layer.")
        else 0
        if "embed" in each
        else LAYERS + 1
        for each in shapes()
    }
    settings = {"name": name, "weight_decay": 0.01, "momentum": 0.95, "nesterov": True, "state": "fp32"}
    effective = Effective(lr=1e-5, betas=(0.9, 0.99), eps=1e-8)

    def build(module: torch.nn.Module) -> Optimizer:
        wanted = SimpleNamespace(**{**settings, "layer_decay": 1.0, "args": {}, **changes})
        return build_optimizer(module, wanted, effective, depths=Depths(depths=depths, head=LAYERS + 1))

    return build


WAYS: Mapping[str, Callable[[Any], Optimizer]] = {
    BASE: lambda module: torch.optim.AdamW(module.parameters(), lr=1e-5, foreach=True, fused=False),
    "adamw": ours("adamw"),
    "sgd": ours("sgd"),
    "lamb": ours("lamb"),
    "lars": ours("lars"),
    "lion": ours("lion"),
    "schedule_free": ours("schedule_free"),
    "muon": ours("muon"),
    "muon, bf16": ours("muon", args={"newton_schulz": "bf16"}),
}


def ready(build: Callable[[Any], Optimizer], device: str) -> Optimizer:
    """An optimiser over tensors of its own, with gradients."""
    generator = torch.Generator().manual_seed(0)
    named = {name: torch.randn(shape, generator=generator) * 0.05 for name, shape in shapes().items()}
    module = stand_in({name: tensor.to(device) for name, tensor in named.items()})
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3) + 0.01 * parameter.detach()
    return build(module)


def timed(optimizer: Optimizer, device: str) -> float:
    """Seconds of a step."""
    start = time.perf_counter()
    optimizer.step()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(names: list[str], rounds: int, device: str) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds of every round, and why some could not be tried."""
    optimizers, missing = {}, {}
    for name in names:
        try:
            optimizers[name] = ready(WAYS[name], device)
        except RecipeError as error:
            missing[name] = str(error)
    seconds: dict[str, list[float]] = {name: [] for name in optimizers}
    for number in range(rounds + 1):
        for name, optimizer in optimizers.items():
            took = timed(optimizer, device)
            if number:  # the first one allocates the state
                seconds[name].append(took)
    return seconds, missing


def page(seconds: Mapping[str, list[float]], missing: Mapping[str, str], device: str, rounds: int) -> str:
    """The result as Markdown."""
    where = (
        torch.cuda.get_device_name()
        if device != "cpu"
        else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    lines = [
        f"# One update of 22.7M parameters ({where})",
        "",
        f"torch {torch.__version__}, {rounds} rounds in turn. Ratio to torch's foreach AdamW within a round: median",
        "(range).",
        "",
        "| optimiser | ms, median | ratio |",
        "| --- | --- | --- |",
    ]
    for name, own in seconds.items():
        ratios = sorted(mine / base for mine, base in zip(own, seconds[BASE], strict=True))
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        lines.append(f"| {name} | {statistics.median(own) * 1e3:,.1f} | {spread} |")
    lines += [f"\nNot tried: {name}: {why}" for name, why in missing.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and keep the result if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", default=[], help="names; the base is always there")
    parser.add_argument("--save", action="store_true")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    # bf16 products without hardware for them take a minute.
    slow = {"muon, bf16"} if asked.device == "cpu" else set()
    names = [name for name in WAYS if name == BASE or name in (asked.only or set(WAYS) - slow)]
    seconds, missing = measure(names, asked.rounds, asked.device)
    text = page(seconds, missing, asked.device, asked.rounds)
    print(text)
    if asked.save:
        kind = asked.device if asked.device != "cpu" else f"cpu{torch.get_num_threads()}"
        path = RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-optimizers-{kind}.md"
        path.write_text(text)


if __name__ == "__main__":
    main()
