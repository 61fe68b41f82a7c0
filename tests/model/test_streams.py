from __future__ import annotations

import json
import weakref

import torch
from safetensors.torch import load_file

from bigbatch.model.streams import Weights, header_bytes, split_shards, write_weights


def test_tensors_are_dealt_in_order_and_a_large_one_is_alone():
    tensors = {
        name: torch.zeros(size, dtype=torch.uint8)
        for name, size in zip("abcde", (4, 5, 20, 6, 4), strict=True)
    }
    assert split_shards(tensors, 10) == [["a", "b"], ["c"], ["d", "e"]]
    assert split_shards({}, 10) == []


def test_headers_are_padded_so_that_tensors_are_aligned():
    for length in range(1, 12):
        assert len(header_bytes({"n" * length: torch.zeros(1)})) % 8 == 0


def test_only_one_tensor_is_in_memory_and_the_library_reads_all(tmp_path):
    held = {"a": torch.randn(30), "b": torch.arange(5), "c": torch.randn(7, 3).bfloat16().t()}
    last: list[weakref.ref[torch.Tensor]] = []

    def read(name: str) -> torch.Tensor:
        assert not [each for each in last if each() is not None]
        found = held[name].clone()
        last.append(weakref.ref(found))
        return found

    like = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") for name, tensor in held.items()
    }
    write_weights(tmp_path, Weights(like=like, read=read), {"x.a": "a", "x.b": "b", "x.c": "c"}, 100)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 120 + 40 + 42
    assert sorted(set(index["weight_map"].values())) == [
        f"model-0000{n}-of-00002.safetensors" for n in (1, 2)
    ]
    found = {key: value for file in tmp_path.glob("*.safetensors") for key, value in load_file(file).items()}
    assert found.keys() == index["weight_map"].keys() == {"x.a", "x.b", "x.c"}
    assert all(torch.equal(found[f"x.{name}"], tensor) for name, tensor in held.items())
