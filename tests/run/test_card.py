"""Names in the model card are shown, not obeyed."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from bigbatch.run.card import _cell, _figures, _shown_as_it_is, model_card

HOSTILE = [
    "![x](https://tracker.example/p.png)",
    "[a](javascript:alert(1))",
    "<img src=x onerror=alert(1)>",
    "https://tracker.example/",
    "`<b>`",
    "a`b``c",
    "``",
    "*x* _y_ # z",
    "&lt;b&gt;",
    "a\n# head\n---\n",
    "\x1b[31mred",
    "\u202egpj",
    "",
]


def render(text: str) -> str:
    markdown = pytest.importorskip("markdown_it")
    return markdown.MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(text)


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_of_a_name_is_rendered(name: str) -> None:
    for text in (f"Labels: {_shown_as_it_is(name)}.", *_figures({name: {name: 0.5}})[:1]):
        html = render(text)
        assert not any(tag in html for tag in ("<img", "<a ", "<b>", "<em>", "<h1", "<hr"))
        assert "\x1b" not in text and "\u202e" not in text and "\n" not in text


def test_names_read_as_they_are() -> None:
    assert _shown_as_it_is("R&D") == "`R&D`"
    assert _cell("f1_macro") == "f1_macro"
    assert _cell("a|b") == "`a\\|b`"
    table = _figures({"test|x": {"f1.R&D": 0.5, "<img>": None}, "validation": {"f1.R&D": 0.25}})
    assert table[:2] == ["| metric | `test\\|x` | validation |", "|---|---|---|"]
    assert "| `f1.R&D` | 0.5000 | 0.2500 |" in table


def test_a_whole_card() -> None:
    from bigbatch.tasks.classify import Classify

    parts: Any = SimpleNamespace(
        recipe=SimpleNamespace(
            model=SimpleNamespace(name="a/<img src=x>"),
            batch=SimpleNamespace(samples=8, tokens=None),
            optimizer=SimpleNamespace(name="x.py:<b>"),
            schedule=SimpleNamespace(name="linear"),
        ),
        clocks=SimpleNamespace(effective=SimpleNamespace(lr=0.1)),
        model=SimpleNamespace(max_length=8, module=nn.Module()),
        task=Classify(labels=("R&D", "![x](https://t.example/p)")),
    )
    progress: Any = SimpleNamespace(update=1, position=8, tokens=64)
    kept = "the final weights are kept: <b> was never better"
    card = model_card(parts, {"test": {"accuracy": 0.5}}, progress, base="a/<img src=x>", kept=kept)
    assert "- `the final weights are kept: <b> was never better`" in card
    assert "Labels: `R&D`, `![x](https://t.example/p)`." in card
    assert "&amp;" not in card and "| accuracy | 0.5000 |" in card
    body = card.split("---", 2)[2]
    assert "<img" not in body.replace("`a/<img src=x>`", "") and "<b>" not in re.sub("`.*<b>.*`", "", body)
