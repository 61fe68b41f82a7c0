"""What a request may hold: one model a path, strict, read by pydantic's own JSON parser (no NaN, no half of a surrogate
pair, at most 200 levels).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from starlette.requests import Request

from bigbatch.serve.limits import Limits
from bigbatch.serve.refusals import Refused

_SHOWN = 5
B = TypeVar("B", bound=BaseModel)
Row = str | dict[str, JsonValue]
Number = Annotated[float, Field(allow_inf_nan=False)]
ModelName = Annotated[str | None, Field(description="Which model; may be left out where there is one.")]


class Body(BaseModel):
    """Keys that are not known are refused: a typo would be an answer to something else."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())
    model: ModelName = None


class PredictBody(Body):
    """`/predict`."""

    rows: Annotated[list[Row], Field(min_length=1, description="Texts, or rows with the task's columns.")]


class EmbedBody(Body):
    """`/embed`."""

    texts: Annotated[list[str], Field(min_length=1)]
    kind: Literal["query", "document"] = "query"
    dimension: Annotated[int | None, Field(ge=1, description="Numbers that are kept.")] = None


class RankBody(Body):
    """`/rank`."""

    query: str
    documents: Annotated[list[str], Field(min_length=1)]
    top: Annotated[int | None, Field(ge=1, description="The best so many; all if left out.")] = None


class WritingBody(Body):
    """How texts are written."""

    temperature: Annotated[Number, Field(ge=0, le=100)] = 0.0
    top_p: Annotated[Number, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int | None, Field(ge=1)] = None
    stop: Annotated[list[str], Field(max_length=16)] | str | None = None
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None


class GenerateBody(WritingBody):
    """`/generate`."""

    prompts: Annotated[
        list[Row], Field(min_length=1, description="Texts, or rows with prompt, messages or source.")
    ]
    beams: Annotated[int | None, Field(ge=1, le=64)] = None
    chat: bool = False


class StreamOptions(BaseModel):
    """Of OpenAI's streams."""

    model_config = ConfigDict(extra="forbid", strict=True)
    include_usage: bool = False


class OpenAIBody(WritingBody):
    """What both kinds of completions take."""

    temperature: Annotated[Number, Field(ge=0, le=100)] = 1.0
    n: Annotated[int, Field(ge=1, le=16)] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None


class CompletionBody(OpenAIBody):
    """`/v1/completions`."""

    prompt: Annotated[list[str], Field(min_length=1)] | str


class Message(BaseModel):
    """One turn."""

    model_config = ConfigDict(extra="forbid", strict=True)
    role: str
    content: str
    name: str | None = None


class ChatBody(OpenAIBody):
    """`/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None


class EmbeddingsBody(Body):
    """`/v1/embeddings`."""

    input: Annotated[list[str], Field(min_length=1)] | str
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int | None, Field(ge=1)] = None
    input_type: Literal["query", "document"] = "query"
    user: str | None = None


async def read(request: Request, kind: type[B]) -> B:
    """The body of a request.

    Args:
        request: its guard has bounded it.
        kind: what it should be.

    Raises:
        Refused: 400, no JSON; 422, other JSON, with the keys that are wrong, or one that is there twice.
    """
    content = await request.body()
    try:
        body = kind.model_validate_json(content)
        json.loads(content, object_pairs_hook=_each_once)  # within 200 levels by now
        return body
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)
    told: dict[str, str] = {}
    for each in found:
        # Of a union pydantic names every alternative that did not fit.
        key = ".".join(str(part) for part in each["loc"] if part != "str" and "[" not in str(part))
        told[key] = f"{told[key]}, or: {each['msg']}" if key in told else each["msg"]
    lines = [f"{key}: {what}" if key else what for key, what in told.items()]
    more = f" (and {len(lines) - _SHOWN} more)" if len(lines) > _SHOWN else ""
    status = 400 if found[0]["type"] == "json_invalid" else 422
    raise Refused(status, "; ".join(line[:300] for line in lines[:_SHOWN]) + more)


def _each_once(pairs: Sequence[tuple[str, object]]) -> None:
    """Refuse an object in which a key is there twice: which of both is meant, nobody knows.

    Raises:
        Refused: 422.
    """
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise Refused(422, f"{name[:100]!r}: this key is there twice in one object; expected it once")
        seen.add(name)


def within(rows: Sequence[object], limits: Limits, name: str) -> None:
    """Check how many there are, how long each is, and that numbers are finite.

    Args:
        rows: of a request.
        limits: of one.
        name: of the key that holds them.

    Raises:
        Refused: 422.
    """
    if len(rows) > limits.rows:
        raise Refused(
            422, f"{name}: found {len(rows)}; expected at most {limits.rows} in one request (--max-rows)"
        )
    for number, row in enumerate(rows, start=1):
        letters = 0
        for leaf in _leaves(row):
            if isinstance(leaf, float) and not math.isfinite(leaf):
                raise Refused(422, f"{name} {number}: found {leaf}; expected finite numbers")
            letters += len(leaf) if isinstance(leaf, str) else 8
        if letters > limits.characters:
            raise Refused(
                422,
                f"{name} {number}: found {letters} characters; expected at most {limits.characters} (--max-text)",
            )


def _leaves(value: object) -> Iterator[object]:
    """All that is no list and no mapping; keys, too."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple)):
            waiting += one
        else:
            yield one
