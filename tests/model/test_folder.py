"""Model folders from strangers: what is refused, what is left out, and that nothing of them runs or is read elsewhere."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bigbatch.errors import BigbatchError, DoesNotFit, ModelError
from bigbatch.model.load import known_labels, load_model
from bigbatch.model.tokenizer import load_tokenizer
from bigbatch.recipe.learning import ModelSpec
from tests.models import tiny_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_folder(tmp_path / "m")


@pytest.fixture
def canary(tmp_path: Path) -> bytes:
    """A pickle that leaves a file where it is opened."""

    class Canary:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "ran"),))

    return pickle.dumps({"w": Canary()})


def load(folder: Path, **changes: Any) -> Any:
    spec = ModelSpec(name=str(folder), **changes)
    return load_model(
        spec, kind="sequence", outputs=3, seed=0, dropout=None, id2label={0: "a", 1: "b", 2: "c"}
    )


def edit(file: Path, **changes: Any) -> None:
    found = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**found, **changes}))


def shard(folder: Path, **named: str) -> None:
    """The weights in two files, with an index; `named` are further entries of it."""
    tensors = load_file(folder / "model.safetensors")
    names = list(tensors)
    half = len(names) // 2
    parts = {"a.safetensors": names[:half], "b.safetensors": names[half:]}
    for file, own in parts.items():
        save_file({name: tensors[name] for name in own}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    places = {name: file for file, own in parts.items() for name in own}
    edit(folder / "model.safetensors.index.json", metadata={}, weight_map={**places, **named})


def same(left: Any, right: Any) -> bool:
    ours, theirs = left.module.state_dict(), right.module.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_an_index_names_files_of_its_folder(folder: Path) -> None:
    whole = load(folder)
    shard(folder)
    assert same(load(folder), whole)


@pytest.mark.parametrize(
    "file",
    [
        "p.bin",
        "../outside.safetensors",
        "/elsewhere/x.safetensors",
        "sub/a.safetensors",
        "..\\a.safetensors",
        "p.pt",
    ],
)
def test_an_index_that_names_other_files_is_refused(
    folder: Path, tmp_path: Path, canary: bytes, file: str
) -> None:
    shutil.copy(folder / "model.safetensors", tmp_path / "outside.safetensors")
    (folder / "p.bin").write_bytes(canary)
    (folder / "p.pt").write_bytes(canary)
    shard(folder, **{"classifier.weight": file})
    with pytest.raises(ModelError, match=r"index\.json: weight_map: found .*expected the name of a") as error:
        load(folder)
    assert error.value.exit_code == 2
    assert not (tmp_path / "ran").exists()


def test_links_stay_in_the_folder_or_in_the_cache_of_the_hub(folder: Path, tmp_path: Path) -> None:
    whole = load(folder)
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(Path("..") / ".." / "blobs" / str(number))
    assert same(load(snapshot), whole)
    (tmp_path / "by-link").symlink_to(folder)
    assert same(load(tmp_path / "by-link"), whole)
    (folder / "elsewhere").mkdir()
    shutil.move(folder / "model.safetensors", folder / "elsewhere")
    (folder / "model.safetensors").symlink_to("elsewhere/model.safetensors")
    assert same(load(folder), whole)
    shutil.copy(folder / "elsewhere" / "model.safetensors", tmp_path / "x.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors: is a link to .*outside the model folder"):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_configurations_and_vocabularies_are_no_links_to_elsewhere(
    folder: Path, tmp_path: Path, name: str
) -> None:
    shutil.move(folder / name, tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(ModelError, match=f"{name}: is a link to"):
        load_tokenizer(ModelSpec(name=str(folder)))


def test_a_pipe_is_no_file(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(ModelError, match=r"config\.json: (found no regular file|is a named pipe)"):
        known_labels(ModelSpec(name=str(folder)))


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "model.pt",
        "model.pkl",
        "w.npy",
        "flax_model.msgpack",
    ],
)
def test_other_weights_are_never_opened(folder: Path, tmp_path: Path, canary: bytes, name: str) -> None:
    whole = load(folder)
    (folder / name).write_bytes(canary)
    assert same(load(folder), whole)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="found only pickled weights"):
        load(folder)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_torch_in_the_folder_is_not_seen(folder: Path, tmp_path: Path, canary: bytes) -> None:
    whole = load(folder)
    for place in (folder, folder / "checkpoint"):
        place.mkdir(exist_ok=True)
        (place / ".metadata").write_bytes(canary)
        (place / "__0_0.distcp").write_bytes(canary)
    assert same(load(folder), whole)
    assert not (tmp_path / "ran").exists()


def test_an_adapter_stands_for_another_model(folder: Path, tmp_path: Path, canary: bytes) -> None:
    base = tiny_folder(tmp_path / "base", hidden_size=16)
    edit(folder / "adapter_config.json", base_model_name_or_path=str(base), peft_type="LORA")
    (folder / "adapter_model.bin").write_bytes(canary)
    with pytest.raises(ModelError, match="adapter_config.json beside config.json.*merge"):
        load(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "key",
    [
        "_attn_implementation",
        "attn_implementation",
        "_attn_implementation_internal",
        "_experts_implementation",
        "experts_implementation",
    ],
)
def test_how_to_compute_is_not_the_folders(folder: Path, key: str) -> None:
    whole = load(folder)
    edit(folder / "config.json", **{key: "someone/kernels"})
    found = load(folder)
    assert same(found, whole)
    assert found.module.config._attn_implementation == whole.module.config._attn_implementation == "sdpa"
    found.module(input_ids=torch.tensor([[2, 5, 3]]))


@pytest.mark.parametrize(
    "changes",
    [
        {"configuration_files": ["config.0.0.1.json"]},
        {"transformers_weights": "other.safetensors"},
        {"dtype": "load"},
        {"torch_dtype": "bfloat16"},
        {"base_model_tp_plan": {"*": "colwise"}},
    ],
)
def test_a_configuration_names_no_other_files(folder: Path, changes: dict[str, Any]) -> None:
    whole = load(folder)
    edit(folder / "config.0.0.1.json", model_type="bert", hidden_size=8, auto_map={"AutoConfig": "x.Y"})
    edit(folder / "config.json", **changes)
    found = load(folder)
    assert same(found, whole)
    assert next(found.module.parameters()).dtype == torch.float32


def test_quantised_weights_are_refused(folder: Path) -> None:
    edit(folder / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    with pytest.raises(ModelError, match=r"config\.json: quantization_config: .*before quantisation"):
        load(folder)
    assert load(folder, init="random").notes == ("random weights, seed 0",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 10**12}, "more than .* parameters, where the weights hold"),
        ({"vocab_size": 1e12}, "vocab_size"),
        ({"hidden_size": 10**9, "num_attention_heads": 1}, "more than .* parameters"),
        ({"max_position_embeddings": 10**12}, "more than .* parameters|numbers in buffers"),
        ({"num_hidden_layers": 10**7}, "num_hidden_layers: found 10000000; expected a whole number from 1 to 10,000"),
        ({"num_hidden_layers": 9999}, "more than .* parameters, where the weights hold"),
        ({"num_hidden_layers": -1}, "num_hidden_layers: found -1"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers: found '2'"),
        ({"num_labels": 10**9, "id2label": None}, "num_labels: found 1000000000"),
        ({"hidden_size": -32}, "cannot be opened"),
        ({"hidden_size": "32"}, "hidden_size"),
        ({"hidden_size": None}, "cannot be opened"),
        ({"num_attention_heads": 0}, "cannot be opened"),
        ({"hidden_act": "os.system"}, "cannot be opened"),
        ({"id2label": [1, 2]}, "id2label: found list"),
        ({"id2label": {"x": "a"}}, "cannot be opened"),
        ({"model_type": ["bert"]}, r"model_type: found \['bert'\]"),
        ({"to_dict": "x", "sub_configs": 3}, "cannot be opened"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("init", ["pretrained", "random"])
def test_sizes_are_looked_at_before_anything_is_allocated(
    folder: Path, changes: dict[str, Any], message: str, init: str
) -> None:
    edit(folder / "config.json", **changes)
    if init == "random":
        message = message.replace(", where the weights hold", "") + "|GiB"
    if init == "random" and changes == {"num_hidden_layers": 9999}:
        return  # a deep model of this width has 85 million parameters: it can be had
    with pytest.raises((ModelError, DoesNotFit), match=message) as error:
        load(folder, init=init)
    assert error.value.exit_code == (3 if isinstance(error.value, DoesNotFit) else 2)
    assert str(folder) in str(error.value)


def test_files_without_an_end_or_a_bottom(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.rstrip()[:-1] + ', "x": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(ModelError, match=r"config\.json: is nested deeper than 64 levels"):
        load(folder)
    (folder / "config.json").write_text(text.rstrip()[:-1] + ', "x": ' + "[" * 100 + "]" * 100 + "}")
    with pytest.raises(ModelError, match=r"config\.json: is nested deeper than 64 levels"):
        load(folder)
    with (folder / "config.json").open("w") as file:
        file.truncate(3 * 2**30)
    with pytest.raises(ModelError, match=r"config\.json: has 3.* are read"):
        load(folder)


@pytest.mark.parametrize("owner", ["pretrained", "random"])
def test_a_model_larger_than_the_machine_is_exit_3(folder: Path, owner: str) -> None:
    edit(folder / "config.json", vocab_size=2**38)
    with pytest.raises(BigbatchError) as error:
        load(folder, init=owner)
    assert error.value.exit_code == (2 if owner == "pretrained" else 3)


def test_tokenizers_bring_no_code_and_read_no_other_file(folder: Path, tmp_path: Path, canary: bytes) -> None:
    spec = ModelSpec(name=str(folder))
    plain = load_tokenizer(spec)
    (folder / "evil.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})\nclass T: pass\n")
    (folder / "vocab.pkl").write_bytes(canary)
    (tmp_path / "other.txt").write_text("secret\n")
    edit(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["evil.T", "evil.T"]},
        vocab_file=str(tmp_path / "other.txt"),
        tokenizer_file=str(tmp_path / "other.txt"),
        fast_tokenizer_files=["tokenizer.0.1.json"],
    )
    found = load_tokenizer(spec)
    assert found.get_vocab() == plain.get_vocab()
    assert found("great flight")["input_ids"] == plain("great flight")["input_ids"]
    assert found.name_or_path == str(folder)
    assert "auto_map" not in found.init_kwargs
    edit(folder / "tokenizer_config.json", tokenizer_class="EvilTokenizer")
    assert load_tokenizer(spec)("great flight")["input_ids"] == plain("great flight")["input_ids"]
    assert not (tmp_path / "ran").exists()
