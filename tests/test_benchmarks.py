"""The README's first table: what it shows is still so."""

from __future__ import annotations

import logging

import pytest
from benchmarks.split import SPLITS, bigbatch, huggingface, make_rows


def test_bigbatch_gives_the_same_figures_however_the_batch_is_split():
    rows = make_rows()
    whole, *others = [bigbatch(rows, micro, accumulation) for micro, accumulation in SPLITS]
    for other in others:
        assert other == pytest.approx(whole, rel=1e-5)


def test_trainer_multiplies_the_figures_by_the_accumulation_steps():
    """When this fails, transformers has repaired it, and the README must be written anew."""
    pytest.importorskip("accelerate", reason="Hugging Face's Trainer needs accelerate: the extra `bench`")
    rows = make_rows()
    logging.disable(logging.WARNING)
    try:
        whole, accumulated = huggingface(rows, 64, 1), huggingface(rows, 4, 16)
    finally:
        logging.disable(logging.NOTSET)
    assert whole == pytest.approx(bigbatch(rows, 64, 1), rel=1e-4)
    assert [after / before for before, after in zip(whole, accumulated, strict=True)] == pytest.approx(
        [16, 16], rel=1e-3
    )


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md", "docs/from-huggingface.md"])
def test_pages_show_the_newest_saved_table(root, page):
    def rows_of(text):
        return [line for line in text.splitlines() if line.startswith("| ")]

    saved = rows_of(max((root / "benchmarks/results").glob("*-split.md")).read_text(encoding="utf-8"))
    _, _, rest = (root / page).read_text(encoding="utf-8").partition("<!-- split-table -->\n")
    assert rows_of(rest.partition("<!-- /split-table -->")[0]) == saved
    assert len(saved) == 1 + 2 * len(SPLITS)
