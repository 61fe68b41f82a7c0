"""Ways in which a file can be damaged, each of which a reader must survive."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from bigbatch.store.stored_index import index_bytes

Damage = Callable[[Path], object]

CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "nested lists": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "null": b"null",
    "a list": b"[]",
    "an empty object": b"{}",
    "a number": b"-1",
    "a text": b'"x"',
    "NUL": b"\0" * 64,
    "no UTF-8": b'{"a":"\xff\xfe"}',
    "4,300 digits": b'{"a":' + b"9" * 4301 + b"}",
    "1e400": b'{"a":1e400}',
    "NaN": b'{"a":NaN}',
}
VALUES: tuple[Any, ...] = (
    None, "x", -1, 1.5, [], {}, True, 10**18, 10**30, -(10**18), "\0", [[[]]], "../../x", "object",
    {"a": {"b": []}}, "1e400", 1e308,
)  # fmt: skip
"""Put where a file had something else."""


def whole_file(content: bytes) -> Iterator[tuple[str, Damage]]:
    """Damage that takes no look at what the file means: (name, what does it)."""
    yield "gone", _clear
    yield "a folder", _folder
    yield "a named pipe", lambda path: (_clear(path), os.mkfifo(path))
    yield "a device", lambda path: (_clear(path), path.symlink_to("/dev/zero"))
    yield "a dangling link", lambda path: (_clear(path), path.symlink_to("/nowhere/at/all"))
    yield "half", lambda path: path.write_bytes(content[: len(content) // 2])
    for name, new in CONTENTS.items():
        yield name, lambda path, new=new: path.write_bytes(new)


def inside(path: Path, content: bytes, count: int, random: Random) -> Iterator[tuple[str, Damage]]:
    """A value of another type or none at all in `count` places of a JSON file, its checksums put right."""
    if path.suffix == ".jsonl":
        lines = content.splitlines(keepends=True)
        for _ in range(count):
            at = random.randrange(len(lines))
            what, value = _changed(json.loads(lines[at]), random)
            new = b"".join([*lines[:at], json.dumps(value).encode() + b"\n", *lines[at + 1 :]])
            yield f"line {at}: {what}", lambda path, new=new: path.write_bytes(new)
        for name, raw in CONTENTS.items():
            new = b"".join([*lines[:2], raw + b"\n", *lines[3:]])
            yield f"line 2: {name}", lambda path, new=new: path.write_bytes(new)
    elif path.suffix == ".json":
        for _ in range(count):
            what, value = _changed(json.loads(content), random)
            yield what, lambda path, value=value: _write_sealed(path, value)


def _changed(value: Any, random: Random) -> tuple[str, Any]:
    places = [place for place in _places(value) if place]
    place = random.choice(places)
    at = value
    for key in place[:-1]:
        at = at[key]
    name = ".".join(map(str, place))
    if random.random() < 0.25:
        del at[place[-1]]
        return f"without {name}", value
    at[place[-1]] = random.choice(VALUES)
    return f"{name} = {at[place[-1]]!r}", value


def _places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield before
    if isinstance(value, dict):
        for key in value:
            yield from _places(value[key], (*before, key))
    elif isinstance(value, list):
        for at in range(min(len(value), 2)):
            yield from _places(value[at], (*before, at))


def _write_sealed(path: Path, value: Any) -> None:
    """As somebody would who knows how checksums are made."""
    if path.name == "index.json":
        path.write_bytes(index_bytes({key: each for key, each in value.items() if key != "sha256"}))
        return
    if path.name == "identity.json" and isinstance(value.get("what"), dict):
        value["digest"] = _sum(value["what"])
    if path.name == "header.json":
        value = {key: each for key, each in value.items() if key != "checksum"}
        value["checksum"] = _sum(value)
    content = json.dumps(value, indent=2).encode()
    path.write_bytes(content)
    if path.name == "state.json":
        index = json.loads((path.parent / "index.json").read_bytes())
        digest = hashlib.sha256(content).hexdigest()
        index["files"]["state.json"] = {"bytes": len(content), "sha256": digest}
        _write_sealed(path.parent / "index.json", index)


def _sum(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _folder(path: Path) -> None:
    _clear(path)
    path.mkdir()
    (path / "kept").write_text("something of the user's")
