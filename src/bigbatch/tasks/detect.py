"""Detection: where things are on an image, and of which class each is, by a model that gives a set of boxes (YOLOS, …).

Each of the Q boxes that a model gives of an image is a unit; the things that are there lie in the same units, in any
order (`data.boxes`). `tasks.box_losses` says which box is held against which thing. Sums are divided by what all images
of an update show, known before any forward:

    label: sum over images of  pairs + no_object (Q - pairs),  pairs = min(things, Q)
    box, giou: things

so that loss and gradient do not depend on how a batch is cut. A loss that divides by what a micro-batch shows, as is
usual elsewhere, weighs an image by its company.

While training, an image may be mirrored and shifted; by how much is a function of (seed, epoch, sample). The view
moves the boxes, so that what is divided by is known; pixels follow once a micro-batch is gathered.

Shapes: U units, B samples, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from bigbatch.data.augment import DRAWS, IMAGE, made_ready, moved_boxes, with_draws
from bigbatch.data.boxes import BOX, CLASS, LEARNT, corners, has
from bigbatch.data.pixels import ImageForm
from bigbatch.data.tokens import as_table
from bigbatch.metrics.boxes import box_metrics, usual_boxes
from bigbatch.model.heads import Head
from bigbatch.protocols import Json, Metric, Role, Row, Tokenizer
from bigbatch.recipe.tasks import Augment, BoxAugment
from bigbatch.samples import UNITS, Predictions, Prepare, Sample, Table, Targets
from bigbatch.tasks.base import RunTable, Task
from bigbatch.tasks.box_losses import TERMS, Costs, assigned, box_denominators, box_losses, varifocal_losses
from bigbatch.tasks.detect_rows import SIZE, boxed_sample
from bigbatch.tasks.labelled import fp64, sigmoid, softmax
from bigbatch.tasks.pictures import PROCESSOR, processor_config


@dataclass(frozen=True, kw_only=True)
class Detect(Task[Tensor]):
    """Find things on images."""

    labels: Sequence[str] | None = None  # type: ignore[misc]
    """Names of the classes in the order of the outputs; None: as the data has them."""
    no_object: float = 0.1
    """Weight of a box that stands for nothing, in the term of classes."""
    weights: Mapping[str, float] | None = None
    """What terms weigh, in the matching and in the loss: `{label: 1, box: 5, giou: 2}`."""
    augment: Mapping[str, float] | None = None
    """How images are changed while training, their boxes with them: `{flip: 0.5, crop: 8, erase: 0.25}`."""
    outside: Literal["refuse", "cut"] = "refuse"
    """What becomes of boxes that reach out of their image, or have no area."""
    threshold: float = 0.3
    """Boxes of which the model is less sure are not predicted; figures count all."""

    # ------------------------------------------------------------ columns and outputs

    @property
    def roles(self) -> Mapping[str, Role]:
        """The columns that are read."""
        return {
            "image": Role(meaning="the image: a path, or its bytes", kind="image"),
            "classes": Role(meaning="the class of each thing", kind="classes"),
            "boxes": Role(meaning="where each thing is: [left, top, width, height] in pixels", kind="boxes"),
        }

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        known = self.facts.labels
        return known.names if known else tuple(map(str, self.labels or ()))

    @property
    def head(self) -> Head:
        """A box and an output a class for each query; that for no object comes with it."""
        names = self.label_names
        return Head(
            kind="boxes", outputs=max(1, len(names)), id2label=dict(enumerate(names)) if names else None
        )

    @property
    def sequences(self) -> Mapping[str, int]:
        """An image takes as many positions as it has patches, and what the model adds to them."""
        return {IMAGE: self.facts.image.positions if self.facts.image else 1}

    @property
    def usual_metrics(self) -> tuple[Metric, ...]:
        """COCO's."""
        return (usual_boxes(),)

    def metric(self, name: str, *, where: str = "recipe") -> Metric:
        """A figure of `metrics.boxes`."""
        found = box_metrics().get(name)
        return super().metric(name, where=where) if found is None else found

    # ------------------------------------------------------------ rows to samples

    @override
    def encode_batch(
        self, rows: Sequence[Row], tokenizer: Tokenizer | None, *, labelled: bool = True
    ) -> list[Sample]:
        """Rows as samples: each image decoded, upright, in the model's size; its boxes as fractions of it.

        Raises:
            DataError: an image that cannot be decoded; boxes that are not on it.
        """
        del tokenizer
        return [
            boxed_sample(row, self._form, self.facts.labels, cut=self.outside == "cut", labelled=labelled)
            for row in rows
        ]

    @property
    def _form(self) -> ImageForm:
        assert self.facts.image is not None, "the model has not been looked at"
        return self.facts.image

    # ------------------------------------------------------------ what is seen of an image

    @property
    def has_view(self) -> bool:
        """Whether images are changed."""
        return self._augment.changes

    @override
    def view(self, table: Table, rows_B: np.ndarray, epochs_B: np.ndarray) -> Table:
        """The rows, with what decides how each is changed in this epoch, and boxes where they will then be."""
        drawn = with_draws(table, rows_B, epochs_B, self.facts.data_seed)
        units, states_B = drawn[UNITS].load(), drawn[DRAWS].columns["draw"]
        size = self._form.height, self._form.width
        states_U = np.repeat(states_B, units.lengths)
        values_U = moved_boxes(np.asarray(units.columns["values"]), states_U, self._augment, size)
        return drawn.replaced(units=replace(units, columns={**units.columns, "values": values_U}))

    @property
    def prepare(self) -> Prepare:
        """Pixels to the model's numbers."""
        return self._ready

    def _ready(self, piece: Table) -> Table:
        """Gathered samples with (B, C, H, W) float32 instead of pixels: changed as their draws say, and normalised."""
        return made_ready(piece, self._augment, self._numbers)

    @cached_property
    def _augment(self) -> Augment:
        # What moves no box, and mixes nothing.
        return Augment.model_validate(BoxAugment.model_validate(dict(self.augment or {})).model_dump())

    @cached_property
    def _numbers(self) -> np.ndarray:
        return self._form.numbers()

    # ------------------------------------------------------------ denominators, loss

    def fit(self, train: Table) -> Detect:
        """The same task; what it needs beside is there.

        Raises:
            ModelError: scipy is not installed.
        """
        del train
        assigned(np.zeros((1, 1)))
        return self

    @property
    def _costs(self) -> Costs:
        told = dict(self.weights or {})
        return Costs(label=told.get("label", 1.0), box=told.get("box", 5.0), giou=told.get("giou", 2.0))

    def denominators(self, targets: Targets) -> dict[str, float]:
        """Of each term, from what is on the images alone (numpy)."""
        no_object = None if self._rounds else self.no_object
        return box_denominators(np.asarray(targets.values), np.asarray(targets.weights), no_object)

    def loss(self, outputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        """One weighted value per unit and term (U,), of whole images.

        Args:
            outputs: (U, C + 1 + 4): logits, no object last, and centre, width and height as fractions of the image; of
                RT-DETR (U, R (C + 4)), R sets without no object.
            targets: values (U, 9) of `data.boxes`, as tensors on the same device.
        """
        wide = outputs if outputs.dtype.itemsize == 8 else outputs.float()
        if self._rounds:
            of = {"width": len(self.label_names) + 4, "rounds": self._rounds}
            return varifocal_losses(wide, targets.values, targets.weights, self._costs, **of)
        return box_losses(wide, targets.values, targets.weights, self._costs, self.no_object)

    # ------------------------------------------------------------ evaluation and prediction

    @property
    def _rounds(self) -> int:
        return self.facts.image.rounds if self.facts.image else 0

    @override
    def keep(self, outputs: Tensor, targets: Targets) -> Tensor:
        """The outputs; of several sets of boxes (U, C + 4 + 3) the last layer's and each term over all of them."""
        if not self._rounds:
            return outputs
        losses = self.loss(outputs, targets)
        width = len(self.label_names) + 4
        return torch.cat(
            [outputs[:, :width], *(losses[term][:, None].to(outputs.dtype) for term in TERMS)], dim=1
        )

    @override
    def kept_loss(self, kept: np.ndarray, targets: Targets) -> dict[str, np.ndarray]:
        """As `loss`, of what `keep` gave."""
        if not self._rounds:
            return super().kept_loss(kept, targets)
        return dict(zip(TERMS, fp64(kept[:, -len(TERMS) :]).T, strict=True))

    def decode(self, kept: np.ndarray) -> Predictions:
        """Of each unit its likeliest class that is an object, its box, and how sure that is: `values` (U, 6)."""
        outputs = fp64(kept)
        if self._rounds:
            outputs = outputs[:, : len(self.label_names) + 4]
            shares = sigmoid(outputs[:, :-4])
            best = shares.argmax(-1)
        else:
            shares = softmax(outputs[:, :-4])
            best = shares[:, :-1].argmax(-1)
        sure = np.take_along_axis(shares, best[:, None], 1)
        values = np.column_stack([best.astype(np.float64), outputs[:, -4:], sure])
        return Predictions(kind="boxes", scores=outputs, probabilities=shares, values=values)

    def perfect(self, targets: Targets) -> np.ndarray:
        """(U, C + 1 + 4): each thing found in its own unit."""
        values = np.asarray(targets.values, np.float64)
        there = has(values, LEARNT)
        classes = max(len(self.label_names), int(values[:, CLASS].max(initial=0)) + 1)
        logits = np.full((len(values), classes + 1), -20.0)
        logits[np.arange(len(values)), np.where(there, values[:, CLASS], classes).astype(np.int64)] = 20.0
        said = logits[:, : len(self.label_names)] if self._rounds else logits
        return np.concatenate([said, np.where(there[:, None], values[:, BOX], 0.5)], axis=1)

    @override
    def predict(
        self, rows: Sequence[Row], samples: Sequence[Sample], run: RunTable, tokenizer: Tokenizer | None
    ) -> Iterator[dict[str, Json]]:
        """What is on each image.

        Yields:
            `{"objects": [{"label", "score", "box": [left, top, width, height]}]}`: pixels of the image, the surest
            first, of those that are at least `threshold` sure.
        """
        del rows, tokenizer
        table = as_table(samples, self.sequences, self.prepare)
        found = self.decode(run(table, self.keep)).values
        first = 0
        for sample in samples:
            own = found[first : first + len(sample.reads)]
            first += len(sample.reads)
            yield {"objects": self._told(own, sample.streams[SIZE]["pixels"][0])}

    def _told(self, found: np.ndarray, size: np.ndarray) -> list[Json]:
        names, scale = self.label_names, np.concatenate([size, size])
        kept = found[(found[:, 5] >= self.threshold) & np.isfinite(found).all(1)]
        sides = (corners(kept[:, 1:5]) * scale).clip(0, scale)
        told: list[Json] = []
        for at in np.argsort(-kept[:, 5], kind="stable"):
            left, top, right, bottom = sides[at].tolist()
            told.append(
                {
                    "label": names[int(kept[at, 0])],
                    "score": float(kept[at, 5]),
                    "box": [left, top, right - left, bottom - top],
                }
            )
        return told

    def nothing(self) -> dict[str, Json]:
        """The prediction of a row without an image."""
        return {"objects": []}

    def files(self, module: nn.Module) -> dict[str, str]:
        """How images are made ready, as transformers' image processors read it."""
        del module
        return {} if self.facts.image is None else {PROCESSOR: processor_config(self.facts.image)}
