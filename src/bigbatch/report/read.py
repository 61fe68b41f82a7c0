"""A run directory -> RunData: whatever is there, whether the run is finished, going on or was killed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from bigbatch.documents import last_stage, read_document, record_of
from bigbatch.errors import UsageError
from bigbatch.model.heads import HEADS, HeadClass, HeadKind, head_named_by
from bigbatch.stored import Damaged, open_plain, read_bytes, read_object
from bigbatch.units import show_bytes

_RECIPE_BYTES = 2**22
_LINE_BYTES = 2**26

# The columns that every table has, also before the first update (docs/run-directory.md: metrics.jsonl).
_UPDATE_COLUMNS: dict[str, pa.DataType] = {
    "step": pa.int64(),
    "time": pa.string(),
    "samples": pa.int64(),
    "tokens": pa.int64(),
    "batch_samples": pa.int64(),
    "batch_tokens": pa.int64(),
    "loss": pa.float64(),
    "grad_norm": pa.float64(),
    "lr": pa.float64(),
    "seconds": pa.float64(),
    "wait_seconds": pa.float64(),
    "padding_share": pa.float64(),
    "peak_memory_bytes": pa.int64(),
    "skipped": pa.bool_(),
    "empty": pa.bool_(),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class RunData:
    """What a run directory holds. A file that is not there yet gives an empty mapping or table."""

    path: Path
    recipe: str
    """`recipe.yaml` as it stands; empty when there is none."""
    plan: Mapping[str, object]
    environment: Mapping[str, object]
    status: Mapping[str, object]
    result: Mapping[str, object]
    evaluation: Mapping[str, object]
    """Per split: `confusion`, `labels`, `examples`, `calibration`."""
    graph: Mapping[str, object]
    """`graph.json`: what one micro-batch computes; empty where it was not analysed."""
    audit: Mapping[str, object]
    """What a low number format does to each block: `format`, `verdict`, `blocks`, …"""
    updates: pa.Table
    """One row an update, in order; columns as in metrics.jsonl."""
    evals: tuple[Mapping[str, object], ...]
    """Evaluations in the order in which they happened."""
    events: tuple[Mapping[str, object], ...]
    problems: tuple[str, ...] = field(default=())
    """What could not be read, one sentence each. A torn last line is normal and is not among them."""

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def state(self) -> str:
        """`running`, `finished`, `interrupted`, `failed`, or `unknown` without a status file."""
        return str(self.status.get("state") or ("finished" if self.result else "unknown"))


def read_run(path: str | Path) -> RunData:
    """Read a run directory; nothing in it is changed, and the run may still be going on.

    Args:
        path: the run directory.

    Raises:
        UsageError: there is no such directory, or it holds no run.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such run directory{_nearest(folder)}")
    if not any(
        (folder / name).is_file() for name in ("recipe.yaml", "metrics.jsonl", "status.json", "result.json")
    ):
        raise UsageError(
            f"{folder}: this is not a run directory; expected recipe.yaml or metrics.jsonl in it"
        )
    folder = last_stage(folder)
    problems: list[str] = []
    documents = {
        name: _read_document(folder / f"{name}.json", problems)
        for name in ("plan", "environment", "status", "result", "evaluation", "graph", "audit")
    }
    lines = _read_lines(folder / "metrics.jsonl", problems)
    kinds: dict[str, list[Mapping[str, object]]] = {"update": [], "eval": [], "event": []}
    for line in lines:
        kinds.get(str(line.get("kind")), []).append(line)
    return RunData(
        path=folder,
        recipe=_read_text(folder / "recipe.yaml", problems),
        updates=_update_table(kinds["update"], problems),
        evals=tuple(kinds["eval"]),
        events=tuple(kinds["event"]),
        problems=tuple(problems),
        **documents,
    )


def head_in(folder: Path) -> HeadClass:
    """The kind of head of a model folder, by its config.json; that of classifiers where none says."""
    try:
        found = read_object(folder / "config.json").get("architectures")
    except (OSError, Damaged):
        found = None
    names = [str(name) for name in found] if isinstance(found, list) else []
    kinds: list[HeadKind] = [kind for name in names if (kind := head_named_by(name))]
    return HEADS[kinds[0] if kinds else "sequence"]


def _nearest(folder: Path) -> str:
    """`; did you mean runs/tweets?` from the directory's neighbours, or nothing."""
    try:
        neighbours = [entry.name for entry in folder.parent.iterdir() if entry.is_dir()]
    except OSError:
        return ""
    close = difflib.get_close_matches(folder.name, neighbours, n=1)
    return f"; did you mean {folder.parent / close[0]}?" if close else ""


def _read_text(path: Path, problems: list[str]) -> str:
    """recipe.yaml as it stands, whatever it is; a report shows it and knows no schema."""
    try:
        return read_bytes(path, most_bytes=_RECIPE_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        problems.append(f"{path.name} could not be read: {error.strerror}.")
    except Damaged as error:
        problems.append(f"{path.name} {error}.")
    return ""


def _read_document(path: Path, problems: list[str]) -> dict[str, object]:
    """A JSON object, or an empty one: a run that goes on replaces its files under our eyes.

    A plan is shown whatever it says, so that those of other versions can be read.
    """
    with _said(path, problems):
        return read_object(path) if path.name == "plan.json" else read_document(path)
    return {}


@contextmanager
def _said(path: Path, problems: list[str]) -> Iterator[None]:
    """A file that cannot be used is among the problems afterwards; one that is not there is none."""
    try:
        yield
    except FileNotFoundError:
        pass
    except OSError as error:
        problems.append(f"{path.name} could not be read: {error.strerror}.")
    except Damaged as error:
        problems.append(f"{path.name} {error}.")


def _read_lines(path: Path, problems: list[str]) -> list[Mapping[str, object]]:
    """The journal's lines; the last one may be torn while a run is writing it, or after a kill."""
    records: list[Mapping[str, object]] = []
    with _said(path, problems), open_plain(path) as file:
        number = 0
        while line := file.readline(_LINE_BYTES):
            number += 1
            if len(line) == _LINE_BYTES:
                raise Damaged(f"has a line of more than {show_bytes(_LINE_BYTES)}")
            try:
                records.append(record_of(line))
            except Damaged as error:
                if line.endswith(b"\n"):
                    problems.append(f"{path.name}, line {number}, {error}: it was left out.")
    return records


def _update_table(rows: Iterable[Mapping[str, object]], problems: list[str]) -> pa.Table:
    """The updates with the contract's columns first, then whatever else was recorded (`loss.<term>`, …)."""
    rows = list(rows)
    others = dict.fromkeys(key for row in rows for key in row if key not in _UPDATE_COLUMNS and key != "kind")
    columns: dict[str, pa.Array] = {}
    for name, kind in _UPDATE_COLUMNS.items():
        columns[name] = _column([row.get(name) for row in rows], kind, name, problems)
    for name in others:
        columns[name] = _column([row.get(name) for row in rows], None, name, problems)
    return pa.table(columns)


def _column(values: list[object], kind: pa.DataType | None, name: str, problems: list[str]) -> pa.Array:
    try:
        return pa.array(values, type=kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        problems.append(f"metrics.jsonl: the column {name} holds values of different kinds.")
        if kind is None:
            return pa.array([None if value is None else str(value) for value in values])
        return pa.nulls(len(values), kind)
