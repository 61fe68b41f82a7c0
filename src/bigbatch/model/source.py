"""Model folders and hub names: what may be opened, and what is refused. No code of a folder is ever run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from huggingface_hub import constants
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from bigbatch.errors import BigbatchError, ModelError
from bigbatch.model.folder import CONFIG, View, viewed
from bigbatch.model.kinds import is_folder
from bigbatch.model.nearby import hub_answers, nearby_models, why_no_hub
from bigbatch.model.size import check_numbers
from bigbatch.recipe.model_facts import listed_models


def load_config(view: View) -> PreTrainedConfig:
    """The configuration of a model folder that was looked at.

    Raises:
        ModelError: it cannot be had.
    """
    where = str(view.source / CONFIG)
    check_numbers(view.config, where)
    with explained(str(view.source)), quiet():
        found = AutoConfig.from_pretrained(view.path, trust_remote_code=False)
    found._name_or_path = view.name
    return found


@contextmanager
def opened(name: str, revision: str | None, *, weights: bool, config: bool = True) -> Iterator[View]:
    """`folder.viewed` for a folder or a hub name.

    Args:
        name: folder or hub name.
        revision: branch, tag or commit on the hub.
        weights: whether there must be weights that can be read.
        config: whether there must be a configuration.

    Raises:
        ModelError: what is wrong, with the file and the remedy.
    """
    is_folder(name)
    with ExitStack() as stack:
        with explained(name), quiet():
            view = stack.enter_context(viewed(name, revision, weights=weights, config=config))
        yield view


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn what transformers raises while opening `name` into a ModelError with a remedy."""
    try:
        yield
    except (BigbatchError, MemoryError, torch.OutOfMemoryError):
        raise
    # Whatever a folder says reaches deep into transformers; which error its values cause there, nobody knows.
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if Path(name).is_dir():
            raise ModelError(f"{name}: cannot be opened: {first}") from error
        raise ModelError(_not_to_be_had(name, first)) from error


def _not_to_be_had(name: str, first: str) -> str:
    """Why a hub model cannot be opened, and what helps here."""
    fetch = f"run `hf download {name}` where there is a network and copy the folder or the cache here"
    if hub_answers():
        return (
            f"{name}: not in the local cache, and the hub gave no safetensors model ({first}). Remedy: check the name, "
            f"or set model.name to a folder; for a private model log in with `hf auth login`; or {fetch}"
        )
    here = nearby_models()
    found = (
        f" Found here: {listed_models(here)}."
        if here
        else " No model was found in the cache or in installed packages."
    )
    place = constants.HF_HUB_CACHE
    return (
        f"{name}: not in the local cache ({place}, or not all of it), and {why_no_hub()}. Remedy: set model.name to a "
        f"folder, or {fetch}.{found}"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and loading reports of transformers inside: our notes say what matters."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
