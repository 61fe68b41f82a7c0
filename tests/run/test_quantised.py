"""Runs beside a base in 8 or 4 bits: what PEFT makes of them, a kill, merging, preferences, ranks."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

import bigbatch
from bigbatch.model.adapters import without
from bigbatch.model.quantised import IN_CONFIG, quantised_layers
from tests.jobs import differing, events, exhaust, weights
from tests.models import WORDS, tiny_folder, tiny_tokenizer
from tests.preferences import answer_rows, decoder
from tests.run.test_adapters import IDS, KEYS, TEXTS

pytest.importorskip("torchao", reason="the optional extra [torchao]")
pytest.importorskip("bitsandbytes", reason="the optional extra [bitsandbytes]")


def keys(to: str, **more: Any) -> dict[str, Any]:
    return {**KEYS, "model.adapter": {"name": "lora", "r": 4, "alpha": 8, "dropout": 0.2, "base": to}, **more}


@pytest.fixture(scope="module", params=[pytest.param("8bit", marks=pytest.mark.stress), "4bit"])
def run(request, tmp_path_factory) -> Any:
    home = tmp_path_factory.mktemp("home")
    tiny_folder(home / "base", num_labels=2, hidden_size=64, intermediate_size=128)
    options: Any = {"set": keys(request.param), "run_dir": home / "whole"}
    found = exhaust(bigbatch.start(str(home / "base"), TEXTS, TEXTS[::5], **options))
    return home, request.param, found


def test_a_run_that_was_stopped_goes_on_to_the_bit(run):
    home, to, found = run

    def start() -> Any:
        return bigbatch.start(
            str(home / "base"), TEXTS, TEXTS[::5], set=keys(to), run_dir=home / "halted", resume=None
        )

    with start() as halted:
        for record in halted:
            if record.kind == "update" and record.step == 2:
                break
    resumed = exhaust(start())
    assert events(home / "halted", "resumed") and list(quantised_layers(resumed.model))
    assert differing(weights(resumed), weights(found)) == []


def test_predictions_are_the_runs_and_merging_changes_the_last_digits_only(run):
    home, to, found = run
    ours = found.predict(["great flight"])[0]["probability"]
    assert json.loads((home / "whole/model/config.json").read_text())[IN_CONFIG] == to
    assert bigbatch.predict(home / "whole", ["great flight"])[0]["probability"] == pytest.approx(
        ours, abs=1e-6
    )
    assert bigbatch.predict(home / "whole/model", ["great flight"])[0]["probability"] == pytest.approx(
        ours, abs=1e-6
    )
    flat = bigbatch.export(home / "whole", home / "flat")
    assert IN_CONFIG not in json.loads((flat / "config.json").read_text())
    assert bigbatch.predict(flat, ["great flight"])[0]["probability"] == pytest.approx(ours, abs=1e-5)


@pytest.mark.filterwarnings("ignore")  # of the libraries, which load kernels that this CPU has not
def test_peft_gives_the_same_logits_on_the_same_rounded_base(run):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig, TorchAoConfig

    home, to, found = run
    settings = json.loads((home / "whole/model/adapter_config.json").read_text())
    head = settings["modules_to_save"]
    if to == "4bit":
        config: Any = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
            llm_int8_skip_modules=head,
        )
    else:
        from torchao.quantization import Int8WeightOnlyConfig

        config = TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=head)
    base = AutoModelForSequenceClassification.from_pretrained(
        home / "base", num_labels=2, quantization_config=config, dtype=torch.float32
    )
    # In evaluation bitsandbytes may multiply in bf16 on CPUs: its products of training are compared.
    theirs = PeftModel.from_pretrained(base, home / "whole/model").train()
    for part in theirs.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    with torch.no_grad():
        torch.testing.assert_close(
            theirs(input_ids=IDS).logits, found.model.eval()(input_ids=IDS).logits, rtol=0.0, atol=3e-6
        )


def test_preferences_are_told_by_the_rounded_model_without_its_adapters(tmp_path):
    decoder().save_pretrained(tmp_path / "decoder")
    tiny_tokenizer(tmp_path / "decoder", WORDS)
    more = {
        "task": {"name": "prefer", "beta": 0.5},
        "plan.micro_tokens": 96,
        "batch": 12,
        "optimizer.lr": 2e-2,
    }
    rows, held_out = answer_rows(40), answer_rows(12, seed=1)
    run = bigbatch.train(
        str(tmp_path / "decoder"), rows, held_out, set=keys("4bit", **more), run_dir=tmp_path / "run"
    )
    figures = bigbatch.evaluate(tmp_path / "run", held_out)
    assert figures["loss"] == pytest.approx(run.metrics["validation.loss"], rel=1e-5)
    assert figures["margin"] != 0
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad(), without(run.model):
        bare = run.model.eval()(input_ids=ids).logits
        assert not torch.allclose(bare, decoder().eval()(input_ids=ids).logits, atol=1e-4)
