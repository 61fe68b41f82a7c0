"""Image generation by flow matching: a model learns which way noise has to move to become an image of a class.

Of an image x, normal noise e and a time t from 0 (noise) to 1 (image),

    x_t = (1 - t) e + t x        the model sees x_t, t and the class
    v   = x - e                  and learns v
    loss = sum over images of the mean over pixels of (v' - v)^2  /  images of the global batch

e, t, and whether the class is hidden (so that the model also learns all classes together) belong to the image and the
epoch: they follow from (seed, epoch, sample), wherever the image runs. Evaluations see noise of their own, always the
same.

Reference:
    Lipman et al. 2022, Flow matching for generative modeling; Liu et al. 2022, Flow straight and fast; times of a
    logistic of normal numbers: Esser et al. 2024. Hidden classes: Ho and Salimans 2022, Classifier-free diffusion
    guidance.

Shapes: B samples, U units (one a sample), C, H, W of an image, N pixels times channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from torch import Tensor
from typing_extensions import override

from bigbatch.data.augment import DRAWS, IMAGE
from bigbatch.data.noise import normals, uniforms
from bigbatch.data.order import sample_states
from bigbatch.data.pixels import ImageForm
from bigbatch.errors import Problem, RecipeError, UsageError
from bigbatch.model.heads import Head
from bigbatch.protocols import Json, Role, Row, Tokenizer
from bigbatch.samples import UNITS, Predictions, Prepare, Sample, Stream, Table, Targets
from bigbatch.tasks.base import RunTable, Task
from bigbatch.tasks.image import image_sample
from bigbatch.tasks.labelled import fp64
from bigbatch.tasks.losses import Kind
from bigbatch.tasks.pictures import PROCESSOR, processor_config

if TYPE_CHECKING:
    from torch import nn

TERM = "velocity"
TRAINING, EVALUATION = 0xD1F5, 0xD1FE
"""Streams of random numbers."""
_TIME, _HIDDEN, _NOISE = 0, 2, 4
"""Outputs of a sample's generator: two for the time, one for whether the class is hidden; the noise from there on."""


@dataclass(frozen=True, kw_only=True)
class Diffuse(Task[Tensor]):
    """Learn to draw images of a class."""

    labels: Sequence[str] | None = None
    """Names of the classes in the model's order; None: as found in the data."""
    hide_class: float = 0.1
    """Share of the images that are shown without their class."""
    times: Literal["logit_normal", "uniform"] = "logit_normal"
    """How often each time is seen: those in the middle most, or all alike."""
    steps: int = 30
    """Steps from noise to an image when images are drawn."""
    guidance: float = 2.0
    """How far drawing goes from what all classes have in common towards the class; 1: as learnt."""

    def __post_init__(self) -> None:
        wrong = {
            name: f"found {getattr(self, name)}; expected {expected}"
            for name, fine, expected in (
                ("hide_class", 0 <= self.hide_class < 1, "a share from 0 to below 1"),
                ("times", self.times in ("logit_normal", "uniform"), "logit_normal or uniform"),
                ("steps", 1 <= self.steps <= 10_000, "a whole number from 1 up"),
                ("guidance", 0 <= self.guidance < 1000, "a number from 0 up"),
            )
            if not fine
        }
        if wrong:
            raise RecipeError(
                [Problem(where="recipe", key=f"task.{key}", what=what) for key, what in wrong.items()]
            )

    # ------------------------------------------------------------ columns and outputs

    @property
    def roles(self) -> Mapping[str, Role]:
        """The columns that are read: `image` and `label`."""
        return {
            "image": Role(meaning="the image: a path, or its bytes", kind="image"),
            "label": Role(meaning="the class", kind="label"),
        }

    @property
    def kind(self) -> Kind:
        """One class of several."""
        return "single"

    @property
    def head(self) -> Head:
        """A velocity of every pixel; as many classes as there are labels."""
        return Head(
            kind="velocity", outputs=len(self.label_names), id2label=dict(enumerate(self.label_names))
        )

    @property
    def sequences(self) -> Mapping[str, int]:
        """An image takes as many positions as it has patches."""
        return {IMAGE: self.facts.image.positions if self.facts.image else 1}

    # ------------------------------------------------------------ rows to samples

    @override
    def encode_batch(
        self, rows: Sequence[Row], tokenizer: Tokenizer | None, *, labelled: bool = True
    ) -> list[Sample]:
        """Rows as samples: each image decoded, upright, in the model's size and colours.

        Raises:
            DataError: an image that cannot be decoded.
        """
        del tokenizer, labelled
        return [image_sample(row, self._form, self.facts.labels) for row in rows]

    @property
    def _form(self) -> ImageForm:
        assert self.facts.image is not None, "the model has not been looked at"
        return self.facts.image

    @cached_property
    def _numbers(self) -> np.ndarray:
        return self._form.numbers()

    @override
    def view(self, table: Table, rows_B: np.ndarray, epochs_B: np.ndarray) -> Table:
        """The rows, with the state of each one's generator in this epoch."""
        states_B = sample_states(self.facts.data_seed, TRAINING, epochs_B, rows_B)
        return _with_states(table.take(rows_B), states_B)

    def fixed(self, table: Table) -> Table:
        """A split with noise that is the same in every evaluation."""
        rows_N = np.arange(len(table), dtype=np.int64)
        states_N = sample_states(self.facts.data_seed, EVALUATION, np.zeros_like(rows_N), rows_N)
        return _with_states(table, states_N)

    @property
    def prepare(self) -> Prepare:
        """Pixels to noisy images, times, classes and velocities."""
        return self._ready

    def _ready(self, piece: Table) -> Table:
        stream, draws = piece[IMAGE], piece.streams.get(DRAWS)
        if draws is None:  # looked at before any epoch has begun
            rows_B = np.arange(len(piece), dtype=np.int64)
            states_B = sample_states(self.facts.data_seed, EVALUATION, np.zeros_like(rows_B), rows_B)
        else:
            states_B = draws.load().columns["draw"]
        pixels, units = np.asarray(stream.columns["pixels"]), piece[UNITS].load()
        images = np.stack([row[pixels[..., channel]] for channel, row in enumerate(self._numbers)], 1)
        images = images.astype(np.float64)
        times_B, hidden_B = self.drawn(states_B)
        noise = normals(states_B, images[0].size, _NOISE).reshape(images.shape) if len(images) else images
        times = times_B[:, None, None, None]
        noisy = ((1 - times) * noise + times * images).astype(np.float32)
        classes_B = np.asarray(units.columns["values"], np.int64).reshape(-1)
        columns = {
            "pixels": noisy,
            "times": times_B.astype(np.float32),
            "classes": np.where(hidden_B | (classes_B < 0), len(self.label_names), classes_B),
        }
        velocities = (images - noise).astype(np.float32).reshape(len(images), -1)
        return piece.replaced(
            image=replace(stream, columns=columns),
            units=replace(units, columns={**units.columns, "values": velocities}),
        )

    def drawn(self, states_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(B,) float64 times from 0 to 1, and (B,) bool whether the class is hidden."""
        if self.times == "uniform":
            times_B = uniforms(states_B, 1, _TIME)[:, 0]
        else:
            times_B = 1 / (1 + np.exp(-normals(states_B, 1, _TIME)[:, 0]))
        return times_B, uniforms(states_B, 1, _HIDDEN)[:, 0] < self.hide_class

    # ------------------------------------------------------------ denominators, loss

    def denominators(self, targets: Targets) -> dict[str, float]:
        """Images: the sum of their weights, fp64 (numpy)."""
        return {TERM: float(np.sum(np.asarray(targets.weights), dtype=np.float64))}

    def loss(self, outputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        """One weighted value per image (U,): the mean squared error of its velocities.

        Args:
            outputs: (U, N).
            targets: `values` (U, N), the velocities of noisy images, as `prepare` gives them.
        """
        return {TERM: _errors(outputs, targets) * targets.weights}

    # ------------------------------------------------------------ evaluation and prediction

    @override
    def keep(self, outputs: Tensor, targets: Targets) -> Tensor:
        """(U, 1): the error of each image."""
        return _errors(outputs, targets)[:, None]

    @override
    def kept_loss(self, kept: np.ndarray, targets: Targets) -> dict[str, np.ndarray]:
        """As `loss`, of these errors: float64."""
        return {TERM: fp64(kept)[:, 0] * np.asarray(targets.weights, np.float64)}

    def decode(self, kept: np.ndarray) -> Predictions:
        """The errors: there is nothing else to say of an image that is there already."""
        errors = fp64(kept)
        return Predictions(kind="embedding", scores=errors, probabilities=None, values=errors[:, 0])

    @override
    def predict(
        self, rows: Sequence[Row], samples: Sequence[Sample], run: RunTable, tokenizer: Tokenizer | None
    ) -> Iterator[dict[str, Json]]:
        """Nothing is predicted of images.

        Raises:
            UsageError: always, with the command that draws.
        """
        raise UsageError("this model draws images: bigbatch generate RUN LABEL --out FOLDER")

    # ------------------------------------------------------------ what is written

    def files(self, module: nn.Module) -> dict[str, str]:
        """How images are made ready, as transformers' image processors read it."""
        del module
        return {} if self.facts.image is None else {PROCESSOR: processor_config(self.facts.image)}


def _with_states(table: Table, states_B: np.ndarray) -> Table:
    draws = Stream(columns={"draw": states_B}, offsets=np.arange(len(states_B) + 1, dtype=np.int64))
    return table.replaced(**{DRAWS: draws})


def _errors(outputs: Tensor, targets: Targets) -> Tensor:
    wide = outputs.double() if outputs.dtype.itemsize == 8 else outputs.float()
    return (wide - targets.values).square().mean(1)
