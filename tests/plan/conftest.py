"""Facts of the demo: a 22.7M-parameter BERT, 11,000 tweets, 2 cores."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from bigbatch.facts import CalibrationFacts, HardwareFacts, LengthFacts, ModelFacts, ProbeFacts
from bigbatch.units import parse_quantity

GIB = 1024**3


@pytest.fixture
def hardware() -> HardwareFacts:
    return HardwareFacts(device="cpu", device_name="Some CPU", memory_bytes=8 * GIB, cores=2, threads=2)


@pytest.fixture
def model() -> ModelFacts:
    return ModelFacts(
        family="bert", parameters=22_714_755, trainable_parameters=22_714_755, parameter_bytes=4 * 22_714_755,
        hidden=384, blocks=6, vocabulary=30_522, max_positions=512,
    )  # fmt: skip


@pytest.fixture
def lengths() -> LengthFacts:
    return LengthFacts(
        samples=11_213, tokens=34 * 11_213, longest=100, truncated_samples=0, padding_share_random=0.44,
        percentiles={"p10": 16, "p50": 33, "p90": 52, "p99": 68},
    )  # fmt: skip


@pytest.fixture
def calibration() -> CalibrationFacts:
    return CalibrationFacts(
        seconds_per_token=7e-4, seconds_per_update=0.06, seconds_per_token_forward=2e-4,
        activation_bytes_per_token=170_000, resting_bytes=900 * 1024**2, micro_tokens=1024,
        tried={512: 7.4e-4, 1024: 7e-4, 2048: 8e-4},
    )  # fmt: skip


@pytest.fixture
def probe() -> ProbeFacts:
    return ProbeFacts(packed_ok=True, reason="logits equal to 3e-7 on 16 samples", error=3e-7, samples=16)


@pytest.fixture
def recipe_with() -> Callable[..., SimpleNamespace]:
    """Builds the demo's recipe."""
    return _recipe


def _recipe(**changes: Any) -> SimpleNamespace:
    """Keys such as `plan__memory=…` replace single values of the demo's recipe."""
    tree: dict[str, dict[str, Any]] = {
        "model": {"adapter": None},
        "batch": {"samples": 256, "tokens": None, "allow_repeats": False},
        "optimizer": {"args": {}, 
            "name": "adamw", "lr": 5e-4, "momentum": 0.9, "state": "fp32", "betas": (0.9, 0.999), "eps": 1e-8, "base_batch": None,
            "lr_rule": "none", "betas_rule": "keep", "noise_scale": None,
        },
        "schedule": {
            "name": "linear", "warmup": parse_quantity("6 %"), "warmup_rule": "keep", "decay": parse_quantity("20 %"),
            "final_fraction": 0.0, "args": {},
        },
        "plan": {
            "mesh": None, "reproducible": "off",
            "micro_tokens": None, "ranks": None, "device": None, "precision": SimpleNamespace(name=None, keep_fp32=[], allow_low=[]), "packing": None,
            "memory": None, "threads": None, "recompute": None, "lazy": None, "attention": None, "products": None,
            "compile": "off",
        },
        "run": {
            "evaluate_every": parse_quantity("1 epochs"),
            "generate_every": parse_quantity("1 evaluations"),
        },
        "gradient": {"name": "plain"},
        "data": {"shuffle": "full", "train": []},
        "sync": {"period": 1, "replicas": 1, "outer": "average"},
    }  # fmt: skip
    length = changes.pop("length", "3 epochs")
    for key, value in changes.items():
        room, name = key.split("__")
        tree[room][name] = value
    rooms = {room: SimpleNamespace(**values) for room, values in tree.items()}
    return SimpleNamespace(length=parse_quantity(length), **rooms)
