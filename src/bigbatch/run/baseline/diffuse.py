"""The baseline of images that are drawn: every pixel normal by itself, with the mean and variance of its class.

Of such pixels the best guess of the velocity is known. With x_t = (1 - t) e + t x, v = x - e and x of mean m and
variance s^2,

    E[v | x_t] = m + (t s^2 - (1 - t)) / ((1 - t)^2 + t^2 s^2) (x_t - t m)

What a model knows beyond this is how pixels belong together.

Shapes: K classes (and one behind them for all together), C, H, W of an image, B images.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bigbatch.data.augment import IMAGE
from bigbatch.run.baseline.model import Baseline, Split, spread
from bigbatch.tasks.diffuse import Diffuse

PIXELS = "normal_pixels"
_MOST_IMAGES, _AT_A_TIME = 20_000, 256
_FEWEST = 2
"""Images of a class that have a variance."""


def diffuse_baselines(task: Diffuse, train: Split) -> Iterator[Baseline]:
    """That of `task: diffuse`."""
    assert task.facts.image is not None, "the model has not been looked at"
    known = spread(len(train.table), _MOST_IMAGES)
    taken = train.table[IMAGE].take(known).load()
    pixels, numbers_CV = np.asarray(taken.columns["pixels"]), task.facts.image.numbers()
    classes_B = np.asarray(train.table.values).reshape(-1)[known]
    means, variances = _moments(pixels, classes_B, numbers_CV, len(task.label_names))

    def outputs(split: Split) -> np.ndarray:
        return np.concatenate(
            [
                _errors(split, np.arange(begin, min(begin + _AT_A_TIME, len(split.table))), means, variances)
                for begin in range(0, len(split.table), _AT_A_TIME)
            ]
        )

    note = (
        f"measured on {len(known):,} of {len(train.table):,} images" if len(known) < len(train.table) else ""
    )
    yield Baseline(name=PIXELS, outputs=outputs, note=note)


def _moments(
    pixels: np.ndarray, classes_B: np.ndarray, numbers_CV: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """(K + 1, C, H, W) float64 means and variances; a class of one image has those of all."""
    chosen = [classes_B == number for number in range(classes)] + [np.ones(len(classes_B), bool)]
    found = []
    for own in reversed(chosen):
        if own.sum() < _FEWEST and found:
            found.append(found[0])
            continue
        shown = np.stack([row[pixels[own][..., channel]] for channel, row in enumerate(numbers_CV)], 1)
        found.append((shown.mean(0, dtype=np.float64), shown.var(0, dtype=np.float64)))
    means, variances = zip(*reversed(found), strict=True)
    return np.stack(means), np.stack(variances)


def _errors(split: Split, rows_B: np.ndarray, means: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """(B, 1): of each image, as `Diffuse.keep` has it."""
    ready = split.table.take(rows_B).load()
    columns = ready[IMAGE].columns
    noisy, classes_B = np.asarray(columns["pixels"], np.float64), np.asarray(columns["classes"])
    times = np.asarray(columns["times"], np.float64)[:, None, None, None]
    mean, variance = means[classes_B], variances[classes_B]
    share = (times * variance - (1 - times)) / ((1 - times) ** 2 + times**2 * variance)
    guess = mean + share * (noisy - times * mean)
    wanted = np.asarray(ready.values, np.float64)
    return ((guess.reshape(wanted.shape) - wanted) ** 2).mean(1, keepdims=True)
