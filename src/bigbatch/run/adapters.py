"""What the adapters of a run belong to, for the folder that they are written into."""

from __future__ import annotations

import gc

from torch import nn

from bigbatch.build.parts import Parts
from bigbatch.errors import ModelError, UsageError
from bigbatch.model.adapter_folder import Base, is_adapter_folder, read_adapter
from bigbatch.model.adapters import has_adapters, is_plain_lora
from bigbatch.model.anatomy import headed_model
from bigbatch.model.tensors import base_digest, plain_digest
from bigbatch.recipe.schema import ModelSpec, Recipe
from bigbatch.tasks.facts import BuildFacts


def base_of(parts: Parts) -> Base | None:
    """The base model by its place; None where there are no adapters, or where nobody could open them: they are merged.

    A live model's base is held against what lies where it says it comes from: it may have been trained since.
    """
    module = parts.module
    if not has_adapters(module):
        return None
    kind, name = parts.task.head.kind, _name(module)
    asked = parts.recipe.model
    if asked.name is not None:
        revision = read_adapter(asked.name).revision if is_adapter_folder(asked.name) else asked.revision
        return Base(name=name, revision=revision, kind=kind)
    if not name or parts.strategy.world.divides or not is_plain_lora(module) or not _lies_there(parts, name):
        return None
    return Base(name=name, revision=None, kind=kind)


def check_live(module: nn.Module | None, recipe: Recipe) -> None:
    """Refuse what no folder could be written of.

    Raises:
        UsageError: a live model with adapters that ranks divide.
    """
    mesh = recipe.plan.mesh
    divides = mesh is not None and (mesh.shard > 1 or mesh.tensor > 1)
    if divides and module is not None and has_adapters(module):
        raise UsageError(
            "plan.mesh: a live model with adapters is not divided over ranks, since no rank could write it whole; "
            "save its base, name that folder (model.name) and the adapters (model.adapter)"
        )


def _name(module: nn.Module) -> str:
    return str(getattr(headed_model(module).config, "_name_or_path", "") or "")


def _lies_there(parts: Parts, name: str) -> bool:
    """Whether the folder or hub model of this name is the base, to the bit."""
    facts = BuildFacts(seed=0, dropout=None, module=None, note=lambda _: None)
    try:
        found = parts.task.build(ModelSpec(name=name), facts)
    except (ModelError, OSError):
        return False
    same = plain_digest(found, like=parts.module) == base_digest(parts.module)
    del found
    gc.collect()
    return same
