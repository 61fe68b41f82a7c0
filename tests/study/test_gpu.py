"""benchmarks/gpu.py on a CPU, with tiny shapes: that its path runs. Its figures mean nothing here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from benchmarks import gpu

from bigbatch.recipe.load import load_recipe
from bigbatch.recipe.tasks import TASKS
from tests.study.test_results import PLANTED


@pytest.mark.slow
def test_the_whole_path_runs_with_tiny_shapes(tmp_path, capsys):
    words = ["--tiny", "--only", "bert-mix", "--rounds", "1", "--updates", "2", "--warmup", "1"]
    assert gpu.main([*words, "--out", str(tmp_path), "--contestants", "bigbatch"]) == 0
    out = capsys.readouterr().out
    assert "| bigbatch |" in out
    assert "Where bigbatch's time goes" in out and "aten::" in out
    assert sorted(path.name for path in (tmp_path / "gpu-bert-mix").iterdir()) == [
        "profile.json",
        "results.json",
        "results.md",
    ]


@pytest.mark.parametrize("name", gpu.SETTINGS)
def test_lengths_are_what_the_setting_says(name, tmp_path):
    setting = gpu.SETTINGS[name]
    lengths = setting.lengths(np.random.default_rng(0), 4000)
    assert lengths.max() == setting.longest
    if name.endswith("mix"):
        assert 0.2 < lengths.mean() / setting.longest < 0.5
    # Words become tokens one to one: the tokenizer's counts are the drawn lengths.
    small = gpu.tiny(setting)
    gpu.write_setting(tmp_path, small, 6, {"device": "cpu"}, 200)
    from transformers import AutoTokenizer

    from bigbatch.study.contestants.common import documents

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    rows = [{"text": line.split(",")[0]} for line in (tmp_path / "data.csv").read_text().splitlines()[1:]]
    counted = (
        [len(ids) for ids in tokenizer([row["text"] for row in rows])["input_ids"]]
        if small.family == "bert"
        else [len(ids) for ids in documents(tokenizer, rows)]
    )
    assert counted == small.lengths(np.random.default_rng(0), 6).tolist()


def clm_job(tmp_path):
    """A job over documents, built without a recipe of `task: clm`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.study.test_results import job

    gpu.write_setting(tmp_path, gpu.tiny(gpu.SETTINGS["clm-mix"]), 12, {}, 200)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / "model")).save_pretrained(
        tmp_path / "model"
    )
    fields = {"kind": "clm", "labels": (), "max_length": 24, "batch_samples": 4, "counted_updates": 2}
    places = {"data": str(tmp_path / "data.csv"), "model": str(tmp_path / "model"), "folder": str(tmp_path)}
    return job(order=tuple(range(12)), micro_samples=2, **fields, **places)


def test_trainer_and_loop_agree_on_causal_language_models(tmp_path):
    """Divided by the predicted tokens of the whole batch, documents of uneven length, as 2 x 2."""
    pytest.importorskip("accelerate", reason="Hugging Face's Trainer needs accelerate: the extra `bench`")
    from bigbatch.study.contestants import torch_loop, trainer

    given = clm_job(tmp_path)
    theirs, loop = trainer.compete("hf-best", given), torch_loop.compete("torch-loop", given)
    assert (theirs.loss, theirs.grad_norm) == pytest.approx((loop.loss, loop.grad_norm), rel=1e-5)
    assert (theirs.tokens, theirs.samples) == (loop.tokens, loop.samples)


@pytest.mark.skipif("clm" not in TASKS, reason="task: clm is planned, not built yet")
def test_bigbatch_agrees_with_the_loop_on_causal_language_models(tmp_path):
    from bigbatch.study.contestants import ours, torch_loop
    from bigbatch.study.prepare import prepare

    recipe = gpu.write_setting(tmp_path, gpu.tiny(gpu.SETTINGS["clm-mix"]), 24, {"device": "cpu"}, 200)
    prepared = prepare(
        load_recipe(recipe), tmp_path / "work", counted_updates=2, warmup_updates=1, compiled=False
    )
    given = replace(prepared.job, micro_samples=4)
    mine, loop = ours.compete("bigbatch", given), torch_loop.compete("torch-loop", given)
    assert (mine.loss, mine.grad_norm) == pytest.approx((loop.loss, loop.grad_norm), rel=1e-5)
    assert {mine.tokens, loop.tokens} == {prepared.setting["counted_tokens"]}


def test_utilisation_is_useful_flops_over_the_published_peak():
    counted = replace(PLANTED, setting={**PLANTED.setting, "counted_samples": 10})
    # 1000 FLOP over 10 samples, 1 sample a second (median): 100 FLOP/s of 400.
    assert gpu.utilisation(counted, "bigbatch", 400.0) == "25.0 %"
    assert gpu.utilisation(counted, "bigbatch", None) == "–"
    assert gpu.peak_flops("NVIDIA H100 80GB HBM3", None) == 989e12
    assert gpu.peak_flops("a card", 10.0) == 10e12
    assert gpu.peak_flops("a card", None) is None
