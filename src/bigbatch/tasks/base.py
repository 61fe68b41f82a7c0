"""What a task is: the class that every task extends, and what a run finds out and tells it.

A task is a frozen dataclass; its fields are the options under `task:` of a recipe. It must say six things::

    roles         the columns that it reads
    head          what the model must give: one output for a sample, or for each token, …
    encode        a row as token ids, and as units: what is learnt of it, and where the model's answer is read
    denominators  what each term of the loss is divided by, from the targets of the whole batch, before any forward
    loss          one value a unit, never a mean: who divides is the step, once
    decode        outputs as predictions

Everything else has a default. Whatever is asked of a task is a function of its fields and of what it is given: the same
samples give the same numbers in whichever pieces they come.

Shapes: U units, C outputs per unit, B rows, T tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from bigbatch.data.tokens import as_table
from bigbatch.errors import Problem, RecipeError
from bigbatch.model.heads import HEADS, Head
from bigbatch.protocols import Json, Metric, Role, Row, Tokenizer
from bigbatch.samples import ONE_TOKEN, Predictions, Prepare, Sample, Table, Targets
from bigbatch.tasks.derived import Derived
from bigbatch.tasks.described import described, prediction_of_nothing
from bigbatch.tasks.facts import NOT_AN_OPTION, BuildFacts, TaskFacts, options_of
from bigbatch.tasks.losses import Kind, refuse_loss

if TYPE_CHECKING:
    from torch import nn

    from bigbatch.model.pooling import Pooling
    from bigbatch.recipe.learning import LossSpec, ModelSpec

Out = TypeVar("Out")
"""What the model gives: a tensor (U, C), or `model.logits.DeferredLogits` (factors of (U, vocabulary))."""
Keep = Callable[[Any, Targets], Tensor]
"""(outputs of U units, their targets) -> all that is kept of each (U, k)."""
RunTable = Callable[[Table, Keep], np.ndarray]
"""`run(table, keep)`: a table through the model, and what is kept of all its units (U, k), in table order."""


@dataclass(frozen=True, kw_only=True)
class Task(ABC, Generic[Out]):
    """What is learnt: columns, targets, loss, metrics.

    Example:
        A number for every word, such as how hard it is to read, in a file of yours; the recipe says
        `task: {name: "hardness.py:Hardness", power: 1.5}`::

            from dataclasses import dataclass

            import numpy as np
            from torch import Tensor

            from bigbatch.model.heads import Head
            from bigbatch.protocols import Role
            from bigbatch.samples import Predictions, Sample
            from bigbatch.tasks.base import Task
            from bigbatch.tasks.inputs import encode_words
            from bigbatch.tasks.labelled import fp64
            from bigbatch.metrics.classify import default_metrics


            @dataclass(frozen=True, kw_only=True)
            class Hardness(Task[Tensor]):
                power: float = 2.0  # an option

                @property
                def roles(self):
                    return {
                        "words": Role(meaning="the words", kind="words"),
                        "hardness": Role(meaning="a number a word", kind="numbers"),
                    }

                @property
                def head(self):
                    return Head(kind="tokens", outputs=1)

                def encode(self, row, tokenizer):
                    [found] = encode_words([row["words"]], tokenizer, self.facts.max_length)
                    numbers = row.get("hardness") or [0.0] * len(found.pieces)  # rows to predict have none
                    # Read at its first piece; a word that was cut off has none.
                    units = [(p[0], n) for p, n in zip(found.pieces, numbers, strict=True) if p]
                    return Sample(
                        ids=found.inputs.ids,
                        segments=found.inputs.segments,
                        reads=np.array([place for place, _ in units], np.int32),
                        values=np.array([number for _, number in units], np.float32),
                        weights=np.ones(len(units), np.float32),
                        truncated=found.inputs.truncated,
                    )

                @property
                def usual_metrics(self):  # of what `decode` gives: mse, mae, r2, …; without it the loss alone
                    return default_metrics("regression", ())

                def denominators(self, targets):
                    return {"error": float(np.sum(targets.weights, dtype=np.float64))}

                def loss(self, outputs, targets):
                    return {"error": (outputs[:, 0] - targets.values).abs() ** self.power * targets.weights}

                def decode(self, kept):
                    scores = fp64(kept)
                    return Predictions(kind="regression", scores=scores, probabilities=None, values=scores[:, 0])
    """

    clock: ClassVar[Literal["samples", "tokens"]] = "samples"
    """What schedules count."""
    couples: ClassVar[Literal["sample", "group", "batch"]] = "sample"
    """`sample`: the loss is a sum over units, each by itself; `group`: over samples that stay together
    (`Table.groups`); `batch`: it needs all outputs of the batch at once."""
    labels: ClassVar[Sequence[str] | None] = None
    """Class names in the order that the user gives, where a task has them as an option; None: as the data has them."""
    loss_is_own: ClassVar[str] = "the task has a loss of its own; leave `loss` out"
    """What is said to a recipe that names another."""

    facts: TaskFacts = field(default=TaskFacts(), metadata=NOT_AN_OPTION)
    """What the run has found out."""

    def with_facts(self, **facts: Any) -> Self:
        """The same task, knowing more: the only way that a run tells it anything.

        Args:
            facts: fields of `TaskFacts`.
        """
        return replace(self, facts=replace(self.facts, **facts))

    # ------------------------------------------------------------ what the recipe says

    @property
    def options(self) -> Mapping[str, Any]:
        """What the user chose under `task:`."""
        return options_of(self)

    @property
    def written_in(self) -> type:
        """The class whose code decides what the task gives."""
        return type(self)

    def with_loss(self, loss: LossSpec, folder: Path, *, where: str = "recipe") -> Self:
        """The same task with `loss:` of the recipe. By default anything but the usual is refused.

        Args:
            loss: the section.
            folder: what references such as `losses.py:focal` are relative to.
            where: file, for messages.

        Raises:
            RecipeError: naming the keys.
        """
        del folder
        refuse_loss(loss, self.loss_is_own, where)
        return self

    def check_metric(self, name: str, *, where: str = "recipe") -> None:
        """Refuse a name that no metric of this task has, as far as its labels are known.

        Raises:
            RecipeError: with the names there are.
        """
        self.metric(name, where=where)

    # ------------------------------------------------------------ columns and outputs

    @property
    @abstractmethod
    def roles(self) -> Mapping[str, Role]:
        """The columns that it reads, by what they mean: role -> `Role`."""

    @property
    @abstractmethod
    def head(self) -> Head:
        """What the model must give."""

    def build(self, spec: ModelSpec, facts: BuildFacts) -> nn.Module:
        """The model of the recipe with this task's head.

        Args:
            spec: `recipe.model`.
            facts: what else decides it.

        Raises:
            ModelError: it cannot be had.
        """
        from bigbatch.model.load import load_model

        head = self.head
        loaded = load_model(
            spec,
            kind=head.kind,
            outputs=head.outputs,
            id2label=head.id2label,
            problem_type=head.problem_type,
            seed=facts["seed"],
            dropout=facts["dropout"],
            module=facts["module"],
            base=facts.get("base"),
        )
        for sentence in loaded.notes:
            facts["note"](sentence)
        return loaded.module

    @property
    def kind(self) -> Kind:
        """What is predicted of a unit: `single` (one of several classes), `multi` (any of them), `regression`."""
        kinds = {role.kind for role in self.roles.values()}
        if "label" in kinds or "tags" in kinds:
            return "single"
        return "multi" if "labels" in kinds else "regression" if kinds & {"number", "numbers"} else "single"

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the outputs; empty while unknown, and where there are none."""
        return self.facts.labels.names if self.facts.labels else ()

    @property
    def marked(self) -> bool:
        """Whether classes mark entities in a sentence, as `B-PER` and `I-PER` do."""
        return False

    @property
    def pooled_by(self) -> Pooling | None:
        """How the hidden states of a sample's tokens become one vector (head `hidden`); None: units read tokens."""
        return None

    @property
    def title(self) -> str:
        """Of the model card."""
        return HEADS[self.head.kind].title

    def files(self, module: nn.Module) -> dict[str, str]:
        """Further files of the model folder: path -> content."""
        del module
        return {}

    # ------------------------------------------------------------ rows to samples

    def encode(self, row: Row, tokenizer: Tokenizer | None) -> Sample:
        """One row as a sample: token ids, and units. A task writes this, or `encode_batch`.

        Args:
            row: role -> value; or `input_ids` (and `attention_mask`, `token_type_ids`, `labels`) of rows that are token
                ids already, and then there may be no tokenizer. Rows to predict come without targets.
            tokenizer: a Hugging Face tokenizer.

        Returns:
            Units: `reads` (U,) the position of the token at which each is read (of heads for whole samples one unit:
            the first token, the last where `facts.pools` says so), `values` (U, …) its target, `weights` (U,) how much
            it counts, `extras` further numbers of it. A row may have no unit.
        """
        return self.encode_batch([row], tokenizer)[0]

    def encode_batch(
        self, rows: Sequence[Row], tokenizer: Tokenizer | None, *, labelled: bool = True
    ) -> list[Sample]:
        """Many rows at once: the same samples, and faster where the tokenizer is called once for all.

        Args:
            rows: as of `encode`.
            tokenizer: as of `encode`.
            labelled: whether the rows are to learn from or to evaluate; else they are to predict.
        """
        del labelled
        return [self.encode(row, tokenizer) for row in rows]

    @property
    def longest(self) -> int | None:
        """Tokens that a row of token ids may have; None: any number, since `arrange` cuts it."""
        return self.facts.max_length

    @property
    def sequences(self) -> Mapping[str, int]:
        """The streams that run through the blocks -> positions that an entry of each takes: what a sample costs."""
        return ONE_TOKEN

    @property
    def joins_rows(self) -> bool:
        """Whether rows are joined, so that those that are held out should stand together: the last ones."""
        return False

    @property
    def data_warnings(self) -> tuple[str, ...]:
        """What the names of the labels make questionable."""
        return ()

    @property
    def needs(self) -> tuple[Derived, ...]:
        """Columns that the model which the run starts from computes once; by default none."""
        return ()

    def arrange(self, table: Table) -> Table:
        """The samples that training counts, of a tokenised split: pieces, blocks. By default its rows as they are."""
        return table

    def view(self, table: Table, rows_B: np.ndarray, epochs_B: np.ndarray) -> Table:
        """These rows as each of these epochs sees them, row after row: masked, text by text, …

        A pure function, so that neither the split nor a resume can change what is seen. Not called where a task leaves
        it as it is.

        Args:
            table: what `arrange` gave.
            rows_B: (B,) int64.
            epochs_B: (B,) int64, from 0.
        """
        raise NotImplementedError

    @property
    def has_view(self) -> bool:
        """Whether epochs see rows otherwise than the table has them."""
        return type(self).view is not Task.view

    @property
    def prepare(self) -> Prepare | None:
        """What makes gathered samples what the model is given: pixels changed and normalised. None: nothing has to.

        Pure, and of each sample alone; called for a micro-batch at a time, so that it never takes an update's memory.
        """
        return None

    def fixed(self, table: Table) -> Table:
        """What evaluations see of a split, always the same. By default all of it."""
        return table

    # ------------------------------------------------------------ weights, denominators, loss

    def fit(self, train: Table) -> Self:
        """The same task, knowing what only the training table says: class weights, say."""
        del train
        return self

    def weigh(self, targets: Targets) -> Targets:
        """The targets (numpy) with what `fit` found multiplied into their weights."""
        return targets

    @abstractmethod
    def denominators(self, targets: Targets) -> dict[str, float]:
        """Per term of the loss, what its sum over the batch is divided by: as a rule the sum of the weights.

        Args:
            targets: of all units of the batch (numpy), weighed. What a forward would give is not known yet.
        """

    @abstractmethod
    def loss(self, outputs: Out, targets: Targets) -> dict[str, Tensor]:
        """Per term, one value a unit times its weight (U,), or their sum (); never a mean.

        Args:
            outputs: of any U units of a batch.
            targets: theirs, as tensors on the same device.
        """

    # ------------------------------------------------------------ evaluation and prediction

    @property
    def usual_metrics(self) -> tuple[Metric, ...]:
        """What evaluations report beside the loss where nobody asks for anything else."""
        return ()

    def metric(self, name: str, *, where: str = "recipe") -> Metric:
        """The metric of this name.

        Raises:
            RecipeError: there is none.
        """
        known = {each.name: each for each in self.usual_metrics}
        if name not in known:
            what = f"unknown metric {name!r} of this task (known: {', '.join(known) or 'none'}, file.py:name)"
            raise RecipeError([Problem(where=where, key="metrics", what=what)])
        return known[name]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What evaluations report."""
        chosen = self.facts.metrics
        if not chosen:
            return self.usual_metrics
        return tuple(self.metric(each) if isinstance(each, str) else each for each in chosen)

    def keep(self, outputs: Out, targets: Targets) -> Tensor:
        """(U, k): all that loss, `decode` and metrics need of each unit; evaluation keeps nothing else. By default the
        outputs, which must then be a tensor.
        """
        del targets
        assert isinstance(outputs, Tensor), "outputs that are no tensor need a `keep`"
        return outputs

    def kept_loss(self, kept: np.ndarray, targets: Targets) -> dict[str, np.ndarray]:
        """As `loss`, of what `keep` gave (numpy): float64."""
        with torch.no_grad():
            outputs: Any = torch.from_numpy(kept).double()
            losses = self.loss(outputs, targets.map(lambda values: torch.from_numpy(np.array(values))))
        return {name: losses_U.double().numpy() for name, losses_U in losses.items()}

    @abstractmethod
    def decode(self, kept: np.ndarray) -> Predictions:
        """What `keep` gave of units (U, k), as predictions for metrics and people."""

    def perfect(self, targets: Targets) -> np.ndarray | None:
        """(U, k) from which `decode` reads the targets themselves: what a perfect model would give. None: nobody knows.

        With it a figure that no model can have on a split is refused before the first update.

        Args:
            targets: of U units (numpy); those of weight 0 get anything.
        """
        del targets
        return None

    def predict(
        self, rows: Sequence[Row], samples: Sequence[Sample], run: RunTable, tokenizer: Tokenizer | None
    ) -> Iterator[dict[str, Json]]:
        """A prediction for each row, as plain data (JSON).

        Args:
            rows: to predict.
            samples: what `encode_batch` made of them.
            run: a table of samples through the model.
            tokenizer: None where the rows are token ids.

        Yields:
            By default what `tasks.described` says of the row's unit; of heads that give an output for every token, a
            list of that under `units`.
        """
        del rows, tokenizer
        table = as_table(samples, self.sequences, self.prepare)
        units = described(self.decode(run(table, self.keep)), self.label_names)
        for sample in samples:
            own = list(islice(units, len(sample.reads)))
            yield own[0] if len(own) == 1 and HEADS[self.head.kind].whole else {"units": own}

    def nothing(self) -> dict[str, Json]:
        """The prediction of a row that has no tokens."""
        if not HEADS[self.head.kind].whole:
            return {"units": []}
        return prediction_of_nothing(self.kind, self.label_names)
