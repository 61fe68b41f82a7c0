"""The seams: what rooms ask of each other. Types only; torch is named but never imported at run time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from bigbatch.places import Part
from bigbatch.records import Event, Record, Request, Update
from bigbatch.samples import (
    GlobalBatch,
    LossSums,
    MicroBatch,
    Packing,
    Predictions,
    Sample,
    Table,
    Targets,
)

if TYPE_CHECKING:
    from numpy import ndarray
    from torch import Tensor, nn


RoleKind = Literal[
    "text",
    "label",
    "labels",
    "number",
    "words",
    "tags",
    "numbers",
    "image",
    "messages",
    "answers",
    "boxes",
    "classes",
    "fold",
    "items",
    "grades",
]


@dataclass(frozen=True, kw_only=True)
class Role:
    """A column that a task reads, by what it means rather than by its name."""

    meaning: str
    """One line for messages and documentation."""
    kind: RoleKind = "text"
    """`text`: a string; `label`: a class; `labels`: several classes; `number`: a finite number; `words`: a sentence
    as a list of strings; `tags`: a class for each of its words; `numbers`: a finite number for each of its words;
    `image`: a path, or the file's bytes; `messages`: the turns of a conversation; `answers`: stretches of a text, each
    with where it starts; `boxes`: rectangles of an image, pixels; `classes`: a class for each of these; `fold`:
    where the letters of a sequence are, or which of them pair; `items`: names of items that are read in order, or of
    one; `grades`: a number for each of several candidates, or for one."""
    required: bool = True
    may_be_ids: bool = False
    """Whether a text may come as a list of token ids."""
    may_be_messages: bool = False
    """Whether a text may come as the turns of a conversation (`data.talks`)."""
    absent_when_predicting: bool = False
    """Whether rows to predict may come without it, though rows to learn from may not."""
    unlike: str = ""
    """Role whose value it is not meant to repeat; rows in which it does are counted before update 1."""

    @property
    def is_read(self) -> bool:
        """Whether the model reads it; what it learns are the others."""
        return self.kind in ("text", "words", "image", "messages", "items")

    @property
    def has_classes(self) -> bool:
        """Whether its values name classes."""
        return self.kind in ("label", "labels", "tags", "classes")


Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
"""What JSON can hold."""
Row = Mapping[str, Any]
"""One row of a table: role or column -> value."""


class Tokenizer(Protocol):
    """What is asked of a tokenizer: Hugging Face's, or one of the user's own that does as much."""

    def __call__(self, *texts: Any, **options: Any) -> Any:
        """`input_ids` of each text, and whatever else the options ask for."""
        ...

    def decode(self, ids: Any, /, **options: Any) -> str:
        """The text of token ids."""
        ...


@runtime_checkable
class Metric(Protocol):
    """A quality figure with mergeable state, so that evaluation streams and ranks can be combined."""

    @property
    def name(self) -> str: ...

    @property
    def larger_is_better(self) -> bool: ...

    def add(self, predictions: Predictions, targets: Targets) -> Any:
        """State of these units alone."""
        ...

    def merge(self, left: Any, right: Any) -> Any:
        """State of both, in this order."""
        ...

    def value(self, state: Any) -> float | Mapping[str, float]:
        """The figure; several (one a class, say) as a mapping of full names."""
        ...


class Losses(Protocol):
    """What the step asks of a task."""

    def denominators(self, targets: Targets) -> dict[str, float]:
        """Per loss term, from data alone, before any forward; floats, since weights count."""
        ...

    def loss(self, outputs: Any, targets: Targets) -> dict[str, Tensor]:
        """Per term, one weighted value per unit (U,), or their sum (), never a mean."""
        ...


class Task(Losses, Protocol):
    """The least that a task of the user's own has: columns, samples, loss and metrics.

    A frozen dataclass; its fields are the recipe's options. Most extend `tasks.base.Task`, which has a default for
    everything else that a run may ask; what does not is wrapped in `tasks.catalog.Foreign`.
    """

    @property
    def roles(self) -> Mapping[str, Role]: ...

    @property
    def couples(self) -> Literal["sample", "group", "batch"]:
        """`sample`: the loss is a sum over units; `group`: over samples that stay together (`Table.groups`); `batch`:
        it needs all outputs of the batch at once.
        """
        ...

    @property
    def metrics(self) -> tuple[Metric, ...]: ...

    def build(self, spec: Any, facts: Any) -> nn.Module: ...

    def encode(self, row: Row, tokenizer: Tokenizer) -> Sample: ...

    def decode(self, outputs: Any) -> Predictions: ...


View = Callable[[Table, "ndarray", "ndarray"], Table]
"""`view(table, rows_B, epochs_B)`: these rows as each of these epochs sees them, row after row. A pure function, so
that neither the split nor a resume can change what is seen."""


Shared = TypeVar("Shared")
"""A JSON value that ranks exchange."""


class World(Protocol):
    """The ranks that share one update. One process has an implementation without torch.distributed.

    Whatever takes part of every rank must be called by every rank, in the same order.
    """

    @property
    def rank(self) -> int:
        """This process, from 0; rank 0 leads: it owns the run directory, the journal and the console."""
        ...

    @property
    def size(self) -> int: ...

    @property
    def part(self) -> Part:
        """Which part of a batch's micro-batches this rank computes."""
        ...

    @property
    def counts(self) -> bool:
        """Whether this rank's losses and tokens are added; others compute the same samples beside one that counts."""
        ...

    def exchange(self, numbers: Sequence[float]) -> list[list[float]]:
        """The numbers of every rank (fp64), in rank order; equally many on each."""
        ...

    def sum_counts(self, counts: Mapping[str, float]) -> dict[str, float]:
        """Sum of each count over all ranks (fp64, rounded once)."""
        ...

    def gather(self, value: Shared) -> list[Shared]:
        """A JSON value of every rank, in rank order."""
        ...

    def share(self, value: Any = None) -> Any:
        """Rank 0's JSON value; what other ranks pass is ignored."""
        ...

    def gather_rows(self, rows: ndarray) -> list[ndarray]:
        """The rows (n, C) of every rank, in rank order; n may differ, dtype and C may not."""
        ...

    def reduce_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Sum `.grad` over the ranks that hold the same parameter, in place; None stays where no rank has one."""
        ...

    def gradients_so_far(self, parameters: Sequence[Tensor]) -> list[Tensor | None]:
        """What backward passes have left on this rank until now, before `reduce_gradients`; not copies."""
        ...

    def leave(self) -> None:
        """This rank cannot finish the pass it is in: others that are inside its collectives come out, and fail."""
        ...

    def was_let_out(self, trouble: BaseException) -> bool:
        """Whether a collective failed because another rank has left the pass."""
        ...

    def renew(self) -> None:
        """All ranks have left a pass, or their part of it: what it began is dropped, the next one may begin."""
        ...

    def last_backward(self) -> None:
        """The next backward pass is this rank's last of the update: its gradients may travel while it runs."""
        ...

    @property
    def divides(self) -> bool:
        """Whether ranks hold parts of the model instead of all of it."""
        ...

    def prepare(self, module: nn.Module, anatomy: Any) -> None:
        """Divide the model, once, before anything refers to its parameters."""
        ...

    def trainable(self, module: nn.Module) -> Iterable[tuple[str, Tensor]]:
        """Name and this rank's part of every trainable parameter; the optimiser moves these in place."""
        ...

    def sum_of_squares(self, tensors: Sequence[Tensor], of: Sequence[Tensor] | None = None) -> Tensor:
        """Squared L2 norm of each whole tensor (len(tensors),), however it is divided; `of`: the trainable parameter
        that each is laid out as.
        """
        ...

    def gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The whole tensors of a module."""
        ...

    def place_of(self, tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """(whole shape, index of the first element here, shape here) of a module's tensor or trained parameter."""
        ...

    def owns(self, tensor: Tensor) -> bool:
        """Whether this rank is the first of those that hold the same part."""
        ...

    def local(self, tensor: Tensor) -> Tensor:
        """What this rank holds of a module's tensor: its own memory, not a copy."""
        ...

    def gathered_like(self, part: Tensor, parameter: Tensor) -> Tensor:
        """The whole of an optimiser's state that is laid out as a trainable parameter."""
        ...

    def part_of(self, whole: Tensor, parameter: Tensor) -> Tensor:
        """This rank's part of a whole tensor that is laid out as a parameter."""
        ...

    def fill(self, tensor: Tensor, whole: Tensor) -> None:
        """Put a whole tensor's values into a module's own one, in place."""
        ...

    def whole(self, matrix: Tensor) -> Tensor:
        """The unsharded matrix."""
        ...

    def barrier(self) -> None: ...

    def close(self) -> None:
        """Leave the group."""
        ...


class Forward(Protocol):
    """Runs a micro-batch through the model: (U, C) outputs in the order of the micro-batch's units, or, for tasks that
    take them, what gives such outputs in parts (`model.logits.DeferredLogits`).
    """

    def __call__(self, micro_batch: MicroBatch) -> Any: ...


class Rule(Protocol):
    """Forward and backward of one micro-batch, in one pass or several."""

    def __call__(
        self, micro_batch: MicroBatch, denominators: Mapping[str, float], seed: Callable[[int], None]
    ) -> dict[str, Tensor]:
        """Add to `.grad`; each term's share of the loss. `seed(stage)` gives the next pass the masks of a stage: the
        same ones each time.
        """
        ...


class Executor(Protocol):
    """Drives rules over the micro-batches of an update: the one place that sums."""

    def accumulate(
        self, update: int, micro_batches: Iterable[MicroBatch], denominators: Mapping[str, float]
    ) -> LossSums:
        """Add the gradient of all micro-batches to `.grad`, and return the loss that belongs to it.

        Args:
            update: 1-based update number; it seeds the dropout masks.
            micro_batches: pieces of the global batch: this rank's share.
            denominators: per term of the loss, over the whole global batch.
        """
        ...


@dataclass(frozen=True)
class Cut:
    """How a batch is cut."""

    micro_tokens: int
    """Upper bound of computed tokens of a micro-batch."""
    packing: Packing


Moments = tuple[tuple[float, float], float]
"""Betas and eps of an optimiser."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What one update goes by beside its batch."""

    lr: float
    tokens_before: int = 0
    """Real tokens that earlier updates consumed."""
    moments: Moments | None = None
    """Of this size of a ramp; None: as the optimiser has them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """What a way to train holds beside the model's own tensors, as a checkpoint keeps it."""

    tensors: Mapping[str, Tensor]
    """`<state>/<parameter>`; the way's own tensors, not copies."""
    facts: Mapping[str, Any]
    """Strict JSON."""
    own: bool = False
    """Whether these tensors are this rank's alone; otherwise every rank holds the same, or its part of the same."""


class Strategy(Protocol):
    """A way to train: what an update does, and which weights the run has. The loop knows nothing else."""

    @property
    def world(self) -> World: ...

    def pieces(self, batch: GlobalBatch, cut: Cut) -> Iterable[MicroBatch]:
        """This rank's micro-batches; pure, so that they can be cut ahead, or again."""
        ...

    def update(self, batch: GlobalBatch, pieces: Iterable[MicroBatch], rates: Rates) -> Sequence[Update]:
        """Learn from one global batch; the records that are complete now.

        Args:
            batch: all of it, on every rank.
            pieces: this rank's micro-batches of it.
            rates: learning rate and moments of this update.
        """
        ...

    def settle(self) -> None:
        """The module holds the weights that the run has: to evaluate, save, predict. Every rank must call it."""
        ...

    def resume(self) -> None:
        """The module holds the weights that the next gradient is taken at, in training mode."""
        ...

    def state(self) -> State:
        """What a checkpoint keeps beside the module's own tensors, which are settled."""
        ...

    def restore(self, state: State, moments: Moments | None = None) -> None:
        """Put back what `state` gave; the module has its weights already. `moments`: of this size of a ramp."""
        ...

    def events(self) -> Sequence[Event]:
        """What happened inside since it was asked last."""
        ...


Observer = Callable[[Record], "Request | None"]
"""Watches records on rank 0; may ask for a stop, a save or an evaluation. Its exceptions become events."""

MetricFunction = Callable[[Predictions, Targets], float]
