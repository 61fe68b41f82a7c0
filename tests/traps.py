"""Files that are called like modules and must never be run: each leaves a canary when it is."""

from __future__ import annotations

from pathlib import Path

NAMES = (
    "__future__",
    "dataclasses",
    "datasets",
    "inspect",
    "json",
    "logging",
    "numpy",
    "pandas",
    "pickle",
    "pyarrow",
    "random",
    "re",
    "sitecustomize",
    "socket",
    "tokenize",
    "torch",
    "transformers",
    "typing",
    "usercustomize",
    "yaml",
)


def lay(folder: Path, canary: Path) -> None:
    """Put one of each into a folder."""
    for name in NAMES:
        text = (
            f"open({str(canary)!r}, 'a').write({f'{folder}/{name}.py'!r} + chr(10))\nraise SystemExit(99)\n"
        )
        (folder / f"{name}.py").write_text(text)


def sprung(canary: Path) -> list[str]:
    """Which were run."""
    return canary.read_text().splitlines() if canary.exists() else []
