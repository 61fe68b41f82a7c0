"""What must survive: checkpoints with their position, the journal, the plan. The loop says when, this says how."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from bigbatch.errors import CheckpointError
from bigbatch.model.tensors import named_tensors
from bigbatch.optim.build import state_multiple
from bigbatch.optim.groups import names_of
from bigbatch.optim.state import load_optimizer_state, optimizer_state
from bigbatch.plan.frozen import Plan
from bigbatch.protocols import World
from bigbatch.recipe.schema import Recipe
from bigbatch.rules.clocks import Clock
from bigbatch.run.build import Parts
from bigbatch.run.checkpoints import (
    CheckpointState,
    checkpoint_bytes,
    list_checkpoints,
    load_newest,
    read_checkpoint,
    save_checkpoint,
)
from bigbatch.run.directory import RunDirectory
from bigbatch.run.guard import Guard
from bigbatch.run.inputs import Live
from bigbatch.run.journal import Journal, NoJournal
from bigbatch.run.progress import Progress
from bigbatch.run.ranks import by_leader

MODEL = "model/"
"""Prefix of the model's own tensors in a checkpoint; optimiser states have the state's name instead."""
_RECORD_BYTES = 2**24
"""Room for metrics.jsonl, report and the small files."""


class Keeper:
    """Writes and reads a run's durable state."""

    def __init__(
        self, directory: RunDirectory, journal: Journal | NoJournal, *, run_id: str, keep: int
    ) -> None:
        """Bind to one run directory.

        Args:
            directory: the run's files.
            journal: metrics.jsonl, open.
            run_id: of identity.json; checkpoints of another run are refused.
            keep: checkpoints that stay.
        """
        self.directory = directory
        self.journal = journal
        self.run_id = run_id
        self.keep = keep
        self.saved_update = -1
        """Update of the newest checkpoint of this process."""
        self.saved_clock = Clock()

    def save(self, parts: Parts, progress: Progress, guard: Guard, clock: Clock) -> Path:
        """Write a checkpoint of this update boundary; the one with the best weights stays beside the newest.

        Raises:
            DiskError: it could not be written; older checkpoints are intact.
        """
        tensors, aliases = all_tensors(parts)
        state = CheckpointState(
            step=progress.update,
            tensors=tensors,
            aliases=aliases,
            state={"progress": progress.to_dict(), "guard": guard.to_state(), **_loss_scale(parts)},
            run_id=self.run_id,
        )
        self.journal.sync()
        best = [progress.best.step] if progress.best else []
        path = by_leader(
            parts.step.world,
            lambda: save_checkpoint(self.directory.checkpoints, state, self.keep, protect=best),
            str,
            Path,
        )
        self.saved_update, self.saved_clock = progress.update, clock
        self.directory.write_status("running", progress.update)
        return path

    def restore(self, parts: Parts, guard: Guard) -> tuple[Progress | None, list[str]]:
        """Put the newest complete checkpoint into model, optimiser and guard.

        Returns:
            Where the run was, or None without a complete checkpoint; and notes for the user.

        Raises:
            CheckpointError: it belongs to another run, or does not fit the model.
        """
        found, notes = load_newest(self.directory.checkpoints, run_id=self.run_id)
        if found is None:
            return None, notes
        world = parts.step.world
        load_weights(parts.module, found, world.fill)
        by_name = {name: item for item, name in names_of(parts.step.optimizer.param_groups).items()}
        states = {
            name: _part(tensor, by_name.get(name.partition("/")[2]), world)
            for name, tensor in found.tensors.items()
            if not name.startswith(MODEL)
        }
        load_optimizer_state(parts.step.optimizer, states)
        guard.restore(found.state["guard"])
        if parts.step.loss_scale is not None and "loss_scale" in found.state:
            parts.step.loss_scale.restore(found.state["loss_scale"])
        progress = Progress.from_dict(found.state["progress"])
        self.saved_update = progress.update
        self.saved_clock = progress.clock(0.0)
        return progress, notes

    def load_best(self, parts: Parts, progress: Progress) -> str | None:
        """Put the best weights into the model.

        Returns:
            None, or why the latest weights are used instead.
        """
        if progress.best is None or progress.best.step == progress.update:
            return None
        for path in list_checkpoints(self.directory.checkpoints):
            if path.name == f"step-{progress.best.step:06d}":
                try:
                    load_weights(parts.module, read_checkpoint(path), parts.step.world.fill)
                except CheckpointError as error:
                    return f"checkpoint {path.name} with the best weights cannot be read ({error})"
                return None
        return f"the checkpoint of update {progress.best.step} with the best weights is gone"

    def write_plan(self, plan: Plan) -> None:
        """Make the plan durable; it must be before any update that follows it."""
        self.directory.write_json(self.directory.plan, plan.to_json())


def _loss_scale(parts: Parts) -> dict[str, dict[str, float]]:
    scale = parts.step.loss_scale
    return {} if scale is None else {"loss_scale": scale.to_state()}


def all_tensors(parts: Parts) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Model and optimiser tensors by checkpoint name, and the aliases of tied ones."""
    world = parts.step.world
    tensors, aliases = named_tensors(parts.module)
    by_name = {name: parameter for parameter, name in names_of(parts.step.optimizer.param_groups).items()}
    states = optimizer_state(parts.step.optimizer)
    return (
        {
            **{MODEL + name: tensor for name, tensor in world.gathered(tensors).items()},
            **{
                name: world.gathered_like(state, by_name[name.partition("/")[2]])
                for name, state in states.items()
            },
        },
        {MODEL + name: MODEL + stored for name, stored in aliases.items()},
    )


def _part(state: torch.Tensor, parameter: torch.Tensor | None, world: World) -> torch.Tensor:
    """This rank's part of an optimiser's state; a state of another shape than its parameter (a count) is whole."""
    if parameter is None or not world.divides or state.ndim != parameter.ndim or not state.ndim:
        return state
    return world.part_of(state, parameter)


def load_weights(
    module: torch.nn.Module,
    found: CheckpointState,
    fill: Callable[[torch.Tensor, torch.Tensor], object] = torch.Tensor.copy_,
) -> None:
    """Copy a checkpoint's model tensors into the module, in place; `fill(own, whole)` copies this rank's part.

    Raises:
        CheckpointError: names or shapes differ.
    """
    tensors, _ = named_tensors(module)
    stored = {
        name.removeprefix(MODEL): value for name, value in found.tensors.items() if name.startswith(MODEL)
    }
    if stored.keys() != tensors.keys():
        differing = sorted(stored.keys() ^ tensors.keys())
        raise CheckpointError(f"the checkpoint is of another model: {', '.join(differing[:5])} differ")
    with torch.no_grad():
        for name, tensor in tensors.items():
            if tensor.shape != stored[name].shape:
                raise CheckpointError(
                    f"the checkpoint is of another model: {name} has shape {tuple(stored[name].shape)}, "
                    f"expected {tuple(tensor.shape)}"
                )
            fill(tensor, stored[name])


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
    return (keep + 2) * checkpoint + model + _RECORD_BYTES
