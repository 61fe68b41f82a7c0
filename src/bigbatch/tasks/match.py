"""Matching: embed queries and documents so that those that belong together are near (a bi-encoder, one tower).

The loss of a query looks at every document of the batch, so the batch is computed as a whole (`step.coupled`) however
it is cut.

Shapes: K texts, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from bigbatch.data.tokens import as_table
from bigbatch.errors import DataError, Problem, RecipeError
from bigbatch.protocols import Metric, Role
from bigbatch.records import Predictions, Sample, Targets, TokenTable
from bigbatch.tasks.classes import SET_BY_THE_RUN
from bigbatch.tasks.contrast import QUERY, contrastive_losses
from bigbatch.tasks.heads import build_model
from bigbatch.tasks.inputs import NoTokens, encode_texts
from bigbatch.tasks.matching import USUAL, check_rank_metric, rank_metrics
from bigbatch.tasks.sentence_transformers import folder_files
from bigbatch.tasks.texts import OWNER, ROLE, joined, present, text_table

if TYPE_CHECKING:
    from torch import nn

TERM = "contrastive"
ROLES = ("query", "document", "negative")
"""In the order of their numbers in `tasks.contrast`."""
EVALUATED_PAIRS = 1024
"""Pairs that the loss of an evaluation looks at together, whatever the batch, so that losses can be compared."""
Run = Callable[[TokenTable, Any], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Match:
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

    max_length: int | None = field(default=None, metadata=SET_BY_THE_RUN)
    """Tokens kept of a text."""
    chosen_metrics: tuple[str | Metric, ...] = field(default=(), metadata=SET_BY_THE_RUN)
    """Metrics that the recipe asks for; empty: `USUAL`."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            what = f"found {self.temperature:g}; expected a number above 0"
            raise RecipeError([Problem(where="recipe", key="task.temperature", what=what)])

    # ------------------------------------------------------------ columns and outputs

    @property
    def roles(self) -> Mapping[str, Role]:
        """The columns that are read."""
        return {
            "query": Role(meaning="what is looked for", absent_when_predicting=True),
            "document": Role(meaning="what answers the query", absent_when_predicting=True),
            "negative": Role(meaning="a text that does not answer it", required=False),
        }

    @property
    def couples(self) -> Literal["sample", "batch"]:
        """Every query is held against every document of the batch."""
        return "batch"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What evaluations report."""
        return rank_metrics(self.chosen_metrics or USUAL)

    def check_metric(self, name: str, *, where: str = "recipe") -> None:
        """Refuse a name that no metric of this task has.

        Raises:
            RecipeError: with the names there are.
        """
        check_rank_metric(name, where=where)

    def check_loss(self, loss: Any, *, where: str = "recipe") -> None:
        """Refuse what `loss:` of a recipe asks for: the loss is this task's own.

        Raises:
            RecipeError: naming the key.
        """
        if loss.name != "cross_entropy" or loss.label_smoothing or loss.args or loss.class_weights != "none":
            what = "task match has a loss of its own (task.temperature, task.symmetric); leave `loss` out"
            raise RecipeError([Problem(where=where, key="loss", what=what)])

    @property
    def head(self) -> dict[str, Any]:
        """No head: the states of tokens."""
        return {"kind": "states"}

    def build(self, spec: Any, facts: Mapping[str, Any]) -> nn.Module:
        """The model of `recipe.model` without a head."""
        return build_model(spec, self.head, facts)

    def folder_files(self, module: nn.Module) -> dict[str, str]:
        """Further files of the model folder, with which sentence-transformers opens it."""
        assert self.pooling is not None, "the run tells the task its pooling"
        config: Any = module.config
        return folder_files(
            width=int(config.hidden_size),
            pooling=self.pooling,
            similarity=self.similarity,
            max_length=self.max_length,
            prefixes={"query": self.query_prefix, "document": self.document_prefix},
        )

    # ------------------------------------------------------------ rows to samples

    def encode(self, row: Mapping[str, Any], tokenizer: Any) -> Sample:
        """One row as a sample: its texts one behind the other."""
        return self.encode_batch([row], tokenizer)[0]

    def encode_batch(self, rows: Sequence[Mapping[str, Any]], tokenizer: Any) -> list[Sample]:
        """Many rows with one call of the tokenizer."""
        if tokenizer is None:
            raise DataError("task match reads texts: rows of token ids cannot say where a text ends")
        found: list[list[tuple[int, str]]] = [
            [(role, str(row[name])) for role, name in enumerate(ROLES) if present(row, name)] for row in rows
        ]
        if not all(found):
            raise NoTokens(f"a row has neither of {', '.join(ROLES[:2])}")
        prefixes = (self.query_prefix, self.document_prefix, self.document_prefix)
        texts = [prefixes[role] + text for row in found for role, text in row]
        inputs = iter(encode_texts(texts, None, tokenizer, self.max_length))
        return [joined([(role, next(inputs)) for role, _ in row]) for row in found]

    def encode_unlabelled(self, rows: Sequence[Mapping[str, Any]], tokenizer: Any) -> list[Sample]:
        """Rows to embed: whichever texts they have."""
        return self.encode_batch(rows, tokenizer)

    def view(self, table: TokenTable, rows_B: np.ndarray, epochs_B: np.ndarray) -> TokenTable:
        """The rows text by text; the same in every epoch."""
        del epochs_B
        return text_table(table, rows_B)

    def fixed(self, table: TokenTable) -> TokenTable:
        """A whole split text by text."""
        return text_table(table, np.arange(len(table), dtype=np.int64))

    # ------------------------------------------------------------ denominators, loss

    def denominators(self, targets: Targets) -> dict[str, float]:
        """Number of queries of text-by-text targets (numpy)."""
        return {TERM: float(np.count_nonzero(np.asarray(targets.values)[:, ROLE] == QUERY))}

    def loss(self, outputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        """One value per query (Q,), nats.

        Args:
            outputs: (K, D) embeddings of all texts of the batch.
            targets: theirs, as tensors on the same device.
        """
        return {
            TERM: contrastive_losses(
                outputs,
                targets.values,
                temperature=self.temperature,
                cosine=self.similarity == "cosine",
                symmetric=self.symmetric,
            )
        }

    def reduced_loss(self, outputs: np.ndarray, targets: Targets) -> dict[str, np.ndarray]:
        """Of a whole split, one value per query, fp64; the pairs are compared `EVALUATED_PAIRS` at a time."""
        values_K4, embeddings_KD = (
            torch.from_numpy(np.array(targets.values)),
            torch.from_numpy(outputs).double(),
        )
        groups_K = values_K4[:, OWNER] // EVALUATED_PAIRS
        ends = torch.unique_consecutive(groups_K, return_counts=True)[1].cumsum(0).tolist()
        losses = []
        with torch.no_grad():
            for first, end in zip([0, *ends], ends, strict=False):
                part = Targets(values=values_K4[first:end].clone(), weights=targets.weights[first:end])
                part.values[:, OWNER] %= EVALUATED_PAIRS
                losses.append(self.loss(embeddings_KD[first:end], part)[TERM].numpy())
        return {TERM: np.concatenate(losses) if losses else np.empty(0)}

    # ------------------------------------------------------------ outputs to embeddings

    def decode(self, outputs: Any) -> Predictions:
        """Embeddings (K, D) float64; of length 1 for cosine."""
        found_KD = np.asarray(outputs.cpu() if isinstance(outputs, Tensor) else outputs, np.float64)
        if self.similarity == "cosine":
            found_KD = found_KD / np.maximum(np.linalg.norm(found_KD, axis=-1, keepdims=True), 1e-12)
        return Predictions(
            kind="embedding", scores=found_KD, probabilities=None, values=np.zeros(len(found_KD), bool)
        )

    def nothing(self) -> dict[str, Any]:
        """The prediction of a row without text."""
        return {"embedding": None}

    def predict(self, samples: Sequence[Sample], run: Run, tokenizer: Any) -> Iterator[dict[str, Any]]:
        """The embedding of each row's text; of rows with a query and a document both, and their score.

        Yields:
            `{"embedding": [...]}`, or `{"query": [...], "document": [...], "score": s}`.
        """
        del tokenizer
        table = self.fixed(as_table(samples))
        found_KD = self.decode(run(table, None)).scores
        roles_K, owners_K = table.values[:, ROLE], table.values[:, OWNER]
        for row in range(len(samples)):
            own = {ROLES[int(roles_K[place])]: found_KD[place] for place in np.flatnonzero(owners_K == row)}
            shown = {name: own[name].tolist() for name in ROLES[:2] if name in own}
            if len(shown) == 2:
                yield {**shown, "score": float(own["query"] @ own["document"])}
            else:
                yield {"embedding": next(iter(own.values())).tolist()}
