"""Sizes of what safetensors files hold, read from headers that anybody may have written."""

from __future__ import annotations

import json
import os
import struct

import pytest
import torch
from safetensors.torch import save_file

from bigbatch.errors import ModelError
from bigbatch.model.size import stored_in


def test_tensors_and_numbers_of_all_files_together(tmp_path):
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    save_file({"w": torch.ones(3, 4), "scalar": torch.tensor(1.0)}, files[0], metadata={"format": "pt"})
    save_file({"empty": torch.ones(0, 7)}, files[1])
    found = stored_in(files)
    assert (found.tensors, found.numbers) == (3, 13)


SHAPES = ("[1e400]", "[NaN]", "[" + "9" * 4301 + "]", "[-3]", '["3"]', "3", "null", "[[3]]", "[" * 50_000)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_that_no_tensor_has_is_no_header(tmp_path, shape):
    header = ('{"w": {"dtype": "F32", "shape": ' + shape + ', "data_offsets": [0, 4]}}').encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    with pytest.raises(ModelError, match="no header"):
        stored_in([path])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["empty", "short", "a list", "no end", "pipe", "device"])
def test_what_is_no_such_file_is_named_at_once(tmp_path, kind):
    path = tmp_path / "a.safetensors"
    header = json.dumps([]).encode()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(
            {
                "empty": b"",
                "short": b"\1\0",
                "a list": struct.pack("<Q", len(header)) + header,
                "no end": struct.pack("<Q", 2**60),
            }[kind]
        )
    with pytest.raises(ModelError, match=r"a\.safetensors"):
        stored_in([path])
