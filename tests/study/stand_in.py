"""A run that takes no time: what `bigbatch train` leaves behind, without training.

Words behind it: as for `bigbatch`. The score is 1 - 1 / batch; further words say what goes wrong.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

UPDATE = {"kind": "update", "tokens": 0, "seconds": 0.5, "loss": 1.0, "time": "2026-01-01T00:00:00+00:00"}


def main(words: list[str]) -> None:
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    run, batch = Path(settings["run.dir"]), int(settings.get("batch.samples", "1"))
    run.mkdir(parents=True, exist_ok=True)
    with (run / "starts").open("a") as file:
        file.write(" ".join(words) + "\n")
    print(f"training with {batch}")
    if batch == 666:
        sys.exit("no such kernel\nand more")
    if batch == 777 and not (run / "stopped").exists():
        signal.signal(signal.SIGINT, lambda *_: leave(run, 130))
        signal.signal(signal.SIGTERM, lambda *_: leave(run, 143))
        (run / "ready").touch()
        time.sleep(60)
    finish(run, batch, float(settings.get("early_stopping.target", "nan")))


def leave(run: Path, code: int) -> None:
    (run / "stopped").touch()
    sys.exit(code)


def finish(run: Path, batch: int, target: float) -> None:
    """Samples to the target: 1,000 (1 + batch / 100), to be crossed between two evaluations."""
    needed = 1000 * (1 + batch / 100)
    updates, lines, score = 0, [], 0.0
    while updates * batch < 20_000 and not score >= target:
        updates += 1
        score = target * updates * batch / needed if target == target else 1 - 1 / batch
        lines.append({**UPDATE, "step": updates, "samples": updates * batch})
        lines.append(
            {"kind": "eval", "step": updates, "split": "validation", "f1_macro": score, "loss": 1 - score}
        )
        if target != target:
            break
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = {
        "exit_reason": "completed",
        "updates": updates,
        "samples": updates * batch,
        "final": {"test": {"f1_macro": score, "loss": None}},
        "train_seconds": 0.5 * updates,
    }
    for heavy in ("checkpoints", "model"):
        (run / heavy).mkdir(exist_ok=True)
    (run / "result.json").write_text(json.dumps(result))
    status = {
        "state": "finished",
        "update": updates,
        "host": "h",
        "job_id": None,
        "updated_at": "2026-01-01T00:00:00Z",
    }
    (run / "status.json").write_text(json.dumps(status))


if __name__ == "__main__":
    main(sys.argv[2:])
