"""Conversations as the text of a chat template, and which characters of it the assistant has written.

The template is the tokenizer's, rendered by transformers in its sandbox. Where an answer begins is found by rendering
what stands before it, with the template's generation prompt: that is what the model will be given when it is to answer,
and everything behind it is what it has to write. Where it ends is found by rendering up to it:

    messages[:k], to be answered        <|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n
    messages[:k + 1]                    <|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nHello<|im_end|>\\n
    the answer                                                                            Hello<|im_end|>

Both have to be beginnings of the whole conversation's text; white space behind the end mark is no part of the answer.
Templates that render a turn differently once others follow fail that check: their own `{% generation %}` marks are
taken where they have some, else the row is refused.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.exceptions import SecurityError

from bigbatch.errors import DataError, ModelError
from bigbatch.files.problems import nearest

Message = Mapping[str, object]


class ChatTokenizer(Protocol):
    """What is asked of a tokenizer that writes conversations: Hugging Face's fast ones."""

    chat_template: str | Mapping[str, str] | None
    eos_token: str | None
    special_tokens_map: Mapping[str, str]
    added_tokens_decoder: Mapping[int, AddedToken]

    def __call__(
        self, texts: Sequence[str], /, **options: object
    ) -> Mapping[str, Sequence[Sequence[int]]]: ...

    def apply_chat_template(self, conversation: object, /, **options: object) -> object: ...

    def get_vocab(self) -> Mapping[str, int]: ...

    def convert_ids_to_tokens(self, ids: int, /) -> str: ...


class AddedToken(Protocol):
    """A token that stands beside those that were learnt from text."""

    content: str
    special: bool


MOST_SECONDS = 20.0
"""Of one conversation's rendering."""
_WORD = re.compile(r"\w+")
KNOWN_ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython", "environment")
"""Others have to be named by the template."""
_DATE = (
    "{% macro strftime_now(format) %}"
    "{{ '2024-07-26' if format == '%Y-%m-%d' else '26 Jul 2024' }}{% endmacro %}{{ '' }}"
)
"""In front of a template that asks for the date: the same every day, so that a run can be repeated."""
_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the assistant says in one turn."""

    turn: int
    """Number of its message, from 0."""
    start: int
    """First character, of the whole text."""
    end: int
    """Behind its last one, the end mark included."""
    weight: float
    marked: bool
    """Whether something stands behind what is said that tells its end."""


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """A conversation as text."""

    text: str
    answers: tuple[Answer, ...]
    """Those that count, in order."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Template:
    """How conversations become text."""

    tokenizer: ChatTokenizer
    turns: Literal["all", "last"]
    """Which of the assistant's turns are learnt."""

    @property
    def source(self) -> str:
        """The template's own text.

        Raises:
            ModelError: the tokenizer has none.
        """
        found: object = getattr(self.tokenizer, "chat_template", None)
        if isinstance(found, Mapping):
            found = found.get("default")
        if not isinstance(found, str) or not found.strip():
            raise ModelError(
                "the tokenizer has no chat template: set task.template: chatml, or task.template: FILE.jinja with that "
                "of the model's makers"
            )
        return found

    def check(self) -> None:
        """Refuse a template that is missing, or is none.

        Raises:
            ModelError: with what to do.
        """
        from transformers.utils.chat_template_utils import _compile_jinja_template

        source = _dated(self.source)
        with _explained():
            _compile_jinja_template(source)

    def read(self, messages: Sequence[Message], tools: Sequence[object] | None) -> Dialogue:
        """A conversation as text, and the assistant's part of it.

        Args:
            messages: its turns.
            tools: descriptions of tools, or None.

        Raises:
            DataError: the template refuses it, or nobody can say which part is the assistant's.
            ModelError: the template itself cannot be used.
        """
        source = self.source
        _check_roles(messages, source)
        wanted = self._learnt(messages)
        with limited(MOST_SECONDS):
            whole = self._text(source, messages, tools, prompted=False)

            def render(until: int, prompted: bool) -> str:
                if not until:  # templates refuse a conversation of no turns
                    return _before_first(whole, render)
                return self._text(source, messages[:until], tools, prompted=prompted)

            try:
                found = tuple(_answer(whole, render, messages, turn, self._end) for turn in wanted)
                _check_order(found)
            except _NoPrefix as error:
                if not _MARKED.search(source):
                    raise DataError(f"{error}{self._remedy(whole, render, messages)}") from None
                found = self._by_marks(source, messages, tools, wanted)
        _check_written(found, whole, messages)
        return Dialogue(text=whole, answers=tuple(each for each in found if each.end > each.start))

    @property
    def _end(self) -> str:
        return str(self.tokenizer.special_tokens_map.get("eos_token") or "")

    def _remedy(self, whole: str, render: Callable[[int, bool], str], messages: Sequence[Message]) -> str:
        """What helps where the assistant's turns cannot be told by themselves."""
        marks = "use a template with {% generation %} marks"
        try:
            _answer(whole, render, messages, _spoken(messages)[-1], self._end)
        except _NoPrefix:
            return f"; {marks}"
        return f"; learn the last answer alone (task.turns: last), or {marks}"

    def _learnt(self, messages: Sequence[Message]) -> list[int]:
        spoken = _spoken(messages)
        spoken = spoken[-1:] if self.turns == "last" else spoken
        return [turn for turn in spoken if _weight(messages[turn]) > 0]

    def _text(
        self, source: str, messages: Sequence[Message], tools: Sequence[object] | None, *, prompted: bool
    ) -> str:
        with _explained():
            found = self.tokenizer.apply_chat_template(
                _shown(messages), tools=list(tools) if tools else None, chat_template=_dated(source),
                add_generation_prompt=prompted, tokenize=False,
            )  # fmt: skip
        return str(found)

    def _by_marks(
        self, source: str, messages: Sequence[Message], tools: Sequence[object] | None, wanted: Sequence[int]
    ) -> tuple[Answer, ...]:
        """Between the template's own marks, in the order of the assistant's turns."""
        shown, source = _shown(messages), _dated(source)
        with _explained():
            spans = _generated(shown, tools, source, self.tokenizer.special_tokens_map)
        spoken = _spoken(messages)
        if len(spans) != len(spoken):
            raise DataError(
                f"the chat template marks {len(spans)} stretches as generated; the assistant has {len(spoken)} turns"
            )
        return tuple(
            Answer(turn=turn, start=start, end=end, weight=_weight(messages[turn]), marked=True)
            for turn, (start, end) in zip(spoken, spans, strict=True)
            if turn in wanted
        )


def _generated(
    messages: Sequence[Message], tools: Sequence[object] | None, source: str, marks: Mapping[str, str]
) -> list[tuple[int, int]]:
    """(first character, end) of each stretch that a template marks."""
    from transformers.utils import chat_template_utils

    render: Callable[..., tuple[object, Sequence[list[tuple[int, int]]]]]
    render = getattr(chat_template_utils, "render_jinja_template")  # noqa: B009 (its annotation names one of two)
    told = {"tools": list(tools) if tools else None, "chat_template": source, **marks}
    return render([messages], return_assistant_tokens_mask=True, **told)[1][0]


def _spoken(messages: Sequence[Message]) -> list[int]:
    return [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]


def _shown(messages: Sequence[Message]) -> list[dict[str, object]]:
    """What a template is shown: all but how much a turn counts."""
    return [{key: each for key, each in message.items() if key != "weight"} for message in messages]


def _dated(source: str) -> str:
    return f"{_DATE}{source}" if "strftime_now" in source else source


def _check_roles(messages: Sequence[Message], source: str) -> None:
    for turn, message in enumerate(messages, start=1):
        role = str(message["role"])
        if role not in KNOWN_ROLES and f"'{role}'" not in source and f'"{role}"' not in source:
            raise DataError(
                f"turn {turn}: unknown role {role!r}{nearest(role, KNOWN_ROLES)}; expected "
                f"{', '.join(KNOWN_ROLES[:5])}, or one that the chat template names"
            )


@contextmanager
def _explained() -> Iterator[None]:
    """What a template raises, in a sentence.

    Raises:
        DataError: of this conversation.
        ModelError: of the template, whatever it is given.
    """
    try:
        yield
    except (TemplateSyntaxError, SecurityError) as error:
        line = f" (line {error.lineno})" if isinstance(error, TemplateSyntaxError) else ""
        raise ModelError(f"the chat template cannot be used{line}: {error}") from None
    except TemplateError as error:
        raise DataError(f"the chat template refuses the conversation: {error}") from None
    except RecursionError:
        raise DataError("the chat template calls itself without end") from None
    except Exception as error:  # whatever a template's own arithmetic raises
        what = f"{type(error).__name__}: {error}"
        raise DataError(f"the chat template fails on the conversation ({what})") from None


class _NoPrefix(Exception):
    """What was rendered so far is not how the whole begins."""


def _answer(
    whole: str, render: Callable[[int, bool], str], messages: Sequence[Message], turn: int, end: str
) -> Answer:
    """One of the assistant's turns, found between two beginnings of the whole text.

    Args:
        whole: text of all turns.
        render: gives the text of the first turns, with what asks for an answer or without.
        messages: all turns.
        turn: number of the one that is looked for.
        end: the tokenizer's end mark, which some templates write behind the last turn of all, whoever has it.

    Raises:
        _NoPrefix: they are none.
    """
    asked = render(turn, True)
    told = whole if turn + 1 == len(messages) else render(turn + 1, False)
    content = str(messages[turn].get("content") or "").strip()
    bare = told.removesuffix(end)
    if not whole.startswith(told) and whole.startswith(bare) and not bare.rstrip().endswith(content):
        told = bare
    if not whole.startswith(asked):
        raise _NoPrefix(
            f"turn {turn + 1}: the chat template writes what stands before this answer otherwise when it asks for the "
            f"answer (…{_differing(asked, whole)!r})"
        )
    if not whole.startswith(told) or len(told) < len(asked):
        raise _NoPrefix(
            f"turn {turn + 1}: the chat template writes this answer otherwise once others follow "
            f"(…{_differing(told, whole)!r})"
        )
    said = whole[len(asked) : len(told)].rstrip()
    return Answer(
        turn=turn,
        start=len(asked),
        end=len(asked) + len(said),
        weight=_weight(messages[turn]),
        marked=not content or not said.endswith(content),
    )


def _before_first(whole: str, render: Callable[[int, bool], str]) -> str:
    """How the whole begins, up to the first word of an answer to nothing: its head is the one that asks for answers.

    Raises:
        _NoPrefix: it is not there.
    """
    head = render(1, True).removeprefix(render(1, False))
    place = whole.find(head) if head else -1
    if place < 0:
        raise _NoPrefix(
            "turn 1: the conversation begins with an answer, and the chat template does not write what asks for one in "
            "front of it; remove the turn"
        )
    return whole[: place + len(head)]


def _check_written(answers: Sequence[Answer], whole: str, messages: Sequence[Message]) -> None:
    """Refuse a template that writes nothing of what the assistant says: its end marks alone would be learnt. One that
    leaves out what an earlier answer thought is another matter.

    Raises:
        DataError: naming the first such turn.
    """
    left_out = []
    for answer in answers:
        words = _WORD.findall(str(messages[answer.turn].get("content") or "").casefold())
        said = whole[answer.start : answer.end].casefold()
        if any(word in said for word in words):
            return
        left_out += [answer] if words else []
    if left_out:
        found = whole[left_out[0].start : left_out[0].end]
        raise DataError(
            f"turn {left_out[0].turn + 1}: the chat template writes {found!r:.60} and leaves the answer's words out "
            "(those of models that see images want lists of parts instead of texts); set task.template: chatml, or "
            "task.template: FILE.jinja that writes texts"
        )


def _check_order(answers: Sequence[Answer]) -> None:
    for before, after in pairwise(answers):
        if after.start < before.end:
            raise _NoPrefix(
                f"turn {after.turn + 1}: its text begins before that of turn {before.turn + 1} ends"
            )


def _differing(found: str, whole: str) -> str:
    """Where a text stops being how the whole begins."""
    place = next((at for at, (a, b) in enumerate(zip(found, whole, strict=False)) if a != b), len(whole))
    return found[max(0, place - 10) : place + 30]


def _weight(message: Message) -> float:
    weight = message.get("weight", 1)
    return float(weight) if isinstance(weight, (int, float)) else 1.0


class _TooLong(BaseException):
    """A rendering was stopped; nothing that a template catches."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Stop what a template does after so long: the sandbox keeps it from files, not from looping.

    By a signal, which only the main thread is given: elsewhere there is no limit.

    Args:
        seconds: of wall clock.

    Raises:
        ModelError: it was stopped.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: object) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, stop)
    earlier = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _TooLong:
        raise ModelError(
            f"the chat template has not written one conversation after {seconds:g} s: it seems to loop without end"
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, *earlier)
        signal.signal(signal.SIGALRM, before)


CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] }}"
    "{{ END + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""`task.template: chatml`; END is `<|im_end|>` where the tokenizer knows it, else its own end mark, so that an answer
ends with one token that can be told from text."""


def chatml(tokenizer: ChatTokenizer) -> str:
    """The ChatML template (OpenAI 2023) as this tokenizer can write it."""
    knows = "<|im_end|>" in tokenizer.get_vocab()
    return CHATML.replace("END", "eos_token" if not knows and tokenizer.eos_token else "'<|im_end|>'")
