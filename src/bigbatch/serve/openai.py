"""`/v1`: embeddings, completions and chat completions as OpenAI's clients speak them, streams included.

Where a seed is given, a text is what `bigbatch generate` writes with it; without one, every request draws anew.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from bigbatch.infer.texts import Text
from bigbatch.infer.unlabelled import PlacedRow
from bigbatch.serve.asking import Asked
from bigbatch.serve.bodies import ChatBody, CompletionBody, EmbeddingsBody, OpenAIBody, read, within
from bigbatch.serve.engine import Engine
from bigbatch.serve.limits import Limits
from bigbatch.serve.models import Models
from bigbatch.serve.own import Own, decoding, embedding, named, told, writing
from bigbatch.serve.refusals import Refused, body_of, too_late
from bigbatch.serve.work import Writing

_END = {"stop": "stop", "length": "length"}
Piece = Callable[[int, str | None, str | None], Mapping[str, object]]
"""(index, text or None, how it ended or None) -> one of `choices`."""


class OpenAI:
    """Handlers of one server."""

    def __init__(self, models: Models, limits: Limits, own: Own) -> None:
        """Handlers for these models.

        Args:
            models: that answer.
            limits: of requests.
            own: paths that share the work.
        """
        self._models, self._limits, self._own = models, limits, own
        self._seed = secrets.randbits(62)
        self._drawn = itertools.count()
        self._started = int(time.time())

    async def models(self, request: Request) -> Response:
        """The names that requests may say as `model`."""
        del request
        data = [
            {"id": name, "object": "model", "created": self._started, "owned_by": "bigbatch"}
            for name in self._models.names
        ]
        return told({"object": "list", "data": data})

    async def embeddings(self, request: Request) -> Response:
        """Embeddings of one text or several (task match)."""
        body = await read(request, EmbeddingsBody)
        texts = [body.input] if isinstance(body.input, str) else body.input
        within(texts, self._limits, "input")
        engine = embedding(self._models.engine(body.model), "/v1/embeddings")
        if not all(text.strip() for text in texts):
            raise Refused(422, "input: found an empty text")
        found = await self._own.embeddings(request, engine, texts, body.input_type, body.dimensions)
        if any(each is None for each in found):
            raise Refused(422, "input: a text that the tokenizer makes no token of")
        data = [
            {"object": "embedding", "index": place, "embedding": _encoded(vector or (), body.encoding_format)}
            for place, vector in enumerate(found)
        ]
        return told({"object": "list", "data": data, "model": engine.name})

    async def completions(self, request: Request) -> Response:
        """Go on behind prompts (tasks clm and chat)."""
        body = await read(request, CompletionBody)
        prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        within(prompts, self._limits, "prompt")
        engine = causal(writing(self._models.engine(body.model), "/v1/completions"), "/v1/completions")

        def choice(index: int, text: str | None, end: str | None) -> Mapping[str, object]:
            return {"index": index, "text": text or "", "finish_reason": end, "logprobs": None}

        rows: list[PlacedRow] = [
            (f"prompt {number}", {"prompt": prompt})
            for number, prompt in enumerate(prompts, start=1)
            for _ in range(body.n)
        ]
        kind = ("text_completion", "text_completion", "cmpl")
        return await self._answer(request, engine, body, self._work(body, rows, None), kind, (choice, choice))

    async def chat(self, request: Request) -> Response:
        """Answer a conversation in the words of the tokenizer's chat template (tasks clm and chat)."""
        body = await read(request, ChatBody)
        messages = [{"role": each.role, "content": each.content} for each in body.messages]
        within([messages], self._limits, "messages")
        path = "/v1/chat/completions"
        engine = causal(writing(self._models.engine(body.model), path), path)
        if not getattr(engine.opened.tokenizer, "chat_template", None):
            raise Refused(
                404,
                f"{path}: the tokenizer of {named(engine)} has no chat template; task chat trains one that has",
            )

        def choice(index: int, text: str | None, end: str | None) -> Mapping[str, object]:
            return {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": end}

        def piece(index: int, text: str | None, end: str | None) -> Mapping[str, object]:
            delta = {} if text is None else {"role": "assistant", "content": text}
            return {"index": index, "delta": delta, "finish_reason": end}

        rows: list[PlacedRow] = [("messages", {"messages": messages})] * body.n
        kind = ("chat.completion", "chat.completion.chunk", "chatcmpl")
        work = self._work(body, rows, body.max_completion_tokens)
        return await self._answer(request, engine, body, work, kind, (choice, piece))

    def _work(self, body: OpenAIBody, rows: Sequence[PlacedRow], most: int | None) -> Writing:
        if len(rows) > self._limits.rows:
            raise Refused(
                422, f"n: {len(rows)} texts in all; expected at most {self._limits.rows} (--max-rows)"
            )
        # Without a draw nothing is cut off: the two say how one draws.
        how = decoding(
            body if body.temperature else body.model_copy(update={"top_p": 1.0, "top_k": None}),
            self._limits,
            most=most,
        )
        if body.seed is not None:
            return Writing(rows=rows, how=how)
        # One seed for all of them, so that they can be written together, and a row's number for each.
        numbers = [next(self._drawn) for _ in rows]
        return Writing(
            rows=rows, how=replace(how, seed=self._seed if how.temperature else 0), numbers=numbers
        )

    async def _answer(
        self,
        request: Request,
        engine: Engine,
        body: OpenAIBody,
        work: Writing,
        kind: tuple[str, str, str],
        forms: tuple[Piece, Piece],
    ) -> Response:
        head = {"id": f"{kind[2]}-{secrets.token_hex(12)}", "created": int(time.time()), "model": engine.name}
        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            stream = Stream(self._models, engine, work)
            head = {**head, "object": kind[1]}
            await stream.begun()
            return StreamingResponse(
                stream.events(request, head, forms[1], usage=usage), media_type="text/event-stream"
            )
        found = await Asked(self._models, engine, work, len(work.rows)).answer(request)
        assert isinstance(found, list), "an engine answers with a list"
        texts: list[Text] = found
        choices = [forms[0](place, text.text, _END[text.end]) for place, text in enumerate(texts)]
        return told({**head, "object": kind[0], "choices": choices, "usage": usage_of(work, texts)})


class Stream:
    """Texts as they come, as server-sent events."""

    def __init__(self, models: Models, engine: Engine, work: Writing) -> None:
        """Ask for them.

        Raises:
            Refused: 429 or 503.
        """
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[tuple[int, str] | None] = asyncio.Queue()
        self._work = work
        work.piece = self._told
        self._asked = Asked(models, engine, work, len(work.rows))
        self._asked.future.add_done_callback(lambda _: self._pieces.put_nowait(None))
        self._first: tuple[int, str] | None = None

    def _told(self, index: int, text: str) -> None:
        """From the engine's thread."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, (index, text))

    async def begun(self) -> None:
        """Return when there is something to tell: what is wrong with a request still gets its own status.

        Raises:
            Refused: whatever came before the first piece.
        """
        try:
            async with asyncio.timeout(self._asked.left):
                self._first = await self._pieces.get()
        except TimeoutError:
            self._asked.give_up()
            raise too_late(self._asked.seconds) from None
        except asyncio.CancelledError:
            self._asked.give_up()
            raise
        if self._first is None:
            self._asked.found()

    async def events(
        self, request: Request, head: Mapping[str, object], form: Piece, *, usage: bool
    ) -> AsyncIterator[bytes]:
        """Pieces, how each text ended, and `[DONE]`.

        Args:
            request: that asks.
            head: of each event.
            form: of a piece.
            usage: whether tokens are told at the end.
        """
        del request  # StreamingResponse itself stops when it is gone
        try:
            one = self._first
            while one is not None:
                yield _event({**head, "choices": [form(one[0], one[1], None)]})
                try:
                    async with asyncio.timeout(self._asked.left):
                        one = await self._pieces.get()
                except TimeoutError:
                    refused = too_late(self._asked.seconds)
                    yield b"data: " + body_of(refused.status, refused.message) + b"\n\n"
                    return
            try:
                found = self._asked.found()
            except Refused as refused:
                yield b"data: " + body_of(refused.status, refused.message) + b"\n\n"
                return
            assert isinstance(found, list), "an engine answers with a list"
            texts: list[Text] = found
            for place, text in enumerate(texts):
                yield _event({**head, "choices": [form(place, None, _END[text.end])]})
            if usage:
                yield _event({**head, "choices": [], "usage": usage_of(self._work, texts)})
            yield b"data: [DONE]\n\n"
        finally:
            self._asked.give_up()


def causal(engine: Engine, path: str) -> Engine:
    """The engine, if its model continues texts.

    Raises:
        Refused: 404, and which tasks do.
    """
    if engine.opened.task.head.kind != "causal":
        raise Refused(
            404,
            f"{path}: {named(engine)} writes from a source, by /generate; tasks clm and chat continue texts",
        )
    return engine


def usage_of(work: Writing, texts: Sequence[Text]) -> Mapping[str, int]:
    """Tokens read and written."""
    read, wrote = sum(work.tokens), sum(text.tokens for text in texts)
    return {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}


def _event(content: Mapping[str, object]) -> bytes:
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return b"data: " + text.encode("utf-8", "replace") + b"\n\n"


def _encoded(vector: Sequence[float], form: str) -> object:
    if form == "float":
        return vector
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()
