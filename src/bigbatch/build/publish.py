"""Tokens of the training rows as files that other machines stream (`data.published`), shard by shard.

A kill loses the shard that was being written; the same command goes on there, and writes the index last.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from bigbatch.build.inputs import Inputs
from bigbatch.build.tokenised import how_tokenised, made_by
from bigbatch.data.published import FORMAT, LENGTHS, IndexFile, PublishedFile, columns_of, facts_of
from bigbatch.data.shelf import digest_of
from bigbatch.data.tables import DataTable
from bigbatch.data.tokens import COUNT, cache_key, token_table, tokenizer_fingerprint
from bigbatch.errors import DiskError, Problem, RecipeError
from bigbatch.remote.addresses import INDEX
from bigbatch.samples import Table
from bigbatch.stored import Damaged
from bigbatch.tasks.given import given_tokens
from bigbatch.tasks.ready import Ready
from bigbatch.written import make_folders, remove, rename, replace_text

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a folder holds now."""

    index: Path
    shards: int
    samples: int
    tokens: int
    size_bytes: int
    kept: int
    """Shards that were there before."""


def publish(inputs: Inputs, ready: Ready, folder: Path, progress: Progress | None) -> Published:
    """Write tokens of all shards, and their index.

    Args:
        inputs: rows in shards (`data.shuffle: shards`).
        ready: model, tokenizer and task.
        folder: is made if it is missing; what an earlier call left half-way is gone on with.
        progress: (what, done rows, rows).

    Raises:
        RecipeError: rows that are in no shards, or samples that belong together.
        DiskError: the folder cannot be written.
    """
    rows, _ = given_tokens(ready.module, ready.tokenizer, ready.task.longest).table(inputs.train)
    if not rows.digests or ready.task.needs:
        what = "only shards of rows are published: a folder or pattern of files, with data.shuffle: shards"
        raise RecipeError([Problem(where="recipe", key="data.shuffle", what=what)])
    try:
        make_folders(folder, ours=2)
        return _published(rows, ready, folder, progress)
    except OSError as error:
        raise DiskError(f"{folder}: {error.strerror or error}") from error


def _published(rows: DataTable, ready: Ready, folder: Path, progress: Progress | None) -> Published:
    digest = None if rows.tokenised else tokenizer_fingerprint(ready.tokenizer)
    how = how_tokenised(ready, rows, None, digest)
    counts: dict[str, list[np.ndarray]] = {}
    columns: dict[str, object] = {}
    shards, facts, kept, done = [], [], 0, 0
    for number in range(len(rows.digests)):
        shard, path = rows.shard(number), folder / f"{number:05}.safetensors"
        key = cache_key(shard, ready.task, ready.tokenizer, how["key_parts"], digest) or ""
        if key and _is_there(path, key):
            kept += 1
        else:
            _write(path, key, _arranged(shard, ready, how))
        found = columns_of(path)
        facts.append(facts_of(path))
        for name, values in found.items():
            if name.endswith(f".{COUNT}"):
                counts.setdefault(name, []).append(np.asarray(values))
            elif facts[-1]["samples"]:
                columns[name] = {"dtype": values.dtype.str, "shape": list(values.shape[1:])}
        shards.append({**_file(path), "samples": facts[-1]["samples"]})
        done += len(shard)
        if progress is not None:
            progress("train", done, len(rows))
    _save(folder / LENGTHS, {name: np.concatenate(parts) for name, parts in counts.items()}, {})
    index: IndexFile = {
        "format": FORMAT,
        "made": made_by(ready, rows, digest),
        "labels": list(ready.task.label_names),
        "tokenised": rows.tokenised,
        "truncated_samples": sum(each["truncated"] for each in facts),
        "idle_samples": sum(each["idle"] for each in facts),
        "weights": "any" if any(each["fractions"] for each in facts) else "zeros and ones",
        "columns": columns,  # type: ignore[typeddict-item]
        "lengths": _file(folder / LENGTHS),
        "shards": shards,
    }
    replace_text(folder / INDEX, json.dumps(index, indent=1))
    positions = [f"{name}.{COUNT}" for name in ready.task.sequences]
    return Published(
        index=folder / INDEX,
        shards=len(shards),
        samples=sum(each["samples"] for each in facts),
        tokens=sum(int(part.sum()) for name in positions for part in counts.get(name, ())),
        size_bytes=sum(int(shard["bytes"]) for shard in shards),
        kept=kept,
    )


def _arranged(shard: DataTable, ready: Ready, how: Mapping[str, object]) -> Table:
    table, _ = token_table(shard, **{**how, "cache_dir": None})  # type: ignore[arg-type]
    found = ready.task.arrange(table) if len(shard) else table
    if found.groups is not None:
        what = "shards with a task whose samples belong together (pairs, lists) is not built; use full"
        raise RecipeError([Problem(where="recipe", key="data.shuffle", what=what)])
    return found


def _write(path: Path, key: str, table: Table) -> None:
    tensors: dict[str, np.ndarray] = {}
    for name, stream in table.streams.items():
        stream = stream.load()
        tensors[f"{name}.{COUNT}"] = stream.lengths
        if len(table):
            tensors |= {f"{name}.{column}": values for column, values in stream.columns.items()}
    weights = np.asarray(table.weights)
    facts = {
        "samples": len(table),
        "truncated": table.truncated_samples,
        "idle": int((table.counted_units == 0).sum()),
        "fractions": int(not np.isin(weights, (0.0, 1.0)).all()),
    }
    _save(path, tensors, {"facts": json.dumps({"key": key, **facts})})


def _save(path: Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Whole and on the disk, or not under its name."""
    passing = path.with_name(f".writing-{os.getpid()}-{path.name}")
    try:
        save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, passing, metadata)
        with open(passing, "rb+") as file:
            os.fsync(file.fileno())
        rename(passing, path)
    finally:
        if passing.exists():
            remove(passing)


def _is_there(path: Path, key: str) -> bool:
    try:
        return facts_of(path)["key"] == key and bool(columns_of(path))
    except (OSError, Damaged):
        return False


def _file(path: Path) -> PublishedFile:
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": digest_of(path)}
