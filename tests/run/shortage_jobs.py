"""A real shortage of memory on one rank: `(world, **JSON) -> JSON`."""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path
from typing import Any

from bigbatch.build.inputs import Live
from bigbatch.protocols import World
from bigbatch.recipe.load import load_recipe
from bigbatch.run.start import Wishes, open_run
from tests.jobs import lines
from tests.models import tiny

MIB = 2**20
_MMAP_THRESHOLD = -3
"""Of glibc's mallopt."""


def short(world: World, *, root: str, mesh: dict[str, int] | None, rank: int, room_mib: int) -> Any:
    """After update 1 the address space of one rank may grow by so much alone, which one micro-batch exceeds."""
    # Large blocks go back to the system when they are freed: update 2 cannot live on what update 1 left in the heap.
    ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 2**16)
    recipe = load_recipe(
        {
            "model": {"name": None}, "data": {"train": []}, "updates": 2, "batch": 48,
            "optimizer": {"lr": 1e-3}, "run": {"dir": f"{root}/run"},
            "plan": {
                "micro_tokens": 48 * 512, "packing": "padded", "threads": 1, "compile": "off", "lazy": False,
                "attention": "sdpa",
            },
        },
        {f"plan.mesh.{axis}": ranks for axis, ranks in (mesh or {}).items()},
    )  # fmt: skip
    rows = [
        {"input_ids": [2, *(5 + (number + at) % 7 for at in range(60)), 3], "labels": number % 3}
        for number in range(96)
    ]
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4}
    module = tiny("bert", dropout=0.1, num_labels=3, **sizes)
    run = open_run(recipe, Live(module=module, train=rows), Wishes(world=world))
    before = resource.getrlimit(resource.RLIMIT_AS)
    found: dict[str, Any] = {}
    with run:
        for record in run:
            if record.kind == "update" and record.step == 1 and world.rank == rank:
                resource.setrlimit(resource.RLIMIT_AS, (_space_bytes() + room_mib * MIB, before[1]))
            if record.kind == "event" and record["event"] == "out_of_memory":
                resource.setrlimit(resource.RLIMIT_AS, before)
        assert run._parts is not None
        found["micro_tokens"] = run._parts.micro_tokens
    found["status"] = run.status
    if world.rank == 0:
        found["steps"] = [line["step"] for line in lines(run.path, "update")]
        found["why"] = [line["why"] for line in lines(run.path, "event") if line["event"] == "out_of_memory"]
    return found


def _space_bytes() -> int:
    """Address space of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
