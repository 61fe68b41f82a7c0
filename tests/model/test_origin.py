"""The tokenizer of a live model that came without one."""

from __future__ import annotations

import shutil

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import bigbatch
from bigbatch.errors import ModelError
from bigbatch.infer.origin import tokenizer_of
from tests.models import tiny, tiny_folder
from tests.test_api import KEYS, TEXTS

HUB = "someone/small-bert"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tiny_folder(tmp_path / "bert", id2label={0: "neg", 1: "pos"})


@pytest.fixture
def cached(folder, tmp_path, monkeypatch):
    """The folder as Hugging Face's cache holds a model of the hub, and no way to the hub."""
    cache = tmp_path / "hub"
    home = cache / f"models--{HUB.replace('/', '--')}"
    shutil.copytree(folder, home / "snapshots" / COMMIT)
    (home / "refs").mkdir()
    (home / "refs/main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    return home


def loaded(folder):
    return AutoModelForSequenceClassification.from_pretrained(folder)


def test_text_rows_and_a_live_model_are_enough(folder, capsys):
    run = bigbatch.train(loaded(folder), TEXTS, TEXTS[:20], batch_size=16, set=KEYS, run_dir="r")
    assert f"tokenizer: that of {folder}, where the model comes from" in capsys.readouterr().err
    assert run.predict(["great flight"])[0]["label"] in ("neg", "pos")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    given = bigbatch.train(
        loaded(folder),
        TEXTS,
        TEXTS[:20],
        tokenizer=tokenizer,
        batch_size=16,
        set=KEYS,
        run_dir="r",
        quiet=True,
    )
    assert given.path.name == "r", "the same run: it had finished"


def test_another_tokenizer_there_is_another_run(folder, capsys):
    first = bigbatch.train(loaded(folder), TEXTS, batch_size=16, set=KEYS, run_dir="r")
    module = loaded(folder)
    tiny_folder(folder, id2label={0: "neg", 1: "pos"}, words=("great", "late", "crew"))
    second = bigbatch.train(module, TEXTS, batch_size=16, set=KEYS, run_dir="r")
    assert (first.path.name, second.path.name) == ("r", "r-2")
    assert "python.tokenizer" in capsys.readouterr().err


def test_a_hub_name_is_looked_up_in_the_cache_alone(cached):
    module = tiny("bert")
    module.config._name_or_path = HUB
    name, tokenizer = tokenizer_of(module)
    assert name == HUB and tokenizer("great crew")["input_ids"]
    module.config._commit_hash = "f" * 40
    assert tokenizer_of(module) == (HUB, None), "another revision is not here"


@pytest.mark.parametrize(
    "name", ["someone/unknown", "no such name at all", "/no/folder", "../up", "http://x/y"]
)
def test_a_place_without_one_gives_none(cached, name):
    module = tiny("bert")
    module.config._name_or_path = name
    assert tokenizer_of(module) == (name, None)
    with pytest.raises(ModelError, match="pass `tokenizer=` with a live model"):
        bigbatch.train(module, TEXTS, batch_size=16, set=KEYS, run_dir="r")


def test_a_folder_with_weights_alone_gives_none(tmp_path):
    module = tiny("bert")
    module.save_pretrained(tmp_path / "bare")
    assert tokenizer_of(loaded(tmp_path / "bare"))[1] is None


def test_a_model_without_a_head_has_a_place_too(folder):
    from transformers import AutoModel

    assert tokenizer_of(AutoModel.from_pretrained(folder))[1] is not None
