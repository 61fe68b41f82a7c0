"""What must survive: checkpoints with their position, the journal, the plan. The loop says when, this says how."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bigbatch.model.streams import Weights
from bigbatch.model.tensors import named_tensors
from bigbatch.optim.build import set_scaled, state_multiple
from bigbatch.optim.state import load_optimizer_state
from bigbatch.plan.frozen import Plan
from bigbatch.protocols import World
from bigbatch.recipe.schema import Recipe
from bigbatch.rules.clocks import Clock
from bigbatch.run.background import BackgroundSaver
from bigbatch.run.build import Parts
from bigbatch.run.checkpoints import (
    CheckpointState,
    StoredCheckpoint,
    checkpoint_bytes,
    load_newest,
    read_together,
)
from bigbatch.run.directory import RunDirectory
from bigbatch.run.guard import Guard
from bigbatch.run.holdings import (
    MODEL,
    SCORES,
    load_weights,
    scores_read,
    scores_to_write,
    to_read,
    to_write,
)
from bigbatch.run.inputs import Live
from bigbatch.run.journal import Journal, NoJournal
from bigbatch.run.progress import Progress
from bigbatch.run.stored_index import check_run_state

_RECORD_BYTES = 2**24
"""Room for metrics.jsonl, report and the small files."""


class Keeper:
    """Writes and reads a run's durable state."""

    def __init__(
        self,
        directory: RunDirectory,
        journal: Journal | NoJournal,
        *,
        run_id: str,
        digest: str = "",
        keep: int,
        room_bytes: int = 0,
    ) -> None:
        """Bind to one run directory.

        Args:
            directory: the run's files.
            journal: metrics.jsonl, open.
            run_id: of identity.json; checkpoints of another run are refused.
            digest: of what is computed, likewise; `--continue` changes it.
            keep: checkpoints that stay.
            room_bytes: memory for a copy of what this rank saves; a larger one is written before `save` returns.
        """
        self.directory = directory
        self.journal = journal
        self.run_id = run_id
        self.digest = digest
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

    def save(self, parts: Parts, progress: Progress, guard: Guard, clock: Clock) -> Path:
        """Save this update boundary; the checkpoint with the best weights stays beside the newest.

        With memory for a copy, files are written while training goes on: `poll` or `flush` makes them a checkpoint.

        Returns:
            Where it is, or will be.

        Raises:
            DiskError: this one or the one before could not be written; older checkpoints are intact.
        """
        parts.settle()
        tensors, pieces, aliases = to_write(parts)
        state = CheckpointState(
            step=progress.update,
            tensors={**tensors, **scores_to_write(progress.scores, parts.step.world)},
            pieces=pieces,
            aliases=aliases,
            state={
                "progress": progress.to_dict(),
                "guard": guard.to_state(),
                "digest": self.digest,
                **_loss_scale(parts),
                **_rhythm(parts),
            },
            run_id=self.run_id,
        )
        self.journal.sync()
        best = [progress.best.step] if progress.best else []
        if self.saver is None:
            self.saver = BackgroundSaver(parts.step.world, room_bytes=self.room_bytes)
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

    def restore(self, parts: Parts, guard: Guard) -> tuple[Progress | None, list[str]]:
        """Put the newest complete checkpoint into model, optimiser and guard.

        Returns:
            Where the run was, or None without a complete checkpoint; and notes for the user.

        Raises:
            CheckpointError: it belongs to another run, or does not fit the model.
        """
        world = parts.step.world
        found, notes = load_newest(
            self.directory.checkpoints, run_id=self.run_id, world=world, wanted=to_read(parts)
        )
        if found is None:
            return None, notes
        check_run_state(found.state)
        load_weights(parts.module, found, world)
        states = {
            name: tensor for name, tensor in found.tensors.items() if not name.startswith((MODEL, SCORES))
        }
        progress = Progress.from_dict(found.state["progress"])
        progress.scores = scores_read(found.tensors)
        if parts.ramp is not None:  # before: averages are loaded as they are where betas are the same
            here = parts.in_stage(progress.batch_stage)
            set_scaled(parts.step.optimizer, here.betas, here.eps)
        if parts.step.apart is not None:
            parts.step.apart.restore(states, found.state["sync"])
        else:
            load_optimizer_state(parts.step.optimizer, states)
        guard.restore(found.state["guard"])
        if parts.step.loss_scale is not None and "loss_scale" in found.state:
            parts.step.loss_scale.restore(found.state["loss_scale"])
        self.restored_digest = found.state.get("digest") or None
        self.saved_update = progress.update
        self.saved_clock = progress.clock(0.0)
        return progress, notes

    def recount(self, progress: Progress, world: World) -> str | None:
        """Count records as metrics.jsonl has them; why a checkpoint must know, where there are fewer than it says.

        From a count that is too large, a resume after another kill could not tell which evaluations it repeats.
        """
        found = world.share(self.journal.records)
        if found >= progress.journal_records:
            return None
        progress.journal_records = found
        return "records of metrics.jsonl are gone"

    def load_earlier(self, parts: Parts, update: int) -> str | None:
        """Put the best weights, those of an earlier update, into the model, on every rank or on none.

        Returns:
            None, or why the latest weights are used instead.
        """
        world = parts.step.world
        path = self.directory.checkpoints / f"step-{update:06d}"
        if not world.share(path.is_dir()):
            return f"the checkpoint of update {update} with the best weights is gone"
        found, trouble = read_together(path, world, to_read(parts, weights_only=True))
        if found is None:
            return f"checkpoint {path.name} with the best weights cannot be read ({trouble})"
        load_weights(parts.module, found, world)
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


def _loss_scale(parts: Parts) -> dict[str, dict[str, float]]:
    scale = parts.step.loss_scale
    return {} if scale is None else {"loss_scale": scale.to_state()}


def _rhythm(parts: Parts) -> dict[str, Any]:
    apart = parts.step.apart
    return {} if apart is None else {"sync": asdict(apart.rhythm)}


def first_guess_bytes(recipe: Recipe, live: Live) -> int:
    """Disk space of a run as far as the size of its weights is known without loading them."""
    if live.module is not None:
        weights = sum(tensor.nbytes for tensor in named_tensors(live.module)[0].values())
    else:
        folder = recipe.resolve_path(recipe.model.name or "")
        weights = (
            sum(path.stat().st_size for path in folder.glob("*.safetensors")) if recipe.model.name else 0
        )
    optimizer = recipe.optimizer
    checkpoint = weights * (1 + state_multiple(optimizer.name, optimizer.momentum, optimizer.state))
    return int((recipe.run.keep + 2) * checkpoint + weights) + _RECORD_BYTES


def bytes_needed(parts: Parts, keep: int) -> int:
    """Disk space of a run: its checkpoints (one more while one is written), the exported model, records.

    Optimiser states do not exist before the first update, so they are counted from the parameters.
    """
    tensors, _ = named_tensors(parts.module)
    optimizer = parts.recipe.optimizer
    per_parameter = state_multiple(optimizer.name, optimizer.momentum, optimizer.state)
    trainable = sum(parameter.nbytes for parameter in parts.step.parameters)
    checkpoint = checkpoint_bytes(tensors) + int(per_parameter * trainable)
    model = sum(tensor.nbytes for tensor in tensors.values())
    if parts.step.apart is not None:
        # Each replica has weights and a state of its own; the outer step has both too.
        checkpoint *= 1 + parts.step.apart.replicas
    return (keep + 2) * checkpoint + model + _RECORD_BYTES
