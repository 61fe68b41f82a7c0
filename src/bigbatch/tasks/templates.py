"""The chat template of a task: the tokenizer's own, or the one that `task.template` names."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast

from bigbatch.errors import ModelError, Problem, RecipeError
from bigbatch.protocols import Tokenizer
from bigbatch.stored import Damaged, read_bytes
from bigbatch.tasks.dialogue import ChatTokenizer, Template, chatml

_MOST_BYTES = 2**20
"""Of a template's file."""


def template_of(tokenizer: Tokenizer | None, task: str, turns: Literal["all", "last"] = "last") -> Template:
    """How a task writes conversations.

    Args:
        tokenizer: the model's.
        task: its name, for messages.
        turns: which of the assistant's turns are learnt.

    Raises:
        ModelError: there is none that can say which characters a token stands for.
    """
    if tokenizer is None or not getattr(tokenizer, "is_fast", False):
        kind = "no tokenizer" if tokenizer is None else type(tokenizer).__name__
        raise ModelError(
            f"{kind} cannot say which token has which characters; messages of task {task} need a fast tokenizer"
        )
    return Template(tokenizer=cast(ChatTokenizer, tokenizer), turns=turns)


def with_template(
    tokenizer: Tokenizer, template: str | None, place: Callable[[str], Path], task: str
) -> Tokenizer:
    """The tokenizer with the template of a task; the caller's own stays as it is.

    Args:
        tokenizer: the model's.
        template: `chatml`, or a file; None: the tokenizer's own.
        place: where a template's file lies.
        task: its name, for messages.

    Raises:
        ModelError: it has no template and none is named, or cannot say which characters a token stands for.
        RecipeError: the file cannot be read.
    """
    found = template_of(tokenizer, task).tokenizer
    if template is not None:
        source = chatml(found) if template == "chatml" else _read(place(template))
        tokenizer = copy.deepcopy(tokenizer)
        cast(ChatTokenizer, tokenizer).chat_template = source
    template_of(tokenizer, task).check()
    return tokenizer


def _read(path: Path) -> str:
    """The text of a template's file.

    Raises:
        RecipeError: it cannot be read.
    """
    try:
        return read_bytes(path, most_bytes=_MOST_BYTES).decode()
    except (OSError, Damaged, UnicodeDecodeError) as error:
        what = f"{path} cannot be read ({error}); expected chatml, or a file with a Jinja template"
        raise RecipeError([Problem(where="recipe", key="task.template", what=what)]) from None
