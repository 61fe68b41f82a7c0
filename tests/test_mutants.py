"""The planted faults of tools/mutants.py still fit the sources; `make mutants` runs them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tools.mutants import MUTANTS, SOURCE, planted, verdict

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_patch_applies_and_still_is_python(mutant, tmp_path):
    copy = tmp_path / "bigbatch"
    shutil.copytree(SOURCE, copy)
    assert planted(mutant, copy) == ""
    for name, _, _ in mutant.patches:
        compile((copy / name).read_text(encoding="utf-8"), name, "exec")
        assert (copy / name).read_text(encoding="utf-8") != (SOURCE / name).read_text(encoding="utf-8")


def test_every_fault_names_tests_that_exist():
    missing = [
        name for mutant in MUTANTS for name in mutant.tests if not (ROOT / name.partition("::")[0]).exists()
    ]
    assert missing == []
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_a_patch_that_no_longer_applies_is_stale():
    from dataclasses import replace

    gone = replace(MUTANTS[0], patches=(("units.py", "no such text", ""),))
    outcome, details = verdict(gone)
    assert outcome == "STALE"
    assert "units.py holds the text 0 times" in details
