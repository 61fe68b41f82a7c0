"""What an engine is asked, and how a gathered batch of it runs: the code of `predict` and of `generate`."""

from __future__ import annotations

import base64
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bigbatch.errors import UsageError
from bigbatch.infer.load import Loaded
from bigbatch.infer.predict import predictions_of, samples_of
from bigbatch.infer.prompts import Prompt, prompts_of
from bigbatch.infer.sampling import Decoding
from bigbatch.infer.texts import Text, may_write, written_texts
from bigbatch.infer.unlabelled import PlacedRow, read_role, rows_of_object
from bigbatch.protocols import Json, Role
from bigbatch.samples import Sample
from bigbatch.serve.queue import Job
from bigbatch.tasks.match import Match, width_of

Answer = Mapping[str, Json]


@dataclass(kw_only=True, eq=False)
class Predicting:
    """Rows to predict."""

    rows: Sequence[str | Mapping[str, Json]]
    dimension: int | None = None
    """Numbers of an embedding that are kept."""
    placed: Sequence[PlacedRow] = ()
    samples: Sequence[Sample | None] = ()

    @property
    def kind(self) -> Hashable:
        """What runs together."""
        return "predict", self.dimension

    def encode(self, opened: Loaded) -> int:
        """Read the rows; tokens of all.

        Raises:
            UsageError: rows that cannot be read, or numbers that an embedding does not have.
        """
        if self.placed:  # it did not fit the batch before
            return sum(self.tokens)
        task = opened.task
        if self.dimension is not None and self.dimension > width_of(opened.module):
            raise UsageError(
                f"dimension: found {self.dimension}; embeddings here have {width_of(opened.module)}"
            )
        rows = with_pictures(self.rows, task.roles, opened.columns)
        found = rows_of_object(rows, roles=task.roles, columns=opened.columns, classes=task.label_names)
        placed = list(found)
        self.samples = samples_of(placed, task, opened.tokenizer, opened.forward)
        self.placed = placed
        return sum(self.tokens)

    @property
    def tokens(self) -> list[int]:
        """Of each row."""
        return [0 if sample is None else _tokens_of(sample) for sample in self.samples]


def with_pictures(
    rows: Sequence[str | Mapping[str, Json]], roles: Mapping[str, Role], columns: Mapping[str, str]
) -> Sequence[object]:
    """Rows whose images are the bytes that were sent, base64: a path would be one of this machine, and none of theirs.

    Args:
        rows: as they were sent.
        roles: of the task.
        columns: role -> column.

    Raises:
        UsageError: an image that is no base64.
    """
    names = {
        name
        for role, each in roles.items()
        if each.kind == "image"
        for name in (role, columns.get(role, role))
    }
    if not names:
        return rows
    bare = read_role(roles) if roles[read_role(roles)].kind == "image" else ""
    found: list[object] = []
    for number, row in enumerate(rows, start=1):
        whole = {bare: row} if isinstance(row, str) and bare else row
        if isinstance(whole, Mapping):
            whole = {
                name: _picture(value, number) if name in names else value for name, value in whole.items()
            }
        found.append(whole)
    return found


def _picture(value: object, number: int) -> bytes | None:
    if value is None:
        return None
    try:
        return base64.b64decode(str(value).partition("base64,")[2] or str(value), validate=True)
    except ValueError:
        raise UsageError(
            f"row {number}: expected an image file's bytes, base64 (data:image/png;base64,… will do)"
        ) from None


def _tokens_of(sample: Sample) -> int:
    return len(sample.ids) + sum(len(next(iter(each.values()), ())) for each in sample.streams.values())


def predicted(opened: Loaded, jobs: Sequence[Job[Predicting]]) -> None:
    """Run the rows of all jobs as one table and tell each its own.

    Args:
        opened: the model.
        jobs: encoded, of one kind.
    """
    task = opened.task
    dimension = jobs[0].work.dimension
    if dimension is not None and isinstance(task, Match):
        task = replace(task, dimension=dimension)
    rows = [row for job in jobs for row in job.work.placed]
    samples = [sample for job in jobs for sample in job.work.samples]
    found: Iterator[dict[str, Json]] = predictions_of(
        opened.forward, task, opened.tokenizer, rows, samples, micro_tokens=opened.micro_tokens
    )
    answers = [
        prediction if row.get("id") is None else {"id": row["id"], **prediction}
        for (_, row), prediction in zip(rows, found, strict=True)
    ]
    left = iter(answers)
    for job in jobs:
        job.tell([next(left) for _ in job.work.placed])


@dataclass(kw_only=True, eq=False)
class Writing:
    """Prompts to write from."""

    rows: Sequence[PlacedRow]
    how: Decoding
    chat: bool = False
    numbers: Sequence[int] | None = None
    """What is drawn is a function of these; None: the places of the rows."""
    piece: Callable[[int, str], None] | None = None
    """Told what is new of each text, from the engine's thread."""
    prompts: Sequence[Prompt] = field(default_factory=list)

    @property
    def kind(self) -> Hashable:
        """What runs together."""
        return "write", self.how

    def encode(self, opened: Loaded) -> int:
        """Read the prompts; tokens of all.

        Raises:
            UsageError: a model that writes nothing, or prompts that it cannot take.
        """
        if not self.prompts:
            self._read(opened)
        return sum(self.tokens) + len(self.prompts) * (self.how.max_tokens or 0)

    def _read(self, opened: Loaded) -> None:
        found = prompts_of(self.rows, may_write(opened, self.how), chat=self.chat)
        numbers = range(len(found)) if self.numbers is None else self.numbers
        self.prompts = [replace(each, number=number) for each, number in zip(found, numbers, strict=True)]

    @property
    def tokens(self) -> list[int]:
        """Of each prompt."""
        return [prompt.tokens for prompt in self.prompts]


def written(opened: Loaded, jobs: Sequence[Job[Writing]]) -> None:
    """Write the texts of all jobs in batches, and tell each job when it has all of its own.

    Args:
        opened: the model.
        jobs: encoded, of one kind.
    """
    owners = {id(prompt): (job, at) for job in jobs for at, prompt in enumerate(job.work.prompts)}
    texts: dict[int, dict[int, Text]] = {id(job): {} for job in jobs}

    def watch(prompt: Prompt, piece: str) -> bool:
        job, at = owners[id(prompt)]
        if piece and job.work.piece is not None:
            job.work.piece(at, piece)
        return job.over

    prompts = [prompt for job in jobs for prompt in job.work.prompts]
    for prompt, text in written_texts(opened, prompts, jobs[0].work.how, watch=watch):
        job, at = owners[id(prompt)]
        own = texts[id(job)]
        own[at] = text
        if len(own) == len(job.work.prompts):
            job.tell([own[place] for place in range(len(own))])


Work = Predicting | Writing
