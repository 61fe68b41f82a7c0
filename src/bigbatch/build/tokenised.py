"""What decides how rows become tokens: for the cache's key, and for whoever reads tokens that were made elsewhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bigbatch.data.tables import DataTable
from bigbatch.data.tokens import as_json
from bigbatch.model.heads import HEADS
from bigbatch.tasks.ready import Ready


def how_tokenised(
    ready: Ready, rows: DataTable, cache_dir: Path | None, digest: str | None
) -> dict[str, Any]:
    """What rows are tokenised by.

    Args:
        ready: model, tokenizer and task.
        rows: of a split.
        cache_dir: where tokens are kept; None: nowhere.
        digest: of the tokenizer; None: rows of token ids, or nothing is kept.
    """
    arranged = {"block_length": ready.task.facts.block_length} if rows.digests or rows.stream else {}
    return {
        "task": ready.task,
        "tokenizer": ready.tokenizer,
        "cache_dir": cache_dir,
        "key_parts": {**_key_parts(ready), **arranged},
        "tokenizer_digest": digest,
    }


def made_by(ready: Ready, rows: DataTable, tokenizer_digest: str | None) -> dict[str, object]:
    """All that decides what rows become, as the index says it and as a recipe that reads it must say it.

    Args:
        ready: model, tokenizer and task.
        rows: in shards.
        tokenizer_digest: None where rows are token ids.
    """
    parts = how_tokenised(ready, rows, None, tokenizer_digest)["key_parts"]
    found = {
        "tokenizer": tokenizer_digest,
        "task": ready.task.written_in.__name__,
        "options": dict(ready.task.options),
        **parts,
    }
    # Long things (a vocabulary) by their sum: a difference is named, not shown.
    short = {name: json.loads(json.dumps(value, default=as_json)) for name, value in found.items()}
    return {
        name: value
        if len(text := json.dumps(value, sort_keys=True)) < 500
        else f"sha256 {hashlib.sha256(text.encode()).hexdigest()}"
        for name, value in short.items()
    }


def _key_parts(ready: Ready) -> Mapping[str, object]:
    """What the run filled in; the task's own options are in the cache's key already."""
    task = ready.task
    return {
        "labels": list(task.label_names),
        "max_length": ready.max_length,
        "pool": ready.anatomy.pools,
        "image": task.facts.image,
        "vocabulary": task.facts.vocabulary if HEADS[task.head.kind].wants_tokenizer else None,
    }
