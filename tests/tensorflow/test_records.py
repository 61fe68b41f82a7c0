"""TFRecord files between this project and TensorFlow, which has an environment of its own: `make test-tensorflow`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from bigbatch.files.converted import convert
from bigbatch.files.kinds import read_file

PYTHON = os.environ.get("TENSORFLOW_PYTHON", "")
pytestmark = pytest.mark.tensorflow


def theirs(*words: str) -> str:
    done = subprocess.run(
        [PYTHON, str(Path(__file__).with_name("check.py")), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["tfrecord", "tfrecord.gz"])
def test_tensorflow_reads_what_was_written(tmp_path, kind):
    rows = [
        {"text": f"row {number} ä", "label": number - 5, "score": number / 8, "ids": [number, 2**40]}
        for number in range(1000)
    ]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    convert(source, tmp_path / f"x.{kind}")
    found = [json.loads(line) for line in theirs("read", str(tmp_path / f"x.{kind}")).splitlines()]
    assert found == [
        {name: value if isinstance(value, list) else [value] for name, value in sorted(row.items())}
        for row in rows
    ]


@pytest.mark.parametrize("pack", ["", "GZIP", "ZLIB"])
def test_what_tensorflow_writes_is_read(tmp_path, pack):
    theirs("write", str(tmp_path / "x.tfrecord"), pack)
    raw = read_file("x", tmp_path / "x.tfrecord", "utf-8")
    assert dict(raw.load(raw.columns)) == {
        "text": ["hello", "wörld"],
        "label": [1, -7],
        "score": [0.5, -2.0],
        "ids": [[1, 2, 300], [4]],
    }
