"""Matching: embed queries and documents so that those that belong together are near (a bi-encoder, one tower).

The loss of a query looks at every document of the batch, so the batch is computed as a whole (`step.coupled`) however
it is cut.

Shapes: K texts, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from bigbatch.data.texts import NEGATIVE, OWNER, QUERY, ROLE, text_table
from bigbatch.data.tokens import as_table
from bigbatch.errors import DataError, Problem, RecipeError
from bigbatch.metrics.match import USUAL, check_rank_metric, dimension_of, rank_metrics
from bigbatch.model.heads import Head
from bigbatch.model.sentence_files import folder_files
from bigbatch.protocols import Json, Metric, Role, Row, Tokenizer
from bigbatch.samples import Predictions, Sample, Table, Targets
from bigbatch.tasks.base import NOT_AN_OPTION, RunTable, Task
from bigbatch.tasks.contrast import Judge, contrastive_losses
from bigbatch.tasks.derived import Derived, Guide
from bigbatch.tasks.facts import BuildFacts
from bigbatch.tasks.inputs import NoTokens, encode_texts, joined
from bigbatch.tasks.losses import Kind, refuse_settings
from bigbatch.tasks.teacher import TEACHER, listwise_kl, margin_mse, scored

if TYPE_CHECKING:
    from torch import nn

    from bigbatch.model.pooling import Pooling
    from bigbatch.recipe.learning import LossSpec, ModelSpec

TERM = "contrastive"
GUIDE = "guide"
"""The derived column: the guide's embedding of each text."""
MARGINS, LISTWISE = BY_TEACHER = ("margin_mse", "listwise_kl")
"""Losses by a teacher's scores."""
ROLES = ("query", "document", "negative")
"""In the order of their numbers in `data.texts`."""
EVALUATED_PAIRS = 1024
"""Pairs that the loss of an evaluation looks at together, whatever the batch, so that losses can be compared."""


@dataclass(frozen=True, kw_only=True)
class Match(Task[Tensor]):
    """Embeddings of texts that belong together: pairs, or triplets with a hard negative."""

    temperature: float = 0.05
    """Scores are divided by it."""
    similarity: Literal["cosine", "dot"] = "cosine"
    """`cosine`: embeddings of length 1; `dot`: as they are."""
    symmetric: bool = False
    """Whether documents look for their queries too."""
    pooling: Literal["mean", "first", "last"] | None = None
    """Which tokens' states make the embedding; None: as the model's folder says, else by its attention."""
    towers: int = 1
    """1: queries and documents share the model."""
    query_prefix: str = ""
    """Put in front of every query, such as `query: `."""
    document_prefix: str = ""
    """Put in front of every document and negative."""
    dimensions: Sequence[int] | None = None
    """Numbers of an embedding that should be enough by themselves, each with a loss of its own (Kusupati et al. 2022);
    None: all of them, together."""
    dimension_weights: Sequence[float] | None = None
    """Of the losses of `dimensions`; None: 1 each."""
    false_negatives: Mapping[str, float | bool | str | None] | None = None
    """Which candidates of the batch are likely to be right, and so no negatives: `{margin, relative, guide}`; None:
    those that the data say."""
    loss_name: str = field(default=TERM, metadata=NOT_AN_OPTION)
    """`loss.name`: contrastive, or by a teacher's scores."""
    teacher_temperature: float = field(default=1.0, metadata=NOT_AN_OPTION)
    """`loss.args.teacher_temperature`."""
    dimension: int | None = field(default=None, metadata=NOT_AN_OPTION)
    """What predictions are cut to; None: they are whole."""

    couples = "batch"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            what = f"found {self.temperature:g}; expected a number above 0"
            raise RecipeError([Problem(where="recipe", key="task.temperature", what=what)])
        if self.dimension_weights is not None and len(self.dimension_weights) != len(self.dimensions or ()):
            what = f"found {len(self.dimension_weights)}; expected a weight for each of task.dimensions"
            raise RecipeError([Problem(where="recipe", key="task.dimension_weights", what=what)])

    @override
    def with_loss(self, loss: LossSpec, folder: Path, *, where: str = "recipe") -> Self:
        """The same task with `loss:` of the recipe: contrastive, or by a teacher's scores.

        Raises:
            RecipeError: another loss, or an option that it has not.
        """
        del folder
        name = TERM if loss.name == "cross_entropy" else loss.name
        temperature = loss.args.get("teacher_temperature", 1.0)
        by_teacher = f"the contrastive loss's; {name} has none: leave it out"
        refused = {
            "name": (
                name not in (TERM, *BY_TEACHER),
                f"found {name}; of task match it is left out (contrastive), or one of {', '.join(BY_TEACHER)}",
            ),
            "label_smoothing": (loss.label_smoothing > 0, "embeddings have no classes; leave it out"),
            "class_weights": (loss.class_weights != "none", "embeddings have no classes; leave it out"),
            "args": (
                bool(loss.args.keys() - ({"teacher_temperature"} if name == LISTWISE else set())),
                "expected none, or teacher_temperature of listwise_kl",
            ),
            "args.teacher_temperature": (
                isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or not temperature > 0,
                f"found {temperature!r}; expected a number above 0",
            ),
        }  # fmt: skip
        refuse_settings({key: what for key, (is_so, what) in refused.items() if is_so}, where)
        if name in BY_TEACHER:
            own = {"symmetric": self.symmetric, "false_negatives": self.false_negatives is not None}
            problems = [Problem(where=where, key=f"task.{key}", what=by_teacher) for key in own if own[key]]
            if problems:
                raise RecipeError(problems)
        warm = float(temperature) if isinstance(temperature, (int, float)) else 1.0
        return replace(self, loss_name=name, teacher_temperature=warm)

    # ------------------------------------------------------------ columns and outputs

    @property
    def roles(self) -> Mapping[str, Role]:
        """The columns that are read."""
        return {
            "query": Role(meaning="what is looked for", absent_when_predicting=True),
            "document": Role(meaning="what answers the query", absent_when_predicting=True, unlike="query"),
            "negative": Role(meaning="a text that does not answer it", required=False, unlike="document"),
            "negatives": Role(meaning="several such texts", kind="words", required=False, unlike="document"),
            **(self._scores if self.loss_name in BY_TEACHER else {}),
        }

    @property
    def _scores(self) -> Mapping[str, Role]:
        return {
            "score": Role(meaning="a teacher's score of the document", kind="number"),
            "negative_score": Role(meaning="its score of the negative", kind="number", required=False),
            "negative_scores": Role(meaning="its scores of the negatives", kind="numbers", required=False),
        }

    @property
    def kind(self) -> Kind:
        """None is predicted; a teacher's scores are numbers."""
        return "single"

    @property
    def needs(self) -> tuple[Derived, ...]:
        """What the guide says of every text, if there is one."""
        folder = (self.false_negatives or {}).get("guide")
        return (Derived(GUIDE, guide=Guide(str(folder), _named_texts)),) if folder else ()

    @property
    def usual_metrics(self) -> tuple[Metric, ...]:
        """Those of `USUAL`, and recall@10 of each of `dimensions`."""
        return rank_metrics(self._usual, cosine=self.similarity == "cosine")

    @property
    def _usual(self) -> tuple[str, ...]:
        return (*USUAL, *(f"{USUAL[1]}@{dimension}" for dimension in self.dimensions or ()))

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What evaluations report; they share their ranks."""
        return rank_metrics(self.facts.metrics or self._usual, cosine=self.similarity == "cosine")

    def metric(self, name: str, *, where: str = "recipe") -> Metric:
        """A figure of ranks.

        Raises:
            RecipeError: with the names there are.
        """
        check_rank_metric(name, where=where)
        return rank_metrics((name,), cosine=self.similarity == "cosine")[0]

    @property
    def head(self) -> Head:
        """No head: the hidden states of tokens."""
        return Head(kind="hidden")

    @override
    def build(self, spec: ModelSpec, facts: BuildFacts) -> nn.Module:
        """The model, if its embeddings have as many numbers as are asked for."""
        module = super().build(spec, facts)
        cuts = [dimension_of(each) or 0 for each in self.facts.metrics if isinstance(each, str)]
        asked = {"task.dimensions": max(self.dimensions or (0,)), "metrics": max(cuts, default=0)}
        width = width_of(module)
        what = f"the model's embeddings have {width} numbers"
        problems = [
            Problem(where="recipe", key=key, what=f"found {most}; {what}")
            for key, most in asked.items()
            if most > width
        ]
        if problems:
            raise RecipeError(problems)
        return module

    @property
    def pooled_by(self) -> Pooling | None:
        """What the user says, else the model."""
        return self.pooling or self.facts.pooling

    def files(self, module: nn.Module) -> dict[str, str]:
        """Further files of the model folder, with which sentence-transformers opens it."""
        assert self.pooled_by is not None, "the run tells the task its pooling"
        return folder_files(
            width=width_of(module),
            pooling=self.pooled_by,
            similarity=self.similarity,
            max_length=self.facts.max_length,
            prefixes={"query": self.query_prefix, "document": self.document_prefix},
        )

    # ------------------------------------------------------------ rows to samples

    @override
    def encode_batch(
        self, rows: Sequence[Row], tokenizer: Tokenizer | None, *, labelled: bool = True
    ) -> list[Sample]:
        """Many rows with one call of the tokenizer; of rows to predict, whichever texts they have."""
        if tokenizer is None:
            raise DataError("task match reads texts: rows of token ids cannot say where a text ends")
        found = [_texts_of(row) for row in rows]
        if not all(found):
            raise NoTokens(f"a row has neither of {', '.join(ROLES[:2])}")
        prefixes = (self.query_prefix, self.document_prefix, self.document_prefix)
        texts = [prefixes[role] + text for own in found for role, text in own]
        inputs = iter(encode_texts(texts, None, tokenizer, self.facts.max_length))
        samples = [joined([(role, next(inputs)) for role, _ in own]) for own in found]
        if self.loss_name == TERM or not labelled:
            return samples
        return [
            replace(sample, extras={TEACHER: _scores_of(row, own)})
            for row, own, sample in zip(rows, found, samples, strict=True)
        ]

    @override
    def view(self, table: Table, rows_B: np.ndarray, epochs_B: np.ndarray) -> Table:
        """The rows text by text; the same in every epoch."""
        del epochs_B
        return text_table(table, rows_B)

    def fixed(self, table: Table) -> Table:
        """A whole split text by text."""
        return text_table(table, np.arange(len(table), dtype=np.int64))

    # ------------------------------------------------------------ denominators, loss

    def denominators(self, targets: Targets) -> dict[str, float]:
        """Of each term: number of queries of text-by-text targets (numpy); of margins, of negatives."""
        counted = NEGATIVE if self.loss_name == MARGINS else QUERY
        found = float(np.count_nonzero(np.asarray(targets.values)[:, ROLE] == counted))
        return dict.fromkeys(self._terms, found)

    @property
    def _terms(self) -> dict[str, tuple[int | None, float]]:
        """Term of the loss -> how many numbers of an embedding it looks at, and its weight."""
        if self.dimensions is None:
            return {self.loss_name: (None, 1.0)}
        weights = self.dimension_weights or [1.0] * len(self.dimensions)
        return {
            f"{self.loss_name}@{dimension}": (dimension, float(weight))
            for dimension, weight in zip(self.dimensions, weights, strict=True)
        }

    def loss(self, outputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Per term, one value per query (Q,), nats; of margins one per negative (P,).

        Args:
            outputs: (K, D) embeddings of all texts of the batch.
            targets: theirs, as tensors on the same device.
        """
        judge = self._judge(outputs, targets)
        return {
            term: weight * self._loss(outputs[:, :dimension], targets, judge)
            for term, (dimension, weight) in self._terms.items()
        }

    def _loss(self, outputs: Tensor, targets: Targets, judge: Judge | None) -> Tensor:
        """Of embeddings that were cut."""
        cosine = self.similarity == "cosine"
        if self.loss_name == TERM:
            return contrastive_losses(
                outputs,
                targets.values,
                temperature=self.temperature,
                cosine=cosine,
                symmetric=self.symmetric,
                judge=judge,
            )
        vectors = functional.normalize(outputs, dim=-1) if cosine else outputs
        found = scored(vectors, targets.values, targets.extras[TEACHER])
        if self.loss_name == MARGINS:
            return margin_mse(found)
        return listwise_kl(found, temperature=self.temperature, teacher_temperature=self.teacher_temperature)

    def _judge(self, outputs: Tensor, targets: Targets) -> Judge | None:
        """Who leaves out candidates of this batch: the guide, or the model itself."""
        if self.false_negatives is None:
            return None
        vectors_KE = targets.extras[GUIDE].to(outputs.dtype) if self.needs else outputs.detach()
        return Judge(
            vectors_KE=functional.normalize(vectors_KE, dim=-1),
            margin=float(self.false_negatives.get("margin") or 0.0),
            relative=bool(self.false_negatives.get("relative", False)),
        )

    def kept_loss(self, kept: np.ndarray, targets: Targets) -> dict[str, np.ndarray]:
        """Of a whole split, one value per query, fp64; the pairs are compared `EVALUATED_PAIRS` at a time."""
        tensors = targets.map(lambda values: torch.from_numpy(np.array(values)))
        values_K4, embeddings_KD = tensors.values, torch.from_numpy(kept).double()
        groups_K = values_K4[:, OWNER] // EVALUATED_PAIRS
        ends = torch.unique_consecutive(groups_K, return_counts=True)[1].cumsum(0).tolist()
        losses: dict[str, list[np.ndarray]] = {term: [] for term in self._terms}
        with torch.no_grad():
            for first, end in zip([0, *ends], ends, strict=False):
                part = tensors.map(lambda values, first=first, end=end: values[first:end].clone())
                part.values[:, OWNER] %= EVALUATED_PAIRS
                for term, losses_Q in self.loss(embeddings_KD[first:end], part).items():
                    losses[term].append(losses_Q.numpy())
        return {term: np.concatenate(found) if found else np.empty(0) for term, found in losses.items()}

    # ------------------------------------------------------------ outputs to embeddings

    def decode(self, kept: Tensor | np.ndarray) -> Predictions:
        """Embeddings (K, D) float64, cut to `dimension`; of length 1 for cosine."""
        found_KD = np.asarray(kept.cpu() if isinstance(kept, Tensor) else kept, np.float64)[
            :, : self.dimension
        ]
        if self.similarity == "cosine":
            found_KD = found_KD / np.maximum(np.linalg.norm(found_KD, axis=-1, keepdims=True), 1e-12)
        return Predictions(
            kind="embedding", scores=found_KD, probabilities=None, values=np.zeros(len(found_KD), bool)
        )

    def nothing(self) -> dict[str, Json]:
        """The prediction of a row without text."""
        return {"embedding": None}

    @override
    def predict(
        self, rows: Sequence[Row], samples: Sequence[Sample], run: RunTable, tokenizer: Tokenizer | None
    ) -> Iterator[dict[str, Json]]:
        """The embedding of each row's text; of rows with a query and a document both, and their score.

        Yields:
            `{"embedding": [...]}`, or `{"query": [...], "document": [...], "score": s}`.
        """
        del rows, tokenizer
        table = self.fixed(as_table(samples))
        found_KD = self.decode(run(table, self.keep)).scores
        roles_K, owners_K = table.values[:, ROLE], table.values[:, OWNER]
        for row in range(len(samples)):
            own = {ROLES[int(roles_K[place])]: found_KD[place] for place in np.flatnonzero(owners_K == row)}
            shown = {name: own[name].tolist() for name in ROLES[:2] if name in own}
            if len(shown) == 2:
                yield {**shown, "score": float(own["query"] @ own["document"])}
            else:
                yield {"embedding": next(iter(own.values())).tolist()}


def width_of(module: nn.Module) -> int:
    """Numbers of an embedding."""
    config: Any = module.config
    return int(config.hidden_size)


def _texts_of(row: Row) -> list[tuple[int, str]]:
    """The texts of a row: (index of the role, text)."""
    more = [text for text in row.get("negatives") or () if isinstance(text, str) and text.strip()]
    own = [(role, str(row[name])) for role, name in enumerate(ROLES) if _present(row, name)]
    return own + [(NEGATIVE, text) for text in more]


def _named_texts(row: Row) -> list[tuple[str, str]]:
    """The same for another model, which is told the role's name: a negative is a document to it."""
    return [("query" if role == QUERY else "document", text) for role, text in _texts_of(row)]


def _scores_of(row: Row, texts: Sequence[tuple[int, str]]) -> np.ndarray:
    """(texts,) float32: the teacher's score of each; 0 of the query."""
    one = [row.get("negative_score")] if _present(row, "negative") else []
    many = row.get("negative_scores") or [] if row.get("negatives") else []
    scores = [row.get("score"), *one, *many]
    known = [float(score) for score in scores if score is not None]
    candidates = sum(role != QUERY for role, _ in texts)
    if len(known) != candidates:
        what = f"a teacher's scores: found {len(known)}; expected {candidates}, of the document and of each negative"
        raise DataError(f"{what} (score, negative_score, negative_scores)")
    left = iter(known)
    return np.array([0.0 if role == QUERY else next(left) for role, _ in texts], np.float32)


def _present(row: Row, name: str) -> bool:
    """Whether a row has a text of this role."""
    text = row.get(name)
    return isinstance(text, str) and bool(text.strip())
