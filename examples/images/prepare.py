"""Fetches Fashion-MNIST, a Debian package of 31 MB, once, and unpacks it into data/; installs and runs nothing of it.

60,000 photographs of clothes to train on and 10,000 to test with, grey, 28 x 28 pixels, 10 classes (Xiao et al. 2017).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
PACKAGE = "dataset-fashion-mnist"
INSIDE = "usr/share/datasets/fashion-mnist"


def main() -> None:
    """Write the four idx files beside this file."""
    wanted = [
        f"{split}-{kind}-ubyte.gz" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
    ]
    if all((DATA / name).is_file() for name in wanted):
        return
    installed = Path("/") / INSIDE
    folder = DATA / "download"
    if not installed.is_dir():
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            sys.exit(f"this takes the Debian package {PACKAGE}: run it where apt-get and dpkg-deb are")
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-qq", PACKAGE], cwd=folder, check=True)
        package = next(folder.glob(f"{PACKAGE}_*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)
    DATA.mkdir(exist_ok=True)
    for name in wanted:
        shutil.copyfile((installed if installed.is_dir() else folder / INSIDE) / name, DATA / name)
        print(f"data/{name}")
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
