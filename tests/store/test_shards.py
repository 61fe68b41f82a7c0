from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save

from bigbatch.errors import CheckpointError
from bigbatch.store.shards import dtype_name, dtype_of, write_shard


def test_a_shard_is_the_file_the_library_would_write_but_for_metadata(tmp_path):
    tensors = {"b": torch.arange(3, dtype=torch.int8), "a": torch.randn(2, 2), "c": torch.randn(3).double()}
    facts = write_shard(tmp_path / "x.safetensors", tensors)
    ours, library = (tmp_path / "x.safetensors").read_bytes(), save(tensors, metadata={"format": "pt"})
    assert facts.size_bytes == len(ours)
    assert ours[-(3 + 16 + 24) :] == library[-(3 + 16 + 24) :]
    assert load_file(tmp_path / "x.safetensors").keys() == tensors.keys()


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.bool, torch.float8_e4m3fn, torch.int16]
)
def test_dtypes_have_names(dtype):
    assert dtype_of(dtype_name(dtype)) == dtype


def test_an_unknown_dtype_is_refused():
    with pytest.raises(CheckpointError, match="unknown dtype 'complex64'"):
        dtype_of("complex64")
