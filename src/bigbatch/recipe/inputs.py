"""The recipe's sections `data` and `batch`: what is read, and how much of it makes one update."""

from __future__ import annotations

import codecs
import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from bigbatch.errors import DataError
from bigbatch.recipe.values import AUTO, AutoCount, Count, PositiveNumber, Section, Text
from bigbatch.remote.addresses import address_of, is_address, is_index
from bigbatch.units import Quantity, parse_quantity

DEFAULT_BATCH_SAMPLES = 256


def _path(value: str) -> str:
    if is_address(value):
        try:
            address_of(value)
        except DataError as error:
            raise ValueError(error.problems[0].what) from None
    return value


def _encoding(value: str) -> str:
    try:
        codecs.lookup(value)
    except LookupError:
        raise ValueError(
            f"found {value!r}; expected an encoding such as utf-8, utf-8-sig or latin-1"
        ) from None
    return value


class DataFile(Section):
    """One file, folder or pattern of a split."""

    path: Annotated[Text, AfterValidator(_path)]
    """File, folder or glob pattern, relative to the recipe; or an address: https://, s3://, gs://, hf://datasets/."""
    columns: dict[str, Text] | None = None
    """Role -> column of this file alone; null takes `data.columns`."""
    share: PositiveNumber | None = None
    """Part of what training draws that comes from here, whatever its size; of all files of `train` or of none. Parts
    that do not sum to 1 are taken in their ratio."""


Files = list[DataFile]


def _shares(files: Files) -> Files:
    """All files of a mixture have a share."""
    bare = next((file.path for file in files if file.share is None), None)
    if bare is not None and any(file.share is not None for file in files):
        raise ValueError(f"{bare!r} has no share, and others have one; give one to each, or to none")
    return files


def _no_shares(files: Files) -> Files:
    if any(file.share is not None for file in files):
        raise ValueError(
            "share: says how often training draws from a file; here each row counts once: leave it out"
        )
    return files


Evaluated = Annotated[Files, AfterValidator(_no_shares)]


def _validation_kind(value: object) -> str | None:
    if isinstance(value, dict):
        return "files"
    return "share" if isinstance(value, (int, float)) and not isinstance(value, bool) else None


Validation = Annotated[
    Annotated[Annotated[float, Field(gt=0, lt=1)], Tag("share")]
    | Annotated[dict[str, Evaluated], Tag("files")],
    Discriminator(
        _validation_kind,
        custom_error_type="validation",
        custom_error_message="expected a file, a share between 0 and 1, or a mapping of names to files",
    ),
]


class DataSpec(Section):
    """What is read: the splits, which column means what, and how text becomes tokens."""

    train: Annotated[Files, AfterValidator(_shares)] = Field(default_factory=list)
    """File(s) to learn from: a path, a list of paths, or a list of {path, columns, share}."""
    validation: Validation | None = None
    """File(s), {name: file, …}, or a share of `train` between 0 and 1 (stratified by label, fixed by seed.data;
    the last rows where they are joined, as with task.blocks: fixed)."""
    test: Evaluated = Field(default_factory=list)
    """File(s) evaluated once, at the end, with the best weights."""
    columns: dict[str, Text] = Field(default_factory=dict)
    """Role -> column, as in {text: review, label: stars}; `text:` and `label:` directly under `data` say the same."""
    max_length: Count | None = None
    """Longest sample in tokens; longer ones are cut and counted. null: as long as the model allows."""
    shuffle: Literal["full", "shards"] = "full"
    """How an epoch is ordered: `full` permutes all samples; `shards`, for more than memory holds: files in a new order
    each epoch, the rows of eight at a time mixed, and all rows left on the disk."""
    encoding: Annotated[Text, AfterValidator(_encoding)] = "utf-8"
    """Text encoding of CSV, TSV, JSONL and text files."""
    quoting: Literal["minimal", "none"] = "minimal"
    """Quotes in CSV and TSV: `minimal`: a field may stand in them; `none`: they are characters like any other."""
    empty_text: Literal["error", "drop"] = "error"
    """What happens to rows whose text is empty: an error before update 1, or dropped and counted."""

    @model_validator(mode="after")
    def _a_stream_is_alone(self) -> DataSpec:
        if any(is_index(file.path) for file in self.train):
            if len(self.train) > 1 or self.train[0].columns or self.train[0].share is not None:
                raise ValueError("published tokens (train) stand alone: one index, without columns and share")
            if self.shuffle != "shards":
                raise ValueError(
                    "published tokens (train) are streamed in the order of shuffle: shards; set it"
                )
        evaluated = self.validation.values() if isinstance(self.validation, dict) else ()
        if any(is_index(file.path) for files in (*evaluated, self.test) for file in files):
            raise ValueError("published tokens are for train alone; name the rows to evaluate")
        return self

    @model_validator(mode="after")
    def _shards_are_files(self) -> DataSpec:
        if self.shuffle == "shards":
            if isinstance(self.validation, float):
                raise ValueError("shuffle: shards leaves training rows where they are; name validation files")
            if any(file.share is not None for file in self.train):
                raise ValueError("shuffle: shards with shares (train) is not built; leave one of them out")
        return self


class Ramp(Section):
    """A batch that grows during the run, by whole factors, up to `batch.samples`."""

    start: Annotated[Count, Field(alias="from")]
    """Samples of the first updates."""
    by: Literal["noise", "schedule", "table"] = "noise"
    """What makes it grow: `noise`: the measured noise scale (its interval's lower bound, twice in a row above the next
    size); `schedule`: k times the first batch from where the schedule has fallen to 1/k, with lr times sqrt(k);
    `table`: as written."""
    table: dict[str, Count] = Field(default_factory=dict)
    """For `by: table`: when -> samples, as in {10 %: 256, 30 %: 1024}; the last is batch.samples."""

    @model_validator(mode="after")
    def _table_is_for_by_table(self) -> Ramp:
        if (self.by == "table") != bool(self.table):
            raise ValueError(
                "table and by: table go together, as in {from: 64, by: table, table: {10 %: 256}}"
            )
        self.steps()
        return self

    def steps(self) -> list[tuple[Quantity, int]]:
        """The table as (when, samples)."""
        return [(parse_quantity(when), size) for when, size in self.table.items()]


class BatchSpec(Section):
    """How much one update consumes, over all ranks: exactly one of samples and tokens."""

    samples: AutoCount | None = None
    """Samples per update; 256 when neither is given. auto: few at first, more as the measured noise of the gradient
    says that they are worth it."""
    tokens: Count | None = None
    """Real tokens per update: the longest prefix of the stream not above this, at least one sample."""
    allow_repeats: bool = False
    """Allow a batch larger than the training data, so that samples repeat inside one update."""
    ramp: Ramp | None = None
    """Grow the batch during the run."""

    @model_validator(mode="before")
    @classmethod
    def _default_samples(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("samples") is None and value.get("tokens") is None:
            return {**value, "samples": DEFAULT_BATCH_SAMPLES}
        return value

    @model_validator(mode="after")
    def _one_unit(self) -> BatchSpec:
        if self.samples is not None and self.tokens is not None:
            raise ValueError("found samples and tokens; expected one of them")
        if self.ramp is not None and self.samples is None:
            raise ValueError("ramp: grows a batch in samples; with tokens it is not built")
        if self.ramp is not None and self.samples == AUTO:
            raise ValueError(
                "samples: auto decides the ramp too; leave ramp out, or write samples as a number"
            )
        return self


def held_out_of(rows: int, share: float) -> int:
    """Rows of a class (or of all data, where there are no classes) that go to validation.

    ::

        round(share rows), at least one, and at least one stays; of a single row none

    Args:
        rows: of the class.
        share: above 0 and below 1.

    Example:
        >>> [held_out_of(rows, 0.1) for rows in (1, 2, 14, 15, 100)]
        [0, 1, 1, 2, 10]
    """
    return max(0, min(max(math.floor(rows * share + 0.5), 1), rows - 1))
