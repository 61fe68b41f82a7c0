"""Every module imports with the core dependencies alone: extras are imported where they are needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = ("accelerate", "datasets", "hypothesis", "pandas", "peft", "pytest", "scipy", "sklearn", "wandb")

PROGRAM = """
import importlib, pkgutil, sys

sys.modules.update(dict.fromkeys(sys.argv[1].split(",")))  # None: as if it were not installed
import bigbatch
for module in pkgutil.walk_packages(bigbatch.__path__, "bigbatch."):
    importlib.import_module(module.name)
    print(module.name)
"""


def test_every_module_imports_without_extras(python):
    done = subprocess.run([python, "-c", PROGRAM, ",".join(EXTRAS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    files = list((ROOT / "src" / "bigbatch").rglob("*.py"))
    assert len(done.stdout.split()) >= len(files) - 1, "some modules were not walked"


def test_start_up_loads_no_torch():
    code = "import sys, bigbatch.cli; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
