"""Project URLs of a wheel: where the clone that it is built from came from.

A clone knows its origin; a list in pyproject.toml would be wrong in every fork. Without an origin on the web, or
without git, a wheel has none. A source archive carries those that it was made with.
"""

from __future__ import annotations

import re
import subprocess
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

try:
    from hatchling.metadata.plugin.interface import MetadataHookInterface
except ModuleNotFoundError:  # the tests of this file need no build backend
    MetadataHookInterface = object  # type: ignore[assignment, misc]

_SHELL = re.compile(r"(?:ssh://)?git@(?P<host>[\w.-]+)[:/](?P<path>[\w./-]+?)(?:\.git)?/?")
_WEB = re.compile(r"https?://(?:[^@/\s]+@)?(?P<host>[\w.-]+(?::\d+)?)/(?P<path>[\w./~-]+?)(?:\.git)?/?")


def project_urls(origin: str) -> dict[str, str]:
    """The pages of a repository, by what they are called in a wheel; none for a place that is not on the web.

    Example:
        >>> project_urls("git@example.org:team/bigbatch.git")["Repository"]
        'https://example.org/team/bigbatch'
    """
    found = _SHELL.fullmatch(origin.strip()) or _WEB.fullmatch(origin.strip())
    if found is None or found["host"] in ("localhost", "127.0.0.1"):
        return {}
    home = f"https://{found['host']}/{found['path']}"
    pages = {"Documentation": "docs/index.md", "Changelog": "CHANGELOG.md"}
    return {"Repository": home, **{name: f"{home}/blob/HEAD/{page}" for name, page in pages.items()}}


def urls_of(root: Path) -> dict[str, str]:
    """Of the source archive in a folder, else of the clone there."""
    stored = root / "PKG-INFO"
    if stored.is_file():
        said = HeaderParser().parsestr(stored.read_text(encoding="utf-8")).get_all("Project-URL") or []
        return dict(entry.split(", ", 1) for entry in said)
    if not (root / ".git").exists():  # never that of a repository further up
        return {}
    try:
        command = ["git", "-C", str(root), "remote", "get-url", "origin"]
        return project_urls(subprocess.run(command, capture_output=True, text=True, timeout=10).stdout)
    except (OSError, subprocess.SubprocessError):
        return {}


class Urls(MetadataHookInterface):
    """Called by the build backend."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the URLs, where there are any."""
        found = urls_of(Path(self.root))
        if found:
            metadata["urls"] = found
