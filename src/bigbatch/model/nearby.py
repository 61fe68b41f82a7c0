"""Models that are on this machine already: in Hugging Face's cache, and in installed packages. And whether the hub
answers, asked once and for a few seconds only.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import constants, hf_hub_download

from bigbatch.errors import ModelError
from bigbatch.model.kinds import CONFIG, INDEX, WEIGHTS, is_folder, model_facts
from bigbatch.recipe.model_facts import ModelFacts

PATIENCE_SECONDS = 5.0
"""How long the hub may take to answer at all."""
_WALK_SECONDS = 3.0
_DEEPEST = 3
"""Folders below site-packages that a model may lie in."""
_MOST_MODELS = 50
_TOKENIZERS = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)


def hub_answers() -> bool:
    """Whether the hub can be asked: not switched off (`HF_HUB_OFFLINE`), and something answers within seconds."""
    return not constants.HF_HUB_OFFLINE and _something_answers(constants.ENDPOINT)


def why_no_hub() -> str:
    """The same for people, of a hub that does not answer."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, so the hub is not asked"
    return f"{constants.ENDPOINT} does not answer"


@functools.cache
def _something_answers(endpoint: str) -> bool:
    """In a thread of its own: looking up a name may take half a minute, and cannot be told to give up."""
    answered = threading.Event()

    def ask() -> None:
        from huggingface_hub.utils import get_session

        try:
            answer = get_session().head(endpoint, timeout=PATIENCE_SECONDS)
        except Exception:  # whatever keeps it from answering
            return
        finally:
            done.set()
        if answer.status_code < 500:  # else a gateway that has nothing behind it
            answered.set()

    done = threading.Event()
    threading.Thread(target=ask, daemon=True, name="asks the hub").start()
    if done.wait(PATIENCE_SECONDS):
        answered.wait(0.1)
    return answered.is_set()


def facts_of(name: str) -> ModelFacts | None:
    """What is known about a folder, or about a hub model: from the cache, else from its config.json, which is fetched.
    None where the hub does not answer, or has no such file.

    Raises:
        ModelError: a path without a folder, or one that cannot be read.
    """
    if is_folder(name):
        return model_facts(Path(name), name)
    folder = cached_folder(name)
    if folder is not None:
        return model_facts(folder, name)
    if not hub_answers():
        return None
    try:
        config = hf_hub_download(name, CONFIG, etag_timeout=PATIENCE_SECONDS)
    except Exception:  # whatever keeps it from being had: training says so, with the remedy
        return None
    return model_facts(Path(config).parent, name, whole=False)


def nearby_models() -> list[ModelFacts]:
    """Models that can be trained without asking anybody, those of the hub's cache first, each once."""
    found = [*_cached(Path(constants.HF_HUB_CACHE)), *_installed(sys.path)]
    return list({each.name: each for each in found}.values())[:_MOST_MODELS]


def cached_folder(name: str) -> Path | None:
    """The folder of a hub model in the cache, when what training needs of it is there."""
    home = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    return next((folder for folder in _snapshots(home) if _is_model(folder)), None)


def _cached(cache: Path) -> Iterator[ModelFacts]:
    for home in _folders(cache):
        if home.name.startswith("models--"):
            name = home.name.removeprefix("models--").replace("--", "/")
            yield from _facts(
                [folder for folder in _snapshots(home) if _is_model(folder)][:1], "the hub's cache", name
            )


def _snapshots(home: Path) -> list[Path]:
    """Of one model, the one that `main` means first."""
    try:
        main = (home / "refs" / "main").read_text(encoding="utf-8")[:100].strip()
    except (OSError, ValueError):
        main = ""
    return sorted(_folders(home / "snapshots"), key=lambda folder: folder.name != main)


def _installed(places: Sequence[str]) -> Iterator[ModelFacts]:
    """Model folders inside installed packages, as far as a look of a few seconds finds them."""
    end = time.monotonic() + _WALK_SECONDS
    for place in dict.fromkeys(places):
        if Path(place).name not in ("site-packages", "dist-packages"):
            continue
        for folder in _walk(Path(place), end):
            package = folder.relative_to(place).parts[0]
            yield from _facts([folder], f"the installed package {package}", str(folder))


def _walk(root: Path, end: float) -> Iterator[Path]:
    level = [root]
    for _ in range(_DEEPEST):
        level = [folder for above in level if time.monotonic() < end for folder in _folders(above)]
        yield from (folder for folder in level if time.monotonic() < end and _is_model(folder))


def _folders(place: Path) -> list[Path]:
    try:
        with os.scandir(place) as entries:
            kept = [
                entry.path
                for entry in entries
                if entry.is_dir(follow_symlinks=False)
                and not entry.name.endswith((".dist-info", "__pycache__"))
            ]
    except OSError:
        return []
    return [Path(path) for path in sorted(kept)]


def _is_model(folder: Path) -> bool:
    has = [(folder / name).is_file() for name in (CONFIG, WEIGHTS, INDEX)]
    return has[0] and any(has[1:]) and any((folder / name).is_file() for name in _TOKENIZERS)


def _facts(folders: Sequence[Path], origin: str, name: str) -> Iterator[ModelFacts]:
    """What each says of itself; a folder that cannot be read is no find."""
    for folder in folders:
        try:
            yield model_facts(folder, name, origin)
        except ModelError:
            continue
