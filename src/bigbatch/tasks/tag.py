"""Tagging: one of C classes for every word of a sentence, such as names of persons and places.

Every word is a unit, read at its first piece. A word that the model does not see, since it was cut off or has no
tokens, is a unit of weight 0: it is not learnt from, and counts as predicted `O`.

Shapes: U units, C tags.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from typing_extensions import override

from bigbatch.data.tags import OUTSIDE, SCHEMES, has_scheme, unmarked_warning
from bigbatch.data.tokens import as_table
from bigbatch.data.values import words_of
from bigbatch.errors import DataError, Problem, RecipeError
from bigbatch.metrics.entities import PIECE, SEEN, STARTS, entities, scheme_of
from bigbatch.metrics.tag import TYPE_PREFIXES, default_tag_metrics, tag_metric
from bigbatch.model.heads import Head
from bigbatch.protocols import Json, Metric, Role, Row, Tokenizer
from bigbatch.samples import Predictions, Sample
from bigbatch.tasks.base import RunTable
from bigbatch.tasks.described import finite
from bigbatch.tasks.inputs import (
    Inputs,
    NoTokens,
    WordInputs,
    encode_words,
    is_tokenised,
    tokenised_inputs,
)
from bigbatch.tasks.labelled import Labelled
from bigbatch.tasks.losses import IGNORED

_SCHEMES = ("auto", *SCHEMES, "none")
_PIECES = ("first", "all")


@dataclass(frozen=True, kw_only=True)
class Tag(Labelled):
    """Predict a tag for every word of a sentence."""

    scheme: Literal["auto", "iob1", "iob2", "bioes", "bilou", "io", "none"] = "auto"
    """`iob2` (`B-PER`, `I-PER`, `O`), `iob1`, `bioes`, `bilou`: tags mark entities and entities are what is scored;
    `io`: so do tags without prefix, each run of words of one type; `none`: tags stand for themselves, such as parts of
    speech; `auto`: as the names of the tags look."""
    pieces: Literal["first", "all"] = "first"
    """Which pieces of a word carry its tag in training: the first, or all (the further ones `I-` where it is `B-`).
    Words are scored by their first piece either way."""

    target = "tags"

    def __post_init__(self) -> None:
        for key, value, known in (("scheme", self.scheme, _SCHEMES), ("pieces", self.pieces, _PIECES)):
            if value not in known:
                what = f"found {value!r}; expected {', '.join(known[:-1])} or {known[-1]}"
                raise RecipeError([Problem(where="recipe", key=f"task.{key}", what=what)])
        prefixed = self.scheme not in ("auto", "io", "none")
        if prefixed and self.label_names and not has_scheme(self.label_names):
            odd = [name for name in self.label_names if name != OUTSIDE and not has_scheme([name])]
            found = f"{self.scheme}, but the tags are {', '.join(odd[:5]) or OUTSIDE}"
            what = f"{found}; expected O, B-… and I-…, or scheme: io or none"
            raise RecipeError([Problem(where="recipe", key="task.scheme", what=what)])

    # ------------------------------------------------------------ columns and outputs

    @property
    def roles(self) -> Mapping[str, Role]:
        """The columns that are read: `words` and `tags`."""
        return {
            "words": Role(meaning="the words of a sentence", kind="words"),
            "tags": Role(meaning="their tags, one a word", kind="tags"),
        }

    @property
    def marked(self) -> bool:
        """Whether the tags mark entities."""
        return self.scheme in SCHEMES or (self.scheme == "auto" and has_scheme(self.label_names))

    @property
    def data_warnings(self) -> tuple[str, ...]:
        """What the tags' names make questionable."""
        found = unmarked_warning(self.label_names) if self.scheme == "auto" else None
        return () if found is None else (found,)

    @property
    def usual_metrics(self) -> tuple[Metric, ...]:
        """What tagging is usually scored by."""
        return default_tag_metrics(self.label_names, self.marked)

    def metric(self, name: str, *, where: str = "recipe") -> Metric:
        """A figure of `metrics.tag`."""
        return tag_metric(name, self.label_names, self.marked, where=where)

    def check_metric(self, name: str, *, where: str = "recipe") -> None:
        """Refuse a name that no metric of this task has, as far as its tags are known.

        Raises:
            RecipeError: with the nearest name.
        """
        if self.label_names:
            self.metric(name, where=where)
        elif (
            name != "accuracy"
            and name not in ("f1", "precision", "recall")
            and not name.startswith(TYPE_PREFIXES)
        ):
            tag_metric(name, ("B-TYPE", OUTSIDE), True, where=where)

    @property
    def head(self) -> Head:
        """One output per token for each of the tags."""
        names = self.label_names
        return Head(kind="tokens", outputs=max(1, len(names)), id2label=dict(enumerate(names)))

    # ------------------------------------------------------------ rows to samples

    def samples(self, rows: Sequence[Row], tokenizer: Tokenizer | None) -> list[Sample]:
        """Rows as samples, with one call of the tokenizer. Of rows of token ids to predict every token is a word."""
        sentences = [words_of(row["words"]) or [] for row in rows if not is_tokenised(row)]
        encoded = iter(encode_words(sentences, tokenizer, self.facts.max_length))
        return [
            self._given(row) if is_tokenised(row) else self._sample(row.get("tags"), next(encoded))
            for row in rows
        ]

    def _sample(self, tags: Sequence[str] | None, found: WordInputs) -> Sample:
        """A unit a word at its first piece, and with `pieces: all` a unit for each further piece; none for a word
        whose tag is -100, as in rows of token ids.
        """
        ids = [IGNORED] * len(found.pieces) if tags is None else [self._id_of(tag) for tag in tags]
        if not found.pieces and tags is None:
            raise NoTokens("a sentence without words")
        if not ids or len(ids) != len(found.pieces):
            raise DataError(f"found {len(found.pieces)} words, but {len(ids)} tags")
        units = [
            (place, value if further == 0 else self._continued(value), bool(pieces), further > 0)
            for pieces, value in zip(found.pieces, ids, strict=True)
            if tags is None or value != IGNORED
            for further, place in enumerate((pieces or (0,))[: None if self.pieces == "all" else 1])
        ]
        reads_U, values_U, seen_U, further_U = np.array(units, np.int64).reshape(-1, 4).T
        starts_U = np.arange(len(units)) == 0
        return self._units(found.inputs, reads_U, values_U, seen_U > 0, further_U > 0, starts_U)

    def _given(self, row: Row) -> Sample:
        """An already tokenised row: a unit for each token whose label is not -100; all tokens without labels."""
        inputs, labels = tokenised_inputs(row), row.get("labels")
        if labels is None:
            kept, values = np.arange(len(inputs.ids)), np.full(len(inputs.ids), IGNORED)
        else:
            named = any(isinstance(tag, str) for tag in labels)
            given = np.asarray([self._id_of(tag) for tag in labels] if named else labels, np.int64)
            if given.shape != (len(row["input_ids"]),):
                raise DataError(
                    f"found {given.size} labels for {len(row['input_ids'])} input_ids; expected one each"
                )
            mask = row.get("attention_mask")
            given = given if mask is None else given[np.asarray(mask, bool)]
            kept = np.flatnonzero(given != IGNORED)
            values = given[kept]
            wrong = values[(values < 0) | (values >= len(self.label_names))]
            if len(wrong):
                most = len(self.label_names) - 1
                raise DataError(f"labels holds class {wrong[0]}; expected 0 to {most}, or {IGNORED} for none")
        starts = np.arange(len(kept)) == 0
        return self._units(inputs, kept, values, np.ones(len(kept), bool), np.zeros(len(kept), bool), starts)

    def _units(
        self,
        inputs: Inputs,
        reads_U: np.ndarray,
        values_U: np.ndarray,
        seen_U: np.ndarray,
        further_U: np.ndarray,
        starts_U: np.ndarray,
    ) -> Sample:
        extras = {STARTS: starts_U.astype(np.float32), SEEN: seen_U.astype(np.float32)}
        if self.pieces == "all":
            extras[PIECE] = further_U.astype(np.float32)
        return Sample(
            ids=inputs.ids,
            segments=inputs.segments,
            reads=reads_U.astype(np.int32),
            values=values_U.astype(np.int64),
            weights=(seen_U & (values_U != IGNORED)).astype(np.float32),
            extras=extras,
            truncated=inputs.truncated,
        )

    def _id_of(self, tag: str) -> int:
        assert self.facts.labels is not None
        return self.facts.labels.id_of(tag)

    def _continued(self, value: int) -> int:
        """The tag of a word's further pieces: inside what the word begins, where there is such a tag."""
        name = self.label_names[value] if value != IGNORED else ""
        inside = f"I-{name[2:]}"
        return (
            self._id_of(inside) if self.marked and name[:2] == "B-" and inside in self.label_names else value
        )

    # ------------------------------------------------------------ predictions

    @override
    def predict(
        self, rows: Sequence[Row], samples: Sequence[Sample], run: RunTable, tokenizer: Tokenizer | None
    ) -> Iterator[dict[str, Json]]:
        """One prediction a sentence, as `describe` has it."""
        del tokenizer
        outputs_UC = run(as_table(samples), self.keep)
        ends = np.cumsum([len(sample.reads) for sample in samples])
        for row, sample, end in zip(rows, samples, ends, strict=True):
            yield self.describe(row, sample, self.decode(outputs_UC[end - len(sample.reads) : end]))

    def nothing(self) -> dict[str, Json]:
        """The prediction of a sentence without words."""
        return {"tags": [], "entities" if self.marked else "probabilities": []}

    def describe(self, row: Row, sample: Sample, found: Predictions) -> dict[str, Json]:
        """One row's prediction as plain data.

        Args:
            row: its words, unless it came as token ids.
            sample: what was made of it; its extras say which units begin a word and which words the model sees.
            found: predictions of the sample's units.

        Returns:
            `tags`, one a word, and `entities`: `type`, `start` and `end` (words from 0, end not included), `text` and
            `probability` (the product of its words'). Without entities, `tags` and their `probabilities`. A word that
            the model does not see is `O`, where there is such a tag, and its probability None.
        """
        assert found.probabilities is not None, "tags have probabilities"
        kept_U = sample.extras[PIECE] == 0 if PIECE in sample.extras else np.ones(len(found.values), bool)
        seen_W = sample.extras[SEEN][kept_U] > 0
        names = self.label_names
        outside = names.index(OUTSIDE) if OUTSIDE in names else len(names)
        tags_W = np.where(seen_W, found.values[kept_U], outside)
        shares_W = found.probabilities.max(-1)[kept_U]
        tags = [(*names, OUTSIDE if self.marked else None)[tag] for tag in tags_W]
        if not self.marked:
            shares = zip(shares_W, seen_W, strict=True)
            return {
                "tags": tags,
                "probabilities": [finite(share) if seen else None for share, seen in shares],
            }
        words = None if is_tokenised(row) else words_of(row["words"])
        scheme = scheme_of(names)
        spans = entities(tags_W, np.arange(len(tags_W)) == 0, scheme).tolist()
        return {
            "tags": tags,
            "entities": [
                {
                    "type": scheme.types[kind],
                    "start": start,
                    "end": end,
                    "text": None if words is None else " ".join(words[start:end]),
                    "probability": finite(np.prod(shares_W[start:end])),
                }
                for kind, start, end in spans
            ],
        }
