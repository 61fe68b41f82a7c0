"""Runs that train adapters: what is kept, what opens it, a kill, another base, a live model, preferences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import bigbatch
from bigbatch.errors import CheckpointError, UsageError
from bigbatch.model.adapters import without
from bigbatch.store.checkpoints import StoredCheckpoint, list_checkpoints
from tests.jobs import differing, events, exhaust, weights
from tests.models import WORDS, tiny, tiny_folder, tiny_tokenizer
from tests.preferences import answer_rows, decoder

TEXTS = [
    {"text": f"{word} flight {other}", "label": "pos" if word == "great" else "neg"}
    for word in ("great", "late")
    for other in [*WORDS, *WORDS][:24]
]
KEYS: dict[str, Any] = {
    "model.adapter": {"name": "lora", "r": 4, "alpha": 8, "dropout": 0.2}, "task": "classify", "updates": 4,
    "batch": 16, "plan.micro_tokens": 64, "plan.packing": "packed", "optimizer.lr": 5e-3, "run.checkpoint_every":
    "2 updates", "baseline": "off",
}  # fmt: skip
IDS = torch.tensor([[5, 9, 11, 7, 3]])


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    tiny_folder(home / "base", num_labels=2)
    return home


def start(home: Path, name: str, **options: Any) -> Any:
    return bigbatch.start(str(home / "base"), TEXTS, TEXTS[::5], set=KEYS, run_dir=home / name, **options)


@pytest.fixture(scope="module")
def run(home) -> Any:
    found = exhaust(start(home, "whole"))
    return found, weights(found)


def test_checkpoints_and_the_model_folder_hold_adapters_and_head_only(home, run):
    stored = StoredCheckpoint(list_checkpoints(home / "whole/checkpoints")[-1])
    model = {name for name in stored.shapes if name.startswith("model/")}
    assert model and all("lora_" in name or "pooler" in name or "classifier" in name for name in model)
    held = load_file(home / "whole/model/adapter_model.safetensors")
    assert len(held) == len(model) and not (home / "whole/model/model.safetensors").exists()
    assert any("beside 12 linear layers" in each["why"] for each in events(home / "whole", "note"))


def test_peft_and_we_open_what_was_trained(home, run):
    from peft import AutoPeftModelForSequenceClassification

    ours, folder = run[0].model, home / "whole/model"
    theirs = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=2).eval()
    again = bigbatch.predict(home / "whole", ["great flight"])[0]
    with torch.no_grad():
        ours_logits, theirs_logits = ours.eval()(input_ids=IDS).logits, theirs(input_ids=IDS).logits
    # Products of matrices may end in other last bits where memory begins elsewhere.
    torch.testing.assert_close(ours_logits, theirs_logits, rtol=0.0, atol=1e-6)
    assert again["label"] == bigbatch.predict(folder, ["great flight"])[0]["label"]
    assert again["probability"] == pytest.approx(run[0].predict(["great flight"])[0]["probability"], abs=1e-6)


def test_export_merges_and_overwrites_nothing(home, run):
    from transformers import AutoModelForSequenceClassification

    folder = bigbatch.export(home / "whole", home / "flat")
    flat = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(
            flat(input_ids=IDS).logits, run[0].model.eval()(input_ids=IDS).logits, rtol=1e-5, atol=1e-6
        )
    assert bigbatch.predict(folder, ["great flight"])[0]["label"] in ("neg", "pos")
    assert "AutoPeft" not in (folder / "README.md").read_text()
    again = bigbatch.export(folder, home / "copy")
    assert load_file(again / "model.safetensors").keys() == load_file(folder / "model.safetensors").keys()
    for words, given in (
        ("exists, and nothing is overwritten", {}),
        ("keras: no format that is known here; there are transformers, torch", {"to": "keras"}),
    ):
        with pytest.raises(UsageError, match=words):
            bigbatch.export(home / "whole", folder, **given)


def test_a_run_that_was_stopped_goes_on_to_the_bit(home, run):
    halted = start(home, "halted")
    with halted:
        for record in halted:
            if record.kind == "update" and record.step == 2:
                break
    resumed = exhaust(start(home, "halted"))
    assert events(home / "halted", "resumed")
    assert differing(weights(resumed), run[1]) == []


def test_another_base_is_refused(home, run):
    keys = {**KEYS, "task": {"name": "classify", "labels": ["neg", "pos"]}}
    del keys["model.adapter"]

    def begin(change: float) -> Any:
        import peft

        module = peft.get_peft_model(
            tiny("bert", num_labels=2), peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"])
        )
        with torch.no_grad():
            module.base_model.model.bert.embeddings.word_embeddings.weight.add_(change)
        rows = [{"input_ids": [5, 6 + i % 7], "labels": i % 2} for i in range(48)]
        goes_on = bool(list_checkpoints(home / "live/checkpoints"))
        return bigbatch.start(module, rows, set=keys, run_dir=home / "live", resume=goes_on)

    halted = begin(0.0)
    with halted:
        for record in halted:
            if record.kind == "update" and record.step == 2:
                break
    with pytest.raises(CheckpointError, match="another base model"):
        begin(1.0)
    exhaust(begin(0.0))
    assert (home / "live/model/model.safetensors").exists(), "a base that lies nowhere is merged into"


def test_a_live_model_of_a_folder_is_kept_as_adapters(home):
    import peft
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(home / "base", num_labels=2)
    module: Any = peft.get_peft_model(
        base, peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], lora_dropout=0.1)
    )
    keys = {key: value for key, value in KEYS.items() if key != "model.adapter"}
    bigbatch.train(
        module, TEXTS, tokenizer=tiny_tokenizer(home / "words"), set=keys, run_dir=home / "wrapped"
    )
    folder = home / "wrapped/model"
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        home / "base"
    )
    theirs = peft.AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=2).eval()
    with torch.no_grad():
        assert torch.equal(module.eval()(input_ids=IDS).logits, theirs(input_ids=IDS).logits)
    assert bigbatch.predict(home / "wrapped", ["great flight"])[0]["label"] in ("neg", "pos")


def test_preferences_are_told_by_the_model_without_its_adapters(home):
    decoder().save_pretrained(home / "decoder")
    tiny_tokenizer(home / "decoder", WORDS)
    keys = {
        **KEYS, "task": {"name": "prefer", "beta": 0.5}, "plan.micro_tokens": 96, "batch": 12, "updates": 6,
        "optimizer.lr": 2e-2,
    }  # fmt: skip
    rows, held_out = answer_rows(40), answer_rows(12, seed=1)
    run = bigbatch.train(str(home / "decoder"), rows, held_out, set=keys, run_dir=home / "answers")
    figures = bigbatch.evaluate(home / "answers", held_out)
    assert (
        figures["loss"] == pytest.approx(run.metrics["validation.loss"], rel=1e-5) and figures["margin"] != 0
    )
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad(), without(run.model):
        bare = run.model(input_ids=ids).logits
    assert torch.equal(bare, decoder().eval()(input_ids=ids).logits)


def test_auto_begins_at_the_rate_of_adapters(home, tmp_path):
    for name, adapter, rate in (("whole", None, 1e-3), ("lora", "lora", 5e-4)):
        keys = {"model.adapter": adapter, "task": "classify", "optimizer.lr": "auto", "baseline": "off", "updates": 4,
                "batch": 16, "plan.micro_tokens": 64}  # fmt: skip
        with bigbatch.start(str(home / "base"), TEXTS, TEXTS[::5], set=keys, run_dir=tmp_path / name) as run:
            assert run.plan.value("auto_lr") == rate
            assert ("for adapters" in run.plan.choices["auto_lr"].reason) is (adapter is not None)
