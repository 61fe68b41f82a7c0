"""How far updates among ranks are from the whole batch in one process: every mesh that fits, several models.

Each cell is the worst relative gradient error over the updates, against the textbook loop of tests/reference.py (one
padded forward of the whole batch). Weighted classes, uneven lengths, dropout 0; gloo on CPUs.

    python benchmarks/equality.py --families bert llama gpt2 --updates 6 --save
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from tests.ranks import RankFailed, Ranks  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
JOB = "tests.parallel.jobs:meshed_equality"
MESHES: list[dict[str, int]] = [
    {"replicate": 2},
    {"replicate": 3},
    {"replicate": 4},
    {"shard": 2},
    {"shard": 3},
    {"shard": 4},
    {"replicate": 2, "shard": 2},
    {"tensor": 2},
    {"replicate": 2, "tensor": 2},
    {"shard": 2, "tensor": 2},
]


def ranks_of(mesh: dict[str, int]) -> int:
    """Processes that a mesh needs."""
    size = 1
    for ranks in mesh.values():
        size *= ranks
    return size


def cell(ranks: Ranks, folder: Path, mesh: dict[str, int], family: str, dtype: str, updates: int) -> str:
    """The worst error, or that the mesh is refused for this model."""
    few: dict[str, Any] = {"micro_tokens": 1024} if "tensor" in mesh else {}
    try:
        found = ranks.run(
            JOB,
            ranks_of(mesh),
            folder,
            seconds=600,
            mesh=mesh,
            families=[family],
            dtype=dtype,
            updates=updates,
            **few,
        )
    except RankFailed as error:
        return "refused" if "plan.mesh" in str(error) else "failed"
    own = found[0][family]
    return f"{own['error']:.0e}{'' if own['error'] <= own['bound'] else ' (too far)'}"


def main() -> int:
    """Measure, print, and keep on request."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", nargs="+", default=["bert", "roberta", "llama", "gpt2"])
    parser.add_argument("--updates", type=int, default=6)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    heads = [f"{family}, {dtype}" for family in arguments.families for dtype in ("fp64", "fp32")]
    lines = [
        "# Updates among ranks against the whole batch in one process",
        "",
        f"Worst relative gradient error of {arguments.updates} updates; promised: fp64 1e-10, fp32 1e-5. torch",
        f"{torch.__version__}, gloo, CPU.",
        "",
        f"| mesh | ranks | {' | '.join(heads)} |",
        f"|---|---|{'---|' * len(heads)}",
    ]
    print("\n".join(lines), flush=True)
    ranks = Ranks()
    with tempfile.TemporaryDirectory() as folder:
        for mesh in MESHES:
            cells = [
                cell(ranks, Path(folder), mesh, family, dtype, arguments.updates)
                for family in arguments.families
                for dtype in ("fp64", "fp32")
            ]
            name = " x ".join(f"{axis} {size}" for axis, size in mesh.items())
            lines.append(f"| {name} | {ranks_of(mesh)} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    ranks.close()
    if arguments.save:
        path = RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-equality.md"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
