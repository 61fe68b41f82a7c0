"""`--from` a checkpoint writes a model folder; what the user has there stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from bigbatch.errors import UsageError
from bigbatch.recipe.load import load_recipe
from bigbatch.study.branch import _is_ours, branch_words
from tests.models import tiny


def test_a_folder_of_the_users_is_not_replaced(tmp_path: Path) -> None:
    from bigbatch.model.export import save_model

    checkpoint = tmp_path / "run/checkpoints/step-000001"
    for path, text in ((checkpoint / "index.json", "{}"), (tmp_path / "run/model/config.json", "{}"),
                       (tmp_path / "out/from/thesis.tex", "mine")):  # fmt: skip
        path.parent.mkdir(parents=True)
        path.write_text(text)
    recipe = load_recipe({"model": "m", "data": {"train": "d.csv", "text": "text", "label": "label"}})
    with pytest.raises(UsageError, match=r"out/from would be replaced .*; move it away"):
        branch_words(str(checkpoint), tmp_path / "out", recipe)
    assert (tmp_path / "out/from/thesis.tex").read_text() == "mine"
    save_model(tiny("bert"), None, tmp_path / "ours", "Weights of step-000001.\n")
    assert _is_ours(tmp_path / "ours")
