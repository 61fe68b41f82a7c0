"""Texts through a model of embeddings, and a guide: a second model that reads the rows of a run.

Shapes: N texts, K texts of all rows, D and E width of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from bigbatch.data.tables import DataTable
from bigbatch.data.tokens import as_table
from bigbatch.errors import ModelError, UsageError
from bigbatch.files.problems import one_error
from bigbatch.infer.forwards import run_forward
from bigbatch.model.files import folder_digest
from bigbatch.protocols import Forward, Tokenizer, World
from bigbatch.tasks.base import Task
from bigbatch.tasks.derived import Guide
from bigbatch.tasks.inputs import NoTokens
from bigbatch.tasks.match import Match

WINDOW = 2048
"""Texts at a time: as many as are sorted by length together."""
Progress = Callable[[str, int, int], object]
"""(what, done, of how many)"""


class Opened(Protocol):
    """What is asked of an opened model (`load.Loaded`)."""

    @property
    def task(self) -> Task: ...
    @property
    def tokenizer(self) -> Tokenizer | None: ...
    @property
    def forward(self) -> Forward: ...
    @property
    def micro_tokens(self) -> int: ...


def embedded(
    loaded: Opened, texts: Sequence[str], role: str, tell: Progress, world: World | None = None
) -> np.ndarray:
    """(N, D) float32: the embedding of each text, of length 1 where the model's similarity is cosine.

    Args:
        loaded: a model of embeddings.
        texts: in any order.
        role: `query` or `document`: which prefix they get.
        tell: told how far it is.
        world: the ranks that share the work; each gets all.

    Raises:
        DataError: a text without tokens.
    """
    task, found = loaded.task, []
    for first in range(0, len(texts), WINDOW):
        window = texts[first : first + WINDOW]
        try:
            samples = task.encode_batch([{role: text} for text in window], loaded.tokenizer, labelled=False)
        except NoTokens:
            raise one_error("", role, "a text of which the tokenizer makes no token; remove it") from None
        table = task.fixed(as_table(samples))
        kept = run_forward(
            loaded.forward, table, micro_tokens=loaded.micro_tokens, keep=task.keep, world=world
        )
        found.append(task.decode(kept).scores.astype(np.float32))
        tell(f"{role} texts", first + len(window), len(texts))
    return np.concatenate(found) if found else np.empty((0, 1), np.float32)


def guide_folder(folder: Path) -> Path:
    """Of the model itself: a run keeps it in `model/`.

    Raises:
        UsageError: there is none.
    """
    found = folder / "model" if (folder / "recipe.yaml").is_file() else folder
    if not all((found / name).is_file() for name in ("config.json", "modules.json")):
        raise UsageError(
            f"task.false_negatives.guide: {folder} is no model of embeddings (config.json, modules.json); expected a "
            "folder that sentence-transformers opens, or a run of task match that has finished"
        )
    return found


def guide_digest(folder: Path) -> str:
    """sha256 (hex) of its weights, configuration, tokenizer, and of how it pools.

    Raises:
        UsageError: there is no model.
        ModelError: a file that no model has.
    """
    found = guide_folder(folder)
    return folder_digest(found, found / "1_Pooling")


def guided(
    loaded: Opened, guide: Guide, rows: DataTable, tell: Progress, world: World | None = None
) -> np.ndarray:
    """(K, E) float32: the guide's embedding of each text of all rows, row after row.

    Texts that are the same are embedded once.

    Args:
        loaded: the guide's model.
        guide: which texts a row has.
        rows: of a split.
        tell: told how far it is.
        world: the ranks that share the work; each gets all.

    Raises:
        ModelError: it gives no embeddings.
    """
    if not isinstance(loaded.task, Match):
        raise ModelError(
            "task.false_negatives.guide: expected a model of embeddings (task match, or "
            "sentence-transformers)"
        )
    numbers: dict[str, dict[str, int]] = {"query": {}, "document": {}}
    places: list[tuple[str, int]] = []
    for chunk in rows.iterate(WINDOW):
        for row in chunk:
            for role, text in guide.texts(row):
                places.append((role, numbers[role].setdefault(text, len(numbers[role]))))
    vectors = {role: embedded(loaded, list(known), role, tell, world) for role, known in numbers.items()}
    width = max(each.shape[1] for each in vectors.values())
    found_KE = np.empty((len(places), width), np.float32)
    roles = np.array([role for role, _ in places])
    numbers_K = np.array([number for _, number in places], np.int64)
    for role, each in vectors.items():
        found_KE[roles == role] = each[numbers_K[roles == role]]
    return found_KE
