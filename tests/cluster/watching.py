"""What tests of a cluster read of a run while it goes on."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from tools.cluster.network import wait_for


def records(run: Path) -> list[dict[str, Any]]:
    """All of metrics.jsonl; a line that is being written is left out."""
    found = []
    with suppress(OSError):
        for line in (run / "metrics.jsonl").read_text().splitlines():
            with suppress(json.JSONDecodeError):
                found.append(json.loads(line))
    return found


def steps(run: Path) -> list[int]:
    """Numbers of the updates that have a record."""
    return [record["step"] for record in records(run) if record["kind"] == "update"]


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in records(run) if record["kind"] == "update"]


def status(run: Path) -> dict[str, Any]:
    return json.loads((run / "status.json").read_text())


def saved(run: Path) -> list[int]:
    """Updates after which there is a checkpoint."""
    return sorted(int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*"))


def wait_for_update(run: Path, number: int, *, seconds: float = 150.0) -> None:
    """Until an update has its record."""
    wait_for(lambda: len(steps(run)) >= number, f"update {number}", seconds=seconds)
