"""Where models predict and evaluate: devices, their copies, and what happens where memory is short."""

from __future__ import annotations

import copy
from pathlib import Path
from threading import current_thread
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import bigbatch
from bigbatch.errors import UsageError
from bigbatch.infer import devices
from bigbatch.infer.devices import devices_of, only_cpu
from bigbatch.infer.load import ACCELERATOR_TOKENS, MICRO_TOKENS, open_model
from bigbatch.infer.predict import predict_rows
from bigbatch.model.runner import Runner
from bigbatch.parallel.agree import OutOfMemory
from tests.models import WORDS, tiny_folder

TEXTS = [" ".join(WORDS[number % 7 : number % 7 + 1 + number % 11]) for number in range(200)]
ROWS = [{"text": text, "label": f"LABEL_{number % 3}"} for number, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("m") / "m")


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four devices of CUDA, as far as their names go."""

    def chosen(asked: str | None, local_rank: int = 0) -> str:
        return "cuda:0" if asked in (None, "cuda") else asked

    monkeypatch.setattr(devices, "choose_device", chosen)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("asked", "planned", "found"),
    [
        (None, None, ("cuda:0", "cuda:1", "cuda:2", "cuda:3")),
        ("auto", "cpu", ("cuda:0", "cuda:1", "cuda:2", "cuda:3")),
        ("cuda", None, ("cuda:0", "cuda:1", "cuda:2", "cuda:3")),
        ("cuda:1", "cpu", ("cuda:1",)),
        (None, "cuda:2", ("cuda:2",)),
        (None, "cpu", ("cpu",)),
        ("cpu", "cuda", ("cpu",)),
        ("cuda:0, cuda:3", None, ("cuda:0", "cuda:3")),
    ],
)
def test_which_devices(asked: str | None, planned: str | None, found: tuple[str, ...]) -> None:
    assert devices_of(asked, planned) == found


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without CUDA")
def test_devices_that_are_not_here() -> None:
    assert devices_of(None, "cuda:7") == ("cpu",)
    assert only_cpu(devices_of("auto"))
    for asked in ("cuda", "cuda:1", "tpu", "", "cpu,xpu"):
        if asked:
            with pytest.raises(
                UsageError, match="device: found .*, which torch does not see here; expected cpu"
            ):
                devices_of(asked)


def test_copies_give_the_same_bits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = bigbatch.predict(folder, TEXTS, device="cpu")
    threads: set[str] = set()
    plain = Runner.__call__
    monkeypatch.setattr(
        Runner, "__call__", lambda self, batch: threads.add(current_thread().name) or plain(self, batch)
    )
    opened = open_model(folder, device="cpu,cpu,cpu")
    found = list(predict_rows(opened.forward, opened.task, opened.tokenizer, TEXTS, micro_tokens=64))
    few = open_model(folder, device="cpu")
    assert found == list(predict_rows(few.forward, few.task, few.tokenizer, TEXTS, micro_tokens=64))
    assert [row["label"] for row in found] == [row["label"] for row in one]
    assert len({name for name in threads if name.startswith("bigbatch-device")}) > 1
    measured = [bigbatch.evaluate(folder, ROWS, device=device) for device in ("cpu", "cpu,cpu")]
    for figures in measured:
        figures.pop("seconds")
    assert measured[0] == measured[1]


def test_an_error_on_one_copy_is_the_errors_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_model(folder, device="cpu,cpu")

    def broken(self: Any, batch: Any) -> Any:
        raise ValueError("on a copy")

    monkeypatch.setattr(Runner, "__call__", broken)
    forward: Any = opened.forward
    forward.facts, forward._narrow = object(), None
    with pytest.raises(ValueError, match="on a copy"):
        list(predict_rows(opened.forward, opened.task, opened.tokenizer, TEXTS, micro_tokens=64))


def test_where_an_accelerator_is_short_of_memory_micro_batches_are_halved(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_model(folder, device="cpu")
    forward: Any = opened.forward
    wanted = list(predict_rows(forward, opened.task, opened.tokenizer, TEXTS))
    tried: list[int] = []

    plain = Runner.__call__

    def call(self: Any, batch: Any) -> Any:
        tried.append(batch.computed_tokens)
        if batch.computed_tokens > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, batch)

    monkeypatch.setattr(Runner, "__call__", call)
    with pytest.raises(OutOfMemory):  # a CPU has no more of it for smaller pieces
        list(predict_rows(forward, opened.task, opened.tokenizer, TEXTS))
    monkeypatch.setattr(type(forward), "device", property(lambda self: torch.device("mps")))
    found = list(predict_rows(forward, opened.task, opened.tokenizer, TEXTS, window_rows=100))
    assert [row["label"] for row in found] == [row["label"] for row in wanted]
    shares = [[list(row["probabilities"].values()) for row in rows] for rows in (found, wanted)]
    np.testing.assert_allclose(*shares, rtol=1e-5)
    assert forward.most_tokens == MICRO_TOKENS // 64
    assert [tokens for tokens in tried[-5:] if tokens > 100] == []


def test_the_runs_plan_says_where(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").symlink_to(folder)
    recipe = {"model": "bert-base-uncased", "data": {"train": "train.csv"}, "plan": {"device": "cpu"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    asked: list[Any] = []
    monkeypatch.setattr(
        "bigbatch.infer.load.devices_of",
        lambda device, planned=None: asked.append((device, planned)) or ("cpu",),
    )
    assert open_model(tmp_path).micro_tokens == MICRO_TOKENS
    open_model(tmp_path, device="cuda:1")
    open_model(folder, device="auto")
    assert asked == [(None, "cpu"), ("cuda:1", "cpu"), ("auto", None)]


@pytest.mark.gpu
def test_on_a_gpu(folder: Path) -> None:
    opened = open_model(folder)
    assert opened.micro_tokens == ACCELERATOR_TOKENS
    assert opened.module.device.type == "cuda"
    ours = list(predict_rows(opened.forward, opened.task, opened.tokenizer, TEXTS))
    theirs = bigbatch.predict(folder, TEXTS, device="cpu")
    shares = [[list(row["probabilities"].values()) for row in rows] for rows in (ours, theirs)]
    np.testing.assert_allclose(*shares, rtol=1e-3, atol=1e-4)
    copied = copy.deepcopy(opened.module)
    assert copied.device == opened.module.device
