"""The whole model, adapters, and adapters beside a base in 4 bits: the same tweets, one table.

Every way is a `bigbatch train` of recipe.yaml in a process of its own; one that has run is not trained again. Whatever
comes out is printed.

    python compare.py
    python compare.py --seed 1 updates=80
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
RUNS = HERE.parents[1] / "runs" / "adapters"
WAYS: Mapping[str, Sequence[str]] = {
    "whole model": ("model.adapter=null", "optimizer.lr=5e-4"),
    "LoRA": (),
    "LoRA, base in 4 bits": ("model.adapter.base=4bit",),
}
NEEDS = {"LoRA": ("peft",), "LoRA, base in 4 bits": ("peft", "bitsandbytes")}


def trained(way: str, seed: int, settings: Sequence[str]) -> tuple[dict, int]:
    """The result.json of one way, and the bytes of its newest checkpoint."""
    changed = "-".join(settings).replace("/", "_")
    folder = RUNS / "-".join(filter(None, [way.replace(",", "").replace(" ", "-"), str(seed), changed]))
    if not (folder / "result.json").exists():
        words = [f"run.dir={folder}", f"seed={seed}", *WAYS[way], *settings]
        print(f"\n== bigbatch train recipe.yaml {' '.join(words)}", flush=True)
        bigbatch = (sys.executable, "-P", "-m", "bigbatch")
        code = subprocess.run([*bigbatch, "train", str(HERE / "recipe.yaml"), *words]).returncode
        if code:
            sys.exit(code)
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    return result, sum(path.stat().st_size for path in newest.iterdir())


def row(way: str, result: dict, checkpoint_bytes: int) -> str:
    """One line of the table."""
    test = result["final"]["test"]
    return (
        f"{way:<22}{test['accuracy']:>10.3f}{test['f1_macro']:>10.3f}"
        f"{result['peak_memory_bytes'] / 2**20:>14,.0f} MiB{checkpoint_bytes / 1e6:>12,.1f} MB"
        f"{result['train_seconds']:>10,.0f} s"
    )


def main() -> int:
    """Data, every way whose libraries are there, table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of every run (default 0)")
    parser.add_argument("settings", nargs="*", help="key=value, handed to every bigbatch train")
    asked = parser.parse_args()
    code = subprocess.run([sys.executable, str(HERE.parent / "airline-tweets" / "make_data.py")]).returncode
    if code:
        return code
    lines = [f"{'':<22}{'accuracy':>10}{'macro F1':>10}{'peak memory':>18}{'checkpoint':>15}{'training':>12}"]
    for way in WAYS:
        missing = [name for name in NEEDS.get(way, ()) if find_spec(name) is None]
        if missing:
            lines.append(f"{way:<22}  needs {' and '.join(missing)}: pip install {' '.join(missing)}")
            continue
        lines.append(row(way, *trained(way, asked.seed, asked.settings)))
    print("\n" + "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
