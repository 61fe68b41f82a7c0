"""What the Markdown pages show: fenced blocks, and links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^(?P<run><!-- run -->\n)?```(?P<language>[\w{}-]*)\n(?P<body>.*?)^```$", re.M | re.S)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_COMMENT = re.compile(r"\s+#\s.*$")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    body: str
    run: bool
    """Marked by `<!-- run -->`: a test runs it."""

    @property
    def commands(self) -> list[str]:
        """The lines without comments."""
        return [line for line in (_COMMENT.sub("", line).rstrip() for line in self.body.splitlines()) if line]


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    return [
        Block(match["language"], match["body"], bool(match["run"]))
        for match in _FENCE.finditer(page.read_text(encoding="utf-8"))
    ]


def links(page: Path) -> list[str]:
    """Targets of all links and pictures outside fenced blocks."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return _LINK.findall(text)


def all_pages(root: Path) -> list[Path]:
    """Every Markdown page under version control's folders."""
    folders = [root, root / "docs", root / "docs" / "experiments", *(root / "examples").glob("*/")]
    return sorted(page for folder in folders for page in folder.glob("*.md"))
