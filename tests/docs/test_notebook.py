"""The notebook: its cells can be read, use public names alone, and hold no outputs. `make notebooks` runs it."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import bigbatch

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook" / "bigbatch.ipynb"
LIBRARIES = {"bigbatch", "random", "tokenizers", "transformers"}


def test_cells_are_valid_and_use_public_names():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    codes = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in codes)
    tree = ast.parse("\n".join("".join(cell["source"]) for cell in codes))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "bigbatch"
    }
    assert {"train", "read", "compare", "export"} <= used <= set(bigbatch.__all__)
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= LIBRARIES
