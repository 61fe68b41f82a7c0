"""Lets a classifier that never saw a drawn image say what each of them shows.

python judge.py runs/clothes ../images/runs/images        # a run of this example, a run of examples/images
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import bigbatch

EACH = 100
"""Drawn of every class."""


def main(generator: str, classifier: str) -> None:
    """Print the share of drawn images that are what they should be, class by class."""
    names = [str(number) for number in range(10)]
    wanted = [name for name in names for _ in range(EACH)]
    drawn = bigbatch.generate(Path(generator), wanted, seed=1)
    rows = [{"image": np.array(each["image"], np.uint8)} for each in drawn]
    said = [row["label"] for row in bigbatch.predict(Path(classifier), rows)]
    right = np.array([one == other for one, other in zip(said, wanted, strict=True)])
    for place, name in enumerate(names):
        print(f"{name}: {right[place * EACH : (place + 1) * EACH].mean():.2f}")
    print(f"all {len(right):,}: {right.mean():.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
