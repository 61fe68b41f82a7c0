"""Image classification: one class an image, by any model whose blocks run over patches (ViT, DeiT, BEiT, DINOv2, …).

An image is a stream of one entry: its pixels, uint8, as the model's size wants them; so that all samples are equally
long and nothing is ever padded. While training, each epoch sees it mirrored, shifted or with a rectangle erased; which
of these is a function of (seed, epoch, sample) (`data.augment`). A view says so in a number a sample, `draw`; pixels
are changed once a micro-batch is gathered, so that an update's images are never in memory at once.

Shapes: B samples, H, W, C of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np
from typing_extensions import override

from bigbatch.data.augment import IMAGE, made_ready, with_draws
from bigbatch.data.labels import LabelSet
from bigbatch.data.mixing import PARTNER, mixed_ready, mixed_view
from bigbatch.data.pixels import ImageForm, measured
from bigbatch.errors import DataError
from bigbatch.files.images import ImageFile, content_of_image, image_of
from bigbatch.model.heads import Head
from bigbatch.protocols import Role, Row, Tokenizer
from bigbatch.recipe.tasks import Augment
from bigbatch.samples import Prepare, Sample, Table
from bigbatch.tasks.labelled import Labelled
from bigbatch.tasks.losses import IGNORED
from bigbatch.tasks.pictures import PROCESSOR, processor_config

if TYPE_CHECKING:
    from torch import nn


def pixels_of(image: object, form: ImageForm) -> tuple[np.ndarray, tuple[int, int]]:
    """(H, W, C) uint8 of an image of a row, and the width and height that it had.

    Args:
        image: as `files.images` has it, or in any form where the row is the caller's own.
        form: what the model takes.

    Raises:
        DataError: it cannot be decoded.
    """
    which = ""
    try:
        # A row of the caller's own may have an image in any form.
        is_file = isinstance(image, Mapping) and "sha256" in image
        whole = cast("ImageFile", image) if is_file else image_of(image, None)
        if whole is None:
            raise ValueError("there is no image")
        which = f"{whole['path']}: " if whole["path"] else ""
        return measured(content_of_image(whole), form)
    except (ValueError, OSError) as error:
        raise DataError(f"image: {which}{error}") from None


def image_sample(row: Row, form: ImageForm, labels: LabelSet | None) -> Sample:
    """A row as a sample: its image in the model's size and colours; a unit with its class.

    Args:
        row: `image`, and `label` where it has one.
        form: what the model takes.
        labels: the classes.

    Raises:
        DataError: an image that cannot be decoded.
    """
    pixels, _ = pixels_of(row["image"], form)
    label = row.get("label")
    value = IGNORED
    if label is not None:
        assert labels is not None
        value = labels.id_of(label)
    return Sample(
        streams={IMAGE: {"pixels": pixels[None]}},
        reads=np.zeros(1, np.int32),
        values=np.array([value], np.int64),
        weights=np.array([0.0 if value == IGNORED else 1.0], np.float32),
    )


@dataclass(frozen=True, kw_only=True)
class Image(Labelled):
    """Predict the class of an image."""

    augment: Mapping[str, float] | None = None
    """How images are changed while training: `{flip: 0.5, crop: 4, erase: 0.25}` (`recipe.learning.Augment`)."""

    # ------------------------------------------------------------ columns and outputs

    @property
    def roles(self) -> Mapping[str, Role]:
        """The columns that are read: `image` and `label`."""
        return {
            "image": Role(meaning="the image: a path, or its bytes", kind="image"),
            "label": Role(meaning="the class", kind="label"),
        }

    @property
    def head(self) -> Head:
        """One output a class."""
        return self.labelled_head("image")

    @property
    def sequences(self) -> Mapping[str, int]:
        """An image takes as many positions as it has patches, and what the model adds to them."""
        return {IMAGE: self.facts.image.positions if self.facts.image else 1}

    # ------------------------------------------------------------ rows to samples

    def samples(self, rows: Sequence[Row], tokenizer: Tokenizer | None) -> list[Sample]:
        """Rows as samples: each image decoded, upright, in the model's size and colours.

        Raises:
            DataError: an image that cannot be decoded.
        """
        del tokenizer
        return [image_sample(row, self._form, self.facts.labels) for row in rows]

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
        """The rows, with what decides how each is changed in this epoch."""
        seed, how = self.facts.data_seed, self._augment
        drawn = with_draws(table, rows_B, epochs_B, seed)
        return mixed_view(drawn, table, epochs_B, seed, how) if how.mixes else drawn

    @property
    def prepare(self) -> Prepare:
        """Pixels to the model's numbers."""
        return self._ready

    def _ready(self, piece: Table) -> Table:
        """Gathered samples with (B, C, H, W) float32 instead of pixels: changed as their draws say, and normalised."""
        ready = made_ready(piece, self._augment, self._numbers)
        if PARTNER not in piece.streams:
            return ready
        stream = ready[IMAGE]
        mixed = mixed_ready(piece, stream.columns["pixels"], self._augment, self._numbers)
        # What it was mixed with is not needed any more.
        kept = {name: each for name, each in ready.streams.items() if name != PARTNER}
        return replace(ready, streams={**kept, IMAGE: replace(stream, columns={"pixels": mixed})})

    @cached_property
    def _augment(self) -> Augment:
        return Augment.model_validate(dict(self.augment or {}))

    @cached_property
    def _numbers(self) -> np.ndarray:
        return self._form.numbers()

    # ------------------------------------------------------------ what is written

    def files(self, module: nn.Module) -> dict[str, str]:
        """How images are made ready, as transformers' image processors read it."""
        del module
        return {} if self.facts.image is None else {PROCESSOR: processor_config(self.facts.image)}
