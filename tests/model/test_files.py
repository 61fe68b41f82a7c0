"""Files of a model folder that no model has: holes, half a download, JSON without end."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from bigbatch.build.inputs import Live, model_digest
from bigbatch.errors import ModelError
from bigbatch.model.files import check_file, check_weights
from bigbatch.model.load import load_model
from bigbatch.model.nesting import check_nesting
from bigbatch.model.tokenizer import load_tokenizer
from bigbatch.recipe.learning import ModelSpec
from bigbatch.recipe.load import load_recipe
from bigbatch.stored import Damaged
from tests.models import tiny_folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("made") / "m")


@pytest.fixture
def folder(tmp_path, made):
    return shutil.copytree(made, tmp_path / "m")


def opened(folder):
    spec = ModelSpec(name=str(folder))
    load_tokenizer(spec)
    return load_model(spec, kind="sequence", outputs=2, id2label={0: "a", 1: "b"}, seed=0, dropout=None)


def digest(folder):
    (folder.parent / "r.yaml").write_text(json.dumps({"model": str(folder), "data": {"train": "x.csv"}}))
    return model_digest(load_recipe(folder.parent / "r.yaml", {}, environ={}), Live())


def test_a_real_folder_passes(folder):
    for file in folder.iterdir():
        check_file(file)
    assert opened(folder) and digest(folder)


@pytest.mark.parametrize("how", [opened, digest])
@pytest.mark.parametrize(
    "name",
    ["tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "merges.txt", "special_tokens_map.json"],
)
def test_a_vocabulary_of_20_gib_is_named(folder, how, name):
    (folder / name).touch()
    os.truncate(folder / name, 20 * 2**30)
    with pytest.raises(ModelError, match=rf"m/{name}: has 20.0 GiB; at most 512.0 MiB are read"):
        how(folder)


@pytest.mark.parametrize("name", ["chat_template.jinja", "additional_chat_templates/rag.jinja"])
def test_a_template_of_20_gib_is_named(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).touch()
    os.truncate(folder / name, 20 * 2**30)
    with pytest.raises(ModelError, match=rf"m/{name}: has 20.0 GiB; at most 16.0 MiB are read"):
        opened(folder)


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"]
)
def test_deep_json_is_named(folder, name):
    (folder / name).write_text('{"a":' + "[" * 100_000 + "]" * 100_000 + "}")
    for how in (opened, digest):
        with pytest.raises(ModelError, match=rf"m/{name}: is nested deeper than 64 levels"):
            how(folder)


@pytest.mark.parametrize("size_bytes", [2**40, 0, 7, 100, -1])
@pytest.mark.parametrize("hole", [True, False])
def test_weights_end_where_their_header_says(folder, size_bytes, hole):
    """1 TiB that is not there, half a download, one byte short: known before anything is hashed."""
    weights = folder / "model.safetensors"
    if hole:
        weights.write_bytes(b"")
    elif size_bytes < 0:
        size_bytes += weights.stat().st_size
    os.truncate(weights, max(0, size_bytes))
    for how in (opened, digest):
        with pytest.raises(
            ModelError, match=r"m/model\.safetensors: cannot be opened: .*expected a complete copy"
        ):
            how(folder)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"3",
        b'{"a":1}',
        b'{"a":{"data_offsets":[0]}}',
        b'{"a":{"data_offsets":[0,1e400]}}',
        b"[" * 100_000,
    ],
)
def test_a_header_that_is_none(tmp_path, header):
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelError, match="found no header of safetensors"):
        check_weights(tmp_path / "x.safetensors")


def test_nesting_is_counted_outside_of_texts(tmp_path, monkeypatch):
    """Brackets, escaped quotation marks and backslashes in texts, cut at every place."""
    file = tmp_path / "a.json"
    text = json.dumps(
        {"[" * 100: '\\"' + "{" * 100, "a\\": ["\\" * 7 + "[" * 100, '"' * 5], '"\\': {"b": [[1, 2]]}}
    )
    file.write_text(text)
    for size in (1, 2, 3, 5, 7, 1000):
        monkeypatch.setattr("bigbatch.model.nesting._CHUNK_BYTES", size)
        check_nesting(file)
        file.write_text(text + "[" * 64)
        check_nesting(file)
        file.write_text(text + "[" * 65)
        with pytest.raises(Damaged, match="deeper than 64"):
            check_nesting(file)
        file.write_text(text)


def test_values_are_counted(tmp_path):
    (tmp_path / "a.json").write_bytes(b"[" + b"1," * 10_000_001)
    with pytest.raises(Damaged, match="more than 10,000,000 values"):
        check_nesting(tmp_path / "a.json")
