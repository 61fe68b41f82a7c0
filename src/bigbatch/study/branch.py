"""`--from`: the weights that all runs of a study start from."""

from __future__ import annotations

import os
from pathlib import Path

from bigbatch.errors import ModelError, UsageError
from bigbatch.recipe.schema import Recipe
from bigbatch.stored import read_text

_CARD = "Weights of "
"""How the model card of a folder begins that was written here."""


def branch_words(start: str | None, folder: Path, recipe: Recipe) -> tuple[str, ...]:
    """Recipe words that name the weights; those of a checkpoint are written to `FOLDER/from` first.

    The optimiser starts afresh and the samples from the first one on: what is compared is the way from these weights.

    Args:
        start: a run (its `model/`), one of its checkpoints (`RUN/checkpoints/step-000120`), or a model folder.
        folder: the study's.
        recipe: of the study.

    Raises:
        UsageError: none of these, or the run has not finished, so that its configuration and tokenizer are not there.
    """
    if start is None:
        return ()
    path = Path(start)
    if (path / "index.json").is_file():
        model = _from_checkpoint(path, folder / "from")
    elif (path / "model" / "config.json").is_file():
        model = path / "model"
    elif (path / "config.json").is_file():
        model = path
    else:
        raise UsageError(
            f"--from {start}: expected a finished run, one of its checkpoints, or a model folder"
        )
    words = (f"model.name={model.resolve()}",)
    return words if recipe.model.init == "pretrained" else (*words, "model.init=pretrained")


def _from_checkpoint(checkpoint: Path, out: Path) -> Path:
    """The checkpoint's weights in the run's own model folder, as a folder of their own."""
    home = checkpoint.resolve().parent.parent / "model"
    if not (home / "config.json").is_file():
        raise UsageError(
            f"--from {checkpoint}: its run has not finished, so that there is no {home} to take configuration and "
            "tokenizer from; finish the run, or name a model folder"
        )
    if os.path.lexists(out) and not _is_ours(out):
        raise UsageError(
            f"{out} would be replaced by the weights of {checkpoint}, and is not ours; move it away"
        )
    from bigbatch.infer.load import open_model
    from bigbatch.model.encoder import bare
    from bigbatch.model.export import save_model
    from bigbatch.model.tensors import saved_tensors
    from bigbatch.store.checkpoints import read_checkpoint
    from bigbatch.store.tensors import MODEL

    opened = open_model(home)
    held = read_checkpoint(checkpoint, lambda name, shape: _whole(shape) if name.startswith(MODEL) else None)
    module = bare(opened.module)
    tensors = {name.removeprefix(MODEL): tensor for name, tensor in held.tensors.items()}
    for name, stored in held.aliases.items():
        if name.startswith(MODEL):
            tensors[name.removeprefix(MODEL)] = held.tensors[stored]
    missing, unexpected = module.load_state_dict(tensors, strict=False)
    lost = [name for name in missing if name in saved_tensors(module)[0]]
    if lost or unexpected:
        raise ModelError(
            f"--from {checkpoint}: its weights do not fit {home}: {', '.join([*lost, *unexpected][:5])}"
        )
    files = opened.task.files(module)
    save_model(module, opened.tokenizer, out, f"{_CARD}{checkpoint.name}.\n", files=files)
    return out


def _is_ours(folder: Path) -> bool:
    """Whether an earlier start left it."""
    try:
        return not folder.is_symlink() and read_text(folder / "README.md", most_bytes=1000).startswith(_CARD)
    except (OSError, ValueError):
        return False


def _whole(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (0,) * len(shape), shape
