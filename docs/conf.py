"""Sphinx configuration. Two pages are written from the sources at each build: docs/generated/ is not committed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE)]

from generate import write_generated  # noqa: E402

from bigbatch import __version__  # noqa: E402

project = "bigbatch"
author = "The bigbatch developers"
copyright = author
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "assets", "generated"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True

html_theme = "furo"
html_title = "bigbatch"

write_generated(HERE / "generated")


def code_in_double_backticks(_app, _what, _name, _object, _options, lines):
    """Docstrings mark code as Markdown does; reStructuredText wants two backticks."""
    lines[:] = [re.sub(r"(?<![`:])`([^`]+)`(?!`)", r"``\1``", line) for line in lines]


def files_of_the_repository(_app, name, source):
    """Markdown outside this folder is handed out as a file: Sphinx knows no such page."""
    page = HERE / f"{name}.md"

    def link(found):
        target = (page.parent / found[1]).resolve()
        outside = target.is_file() and not target.is_relative_to(HERE)
        return f"](path:{found[1]})" if outside else found[0]

    source[0] = re.sub(r"\]\((\.\./[^)#\s]+\.md)\)", link, source[0])


def setup(app):
    app.connect("source-read", files_of_the_repository)
    # Before napoleon (500), which would take the colon inside `cuda:0` for the end of a type.
    app.connect("autodoc-process-docstring", code_in_double_backticks, priority=400)
