"""Prompts in, texts out: batches of similar length, each text as if it were written alone."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from bigbatch.data.packs import cut
from bigbatch.data.tokens import as_table
from bigbatch.errors import UsageError
from bigbatch.infer.decoding import (
    NONE,
    Batch,
    Marks,
    Seen,
    batch_of_pairs,
    batch_of_prompts,
    by_transformers,
    stepwise,
    until_their_ends,
)
from bigbatch.infer.forwards import inferring
from bigbatch.infer.generate import BATCH, marks_of, most_N
from bigbatch.infer.kept_texts import KeptTexts, what_is_written
from bigbatch.infer.load import Loaded
from bigbatch.infer.prompts import Prompt, why_it_writes_nothing
from bigbatch.infer.remembering import Begun, piece_by_piece, pieces_of
from bigbatch.infer.sampling import Decoding
from bigbatch.model.anatomy import device_of, headed_model
from bigbatch.model.source import quiet
from bigbatch.parallel.agree import OutOfMemory, memory_errors
from bigbatch.protocols import Tokenizer
from bigbatch.samples import Table
from bigbatch.tasks.base import Task
from bigbatch.tasks.seq2seq import Seq2Seq

USUAL_TOKENS = 256
"""Of a text that a causal model writes, where nobody says."""
WINDOW_ROWS = 512
"""Prompts that are sorted by length, and looked at together."""
_TAIL = 8
"""Tokens of the prompt that are decoded before what is written: whether a blank begins it depends on them."""
_SAY_SECONDS = 5.0
_ANSWER = "A1B2"
"""Stands in no template."""
Said = Callable[[str], object]
Watch = Callable[[Prompt, str], bool]
"""`watch(prompt, piece)`: called for each text after each step with what is new of it; True: it ends here."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """What was written."""

    text: str
    end: str
    """`stop`: an end mark or a text to stop at; `length`: no room for more."""
    tokens: int
    """So many of them, without the end mark."""

    @property
    def record(self) -> dict[str, str | int]:
        """As files have it."""
        return {"text": self.text, "end": self.end, "tokens": self.tokens}


def written_texts(
    opened: Loaded,
    prompts: Sequence[Prompt],
    how: Decoding,
    *,
    said: Said | None = None,
    watch: Watch | None = None,
) -> Iterator[tuple[Prompt, Text]]:
    """Each prompt with its text, in batches, so not in their order.

    Args:
        opened: the model.
        prompts: to write from.
        how: to write.
        said: told each piece of the text of a single prompt as it comes.
        watch: told the pieces of all texts, of beams at their end alone; may end any of them.

    Raises:
        UsageError: a model that writes nothing, or that has nothing to tell stop texts by.
    """
    may_write(opened, how)
    stream = iter(prompts)
    writer = _Writer(opened, how, watch if said is None else _said_of_one(said, len(prompts)))
    with inferring(opened.forward), quiet():
        while window := list(islice(stream, WINDOW_ROWS)):
            yield from writer.window(window)


class _Writer:
    """A model that writes in one way."""

    def __init__(self, opened: Loaded, how: Decoding, watch: Watch | None) -> None:
        task = opened.task
        self._opened, self._task = opened, task
        self._outer = headed_model(opened.module)
        usual = task.beams if isinstance(task, Seq2Seq) and not how.temperature else 1
        self._how = replace(how, beams=usual if how.beams is None else how.beams)
        self._beams = self._how.beams or 1
        self._watch = watch
        self._pieces = pieces_of(task)
        self._divided = any(hasattr(each, "placements") for each in self._outer.parameters())
        self._marks = marks_of(task) if isinstance(task, Seq2Seq) else _causal_marks(opened)

    def window(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Prompt, Text]]:
        """Some prompts, shortest first."""
        table = as_table([prompt.sample for prompt in prompts], self._task.sequences)
        lengths_N = np.array([prompt.tokens for prompt in prompts], np.int64)
        bounds_N = self._bounds(table, lengths_N)
        budget = max(1, BATCH * self._opened.micro_tokens // self._beams)
        read_N = lengths_N + bounds_N
        if self._pieces is not None:
            read_N = np.minimum(read_N, self._pieces.most_read)
        waiting = cut(read_N, budget, "padded")[::-1]
        while waiting:
            chosen_B = waiting.pop()
            try:
                with memory_errors():
                    found = self._batch(table, prompts, chosen_B, bounds_N[chosen_B])
            except OutOfMemory:
                if len(chosen_B) == 1:
                    raise
                half = len(chosen_B) // 2
                waiting += [chosen_B[half:], chosen_B[:half]]
                continue
            yield from zip((prompts[row] for row in chosen_B), found, strict=True)

    def _bounds(self, table: Table, lengths_N: np.ndarray) -> np.ndarray:
        """(N,) tokens that each text may get."""
        most, positions = self._how.max_tokens, self._opened.positions
        if isinstance(self._task, Seq2Seq):
            if most is None:
                return most_N(self._task, table)
            return np.full(len(table), max(1, min(most, (positions or 2**31) - len(self._marks.shown))))
        endless = positions is None or self._pieces is not None
        room_N = np.full(len(table), 2**31) if endless else positions - lengths_N
        return np.minimum(most or USUAL_TOKENS, room_N)

    def _batch(
        self, table: Table, prompts: Sequence[Prompt], chosen_B: np.ndarray, most_B: np.ndarray
    ) -> list[Text]:
        readers = [_Reader(self._task, self._opened.tokenizer, prompts[row]) for row in chosen_B]
        written = [prompts[row] for row in chosen_B]
        watching = _Watching(readers, written, most_B, self._how, self._marks, self._watch)
        seen = watching.seen if watching.wanted else None
        numbers_B = np.array([prompts[row].number for row in chosen_B], np.int64)
        device = device_of(self._outer)
        if self._pieces is None:
            make = batch_of_pairs if isinstance(self._task, Seq2Seq) else batch_of_prompts
            batch: Batch = make(table, chosen_B, most_B, self._marks, device)
            ids_BL = self._write(replace(batch, rows_B=numbers_B), seen)
        else:
            ids_B = [prompt.sample.ids for prompt in written]
            begun = Begun(prompts_B=ids_B, rows_B=numbers_B, most_B=most_B, marks=self._marks)
            ids_BL = piece_by_piece(begun, self._pieces, device, self._write, seen, even=self._divided)
        ids_BL, ended_B = until_their_ends(ids_BL, most_B, self._marks.ends)
        texts = [
            reader.whole(row[row != NONE].tolist(), self._how.stop, bool(ended))
            for reader, row, ended in zip(readers, ids_BL, ended_B, strict=True)
        ]
        watching.rest([text.text for text in texts])
        return texts

    def _write(self, batch: Batch, seen: Seen | None) -> np.ndarray:
        if self._divided:
            return stepwise(self._outer, batch, int(batch.most_B.max()))
        return by_transformers(self._outer, batch, self._how, seen)


def _causal_marks(opened: Loaded) -> Marks:
    """What ends a text: what the tokenizer says, and what the model itself says."""
    outer, tokenizer = headed_model(opened.module), opened.tokenizer
    told = getattr(getattr(outer, "generation_config", None), "eos_token_id", None)
    ends = [*(told if isinstance(told, list) else [told]), getattr(tokenizer, "eos_token_id", None)]
    known = opened.task.facts.vocabulary
    ends.append(_end_of_turn(tokenizer))
    ends.append(None if known is None else known.end_id)
    pad = getattr(tokenizer, "pad_token_id", None)
    return Marks(ends=tuple(dict.fromkeys(int(each) for each in ends if each is not None)), pad=int(pad or 0))


def _end_of_turn(tokenizer: Tokenizer | None) -> int | None:
    """The mark that a chat template writes behind an answer, which need not be the tokenizer's end mark."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    talk = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = str(getattr(tokenizer, "apply_chat_template")(talk, tokenize=False))  # noqa: B009
        behind = text.rpartition(_ANSWER)[2].lstrip()
        ids = getattr(tokenizer, "encode")(behind, add_special_tokens=False)  # noqa: B009
    except Exception:  # a template that wants other turns; what else ends a text is known
        return None
    marks = getattr(tokenizer, "added_tokens_decoder", {})
    return int(ids[0]) if ids and int(ids[0]) in marks else None


class _Reader:
    """Token ids of one prompt's text as text."""

    def __init__(self, task: Task, tokenizer: Tokenizer | None, prompt: Prompt) -> None:
        self._task, self._tokenizer = task, tokenizer
        self._before = [] if isinstance(task, Seq2Seq) else prompt.sample.ids[-_TAIL:].tolist()
        self._head = self._decoded(self._before)

    def _decoded(self, ids: list[int]) -> str:
        if self._tokenizer is None:
            return " ".join(map(str, ids))
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def __call__(self, ids: list[int]) -> str:
        """What these ids add to the prompt."""
        if isinstance(self._task, Seq2Seq):
            return self._task.text_of(ids)
        found = self._decoded([*self._before, *ids])
        return found[_shared(found, self._head) :]

    def whole(self, ids: list[int], stop: Sequence[str], ended: bool) -> Text:
        """All of a text, cut in front of what it stops at."""
        text = self(ids)
        at = stops_at(text, stop)
        if at is None:
            return Text(text=text, end="stop" if ended else "length", tokens=len(ids))
        counts = range(1, len(ids) + 1)
        tokens = (
            bisect_left(counts, True, key=lambda count: stops_at(self(ids[:count]), stop) is not None) + 1
        )
        return Text(text=text[:at], end="stop", tokens=min(tokens, len(ids)))


def _shared(one: str, other: str) -> int:
    """Letters that two texts begin with alike: a half of a character at the end of the prompt may be whole later."""
    if one.startswith(other):
        return len(other)
    return next(
        place for place, pair in enumerate(zip(one, other + "\0", strict=False)) if pair[0] != pair[1]
    )


def stops_at(text: str, stop: Sequence[str]) -> int | None:
    """Where the first of these texts begins; None: it holds none of them."""
    found = [at for each in stop if (at := text.find(each)) >= 0]
    return min(found, default=None)


def shown_safely(text: str, stop: Sequence[str]) -> int:
    """Letters that stay as they are, whatever comes next: no half of a character, no beginning of a stop text.

    Example:
        >>> shown_safely("so far\\nUs", ["\\nUser:"]), shown_safely("so far", ["\\nUser:"])
        (6, 6)
    """
    end = len(text.rstrip("\ufffd"))
    for each in stop:
        for size in range(min(len(each) - 1, end), 0, -1):
            if text.endswith(each[:size], 0, end):
                end -= size
                break
    return end


class _Watching:
    """Looks at a batch after each step: which texts end, at a stop text or by whoever watches, and what is new."""

    def __init__(
        self,
        readers: Sequence[_Reader],
        prompts: Sequence[Prompt],
        most_B: np.ndarray,
        how: Decoding,
        marks: Marks,
        watch: Watch | None,
    ) -> None:
        self._readers, self._prompts, self._most = readers, prompts, most_B.tolist()
        self._stop, self._ends, self._watch = how.stop, marks.ends, watch
        # Beams may still be dropped for others.
        self._live = (how.beams or 1) == 1
        self._shown = [0] * len(readers)
        self.wanted = bool(how.stop) or watch is not None

    def seen(self, ids_BL: np.ndarray) -> np.ndarray | None:
        """Which texts end here."""
        each = len(ids_BL) // len(self._readers)
        over = np.zeros(len(ids_BL), bool)
        for row, ids in enumerate(ids_BL.tolist()):
            number = row // each
            ids = [token for token in ids[: self._most[number]] if token != NONE]
            ended = next((place for place, token in enumerate(ids) if token in self._ends), None)
            text = self._readers[number](ids if ended is None else ids[:ended])
            at = stops_at(text, self._stop)
            shown = (shown_safely(text, self._stop) if at is None else at) if self._live else 0
            over[row] = self._told(number, text[:shown]) or at is not None
        return over

    def _told(self, number: int, text: str) -> bool:
        """Tell what is new of a text; whether it is to end."""
        if self._watch is None:
            return False
        piece = text[self._shown[number] :]
        self._shown[number] += len(piece)
        return self._watch(self._prompts[number], piece)

    def rest(self, texts: Sequence[str]) -> None:
        """What was held back."""
        for number, text in enumerate(texts):
            if len(text) > self._shown[number]:
                self._told(number, text)


def _said_of_one(said: Said, prompts: int) -> Watch | None:
    """What is told the text of a single prompt."""

    def watch(_: Prompt, piece: str) -> bool:
        if piece:
            said(piece)
        return False

    return watch if prompts == 1 else None


def may_write(opened: Loaded, how: Decoding | None = None) -> Loaded:
    """The model, if it can write texts, and in this way (None: in some way).

    Raises:
        UsageError: it cannot.
    """
    why = why_it_writes_nothing(opened.task)
    if not why and how is not None:
        if how.stop and opened.tokenizer is None:
            why = "stop: this model has no tokenizer, and so no texts to stop at"
        elif (how.beams or 1) > 1 and pieces_of(opened.task) is not None:
            why = (
                "beams: this model has a memory (model.memory), whose texts are written piece by piece, and a search "
                "does not go across pieces; leave beams out, or draw with a temperature"
            )
    if why:
        raise UsageError(why)
    return opened


def to_file(
    opened: Loaded,
    prompts: Sequence[Prompt],
    how: Decoding,
    place: Path,
    out: Path,
    source: Path | None,
    say: Callable[[str], object],
) -> None:
    """Write a text for every prompt into a file, in order; what an earlier command left is not written again.

    Args:
        opened: the model.
        prompts: to write from.
        how: to write.
        place: of the model.
        out: the file.
        source: that of the prompts.
        say: told now and then how far it is.
    """
    kept = KeptTexts(out, what_is_written(place, prompts, how), source)
    waiting = [prompt for prompt in prompts if prompt.number not in kept.rows]
    done = len(prompts) - len(waiting)
    if done:
        say(f"{done:,} of {len(prompts):,} texts are in {kept.partial}: goes on behind them")
    told, started = time.monotonic(), time.monotonic()
    written = tokens = 0
    try:
        for prompt, text in written_texts(opened, waiting, how):
            kept.add(prompt.number, {**prompt.told, **text.record})
            written, tokens, now = written + 1, tokens + text.tokens, time.monotonic()
            if now - told >= _SAY_SECONDS:
                speed = tokens / (now - started)
                say(f"{done + written:,} of {len(prompts):,} texts, {speed:,.0f} tokens/s")
                told = now
    except BaseException:
        kept.close()
        say(
            f"stopped: {done + written:,} of {len(prompts):,} texts are in {kept.partial}; the same command goes on"
        )
        raise
    kept.publish()


def in_order(found: Iterator[tuple[Prompt, Text]]) -> Iterator[tuple[Prompt, Text]]:
    """Prompts and their texts in the order of their numbers, each as soon as all before it are there."""
    waiting: dict[int, tuple[Prompt, Text]] = {}
    following = 0
    for prompt, text in found:
        waiting[prompt.number] = prompt, text
        while following in waiting:
            yield waiting.pop(following)
            following += 1
