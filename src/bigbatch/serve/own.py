"""bigbatch's own paths: `/predict`, `/embed`, `/rank`, `/generate`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from bigbatch.infer.prompts import rows_of_prompts, why_it_writes_nothing
from bigbatch.infer.sampling import Decoding
from bigbatch.infer.texts import Text
from bigbatch.protocols import Json
from bigbatch.serve.asking import Asked
from bigbatch.serve.bodies import EmbedBody, GenerateBody, PredictBody, RankBody, WritingBody, read, within
from bigbatch.serve.engine import Engine
from bigbatch.serve.limits import Limits
from bigbatch.serve.models import Models
from bigbatch.serve.refusals import Refused, as_refused
from bigbatch.serve.work import Predicting, Writing
from bigbatch.tasks.base import Task
from bigbatch.tasks.classify import Classify
from bigbatch.tasks.match import Match


class Own:
    """Handlers of one server."""

    def __init__(self, models: Models, limits: Limits) -> None:
        """Handlers for these models.

        Args:
            models: that answer.
            limits: of requests.
        """
        self._models, self._limits = models, limits

    async def predict(self, request: Request) -> Response:
        """What `bigbatch predict` says of each row, in order: `{"model", "predictions": [...]}`."""
        body = await read(request, PredictBody)
        within(body.rows, self._limits, "rows")
        engine = self._models.engine(body.model)
        found = await self._predicted(request, engine, Predicting(rows=body.rows))
        return told({"model": engine.name, "predictions": found})

    async def embed(self, request: Request) -> Response:
        """Embeddings of texts: `{"model", "embeddings": [[...], ...]}`; a text without tokens has null."""
        body = await read(request, EmbedBody)
        within(body.texts, self._limits, "texts")
        engine = embedding(self._models.engine(body.model), "/embed")
        found = await self.embeddings(request, engine, body.texts, body.kind, body.dimension)
        return told({"model": engine.name, "embeddings": found})

    async def embeddings(
        self, request: Request, engine: Engine, texts: Sequence[str], kind: str, dimension: int | None
    ) -> list[Sequence[float] | None]:
        """Of each text; None: it has no tokens.

        Args:
            request: that asks.
            engine: of a model that embeds.
            texts: to embed.
            kind: `query` or `document`, which may have a prefix of its own.
            dimension: numbers that are kept.
        """
        rows = [{kind: text} for text in texts]
        blank = [not text.strip() for text in texts]
        kept = [row for row, nothing in zip(rows, blank, strict=True) if not nothing]
        work = Predicting(rows=kept, dimension=dimension)
        found = iter(await self._predicted(request, engine, work) if kept else [])
        return [None if nothing else vector_of(next(found)) for nothing in blank]

    async def rank(self, request: Request) -> Response:
        """Documents by how well they answer a query, the best first: `{"model", "results": [{"index", "score"}]}`."""
        body = await read(request, RankBody)
        within([body.query, *body.documents], self._limits, "query and documents")
        engine = self._models.engine(body.model)
        scores = await self._scores(request, engine, body.query, body.documents)
        known = [(place, score) for place, score in enumerate(scores) if score is not None]
        known.sort(key=lambda each: -each[1])
        results = [{"index": place, "score": score} for place, score in known[: body.top]]
        return told({"model": engine.name, "results": results})

    async def _scores(
        self, request: Request, engine: Engine, query: str, documents: Sequence[str]
    ) -> list[float | None]:
        task = engine.opened.task
        if isinstance(task, Match):
            rows = [{"query": query}, *({"document": each} for each in documents)]
            if not all(text.strip() for text in (query, *documents)):
                raise Refused(422, "query and documents: found an empty text")
            found = await self._predicted(request, engine, Predicting(rows=rows))
            first, *others = map(vector_of, found)
            if first is None:
                raise Refused(422, "query: nothing that the tokenizer makes a token of")
            return [None if other is None else dot(first, other) for other in others]
        if _scores_pairs(task):
            rows = [{"text": query, "pair": each} for each in documents]
            found = await self._predicted(request, engine, Predicting(rows=rows))
            values = [each["value"] for each in found]
            return [float(value) if isinstance(value, (int, float)) else None for value in values]
        raise Refused(
            404,
            f"/rank: {named(engine)} gives no scores of pairs; task match does, and regression of pairs",
        )

    async def generate(self, request: Request) -> Response:
        """What `bigbatch generate` writes of each prompt: `{"model", "texts": [{"text", "end", "tokens"}]}`."""
        body = await read(request, GenerateBody)
        within(body.prompts, self._limits, "prompts")
        engine = writing(self._models.engine(body.model), "/generate")
        how = decoding(body, self._limits, beams=body.beams)
        try:
            rows = rows_of_prompts(body.prompts, engine.opened)
        except Exception as error:
            raise as_refused(error) from error
        work = Writing(rows=rows, how=how, chat=body.chat)
        found = await Asked(self._models, engine, work, len(rows)).answer(request)
        assert isinstance(found, list), "an engine answers with a list"
        texts: list[Text] = found
        return told({"model": engine.name, "texts": [text.record for text in texts]})

    async def _predicted(
        self, request: Request, engine: Engine, work: Predicting
    ) -> list[Mapping[str, Json]]:
        found = await Asked(self._models, engine, work, len(work.rows)).answer(request)
        assert isinstance(found, list), "an engine answers with a list"
        return found


# ---------------------------------------------------------------- which model gives what


def named(engine: Engine) -> str:
    """A model and its task, for sentences."""
    return f"model {engine.name} (task {name_of(engine.opened.task)})"


def name_of(task: Task) -> str:
    """Of a task."""
    return type(task).__name__.lower()


def paths_of(engine: Engine) -> list[str]:
    """What a model answers to; other paths are 404."""
    task, found = engine.opened.task, ["/predict"]
    if isinstance(task, Match):
        found += ["/embed", "/rank", "/v1/embeddings"]
    elif _scores_pairs(task):
        found += ["/rank"]
    if not why_it_writes_nothing(task):
        found += ["/generate"]
        if task.head.kind == "causal":
            found += ["/v1/completions"]
            if getattr(engine.opened.tokenizer, "chat_template", None):
                found += ["/v1/chat/completions"]
    return found


def _scores_pairs(task: Task) -> bool:
    return isinstance(task, Classify) and task.kind == "regression" and len(task.label_names) < 2


def embedding(engine: Engine, path: str) -> Engine:
    """The engine, if its model embeds.

    Raises:
        Refused: 404, and which task does.
    """
    if not isinstance(engine.opened.task, Match):
        raise Refused(404, f"{path}: {named(engine)} gives no embeddings; task match does")
    return engine


def writing(engine: Engine, path: str) -> Engine:
    """The engine, if its model writes.

    Raises:
        Refused: 404, and which tasks do.
    """
    if why_it_writes_nothing(engine.opened.task):
        raise Refused(404, f"{path}: {named(engine)} writes no texts; tasks clm, chat and seq2seq do")
    return engine


def decoding(
    body: WritingBody, limits: Limits, *, beams: int | None = None, most: int | None = None
) -> Decoding:
    """How a request wants its texts.

    Args:
        body: of it.
        limits: of tokens.
        beams: where it may say so.
        most: tokens, where they have another name, too.

    Raises:
        Refused: 422.
    """
    tokens = most if most is not None else body.max_tokens
    if (tokens or 0) > limits.new_tokens:
        raise Refused(422, f"max_tokens: found {tokens}; expected at most {limits.new_tokens} (--max-tokens)")
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    try:
        return Decoding(
            max_tokens=tokens or min(256, limits.new_tokens), temperature=body.temperature,
            top_p=body.top_p, top_k=body.top_k, beams=beams, stop=stop, seed=body.seed or 0,
        )  # fmt: skip
    except Exception as error:
        raise as_refused(error) from error


def vector_of(prediction: Mapping[str, Json]) -> Sequence[float] | None:
    """The embedding of a prediction; None: its text has no tokens."""
    found = prediction["embedding"]
    if not isinstance(found, list):
        return None
    return [float(number) for number in found if isinstance(number, (int, float))]


def dot(one: Sequence[float], other: Sequence[float]) -> float:
    """Of two embeddings, float64, as `Match.predict` has it."""
    return float(np.asarray(one, np.float64) @ np.asarray(other, np.float64))


def told(content: Mapping[str, object], status: int = 200) -> Response:
    """JSON; numbers with all their digits."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(text.encode("utf-8", "replace"), status, media_type="application/json")
