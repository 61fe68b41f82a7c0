"""What a run computes, and so whether a directory holds the same run, another one, or none.

The fingerprint covers every recipe key that can change the result. It is kept in `RUN/identity.json`, the
first file of a run directory: a directory without it has never been started.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from bigbatch.documents import read_document, readable
from bigbatch.errors import CheckpointError, MachineError, UsageError
from bigbatch.recipe.references import read_code
from bigbatch.recipe.values import AUTO
from bigbatch.store.checkpoints import StoredCheckpoint, list_checkpoints
from bigbatch.store.directory import RunDirectory
from bigbatch.store.durable import FILES, FileOps, atomic_write_json
from bigbatch.units import Quantity

if TYPE_CHECKING:
    from bigbatch.recipe.schema import Recipe

_HOW = frozenset({"plan", "launch", "observers", "run", "guard", "scale"})
"""Sections that may change between a kill and a resume: they do not change the result."""
_ABOUT = frozenset({"metrics", "gate", "baseline", "source", "extends"})
"""What is measured and where the recipe lies; neither touches a weight."""
_LENGTHS = ("epochs", "updates", "samples", "tokens")
_TRACES = ("status.json", "plan.json", "recipe.yaml", "metrics.jsonl", "checkpoints", "model", "result.json")


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What is computed: dotted recipe keys, plus `data.contents` and `code.<file>` as hashes."""

    what: Mapping[str, object]
    """Only keys that are set: a null is the same as nothing."""

    @property
    def digest(self) -> str:
        """SHA-256 of it."""
        return hashlib.sha256(json.dumps(self.what, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Contents of identity.json."""

    run_id: str
    """Random, given once; checkpoints carry it."""
    fingerprint: Fingerprint
    outdates: str | None = None
    """`updated_at` of the status.json that speaks of another *what*: `--continue` has changed it since.

    It stands here so that one durable step changes both: whoever is killed behind it leaves a run to go on with.
    """
    derived: Mapping[str, str] = field(default_factory=dict)
    """Column that was computed before update 1 -> checksum of its file (`store.columns`)."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Nothing is there yet: start in `path`."""

    path: Path


@dataclass(frozen=True, kw_only=True)
class Resume:
    """Go on in `path`, from its newest checkpoint (from update 0 if none is complete)."""

    path: Path
    run_id: str
    differences: tuple[str, ...] = ()
    """How the run under the name that was asked for differs (`path` is then its neighbour), or what
    `--continue` changed on purpose."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The same run has finished in `path`: nothing to do."""

    path: Path
    differences: tuple[str, ...] = ()
    """As for `Resume`."""


@dataclass(frozen=True, kw_only=True)
class NewName:
    """The name is taken by another *what*: start in `path`, the next free name."""

    path: Path
    taken: Path
    differences: tuple[str, ...] = field(default=())
    """`optimizer.lr: 5e-05 -> 0.0001`, one a key."""


Decision = Start | Resume | Finished | NewName


def _measured_ramp(resolved: Mapping[str, object]) -> bool:
    batch = resolved.get("batch")
    ramp = batch.get("ramp") if isinstance(batch, Mapping) else None
    if isinstance(batch, Mapping) and batch.get("samples") == AUTO:
        return True
    return isinstance(ramp, Mapping) and ramp.get("by", "noise") == "noise"


def fingerprint(
    recipe: Recipe,
    data_fingerprint: str | Mapping[str, str] | None = None,
    code_files: Iterable[Path] = (),
) -> Fingerprint:
    """What a resolved recipe computes.

    Keys count unless they are known not to change the result, so that a new key is never overlooked. With a
    data fingerprint the data's contents count and their paths do not: data may move between kill and resume.

    Args:
        recipe: a mapping, or a pydantic model.
        data_fingerprint: hash of the contents, or one for each split.
        code_files: the user's own files that the recipe names.
    """
    if stages := getattr(recipe, "stages", ()):
        each = ((stage.number - 1, fingerprint(stage.recipe).what) for stage in stages)
        return Fingerprint(
            what={f"stages.{at}.{key}": value for at, what in each for key, value in what.items()}
        )
    resolved = _plain(recipe)
    assert isinstance(resolved, dict), recipe
    length = getattr(recipe, "length", None) if resolved.get("epochs") != AUTO else None
    if isinstance(length, Quantity):  # a default that no key spells out
        resolved = {key: value for key, value in resolved.items() if key not in _LENGTHS}
        resolved[length.unit] = _number(length.amount)
    kept = {key: value for key, value in resolved.items() if key not in _HOW | _ABOUT}
    best = kept.get("best")
    if isinstance(best, Mapping):
        # `best: METRIC` alone, as it always was: the usual way to choose makes no other run.
        kept["best"] = best.get("metric")
        kept |= {"best.choose": "figure"} if best.get("choose") == "figure" else {}
    # What is measured decides what is computed.
    if _measured_ramp(resolved):
        kept["scale"] = resolved.get("scale")
    if resolved.get("epochs") == AUTO and isinstance(resolved.get("run"), Mapping):
        kept["run"] = {"evaluate_every": resolved["run"].get("evaluate_every")}
    if data_fingerprint is not None and isinstance(kept.get("data"), Mapping):
        kept["data"] = _without_paths(kept["data"])
    what = dict(_flat(kept))
    if isinstance(data_fingerprint, str):
        what["data.contents"] = data_fingerprint
    elif data_fingerprint is not None:
        what.update({f"data.contents.{split}": value for split, value in data_fingerprint.items()})
    for name, value in _code(code_files).items():
        what[f"code.{name}"] = value
    return Fingerprint(what=dict(sorted(what.items())))


def differences(old: Fingerprint, new: Fingerprint) -> list[str]:
    """Every key that differs, in the user's words: `optimizer.lr: 5e-05 -> 0.0001`."""
    return list(_differing(old, new).values())


def read_identity(directory: Path) -> Identity | None:
    """Who lives in a directory; None when nobody does, or identity.json is damaged."""
    found = readable(directory / "identity.json")
    if found is None:
        return None
    identity = Identity(
        run_id=found["run_id"],
        fingerprint=Fingerprint(what=found["what"]),
        outdates=found.get("outdates"),
        derived=found.get("derived", {}),
    )
    return identity if identity.fingerprint.digest == found.get("digest") else None


def write_identity(
    directory: Path,
    fingerprint: Fingerprint,
    *,
    run_id: str | None = None,
    classes: Sequence[str] = (),
    ops: FileOps = FILES,
) -> Identity:
    """Make a directory the home of this run; written before any other of its files.

    Args:
        directory: the run directory; it exists.
        fingerprint: what is computed there from now on.
        run_id: keeps the number of a run that goes on with another *what*; None gives a new one.
        classes: what the model's outputs stand for, in order.
        ops: the file operations.
    """
    before, status = read_identity(directory), RunDirectory(directory).read_status()
    changed = before is not None and before.fingerprint.digest != fingerprint.digest
    outdates = status.updated_at if changed and status else before.outdates if before else None
    derived = before.derived if before is not None and before.run_id == run_id else {}
    identity = Identity(
        run_id=run_id or uuid.uuid4().hex, fingerprint=fingerprint, outdates=outdates, derived=derived
    )
    found: dict[str, object] = {"run_id": identity.run_id, "digest": fingerprint.digest}
    found |= {"what": dict(fingerprint.what), "classes": list(classes)}
    if outdates is not None:
        found["outdates"] = outdates
    if derived:
        found["derived"] = dict(derived)
    atomic_write_json(directory / "identity.json", found, ops=ops)
    return identity


def note_derived(directory: Path, name: str, checksum: str, *, ops: FileOps = FILES) -> None:
    """From here on the run is trained by this column.

    Args:
        directory: the run's, whose identity.json is there.
        name: of the column.
        checksum: of its file.
        ops: the file operations.
    """
    found = read_document(directory / "identity.json")
    found["derived"] = {**found.get("derived", {}), name: checksum}
    atomic_write_json(directory / "identity.json", found, ops=ops)


def decide(path: Path, fingerprint: Fingerprint, resume: bool | None = None) -> Decision:
    """What `train` does with a directory (docs/run-directory.md). Reads only; nothing is created.

    Whether another process is at work there is the lock's question.

    Args:
        path: the directory that the recipe asks for.
        fingerprint: what this start would compute.
        resume: True (`--resume`) insists on going on in exactly this directory.

    Raises:
        UsageError: `resume` and there is nothing to resume, or another *what*; names the differences.
    """
    if not _is_used(path):
        if resume:
            raise UsageError(f"--resume: there is no run in {path}; leave --resume out to start one")
        return Start(path=path)
    identity = _at_home(path, fingerprint)
    if identity is not None:
        return _go_on(path, identity)
    found = _differences(read_identity(path), fingerprint)
    if resume:
        raise UsageError(
            f"--resume: {path} holds another run ({'; '.join(found)}); undo these changes, leave --resume "
            f"out to start a new one beside it, or --continue {path} --allow KEYS to carry on with them"
        )
    return _neighbour(path, fingerprint, tuple(found))


def continue_run(path: Path, fingerprint: Fingerprint, allow: Sequence[str]) -> Resume:
    """`--continue RUN --allow KEYS`: go on, finished or not, although these keys of the *what* changed.

    Args:
        path: the run directory.
        fingerprint: what is to be computed from now on.
        allow: dotted keys; a section's name (`optimizer`) allows all of it.

    Raises:
        UsageError: no run there, or keys differ that are not allowed; names them.
    """
    identity = read_identity(path)
    if identity is None:
        raise UsageError(f"--continue: there is no run in {path}")
    found = _differing(identity.fingerprint, fingerprint)
    refused = [key for key in found if not any(key == name or key.startswith(f"{name}.") for name in allow)]
    if refused:
        raise UsageError(
            f"--continue {path}: these differ too: {'; '.join(found[key] for key in refused)}; undo them, or "
            f"add them: --allow {','.join([*allow, *refused])}"
        )
    return Resume(path=path, run_id=identity.run_id, differences=tuple(found.values()))


def _at_home(path: Path, fingerprint: Fingerprint) -> Identity | None:
    """Who lives in a directory, if it is this very run; where identity.json is damaged, its checkpoints know."""
    identity = read_identity(path)
    if identity is not None:
        return identity if identity.fingerprint.digest == fingerprint.digest else None
    for checkpoint in reversed(list_checkpoints(RunDirectory(path).checkpoints)):
        with suppress(CheckpointError):
            state = StoredCheckpoint(checkpoint).state
            same = state.get("digest") == fingerprint.digest
            return Identity(run_id=state["run_id"], fingerprint=fingerprint) if same else None
    return None


def _go_on(path: Path, identity: Identity, found: tuple[str, ...] = ()) -> Resume | Finished:
    status = RunDirectory(path).read_status()
    if status and status.state == "finished" and status.updated_at != identity.outdates:
        return Finished(path=path, differences=found)
    return Resume(path=path, run_id=identity.run_id, differences=found)


def _neighbour(path: Path, fingerprint: Fingerprint, found: tuple[str, ...]) -> Decision:
    """NAME-2, NAME-3, …: the first that is free, or that already holds this very run."""
    home = path if path.name else path.resolve()
    for number in range(2, 10_000):
        candidate = home.with_name(f"{home.name}-{number}")
        if not _is_used(candidate):
            return NewName(path=candidate, taken=path, differences=found)
        identity = _at_home(candidate, fingerprint)
        if identity is not None:
            return _go_on(candidate, identity, found)
    raise MachineError(f"{path}-2 to {path}-9999 are all taken; set run.dir to another name")


def _is_used(path: Path) -> bool:
    """Whether a run was started here. Other files, such as logs or a lock, do not count."""
    return any((path / name).exists() for name in ("identity.json", *_TRACES))


def _differences(identity: Identity | None, fingerprint: Fingerprint) -> list[str]:
    if identity is None:
        return ["identity.json is missing or damaged, so what was computed there is not known"]
    return differences(identity.fingerprint, fingerprint)


def _differing(old: Fingerprint, new: Fingerprint) -> dict[str, str]:
    return {
        key: f"{key}: {_show(old.what, key)} -> {_show(new.what, key)}"
        for key in sorted({*old.what, *new.what})
        if old.what.get(key) != new.what.get(key) and not _counts_in_one(key, old, new)
    }


def _counts_in_one(key: str, old: Fingerprint, new: Fingerprint) -> bool:
    """Whether a key says how to compute in one of two runs alone, since another key differs: that one is told."""
    return key.startswith(("run.", "scale.")) and (key in old.what) != (key in new.what)


def _show(what: Mapping[str, object], key: str) -> str:
    """A value as the user would type it; hashes short; `null` when not set."""
    value = what.get(key)
    if isinstance(value, str) and key.startswith(("code.", "data.contents", "python.")):
        return value[:12]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _flat(value: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, object]]:
    """Dotted keys and plain values; keys that are null are left out."""
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _flat(item, f"{prefix}{key}.")
        elif item is not None:
            yield f"{prefix}{key}", item


def _without_paths(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _without_paths(item) for key, item in value.items() if key != "path"}
    return [_without_paths(item) for item in value] if isinstance(value, list) else value


def _plain(value: object) -> object:
    """JSON values: models as mappings, quantities and paths as text, whole floats as integers."""
    if isinstance(value, BaseModel):
        value = {key: getattr(value, key) for key in type(value).model_fields}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return _number(value)
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)


def _number(value: float) -> int | float:
    return int(value) if float(value).is_integer() else value


def _code(files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of each file by its name; files of one name together."""
    sums: dict[str, hashlib._Hash] = {}
    for path in sorted(files):
        sums.setdefault(path.name, hashlib.sha256()).update(read_code(path))
    return {name: total.hexdigest() for name, total in sums.items()}
