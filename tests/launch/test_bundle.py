"""Live objects through a folder: the same bits, the same rows; what cannot be rebuilt is refused with the remedy."""

from __future__ import annotations

import os

import pyarrow as pa
import pytest
import torch

from bigbatch.errors import MachineError, UsageError
from bigbatch.launch.bundle import pack, unpack
from tests.models import tiny, tiny_tokenizer

ROWS = [{"text": f"flight {number}", "label": number % 3} for number in range(9)]


def _arguments(**changed):
    return {"model_or_recipe": tiny(), "train_dataset": ROWS, "val_dataset": 0.1, **changed}


def test_a_model_comes_out_with_the_same_bits(tmp_path):
    model = tiny()
    model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    model.dropout.p = 0.25
    pack(tmp_path, _arguments(model_or_recipe=model, tokenizer=tiny_tokenizer(tmp_path / "own")))
    found = unpack(tmp_path)
    again = found["model_or_recipe"]
    assert type(again) is type(model) and again.dropout.p == 0.25
    for (name, one), (_, other) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(one, other) and one.requires_grad == other.requires_grad, name
    assert (
        found["tokenizer"]("the flight")["input_ids"]
        == tiny_tokenizer(tmp_path / "x")("the flight")["input_ids"]
    )
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pkl", ".pt", ".bin")]


def test_rows_files_and_settings_come_out(tmp_path):
    (tmp_path / "a").mkdir()
    pack(
        tmp_path / "a",
        _arguments(val_dataset={"hard": ROWS[:2]}, set={"updates": 3}, loss=torch.nn.functional.l1_loss),
    )
    found = unpack(tmp_path / "a")
    assert isinstance(found["train_dataset"], pa.Table) and found["train_dataset"].to_pylist() == ROWS
    assert found["val_dataset"]["hard"].num_rows == 2 and found["set"] == {"updates": 3}
    assert found["loss"] is torch.nn.functional.l1_loss
    (tmp_path / "b").mkdir()
    pack(tmp_path / "b", _arguments(train_dataset=["rows.csv"]))
    assert unpack(tmp_path / "b")["train_dataset"][0].endswith("/rows.csv")


def test_what_a_fresh_process_cannot_import_is_refused(tmp_path):
    class Local(torch.nn.Module):
        pass

    with pytest.raises(UsageError, match="put it in a file"):
        pack(tmp_path, _arguments(model_or_recipe=Local()))
    with pytest.raises(UsageError, match="put it in a file"):
        pack(tmp_path, _arguments(loss=lambda logits, targets: logits))
    with pytest.raises(UsageError, match="torchrun"):
        pack(tmp_path, _arguments(model_or_recipe=torch.nn.Linear(2, 2)))
    with pytest.raises(UsageError, match="name it"):
        pack(tmp_path, _arguments(task=object()))


@pytest.mark.parametrize("content", ["", "[" * 100_000, "[]", '{"import_from": 3}', "a named pipe"])
def test_a_damaged_parcel_is_named(tmp_path, content):
    if content == "a named pipe":
        os.mkfifo(tmp_path / "parcel.json")
    else:
        (tmp_path / "parcel.json").write_text(content)
    with pytest.raises(MachineError, match=r"parcel\.json"):
        unpack(tmp_path)
