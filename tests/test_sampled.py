"""What the suite leaves to `make stress` is there, and is not all that there is."""

from __future__ import annotations

import re
from pathlib import Path

from tests import sampled

HERE = Path(__file__).parent


def test_every_row_names_a_test_that_is_there():
    files = {name.partition("::")[0] for name in sampled.ONLY_STRESS}
    texts = {file: (HERE / file).read_text() for file in files}
    there = {
        f"{file}::{name}"
        for file, text in texts.items()
        for name in re.findall(r"^def (test_\w+)", text, re.M)
    }
    assert sorted(sampled.ONLY_STRESS.keys() - there) == []


def test_a_case_is_told_by_its_id():
    name = "tests/step/test_split.py::test_every_split_equals_the_whole_batch"
    assert sampled.only_stress(f"{name}[multi-2048-packed-fp64]")
    assert not sampled.only_stress(f"{name}[multi-512-packed-fp32]")
    assert not sampled.only_stress("tests/step/test_split.py::test_the_mean_of_means_fails[multi-fp64]")
