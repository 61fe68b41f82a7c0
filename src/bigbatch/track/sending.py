"""Follow a run's journal and send it to a tracker: each record once, whatever is killed at whatever moment.

`RUN/track/KIND.json` says how far it got, written anew in one step after each batch: the place in the journal, which
records were sent, and what the tracker needs to know its own end. A process that is killed between sending and
writing that down is followed by one whose tracker takes the unremembered part back, or knows it.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from bigbatch.documents import last_stage
from bigbatch.errors import DiskError
from bigbatch.frames import said_plainly
from bigbatch.protocols import Json
from bigbatch.report.facts import number
from bigbatch.report.following import Follower, Mark
from bigbatch.report.read import read_run
from bigbatch.report.recipes import flat_recipe
from bigbatch.report.text import clean, shorten
from bigbatch.stored import Damaged, read_bytes, read_object
from bigbatch.track.entries import Entry, Ledger
from bigbatch.track.kinds import About, Ending, Tracker, tracker_of
from bigbatch.written import make_folder, open_kept, replace_text

LOOK_SECONDS = 2.0
_BATCH_BYTES = 2**20
"""Of the journal in one batch: so much is sent again after a kill."""
_SILENT_SECONDS = 60.0
_KEPT_FILES = (
    "recipe.yaml",
    "plan.json",
    "environment.json",
    "evaluation.json",
    "result.json",
    "report.html",
)
_RECIPE_BYTES = 2**22
_FILE_BYTES = 2**26


@dataclass
class Sent:
    """How far a run was sent."""

    path: Path
    mark: Mark = field(default_factory=Mark)
    ledger: Ledger = field(default_factory=Ledger)
    kept: Json = None
    ended: str = ""
    """What the run's state was when the tracker was told; empty: it was not."""

    @classmethod
    def read(cls, path: Path) -> Sent:
        """As it was kept; from the beginning where there is nothing.

        Raises:
            DiskError: it is there and cannot be used: to begin anew would send everything twice.
        """
        try:
            found = read_object(path, links=False)
            ledger = cast(Mapping[str, Json], found["ledger"])
            return cls(
                path=path,
                mark=Mark(cast(int, found["offset"]), cast(str, found["seal"])),
                ledger=Ledger(**ledger),  # type: ignore[arg-type]
                kept=cast(Json, found["kept"]),
                ended=cast(str, found["ended"]),
            )
        except FileNotFoundError:
            return cls(path=path)
        except (OSError, Damaged, KeyError, TypeError) as error:
            raise DiskError(
                f"{path}: cannot be used ({error}); remove it to send this run from its first record"
            ) from None

    def write(self) -> None:
        """In one step, durable."""
        found = {"offset": self.mark.offset, "seal": self.mark.seal, "ledger": self.ledger.as_json(),
                 "kept": self.kept, "ended": self.ended}  # fmt: skip
        replace_text(self.path, json.dumps(found))


@said_plainly
def track(run: Path, *, to: str, follow: bool = False, say: Callable[[str], None] = print) -> int:
    """`bigbatch track`: send what a tracker has not been sent yet of a run; of a staged one, its last stage.

    Args:
        run: the run directory.
        to: `tensorboard`, `wandb`, `mlflow` or `trackio`.
        follow: go on until the run has ended.
        say: is told how far it is.

    Returns:
        How many records were sent now.

    Raises:
        UsageError: no run, no such tracker, or its library is missing.
        DiskError: RUN/track cannot be written, or another process sends this run there.
    """
    read_run(run)  # refuses what is no run, and says so
    return send_run(last_stage(run), to, tracker_of(to), follow=follow, say=say)


def send_run(
    run: Path,
    kind: str,
    tracker: Tracker,
    *,
    follow: bool = False,
    say: Callable[[str], None] = lambda text: None,
    wait: Callable[[float], object] = time.sleep,
) -> int:
    """Send what the tracker has not been sent yet.

    Args:
        run: the run directory.
        kind: the tracker's name: that of the file in RUN/track.
        tracker: not opened yet.
        follow: go on until the run has ended.
        say: is told what is going on.
        wait: sleeps so many seconds between two looks.

    Returns:
        How many records were sent.

    Raises:
        DiskError: RUN/track cannot be written, or another process sends this run there.
    """
    folder = run / "track"
    make_folder(folder)
    with _alone(folder / f"{kind}.lock", follow, wait):
        sent = Sent.read(folder / f"{kind}.json")
        if (
            not follow
            and sent.ended == state_of(run)
            and not Follower(run / "metrics.jsonl", sent.mark).look(1).lines
        ):
            return 0
        if tracker.open(about_run(run), sent.kept):
            sent = Sent(path=sent.path)
        before = sent.ledger.count
        follower = Follower(run / "metrics.jsonl", sent.mark)
        while True:
            over = state_of(run)  # before the look: what is written until then is in it
            look = follower.look(_BATCH_BYTES)
            entries = [entry for line in look.lines if (entry := sent.ledger.admit(line)) is not None]
            if entries:
                sent.kept, sent.ended = tracker.send(entries), ""
            if look.lines or look.anew:
                sent.mark = follower.mark
                sent.write()
                say(f"{sent.ledger.count:,} records sent, up to update {sent.ledger.update:,}")
            if look.lines:
                continue
            if not follow or over != "running":
                break
            wait(LOOK_SECONDS)
        if sent.ended != over:
            sent.kept, sent.ended = tracker.finish(ending_of(run, over)), over
            sent.write()
        return sent.ledger.count - before


@contextmanager
def _alone(path: Path, follow: bool, wait: Callable[[float], object]) -> Iterator[None]:
    """One process sends a run to a tracker at a time; one that follows waits for its turn."""
    with open_kept(path) as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if not follow:
                    raise DiskError(
                        f"{path.parent.parent}: another process is sending this run there"
                    ) from error
                wait(LOOK_SECONDS)
        yield


def about_run(run: Path) -> About:
    """What a tracker is told of a run, secrets left out."""
    identity, plan = _object(run / "identity.json"), _object(run / "plan.json")
    try:
        recipe = read_bytes(run / "recipe.yaml", most_bytes=_RECIPE_BYTES, links=False).decode(
            "utf-8", "replace"
        )
    except (OSError, Damaged):
        recipe = ""
    settings = {clean(key): _value(key, text) for key, text in flat_recipe(recipe).items()}
    choices = {
        clean(name): shorten(_value(name, f"{choice.get('value')} ({choice.get('reason')})"), 450)
        for name, choice in plan.items()
        if isinstance(choice, dict)
    }
    folder = run.resolve()
    return About(
        folder=run,
        id=clean(identity.get("run_id") or folder.name)[:64],
        name=clean(folder.name),
        project=clean(folder.parent.name) or "bigbatch",
        settings=settings,
        plan=choices,
    )


def _value(key: str, text: str) -> str:
    """The whole line goes through `clean`, which knows secrets by their key."""
    return clean(f"{key}: {text}")[len(clean(key)) + 2 :]


def state_of(run: Path) -> str:
    """`running` while somebody is at work there, else what status.json says; a run that was killed is interrupted."""
    said = str(_object(run / "status.json").get("state", "running"))
    if said != "running":
        return said
    try:
        touched = max(
            (run / name).lstat().st_mtime for name in ("lock.json", "metrics.jsonl") if (run / name).exists()
        )
    except (OSError, ValueError):
        touched = 0.0
    return "running" if time.time() - touched < _SILENT_SECONDS else "interrupted"


def ending_of(run: Path, state: str) -> Ending:
    """What a run came to."""
    final = _object(run / "result.json").get("final")
    figures = {
        f"final/{clean(split)}/{clean(name)}": value
        for split, metrics in (final.items() if isinstance(final, dict) else ())
        for name, found in (metrics.items() if isinstance(metrics, dict) else ())
        if (value := number(found)) is not None
    }
    files = [run / name for name in _KEPT_FILES]
    if state == "finished":
        model = run / "model"
        files += sorted(model.glob("*")) if not model.is_symlink() else []
    plain = [path for path in files if path.is_file() and not path.is_symlink()]
    return Ending(state=state, figures=figures, files=plain)


def _object(path: Path) -> dict[str, object]:
    try:
        return read_object(path, most_bytes=_FILE_BYTES, links=False)
    except (OSError, Damaged):
        return {}


__all__ = ["Entry", "Sent", "about_run", "ending_of", "send_run", "state_of", "track"]
