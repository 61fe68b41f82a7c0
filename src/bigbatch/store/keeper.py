"""What must survive: checkpoints with their position, the journal, the plan. The loop says when, this says how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from bigbatch.errors import CheckpointError
from bigbatch.model.streams import Weights
from bigbatch.plan.frozen import Plan
from bigbatch.protocols import State, World
from bigbatch.rules.clocks import Clock
from bigbatch.store.background import BackgroundSaver
from bigbatch.store.checkpoints import (
    CheckpointState,
    StoredCheckpoint,
    load_newest,
    read_together,
)
from bigbatch.store.directory import RunDirectory
from bigbatch.store.journal import Journal, NoJournal
from bigbatch.store.progress import Progress
from bigbatch.store.stored_index import check_run_state
from bigbatch.store.tensors import (
    MODEL,
    SCORES,
    load_weights,
    scores_read,
    scores_to_write,
    to_read,
    to_write,
)


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What a checkpoint held beside the weights."""

    progress: Progress
    held: State


class Keeper:
    """Writes and reads a run's durable state."""

    def __init__(
        self,
        directory: RunDirectory,
        journal: Journal | NoJournal,
        module: nn.Module,
        world: World,
        *,
        run_id: str,
        digest: str = "",
        base: str = "",
        keep: int,
        room_bytes: int = 0,
    ) -> None:
        """Bind to one run directory.

        Args:
            directory: the run's files.
            journal: metrics.jsonl, open.
            module: whole, or this rank's part of it.
            world: the ranks, which write and read together.
            run_id: of identity.json; checkpoints of another run are refused.
            digest: of what is computed, likewise; `--continue` changes it.
            base: digest of the weights that checkpoints do not hold, since they never move; empty where they hold all.
            keep: checkpoints that stay.
            room_bytes: memory for a copy of what this rank saves; a larger one is written before `save` returns.
        """
        self.directory = directory
        self.journal = journal
        self.module = module
        self.world = world
        self.run_id = run_id
        self.digest = digest
        self.base = base
        self.restored_digest: str | None = None
        """Of the checkpoint that was restored; None where it does not say."""
        self.keep = keep
        self.room_bytes = room_bytes
        self.saver: BackgroundSaver | None = None
        self.saved_update = -1
        """Update of the newest checkpoint of this process."""
        self.saved_clock = Clock()
        self._weights_of: Path | None = None
        """Checkpoint whose weights the module holds, when they are not the latest."""

    def save(self, held: State, progress: Progress, clock: Clock) -> Path:
        """Save this update boundary; the checkpoint with the best weights stays beside the newest.

        With memory for a copy, files are written while training goes on: `poll` or `flush` makes them a checkpoint.

        Args:
            held: what is kept beside the module's tensors, which are those that the run has.
            progress: of the run.
            clock: how far that is.

        Returns:
            Where it is, or will be.

        Raises:
            DiskError: this one or the one before could not be written; older checkpoints are intact.
        """
        tensors, pieces, aliases = to_write(self.module, held, self.world)
        state = CheckpointState(
            step=progress.update,
            tensors={**tensors, **scores_to_write(progress.scores, self.world)},
            pieces=pieces,
            aliases=aliases,
            state={"progress": progress.to_dict(), "digest": self.digest, **self._about_base(), **held.facts},
            run_id=self.run_id,
        )
        self.journal.sync()
        best = [progress.best.step] if progress.best else []
        if self.saver is None:
            self.saver = BackgroundSaver(self.world, room_bytes=self.room_bytes)
        path = self.saver.save(self.directory.checkpoints, state, self.keep, protect=best)
        self.saved_update, self.saved_clock = progress.update, clock
        self.directory.write_status("running", progress.update)
        return path

    def poll(self) -> None:
        """At an update boundary, on every rank: publish the checkpoint on its way once all have written it.

        Raises:
            DiskError: some rank could not write.
        """
        if self.saver is not None:
            self.saver.poll()

    def flush(self) -> None:
        """Wait until the checkpoint on its way is durable; on every rank, before the run ends in any way.

        Raises:
            DiskError: some rank could not write.
        """
        if self.saver is not None:
            self.saver.flush()

    def close(self) -> None:
        """Leave no thread behind when the run ends in an error (see `BackgroundSaver.close`)."""
        if self.saver is not None:
            self.saver.close()

    def restore(self) -> tuple[Restored | None, list[str]]:
        """Put the newest complete checkpoint's weights into the module.

        Returns:
            The rest of it, or None without a complete checkpoint; and notes for the user.

        Raises:
            CheckpointError: it belongs to another run, or does not fit the model.
        """
        found, notes = load_newest(
            self.directory.checkpoints,
            run_id=self.run_id,
            world=self.world,
            wanted=to_read(self.module, self.world),
        )
        if found is None:
            return None, notes
        check_run_state(found.state)
        self._check_base(found.state.get("base", ""))
        load_weights(self.module, found, self.world)
        progress = Progress.from_dict(found.state["progress"])
        progress.scores = scores_read(found.tensors)
        self.restored_digest = found.state.get("digest") or None
        self.saved_update = progress.update
        self.saved_clock = progress.clock(0.0)
        rest = {name: value for name, value in found.tensors.items() if not name.startswith((MODEL, SCORES))}
        return Restored(progress=progress, held=State(tensors=rest, facts=found.state)), notes

    def _about_base(self) -> dict[str, str]:
        return {"base": self.base} if self.base else {}

    def _check_base(self, stored: object) -> None:
        if stored != self.base:
            raise CheckpointError(
                f"{self.directory.checkpoints}: its checkpoints hold adapters of another base model than the one "
                "that was loaded now: the weights in its folder have changed. Bring that model back, or train anew "
                "(run.dir)"
            )

    def recount(self, progress: Progress) -> str | None:
        """Count records as metrics.jsonl has them; why a checkpoint must know, where there are fewer than it says.

        From a count that is too large, a resume after another kill could not tell which evaluations it repeats.
        """
        found = self.world.share(self.journal.records)
        if found >= progress.journal_records:
            return None
        progress.journal_records = found
        return "records of metrics.jsonl are gone"

    def load_earlier(self, update: int) -> str | None:
        """Put the best weights, those of an earlier update, into the model, on every rank or on none.

        Returns:
            None, or why the latest weights are used instead.
        """
        path = self.directory.checkpoints / f"step-{update:06d}"
        if not self.world.share(path.is_dir()):
            return f"the checkpoint of update {update} with the best weights is gone"
        wanted = to_read(self.module, self.world, weights_only=True)
        found, trouble = read_together(path, self.world, wanted)
        if found is None:
            return f"checkpoint {path.name} with the best weights cannot be read ({trouble})"
        load_weights(self.module, found, self.world)
        self._weights_of = path
        return None

    def stored_weights(self) -> Weights:
        """The whole weights that the module's parts are of, read from their checkpoint one at a time.

        Raises:
            CheckpointError: it cannot be read.
        """
        path = self._weights_of or self.directory.checkpoints / f"step-{self.saved_update:06d}"
        stored = StoredCheckpoint(path)
        like = {
            name.removeprefix(MODEL): torch.empty(shape, dtype=stored.dtype(name), device="meta")
            for name, shape in stored.shapes.items()
            if name.startswith(MODEL)
        }
        return Weights(
            like=like,
            read=lambda name: stored.tensor(MODEL + name),
            aliases={
                name.removeprefix(MODEL): first.removeprefix(MODEL) for name, first in stored.aliases.items()
            },
        )

    def write_plan(self, plan: Plan) -> None:
        """Make the plan durable; it must be before any update that follows it."""
        self.directory.write_json(self.directory.plan, plan.to_json())
