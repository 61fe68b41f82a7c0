"""Fetches Fashion-MNIST, a Debian package of 31 MB, once, and unpacks it into data/, as examples/images does."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

HERE = Path(__file__).resolve().parent
IMAGES = HERE.parent / "images"


def main() -> None:
    """Let the neighbour fetch it, and put the four files here, too."""
    runpy.run_path(str(IMAGES / "prepare.py"), run_name="__main__")
    (HERE / "data").mkdir(exist_ok=True)
    for path in sorted((IMAGES / "data").glob("*-ubyte.gz")):
        if not (HERE / "data" / path.name).exists():
            shutil.copyfile(path, HERE / "data" / path.name)


if __name__ == "__main__":
    main()
