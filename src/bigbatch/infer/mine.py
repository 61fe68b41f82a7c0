"""Hard negatives: texts that a model takes for answers of a query and that are none, as far as the data say.

::

    for each pair (q, d), among all texts of the corpus but those that are known to answer q, and q itself:
        ranks first..last by score(q, c), best first
        that score at most  score(q, d) (1 - margin)     or, absolute, score(q, d) - margin
        and at most  max_score, and for the guide, if there is one, not above the guide's own score(q, d)
        the first `negatives` of them

Sources: the bound by the positive's score Moreira et al. 2024 (NV-Retriever, TopK-PercPos with 95 %); the guide
Solatorio 2024 (GISTEmbed), which judges within a batch. Differs from both: of texts that are the same but for case,
width and blanks one counts for all. The same files give the same lines on the same machine: nothing is drawn at random,
ranks are exact, and among equal scores the earlier text is ahead.

Example: `bigbatch mine runs/help pairs.jsonl --out mined.jsonl --negatives 2 --range 1..50`.

Shapes: N queries, M texts of the corpus, D width of an embedding, k candidates.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from bigbatch.data.columns import ID
from bigbatch.errors import UsageError
from bigbatch.files.kinds import find_files, read_file
from bigbatch.files.problems import one_error
from bigbatch.infer.embed import Progress, embedded
from bigbatch.infer.load import Loaded
from bigbatch.infer.search import nearest
from bigbatch.infer.unlabelled import PlacedRow, placed, roles_in
from bigbatch.infer.writers import open_output
from bigbatch.protocols import Role
from bigbatch.tasks.match import Match

WINDOW = 2048
"""Rows that are searched for at a time."""
QUERY, DOCUMENT, NEGATIVE = "query", "document", "negative"


@dataclass(frozen=True, kw_only=True)
class Mining:
    """What counts as a hard negative."""

    negatives: int = 1
    """Of each pair, at most; each is a row of its own."""
    first: int = 1
    last: int = 100
    """Ranks that are looked at, of candidates that are not known to be right."""
    margin: float = 0.05
    """How far below the score of the pair's own document a negative has to be."""
    relative: bool = True
    """Whether the margin is a share of that score."""
    max_score: float | None = None
    scores: bool = False
    """Whether scores are written, too: by the guide, if there is one."""

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last:
            raise UsageError(f"--range: found {self.first}..{self.last}; expected ranks such as 10..100")
        if self.negatives < 1:
            raise UsageError(f"--negatives: found {self.negatives}; expected a number from 1")

    def bound(self, right: float) -> float:
        """The largest score of a negative, by that of the pair's own document."""
        below = right - self.margin * (abs(right) if self.relative else 1.0)
        return below if self.max_score is None else min(below, self.max_score)


@dataclass
class Texts:
    """Distinct texts in order of occurrence; those that differ in case, width or blanks alone are one."""

    numbers: dict[str, int] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)

    def add(self, text: str) -> int:
        """Its number."""
        form = same_form(text)
        if form not in self.numbers:
            self.numbers[form] = len(self.texts)
            self.texts.append(text)
        return self.numbers[form]


def same_form(text: str) -> str:
    """What texts have in common that say the same in other letters.

    Example:
        >>> same_form(" Merge  Cells") == same_form("merge cells")
        True
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A model and its embeddings of length 1 (or as they are, for `similarity: dot`)."""

    query_ND: np.ndarray
    corpus_MD: np.ndarray

    def scores(self, query: int, texts: np.ndarray) -> np.ndarray:
        """Of a query and some texts."""
        return self.corpus_MD[texts] @ self.query_ND[query]


def mine(
    model: Loaded,
    source: Path,
    out: Path | None,
    how: Mining,
    *,
    corpus: Sequence[Path] = (),
    guide: Loaded | None = None,
    columns: Mapping[str, str] | None = None,
    quoting: str | None = None,
    progress: Progress | None = None,
) -> tuple[int, int]:
    """Write each pair with its hard negatives, a row a negative; pairs without one as they are.

    Args:
        model: gives the embeddings that are searched.
        source: pairs: a file of any kind that training reads.
        out: a `.jsonl` file that does not exist; None: standard output.
        how: what counts as a hard negative.
        corpus: files of further documents.
        guide: a second model, which leaves out what it scores above the pair's own document.
        columns: role -> column; added to the model's own.
        quoting: of CSV and TSV; None takes the run's.
        progress: told how far it is.

    Returns:
        Pairs, and negatives found.

    Raises:
        UsageError: a model that gives no embeddings; a file that would be overwritten.
        DataError: no such file, a malformed row or one without text; nothing is left under the name of `out`.
    """
    for each in (model, *([guide] if guide else [])):
        if not isinstance(each.task, Match):
            raise UsageError("mine needs a model of embeddings (task: match, or sentence-transformers)")
    if out is not None and out.suffix.lower() not in (".jsonl", ".ndjson"):
        raise UsageError(f"{out}: expected a name that ends in .jsonl")
    tell = progress or (lambda what, done, total: None)
    with open_output(out, source) as write:
        pairs, documents, queries = _Pairs(), Texts(), Texts()
        wanted = {**model.columns, **(columns or {})}
        reading = {"encoding": model.encoding, "quoting": quoting or model.quoting}
        for names, (place, row) in _rows(
            source, wanted, _roles(model, {QUERY, DOCUMENT, NEGATIVE}), **reading
        ):
            if not row[QUERY].strip() or not row[DOCUMENT].strip():
                raise one_error(place, "", "an empty text; a pair has a query and a document")
            if (row.get(NEGATIVE) or "").strip():
                documents.add(row[NEGATIVE])
            pairs.add(names, row[QUERY], row[DOCUMENT], queries, documents)
        for path in corpus:
            for _, (_, row) in _rows(path, wanted, _roles(model, {DOCUMENT}), **reading):
                if row[DOCUMENT].strip():
                    documents.add(row[DOCUMENT])
        judges = [_judge(each, queries, documents, tell) for each in (model, guide) if each is not None]
        found = 0
        for first in range(0, len(pairs.rows), WINDOW):
            rows = pairs.rows[first : first + WINDOW]
            for names, query, document, negatives, scores in _mined(rows, pairs, judges, how):
                line = {names[QUERY]: query, names[DOCUMENT]: document}
                for text, own in zip(negatives, scores, strict=False):
                    write({**line, names[NEGATIVE]: text, **own})
                if not negatives:
                    write({**line, **scores[0]})
                found += len(negatives)
            tell("pairs", first + len(rows), len(pairs.rows))
    return len(pairs.rows), found


def _roles(model: Loaded, wanted: set[str]) -> dict[str, Role]:
    """Those of the task that are wanted here; what is not optional has to be there."""
    return {
        name: replace(role, absent_when_predicting=False)
        for name, role in model.task.roles.items()
        if name in wanted
    }


def _rows(
    path: Path, columns: Mapping[str, str], roles: Mapping[str, Role], *, encoding: str, quoting: str
) -> Iterator[tuple[dict[str, str], PlacedRow]]:
    """Each row, and what its file calls the roles."""
    columns = {role: column for role, column in columns.items() if role in roles}
    for name, found in find_files(str(path), Path()):
        raw = read_file(name, found, encoding, quoting, learnt=False)
        there = {
            role: column for role, column in columns.items() if role != NEGATIVE or column in raw.columns
        }
        picked = roles_in(raw.columns, roles, there, raw.name)
        names = {role: picked.get(role, columns.get(role, role)) for role in (*roles, NEGATIVE) if role != ID}
        for row in placed(raw, roles, there):
            yield names, row


@dataclass
class _Pairs:
    """Pairs by the numbers of their texts."""

    rows: list[tuple[Mapping[str, str], str, str, int, int]] = field(default_factory=list)
    """What its file calls the roles, both texts, their numbers."""
    known: defaultdict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    """Query -> texts that are no negatives of it."""
    documents: Texts = field(default_factory=Texts)

    def add(
        self, names: Mapping[str, str], query: str, document: str, queries: Texts, documents: Texts
    ) -> None:
        """One more.

        Args:
            names: what its file calls the roles.
            query: a text.
            document: what answers it.
            queries: all so far; gets the query.
            documents: all so far; gets the document.
        """
        self.documents = documents
        asked, right = queries.add(query), documents.add(document)
        self.known[asked].add(right)
        self.rows.append((names, query, document, asked, right))

    def no_negatives(self, number: int, query: str) -> set[int]:
        """Texts that answer a query, and its own."""
        own = self.documents.numbers.get(same_form(query))
        return self.known[number] | ({own} if own is not None else set())


def _judge(loaded: Loaded, queries: Texts, documents: Texts, tell: Progress) -> Judge:
    return Judge(
        query_ND=embedded(loaded, queries.texts, QUERY, tell),
        corpus_MD=embedded(loaded, documents.texts, DOCUMENT, tell),
    )


def _mined(
    rows: Sequence[tuple[Mapping[str, str], str, str, int, int]],
    pairs: _Pairs,
    judges: Sequence[Judge],
    how: Mining,
) -> Iterator[tuple[Mapping[str, str], str, str, list[str], list[dict[str, float]]]]:
    """Of each row its names and texts, the negatives, and what is written of their scores."""
    judge, teller = judges[0], judges[-1]
    numbers = list(dict.fromkeys(number for _, _, _, number, _ in rows))
    out = {number: pairs.no_negatives(number, query) for _, query, _, number, _ in rows}
    most = how.last + max(map(len, out.values()))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    blocks = nearest(judge.query_ND[numbers], judge.corpus_MD, most, device=device)
    ranked = dict(zip(numbers, _one_by_one(blocks), strict=True))
    for names, query, document, number, right in rows:
        ids_k, scores_k = ranked[number]
        fair_k = ~np.isin(ids_k, list(out[number]))
        ids_k, scores_k = (each[fair_k][how.first - 1 : how.last] for each in (ids_k, scores_k))
        own = float(judge.scores(number, np.array([right]))[0])
        fair_k = scores_k <= how.bound(own)
        if len(judges) > 1:
            fair_k &= teller.scores(number, ids_k) <= teller.scores(number, np.array([right]))
        chosen = ids_k[fair_k][: how.negatives]
        said: list[dict[str, float]] = [{} for _ in chosen] or [{}]
        if how.scores:
            told = teller.scores(number, np.append(chosen, right)).tolist()
            said = [{"score": told[-1], "negative_score": score} for score in told[:-1]]
            said = said or [{"score": told[-1]}]
        yield names, query, document, [pairs.documents.texts[each] for each in chosen.tolist()], said


def _one_by_one(blocks: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for ids_Rk, scores_Rk in blocks:
        yield from zip(ids_Rk, scores_Rk, strict=True)
