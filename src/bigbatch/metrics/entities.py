"""Entities in tagged sentences: found as seqeval's default finds them, counted in any pieces of the stream.

A sentence may be cut between two calls of `add`, so a state keeps the words before its first sentence start and
those from its last one on; only whole sentences are turned into counts.

Shapes: W words, C tags, K entity types, E entities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigbatch.data.tags import OUTSIDE, parts_of
from bigbatch.metrics.figures import Undefined
from bigbatch.metrics.naming import figure_of_class
from bigbatch.samples import Predictions, Targets

STARTS = "starts"
"""Extra of a unit: 1 for the first word of its sentence."""
SEEN = "seen"
"""Extra of a unit: 0 for a word that the model does not see, since it was cut off or has no tokens."""
PIECE = "piece"
"""Extra of a unit, with `pieces: all` only: 1 for a further piece of the word before."""
_PREFIXES = "OBIES"
_O, _B, _I, _E, _S = range(5)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scheme:
    """What each of the C tags says about entities. The entry behind the last tag stands for `O`."""

    types: tuple[str, ...]
    """Names of the K entity types, sorted."""
    prefixes_C: np.ndarray
    """(C + 1,) int64 place in `OBIES`."""
    types_C: np.ndarray
    """(C + 1,) int64 entity type; -1 for `O`."""


def scheme_of(names: Sequence[str]) -> Scheme:
    """The scheme of tags such as `O`, `B-PER`, `I-PER`, of any scheme that `data.tags` knows."""
    parts = [parts_of(name) for name in (*names, OUTSIDE)]
    types = tuple(sorted({kind for prefix, kind in parts if prefix != "O"}))
    return Scheme(
        types=types,
        prefixes_C=np.array([_PREFIXES.index(prefix) for prefix, _ in parts]),
        types_C=np.array([types.index(kind) if prefix != "O" else -1 for prefix, kind in parts]),
    )


def entities(tags_W: np.ndarray, starts_W: np.ndarray, scheme: Scheme) -> np.ndarray:
    """Type, first word and word behind the last of each entity, in order (E, 3) int64.

    The rules are those of conlleval, which seqeval's default follows: `B-` and `S-` start an entity, and so does any
    other tag that does not go on with the type of the word before; `E-` and `S-` end one.

    Args:
        tags_W: tag ids of whole sentences, one behind the other; C stands for `O`.
        starts_W: bool, the first word of each sentence.
        scheme: of the tags.
    """
    prefix_W, type_W = scheme.prefixes_C[tags_W], scheme.types_C[tags_W]
    before_W, before_type_W = _shifted(prefix_W, starts_W, _O), _shifted(type_W, starts_W, -1)
    inside_W = prefix_W != _O
    opens_W = np.isin(prefix_W, (_B, _S)) | (before_type_W != type_W)
    opens_W |= np.isin(before_W, (_E, _S)) & np.isin(prefix_W, (_E, _I))
    first_W = inside_W & opens_W
    # An entity ends before the word that opens another, before O, at the end of its sentence, and on E and S.
    ends_after_W = np.append(starts_W[1:] | first_W[1:] | ~inside_W[1:], True)
    last_W = inside_W & (ends_after_W | np.isin(prefix_W, (_E, _S)))
    firsts_E, ends_E = np.flatnonzero(first_W), np.flatnonzero(last_W) + 1
    return np.stack([type_W[firsts_E], firsts_E, ends_E], axis=1)


def _shifted(values_W: np.ndarray, starts_W: np.ndarray, outside: int) -> np.ndarray:
    """The value of the word before; `outside` at the start of a sentence."""
    return np.where(starts_W, outside, np.roll(values_W, 1))


def entity_counts(
    true_W: np.ndarray, found_W: np.ndarray, starts_W: np.ndarray, scheme: Scheme
) -> np.ndarray:
    """Per type: entities found right (type and both ends), found, and true (3, K) int64, of whole sentences.

    Args:
        true_W: (W,) int64 tag ids of whole sentences, one behind the other; C stands for `O`.
        found_W: (W,) int64, the predicted ones.
        starts_W: (W,) bool, the first word of each sentence.
        scheme: of the tags; it has K types.
    """
    found_E3, true_E3 = (entities(tags_W, starts_W, scheme) for tags_W in (found_W, true_W))
    sizes = (len(scheme.types), len(true_W) + 1, len(true_W) + 1)
    found_E, true_E = (np.ravel_multi_index(tuple(each.T), sizes) for each in (found_E3, true_E3))
    right_E = found_E3[np.isin(found_E, true_E), 0]
    kinds = [right_E, found_E3[:, 0], true_E3[:, 0]]
    return np.stack([np.bincount(each, minlength=len(scheme.types)) for each in kinds]).astype(np.int64)


# ---------------------------------------------------------------- units -> words


@dataclass(frozen=True, eq=False)
class Words:
    """The words among some units, in order."""

    true_W: np.ndarray
    """(W,) int64 tag ids."""
    found_W: np.ndarray
    """(W,) int64 predicted tag ids; `outside` for a word that the model does not see."""
    starts_W: np.ndarray
    """(W,) bool."""


def words_of_units(predictions: Predictions, targets: Targets, outside: int) -> Words:
    """The words among some units: further pieces are left out, and weights do not matter.

    Args:
        predictions: `values` (U,) int64 tag ids.
        targets: `values` (U,) int64 tag ids; `extras` say which units are a word's first piece, which words the model
            sees, and which start a sentence.
        outside: the tag that counts as predicted for words which the model does not see.
    """
    extras = targets.extras
    kept_U = np.ones(len(predictions.values), bool) if PIECE not in extras else np.asarray(extras[PIECE]) == 0
    found_U = np.where(np.asarray(extras[SEEN]) > 0, predictions.values, outside)
    starts_U = np.asarray(extras[STARTS]) > 0
    return Words(np.asarray(targets.values)[kept_U].astype(np.int64), found_U[kept_U], starts_U[kept_U])


Figure = Callable[[np.ndarray], float | Mapping[str, float]]
"""Of counts (3, C) or (3, K); several by name where it is one for each tag or type."""


@dataclass(frozen=True, kw_only=True)
class WordMetric:
    """A figure of the counts per tag of all words, unseen ones included; the state is (3, C) int64.

    A word that the model does not see counts as `O` where there is such a tag, else as no prediction at all.
    """

    name: str
    figure: Figure
    tags: tuple[str, ...]
    reported: tuple[str, ...] = ()
    """Names of the figures, when there are several."""
    larger_is_better: bool = True
    own = False

    def add(self, predictions: Predictions, targets: Targets) -> np.ndarray:
        """Counts of these units."""
        size = len(self.tags)
        outside = self.tags.index(OUTSIDE) if OUTSIDE in self.tags else size
        words = words_of_units(predictions, targets, outside)
        right_W = words.true_W[words.true_W == words.found_W]
        counts = [
            np.bincount(tags_W, minlength=size)[:size] for tags_W in (right_W, words.found_W, words.true_W)
        ]
        return np.stack(counts).astype(np.int64)

    def merge(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Counts of both."""
        return left + right

    def value(self, state: np.ndarray) -> float | Mapping[str, float]:
        """The figure."""
        return self.figure(state)


# ---------------------------------------------------------------- entities of a stream


@dataclass(frozen=True, eq=False)
class EntityState:
    """Counts of the whole sentences in a piece of the stream, and the words at its ends that may be parts of one."""

    counts_3K: np.ndarray
    head_2W: np.ndarray
    """True and predicted tags before the first sentence start; all words when there is none."""
    tail_2W: np.ndarray | None
    """Those from the last sentence start on; None when there is none."""


@dataclass(frozen=True, kw_only=True)
class EntityMetric:
    """A figure of the counts per entity type; an entity is right when its type and both ends are."""

    name: str
    figure: Figure
    scheme: Scheme
    outside: int
    """Tag id of `O`; C when there is no such tag."""
    reported: tuple[str, ...] = ()
    """Names of the figures, when there are several."""
    larger_is_better: bool = True
    own = False

    def add(self, predictions: Predictions, targets: Targets) -> EntityState:
        """Counts of the sentences that lie in these units as a whole."""
        words = words_of_units(predictions, targets, self.outside)
        both_2W = np.stack([words.true_W, words.found_W])
        starts = np.flatnonzero(words.starts_W)
        if not len(starts):
            return EntityState(self._none(), both_2W, None)
        first, last = int(starts[0]), int(starts[-1])
        counts_3K = self._counts(both_2W[:, first:last], words.starts_W[first:last])
        return EntityState(counts_3K, both_2W[:, :first], both_2W[:, last:])

    def merge(self, left: EntityState, right: EntityState) -> EntityState:
        """Counts of both; what lies between the last start on the left and the first on the right is a sentence."""
        counts_3K = left.counts_3K + right.counts_3K
        if left.tail_2W is None:
            return EntityState(counts_3K, np.hstack([left.head_2W, right.head_2W]), right.tail_2W)
        between_2W = np.hstack([left.tail_2W, right.head_2W])
        if right.tail_2W is None:
            return EntityState(counts_3K, left.head_2W, between_2W)
        return EntityState(counts_3K + self._sentence(between_2W), left.head_2W, right.tail_2W)

    def value(self, state: EntityState) -> float | Mapping[str, float]:
        """The figure; the ends of the stream are ends of sentences."""
        counts_3K = state.counts_3K + self._sentence(state.head_2W)
        if state.tail_2W is not None:
            counts_3K = counts_3K + self._sentence(state.tail_2W)
        return self.figure(counts_3K)

    def _none(self) -> np.ndarray:
        return np.zeros((3, len(self.scheme.types)), np.int64)

    def _sentence(self, both_2W: np.ndarray) -> np.ndarray:
        starts_W = np.arange(both_2W.shape[1]) == 0
        return self._counts(both_2W, starts_W)

    def _counts(self, both_2W: np.ndarray, starts_W: np.ndarray) -> np.ndarray:
        return entity_counts(both_2W[0], both_2W[1], starts_W, self.scheme) if both_2W.size else self._none()


def some_entities(figure: Callable[[np.ndarray], float], counts_3K: np.ndarray) -> float:
    """The figure, where there is an entity or one was found."""
    if not counts_3K[1:].any():
        return Undefined("there are no entities in this split, and none was found")
    return figure(counts_3K)


def of_each_type(
    figure: Callable[[np.ndarray], np.ndarray], prefix: str, types: Sequence[str], counts_3K: np.ndarray
) -> dict[str, float]:
    """The figure of each entity type under `<prefix>_<type>`.

    Args:
        figure: of the counts of all types at once: (3, K) -> (K,).
        prefix: `f1`.
        types: (K,) their names.
        counts_3K: (3, K) int64 entities found right, found, and true.
    """
    return {
        figure_of_class(prefix, kind): of_type(figure, index, kind, counts_3K)
        for index, kind in enumerate(types)
    }


def of_type(figure: Callable[[np.ndarray], np.ndarray], index: int, kind: str, counts_3K: np.ndarray) -> Any:
    """The figure of one entity type.

    Args:
        figure: of the counts of all types at once: (3, K) -> (K,).
        index: of the type, below K.
        kind: its name.
        counts_3K: (3, K) int64 entities found right, found, and true.

    Returns:
        The figure; undefined where the type neither occurs nor is predicted.
    """
    if not counts_3K[1:, index].any():
        return Undefined(f"{kind!r} neither occurs in this split nor is predicted")
    return float(figure(counts_3K)[index])
