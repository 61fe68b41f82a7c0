"""The seams: what rooms ask of each other. Types only; torch is named but never imported at run time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from bigbatch.places import Part
from bigbatch.records import LossSums, MicroBatch, Predictions, Record, Request, Sample, Targets, TokenTable

if TYPE_CHECKING:
    from numpy import ndarray
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Role:
    """A column that a task reads, by what it means rather than by its name."""

    meaning: str
    """One line for messages and documentation."""
    kind: Literal["text", "label", "labels", "number", "words", "tags"] = "text"
    """`text`: a string; `label`: a class; `labels`: several classes; `number`: a finite number; `words`: a sentence
    as a list of strings; `tags`: a class for each of its words."""
    required: bool = True
    absent_when_predicting: bool = False
    """Whether rows to predict may come without it, though rows to learn from may not."""


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


class Task(Protocol):
    """What is learnt: columns, targets, loss and metrics. A frozen dataclass; its fields are the recipe's options."""

    @property
    def roles(self) -> Mapping[str, Role]: ...

    @property
    def couples(self) -> Literal["sample", "batch"]:
        """`sample`: the loss is a sum over units; `batch`: it needs all outputs of the batch at once."""
        ...

    @property
    def metrics(self) -> tuple[Metric, ...]: ...

    def build(self, spec: Any, facts: Any) -> nn.Module: ...

    def encode(self, row: Mapping[str, Any], tokenizer: Any) -> Sample: ...

    def denominators(self, targets: Targets) -> dict[str, float]:
        """Per loss term, from data alone, before any forward; floats, since weights count."""
        ...

    def loss(self, outputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Per term, one weighted value per unit (U,), or their sum (), never a mean."""
        ...

    def decode(self, outputs: Any) -> Predictions: ...


View = Callable[[TokenTable, "ndarray", "ndarray"], TokenTable]
"""`view(table, rows_B, epochs_B)`: these rows as each of these epochs sees them, row after row. A pure function, so
that neither the split nor a resume can change what is seen."""


class LanguageTask(Protocol):
    """What a task may have besides `Task`: it keeps tokens apart from what is learnt of them, and outputs small.

    Every method may be left out on its own; `run` and `infer` ask for each with `getattr`.
    """

    def arrange(self, table: TokenTable) -> TokenTable:
        """The samples that a tokenised (and cached) split is trained in: pieces, blocks, …"""
        ...

    def view(self, table: TokenTable, rows_B: ndarray, epochs_B: ndarray) -> TokenTable:
        """See `View`: training batches are cut out of this."""
        ...

    def fixed(self, table: TokenTable) -> TokenTable:
        """A split as evaluations see it, always the same."""
        ...

    def reduce(self, outputs: Any, targets: Targets) -> Tensor:
        """(U, k) float64: all that loss, `decode` and metrics need of each unit; evaluation keeps nothing else."""
        ...

    def reduced_loss(self, reduced_Uk: ndarray, targets: Targets) -> dict[str, ndarray]:
        """As `loss`, from what `reduce` gave (numpy)."""
        ...


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

    def gather(self, value: Any) -> list[Any]:
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


class Executor(Protocol):
    """Turns micro-batches into gradients. The step never loops forward and backward itself."""

    def accumulate(
        self, update: int, micro_batches: Iterable[MicroBatch], denominators: Mapping[str, float]
    ) -> LossSums: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """What a way to train holds beside the model's own tensors, as a checkpoint keeps it."""

    tensors: Mapping[str, Tensor]
    """`<state>/<parameter>`; the way's own tensors, not copies."""
    facts: Mapping[str, Any]
    """Strict JSON."""
    own: bool = False
    """Whether these tensors are this rank's alone; otherwise every rank holds the same, or its part of the same."""


Observer = Callable[[Record], "Request | None"]
"""Watches records on rank 0; may ask for a stop, a save or an evaluation. Its exceptions become events."""

MetricFunction = Callable[[Predictions, Targets], float]
