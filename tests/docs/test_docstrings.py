"""Examples in docstrings give what they say, and each technique says where it comes from."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
WITH_EXAMPLES = [
    ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for path in sorted(SOURCE.rglob("*.py"))
    if re.search(r"^ +>>> (?!.*\+SKIP)", path.read_text(encoding="utf-8"), re.M)
]


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_give_what_they_say(module):
    done = doctest.testmod(importlib.import_module(module))
    assert done.attempted and not done.failed


TECHNIQUES = {
    "data.mixture": "source_pattern",
    "infer.sampling": "Sampled",
    "optim.adam": "directions",
    "optim.adamw_8bit": "adamw_8bit",
    "optim.adamw_bf16": "AdamWBf16",
    "optim.groups": "decay_groups",
    "optim.lamb": "Lamb",
    "optim.lars": "Lars",
    "optim.lion": "Lion",
    "optim.muon": "Muon",
    "optim.schedule_free": "schedule_free_adamw",
    "parallel.outer": "Outer",
    "rules.batch_size": "scaled",
    "rules.critical_batch": "Tradeoff",
    "rules.noise_scale": "estimate",
    "rules.ramp": "ramp_from",
    "rules.schedules": "learning_rate_factor",
    "rules.warmup": "scaled_warmup",
    "step.adversarial": "FastGradient",
    "step.coupled": "Coupled",
    "step.loss_scale": "LossScale",
    "step.sam": "SamExecutor",
    "tasks.contrast": "contrastive_losses",
    "tasks.losses": "cross_entropy",
}
"""Module -> what is built or called."""


@pytest.mark.parametrize(("module", "name"), TECHNIQUES.items())
def test_a_technique_says_source_and_difference_and_shows_itself(module, name):
    found = importlib.import_module(f"bigbatch.{module}")
    text = f"{found.__doc__}\n{getattr(found, name).__doc__}"
    assert re.search(r"(19|20)\d\d", text), "authors and year"
    assert re.search(r"[Dd]iffers", text), "where it differs from the paper"
    assert re.search(r">>> |Example", text), "an example"
