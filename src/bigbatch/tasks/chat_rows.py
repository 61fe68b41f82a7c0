"""Conversations as samples: tokens, and a unit for each token that the assistant has written.

What is longer than `max_length` loses its oldest turns, up to a question; the system's words in front stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from bigbatch.errors import DataError
from bigbatch.protocols import Row, Tokenizer
from bigbatch.samples import Sample, Table
from bigbatch.tasks.dialogue import Answer, ChatTokenizer, Dialogue, Message, Template
from bigbatch.tasks.inputs import NoTokens

TURNS = "turns"
"""The stream that says what became of each turn: columns `state`, `units`, `faults`."""
READ, LEARNT, DROPPED, TOO_LONG, CUT = range(5)
"""States of a turn: read, or nothing at all of it; learnt; left out, since it is old; an answer that has no room; an
answer without its end."""
UNMARKED, MERGED, QUOTED = 1, 2, 4
"""Faults of a turn, added up: no end mark; its first token begins before it; special tokens in its text."""
_OPEN, _CLOSE = "\uf8f0", "\uf8f1"
"""Stand around the number of a special token that a text has, while the template is at work: private characters."""
_QUOTED = re.compile(f"{_OPEN}(\\d+){_CLOSE}")
_BLANKS = ("Ġ", "▁", "Ċ", "ĉ", " ", "\n", "\t")
"""What pieces begin with that have the blank in front of them inside."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokens:
    """A text as tokens."""

    ids: np.ndarray
    """(T,) int32."""
    starts: np.ndarray
    """(T,) int64 first character of each, ascending."""
    ends: np.ndarray
    """(T,) int64."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Conversation:
    """A row, its special tokens in texts put in quotes."""

    messages: Sequence[Message]
    tools: Sequence[object] | None
    quoted: frozenset[int] = frozenset()
    """Turns whose texts have special tokens."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ChatRows:
    """How rows become samples."""

    template: Template
    max_length: int
    too_long: Literal["skip", "cut", "refuse"]
    special: Literal["text", "tokens", "refuse"]

    @property
    def _tokenizer(self) -> ChatTokenizer:
        return self.template.tokenizer

    def samples(self, rows: Sequence[Row], role: str) -> list[Sample]:
        """A sample for each row, with one call of the tokenizer for all.

        Args:
            rows: role -> a conversation as JSON text.
            role: the name of that role.

        Raises:
            DataError: a row that the template or an option refuses.
            ModelError: the template cannot be used.
        """
        told = [self._conversation(row[role]) for row in rows]
        read = [self.template.read(each.messages, each.tools) for each in told]
        tokens = self._tokens([(each.text, bool(own.quoted)) for own, each in zip(told, read, strict=True)])
        return [self._sample(*each) for each in zip(told, read, tokens, strict=True)]

    # ------------------------------------------------------------ special tokens in texts

    @cached_property
    def _specials(self) -> list[str]:
        added = getattr(self._tokenizer, "added_tokens_decoder", {}).values()
        found = {each.content for each in added if each.special and each.content.strip()}
        return sorted(found, key=lambda each: (-len(each), each))

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        return re.compile("|".join(map(re.escape, self._specials))) if self._specials else None

    def _conversation(self, written: str) -> Conversation:
        found = json.loads(written)
        told = Conversation(messages=found["messages"], tools=found.get("tools"))
        if self._pattern is None or self.special == "tokens" or not self._pattern.search(written):
            return told
        quoted = frozenset(
            turn for turn, message in enumerate(told.messages) if self._pattern.search(_texts(message))
        )
        if quoted and self.special == "refuse":
            mark = self._pattern.search(_texts(told.messages[min(quoted)]))
            raise DataError(
                f"turn {min(quoted) + 1}: its text has the special token {mark[0] if mark else ''!r}; remove the row, "
                "or set task.special: text (it is read as the characters that it is)"
            )
        whole = self._in_quotes(found)
        assert isinstance(whole, dict)
        return Conversation(messages=whole["messages"], tools=whole.get("tools"), quoted=quoted)

    def _in_quotes(self, value: object) -> object:
        if isinstance(value, str):
            assert self._pattern is not None
            bare = value.replace(_OPEN, "").replace(_CLOSE, "")
            return self._pattern.sub(lambda found: f"{_OPEN}{self._specials.index(found[0])}{_CLOSE}", bare)
        if isinstance(value, Mapping):
            return {key: self._in_quotes(item) for key, item in value.items()}
        return [self._in_quotes(item) for item in value] if isinstance(value, list) else value

    # ------------------------------------------------------------ tokens

    def _tokens(self, texts: Sequence[tuple[str, bool]]) -> list[Tokens]:
        """Of each (text, whether there are quotes in it); what stands in them is no special token."""
        encoded = iter(self._called([text for text, quoted in texts if not quoted]))
        return [self._in_pieces(text) if quoted else next(encoded) for text, quoted in texts]

    def _called(self, texts: Sequence[str], **options: object) -> list[Tokens]:
        if not texts:
            return []
        found = self._tokenizer(
            list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False, **options
        )
        return [
            _tokens_of(ids, offsets)
            for ids, offsets in zip(found["input_ids"], found["offset_mapping"], strict=True)
        ]

    def _in_pieces(self, text: str) -> Tokens:
        parts, at = [], 0
        for found in _QUOTED.finditer(text):
            parts.append(_shifted(self._called([text[at : found.start()]])[0], at))
            inner = self._called([self._specials[int(found[1])]], split_special_tokens=True)[0]
            whole = Tokens(
                ids=inner.ids,
                starts=np.full(len(inner.ids), found.start()),
                ends=np.full(len(inner.ids), found.end()),
            )
            parts.append(whole)
            at = found.end()
        parts.append(_shifted(self._called([text[at:]])[0], at))
        return Tokens(
            ids=np.concatenate([each.ids for each in parts]),
            starts=np.concatenate([each.starts for each in parts]),
            ends=np.concatenate([each.ends for each in parts]),
        )

    # ------------------------------------------------------------ samples

    def _sample(self, told: Conversation, read: Dialogue, tokens: Tokens) -> Sample:
        if not len(tokens.ids):
            raise NoTokens("the conversation gives no tokens; remove the row")
        if len(tokens.ids) <= self.max_length:
            return self._built(told, read, tokens, kept=range(len(told.messages)))
        return self._shortened(told, read, tokens)

    def _shortened(self, told: Conversation, read: Dialogue, tokens: Tokens) -> Sample:
        """Without so many of the oldest turns that the rest has room."""
        head = next(
            (at for at, each in enumerate(told.messages) if each["role"] not in ("system", "developer")), 0
        )
        last = read.answers[-1].turn if read.answers else 0
        asked = [at for at in range(head + 1, last) if told.messages[at]["role"] == "user"]

        def from_turn(first: int) -> tuple[range, Dialogue, Tokens]:
            kept = [*range(head), *range(first, len(told.messages))]
            shown = self.template.read([told.messages[turn] for turn in kept], told.tools)
            answers = tuple(replace(each, turn=kept[each.turn]) for each in shown.answers)
            shown = replace(shown, answers=answers)
            return range(first, len(told.messages)), shown, self._tokens([(shown.text, bool(told.quoted))])[0]

        tried = {at: from_turn(at) for at in asked[-1:]}
        low, high = (
            0,
            len(asked) - 1,
        )  # the first that fits is behind asked[low - 1] and not behind asked[high]
        if tried and len(tried[asked[-1]][2].ids) <= self.max_length:
            while low < high:
                middle = (low + high) // 2
                tried[asked[middle]] = from_turn(asked[middle])
                fits = len(tried[asked[middle]][2].ids) <= self.max_length
                low, high = (low, middle) if fits else (middle + 1, high)
            kept, shown, fitting = tried[asked[high]]
            return self._built(told, shown, fitting, kept=[*range(head), *kept])
        kept, shown, found = tried[asked[-1]] if tried else (range(head, len(told.messages)), read, tokens)
        return self._without_room(told, shown, found, kept=[*range(head), *kept])

    def _without_room(
        self, told: Conversation, shown: Dialogue, tokens: Tokens, kept: Sequence[int]
    ) -> Sample:
        """The last question and its answer alone are too long."""
        if self.too_long == "refuse" and shown.answers:
            raise DataError(
                f"{len(tokens.ids):,} tokens from its last question on, but max_length is {self.max_length:,}; raise "
                "data.max_length, remove the row, or set task.too_long: skip (nothing is learnt of it) or cut"
            )
        room = self.max_length if self.too_long == "cut" else 1
        short = Tokens(ids=tokens.ids[:room], starts=tokens.starts[:room], ends=tokens.ends[:room])
        end = int(tokens.starts[room])
        return self._built(told, shown, short, kept=kept, end=end)

    def _built(
        self,
        told: Conversation,
        shown: Dialogue,
        tokens: Tokens,
        kept: Sequence[int],
        end: int | None = None,
    ) -> Sample:
        """The sample of these tokens.

        Args:
            told: the row.
            shown: what the tokens are of.
            tokens: as many as there is room for.
            kept: turns that they are of.
            end: character behind the last token, where others follow that have no room.
        """
        turns = len(told.messages)
        state, units, faults = np.zeros(turns, np.int8), np.zeros(turns, np.int32), np.zeros(turns, np.int8)
        state[np.setdiff1d(np.arange(turns), np.asarray(kept, np.int64))] = DROPPED
        faults[list(told.quoted)] |= QUOTED
        places, weights = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        for answer in shown.answers:
            own, merged = self._places(answer, shown.text, tokens)
            places.append(own)
            weights.append(np.full(len(own), answer.weight, np.float32))
            state[answer.turn], units[answer.turn] = LEARNT, len(own)
            faults[answer.turn] |= (0 if answer.marked else UNMARKED) | (MERGED if merged else 0)
            if end is not None and answer.end > end:
                state[answer.turn] = CUT if len(own) else TOO_LONG
        at = np.concatenate(places)
        return Sample(
            ids=tokens.ids,
            reads=(at - 1).astype(np.int32),
            values=tokens.ids[at].astype(np.int64),
            weights=np.concatenate(weights),
            streams={TURNS: {"state": state, "units": units, "faults": faults}},
            truncated=bool((state >= DROPPED).any()),
        )

    def _places(self, answer: Answer, text: str, tokens: Tokens) -> tuple[np.ndarray, bool]:
        """Tokens that begin in an answer, but for one whose beginning lies before it; whether there is such."""
        first, last = np.searchsorted(tokens.starts, (answer.start, answer.end))
        merged = first > 0 and tokens.ends[first - 1] > answer.start
        if first < last and first > 0 and tokens.ends[first - 1] < answer.start:
            # Some tokenizers leave the blank in front out of a token's characters.
            piece = self._tokenizer.convert_ids_to_tokens(int(tokens.ids[first]))
            gap = text[tokens.ends[first - 1] : answer.start]
            if str(piece).startswith(_BLANKS) and gap.isspace():
                first, merged = first + 1, True
        return np.arange(max(first, 1), max(last, 1)), bool(merged)


def shown_talks(table: Table, tokenizer: Tokenizer, most: int = 3) -> list[list[dict[str, str | bool]]]:
    """The first conversations of a split from which something is learnt, in stretches: `{"text", "learnt"}`.

    Args:
        table: a tokenised split.
        tokenizer: that made the tokens.
        most: conversations.
    """
    rows = np.flatnonzero(table.counted_units > 0)[:most]
    found = []
    for row in rows:
        one = table.take(np.array([row])).load()
        learnt_T = np.zeros(len(one.ids), bool)
        learnt_T[one.reads[one.weights > 0] + 1] = True
        edges = np.flatnonzero(np.diff(learnt_T)) + 1
        found.append(
            [
                {"text": tokenizer.decode(ids.tolist(), skip_special_tokens=False), "learnt": bool(learnt[0])}
                for ids, learnt in zip(np.split(one.ids, edges), np.split(learnt_T, edges), strict=True)
            ]
        )
    return found


def turn_notes(table: Table, max_length: int) -> list[str]:
    """What became of turns that have no room, or have something odd to them, a sentence each.

    Args:
        table: a tokenised split.
        max_length: tokens of a sample at most.
    """
    if TURNS not in table.streams:
        return []
    stream = table[TURNS].load()
    state, faults = (np.asarray(stream.columns[name]) for name in ("state", "faults"))
    rows = np.repeat(np.arange(len(table)), stream.lengths)
    room = f"{max_length} tokens (data.max_length)"

    def told(which: np.ndarray, what: str) -> list[str]:
        here = f"{len(np.unique(rows[which])):,} of {len(table):,} conversations"
        return [what.format(here=here, turns=f"{int(which.sum()):,}")] if which.any() else []

    return [
        *told(
            state == DROPPED,
            f"{{here}} have no room in {room}: their {{turns}} oldest turns are left out",
        ),
        *told(
            state == TOO_LONG,
            f"{{here}} are longer than {room} from their last question on: nothing is learnt of {{turns}} answers "
            "(task.too_long)",
        ),
        *told(
            state == CUT,
            f"{{here}} are longer than {room}: {{turns}} answers lost their end (task.too_long)",
        ),
        *told(
            (faults & UNMARKED > 0) & (state == LEARNT),
            "{turns} answers of {here} have no end mark in this chat template: the model does not learn to stop",
        ),
        *told(
            faults & MERGED > 0,
            "{turns} answers of {here} begin inside a token that begins before them, which is not learnt: let the "
            "template's generation prompt end without a blank",
        ),
        *told(
            faults & QUOTED > 0,
            "{here} have special tokens of the tokenizer in the text of {turns} turns: they are read as the "
            "characters that they are (task.special)",
        ),
    ]


def _texts(message: Message) -> str:
    """All that a message says, as one text."""
    return json.dumps(message, ensure_ascii=False)


def _tokens_of(ids: Sequence[int], offsets: object) -> Tokens:
    found = np.asarray(offsets, np.int64).reshape(-1, 2)
    return Tokens(
        ids=np.asarray(ids, np.int32),
        starts=np.maximum.accumulate(found[:, 0]),
        ends=np.maximum.accumulate(found[:, 1]),
    )


def _shifted(tokens: Tokens, by: int) -> Tokens:
    return replace(tokens, starts=tokens.starts + by, ends=tokens.ends + by)
