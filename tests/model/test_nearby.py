"""Models on this machine, and a hub that does not answer."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from bigbatch.errors import ModelError
from bigbatch.model import nearby
from bigbatch.model.nearby import cached_folder, facts_of, hub_answers, nearby_models, why_no_hub
from bigbatch.model.source import opened
from tests.models import tiny_folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(sys, "path", [])
    return tmp_path / "hub"


def cached(cache: Path, name: str, commit: str = "abc", **model) -> Path:
    home = cache / f"models--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True, exist_ok=True)
    (home / "refs" / "main").write_text(commit)
    return tiny_folder(home / "snapshots" / commit, **model)


def test_the_cache_is_looked_through(cache: Path):
    assert nearby_models() == []
    cached(cache, "gpt2", family="gpt2")
    cached(cache, "org/bert", "older")
    main = cached(cache, "org/bert", "newer")
    partial = cached(cache, "org/partial")
    (partial / "model.safetensors").unlink()
    broken = cached(cache, "org/broken")
    (broken / "config.json").write_text("{")
    (cache / "datasets--x").mkdir()
    assert {each.name: (each.kind, each.origin) for each in nearby_models()} == {
        "gpt2": ("causal", "the hub's cache"),
        "org/bert": ("masked", "the hub's cache"),
    }
    assert cached_folder("org/bert") == main
    assert cached_folder("org/partial") is None and cached_folder("org/none") is None


def test_installed_packages_are_looked_through(cache: Path, tmp_path: Path, monkeypatch):
    site = tmp_path / "lib" / "site-packages"
    folder = tiny_folder(site / "weights_of_a" / "model")
    tiny_folder(site / "too" / "deep" / "down" / "here")
    tiny_folder(tmp_path / "elsewhere" / "a")
    (site / "loop").symlink_to(site)
    monkeypatch.setattr(sys, "path", [str(site), str(site), str(tmp_path / "elsewhere")])
    [found] = nearby_models()
    assert (found.name, found.origin) == (str(folder), "the installed package weights_of_a")
    monkeypatch.setattr(nearby, "_WALK_SECONDS", 0.0)
    assert nearby_models() == []


def test_a_hub_that_never_answers_is_given_seconds_and_asked_once(monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(nearby, "PATIENCE_SECONDS", 0.5)
        for _ in range(3):
            start = time.monotonic()
            assert not hub_answers()
        assert time.monotonic() - start < 0.1
        assert "does not answer" in why_no_hub()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub_answers() and "HF_HUB_OFFLINE" in why_no_hub()


def test_facts_of_what_was_named(cache: Path, tmp_path: Path):
    folder = tiny_folder(tmp_path / "mine", "llama")
    assert facts_of(str(folder)).kind == "causal"
    cached(cache, "org/bert")
    assert facts_of("org/bert").kind == "masked"
    assert facts_of("org/unknown") is None
    with pytest.raises(ModelError, match="found no folder"):
        facts_of("./nothing")


def test_a_model_that_cannot_be_had_is_told_with_what_is_here(cache: Path, monkeypatch):
    cached(cache, "org/bert")
    with pytest.raises(ModelError) as caught, opened("org/other", None, weights=True):
        pass
    said = str(caught.value)
    assert said.startswith(f"org/other: not in the local cache ({cache}")
    assert "HF_HUB_OFFLINE is set" in said and "set model.name to a folder" in said
    assert "Found here: org/bert (the hub's cache)" in said
    with opened("org/bert", None, weights=True) as view:
        assert view.weights


def test_a_silent_hub_does_not_keep_a_cached_model_waiting(cache: Path, monkeypatch):
    cached(cache, "org/bert")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(nearby, "PATIENCE_SECONDS", 0.5)
        start = time.monotonic()
        for _ in range(3):
            with opened("org/bert", None, weights=True) as view:
                assert view.weights
        assert time.monotonic() - start < 5
        with pytest.raises(ModelError, match="does not answer"), opened("org/other", None, weights=True):
            pass
