"""Models for other programs: the same outputs, on real rows too; and nothing where they differ. The rest of it runs with
`make test-onnx` and `make test-tensorflow`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import bigbatch
from bigbatch.errors import DataError, ModelError, UsageError
from bigbatch.infer import program
from bigbatch.infer.alike import Outputs, compared
from bigbatch.infer.gguf import cut_of, interleaved
from bigbatch.infer.savedmodel import check_tensorflow

PLAIN = """
import sys, numpy, torch
with numpy.load(sys.argv[2]) as given:
    batch = {name: torch.from_numpy(given[name]) for name in given.files}
run = torch.export.load(sys.argv[1]).module()
with torch.no_grad():
    numpy.save(sys.argv[3], run(**batch)[0].numpy())
assert "transformers" not in sys.modules and "bigbatch" not in sys.modules
"""


@pytest.mark.onnx
def test_plain_torch_runs_the_program_on_other_shapes(tmp_path, two_labels):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": "great flight " * n}) + "\n" for n in (1, 3, 2)))
    said: list[str] = []
    out = bigbatch.export(two_labels, tmp_path / "out", to="torch", rows=rows, say=said.append)
    assert "on 3 real rows" in said[0] and "100.0%" in said[0]
    model = AutoModelForSequenceClassification.from_pretrained(out).eval()  # the folder is whole
    batch = AutoTokenizer.from_pretrained(out)(["a b c d e", "a"] * 2, padding=True, return_tensors="pt")
    np.savez(tmp_path / "batch.npz", **{name: value.numpy() for name, value in batch.items()})
    words = [str(out / "model.pt2"), str(tmp_path / "batch.npz"), str(tmp_path / "logits.npy")]
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", PLAIN, *words], check=True, env=clean, cwd=tmp_path)
    with torch.no_grad():
        ours = model(**batch).logits.numpy()
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), ours, rtol=1e-5, atol=1e-6)


def test_what_gives_other_outputs_is_not_left(tmp_path, two_labels, monkeypatch):
    monkeypatch.setattr(program, "write_program", lambda module, folder, batch: None)
    monkeypatch.setattr(
        program, "by_torch", lambda file: lambda batch: np.zeros((len(batch["input_ids"]), 2))
    )
    with pytest.raises(ModelError, match="gives other outputs"):
        bigbatch.export(two_labels, tmp_path / "out", to="torch")
    assert list(tmp_path.iterdir()) == []


def test_rows_that_cannot_be_read_and_formats_that_cannot_be_had(tmp_path, two_labels):
    rows = tmp_path / "rows.csv"
    rows.write_text("words\nx\n")
    with pytest.raises(DataError, match=r"rows\.csv"):
        bigbatch.export(two_labels, tmp_path / "out", to="torch", rows=rows)
    with pytest.raises(UsageError, match="tf/bin/python"):
        check_tensorflow(None)
    with pytest.raises(UsageError, match="cannot be run"):
        bigbatch.export(two_labels, tmp_path / "out", to="savedmodel", python=tmp_path / "none")
    assert not (tmp_path / "out").exists()


def test_padding_is_nobodys_and_one_place_is_enough():
    mask = {"attention_mask": torch.tensor([[1, 1], [1, 0]])}
    ours = np.ones((2, 2, 3), np.float32)
    theirs = ours.copy()
    theirs[1, 1] = np.nan
    assert compared(Outputs([ours], 1.0), Outputs([theirs], 1.0), [mask]).difference == 0.0
    theirs[0, 1, 2] = 1.5
    found = compared(Outputs([ours], 1.0), Outputs([theirs], 1.0), [mask])
    assert (found.difference, found.same) == (0.5, 2 / 3)
    theirs[0, 0] = np.nan
    assert compared(Outputs([ours], 1.0), Outputs([theirs], 1.0), [mask]).difference == float("inf")


def test_rows_of_heads_are_interleaved():
    halves = np.array([[10 * head + row] for head in range(2) for row in (0, 1, 2, 3)])  # of width 4
    assert interleaved(halves, 2)[:, 0].tolist() == [0, 2, 1, 3, 10, 12, 11, 13]


@pytest.mark.parametrize(
    "steps, name",
    [
        ([{"type": "ByteLevel", "use_regex": True}], "gpt-2"),
        ([{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel"}], "smollm"),
        ([{"type": "Split", "pattern": {"Regex": "x"}}, {"type": "ByteLevel", "use_regex": False}], None),
        ([{"type": "Whitespace"}], None),
        ([{"type": "ByteLevel", "use_regex": False}], None),
    ],
)
def test_only_tokenizers_that_llama_cpp_has(steps, name):
    described = json.dumps(
        {"model": {"type": "BPE"}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}
    )
    if name is not None:
        assert cut_of(described) == name
        return
    with pytest.raises(ModelError, match="cuts texts in another way"):
        cut_of(described)
