"""Tables between `<!-- NAME -->` and `<!-- /NAME -->` on the READMEs and docs pages."""

from __future__ import annotations

from pathlib import Path


def between(page: Path, name: str) -> str:
    """What stands between the markers now.

    Raises:
        ValueError: the page has no such markers.
    """
    return _cut(page, name)[1]


def write_between(page: Path, name: str, text: str) -> None:
    """Replace what stands between the markers; empty text leaves nothing."""
    before, _, after = _cut(page, name)
    page.write_text(
        f"{before}{f'{chr(10)}{text}{chr(10)}{chr(10)}' if text else ''}{after}", encoding="utf-8"
    )


def _cut(page: Path, name: str) -> tuple[str, str, str]:
    text = page.read_text(encoding="utf-8")
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if start not in text or end not in text:
        raise ValueError(f"{page}: no {start.strip()} … {end}")
    before, _, rest = text.partition(start)
    inside, _, after = rest.partition(end)
    return before + start, inside, end + after
