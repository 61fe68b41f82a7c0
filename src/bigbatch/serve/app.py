"""The application: all paths, for uvicorn or any other ASGI server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from bigbatch import __version__
from bigbatch.serve import bodies
from bigbatch.serve.figures import Figures
from bigbatch.serve.guard import Access, Guard
from bigbatch.serve.limits import Limits
from bigbatch.serve.models import Models
from bigbatch.serve.openai import OpenAI
from bigbatch.serve.own import Own, name_of, paths_of, told
from bigbatch.serve.page import PAGE, POLICY
from bigbatch.serve.refusals import Refused, on_refused, plainly

_REF = "#/components/schemas/{model}"
Handler = Callable[[Request], Awaitable[Response]]


@dataclass(kw_only=True)
class State:
    """What a server is at."""

    draining: bool = False
    """Whether it takes no more: `/ready` says so."""


@dataclass(frozen=True, kw_only=True)
class Path:
    """One of the application's."""

    path: str
    handler: Handler
    body: type[BaseModel] | None = None
    example: Mapping[str, object] = field(default_factory=dict)


def application(
    models: Models, *, figures: Figures, limits: Limits, access: Access, state: State | None = None
) -> ASGIApp:
    """All paths behind the guard.

    Args:
        models: that answer; closed when the application ends.
        figures: that `/metrics` tells.
        limits: of requests.
        access: who may ask.
        state: shared with who runs it.
    """
    now = state or State()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        yield
        await run_in_threadpool(models.close)

    app = FastAPI(
        title="bigbatch", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan,
        description="Predictions, embeddings and texts of models that bigbatch has trained.",
    )  # fmt: skip
    paths = _paths(models, figures, limits, now)
    for each in paths:
        app.add_api_route(
            each.path, _taking(each.handler), methods=["GET" if each.body is None else "POST"],
            name=each.path.strip("/") or "page", summary=(each.handler.__doc__ or "").partition("\n")[0],
            response_class=Response, openapi_extra=_described(each),
        )  # fmt: skip
    app.add_exception_handler(Refused, on_refused)
    app.add_exception_handler(HTTPException, _on_http)
    app.openapi = lambda: _schema(app, paths)
    known = [*(each.path for each in paths), "/openapi.json"]
    return Guard(app, access=access, limits=limits, figures=figures, paths=known)


def _paths(models: Models, figures: Figures, limits: Limits, state: State) -> list[Path]:
    own = Own(models, limits)
    openai = OpenAI(models, limits, own)

    async def health(request: Request) -> Response:
        """That the process answers."""
        del request
        return told({"status": "ok"})

    async def ready(request: Request) -> Response:
        """Whether requests should come here: 503 while it drains. With it, what the models are."""
        del request
        told_of = {name: _about(models, name) for name in models.names}
        word = "draining" if state.draining else "ready"
        return told({"status": word, "models": told_of}, 503 if state.draining else 200)

    async def metrics(request: Request) -> Response:
        """Counts and times for Prometheus."""
        del request
        return Response(figures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def page(request: Request) -> Response:
        """A page to try it by hand."""
        del request
        return HTMLResponse(PAGE, headers={"content-security-policy": POLICY})

    text = "the crew was great"
    said = [{"role": "user", "content": "Hello"}]
    return [
        Path(path="/", handler=page),
        Path(path="/health", handler=health),
        Path(path="/ready", handler=ready),
        Path(path="/metrics", handler=metrics),
        Path(path="/predict", handler=own.predict, body=bodies.PredictBody, example={"rows": [text]}),
        Path(path="/embed", handler=own.embed, body=bodies.EmbedBody, example={"texts": [text]}),
        Path(
            path="/rank", handler=own.rank, body=bodies.RankBody,
            example={"query": "how do I print", "documents": ["Press Ctrl+P.", text]},
        ),
        Path(
            path="/generate", handler=own.generate, body=bodies.GenerateBody,
            example={"prompts": ["Once"], "max_tokens": 20},
        ),
        Path(path="/v1/models", handler=openai.models),
        Path(path="/v1/embeddings", handler=openai.embeddings, body=bodies.EmbeddingsBody, example={"input": text}),
        Path(
            path="/v1/completions", handler=openai.completions, body=bodies.CompletionBody,
            example={"prompt": "Once", "max_tokens": 20},
        ),
        Path(
            path="/v1/chat/completions", handler=openai.chat, body=bodies.ChatBody,
            example={"messages": said, "max_tokens": 20},
        ),
    ]  # fmt: skip


def _about(models: Models, name: str) -> Mapping[str, object]:
    engine = models.engine(name)
    return {
        "task": name_of(engine.opened.task),
        "way": engine.way or "as each table asks for",
        "waiting": engine.queue.rows,
        "paths": paths_of(engine),
    }


def _taking(handler: Handler) -> Handler:
    """The handler as FastAPI reads it: the request, and nothing of its own."""

    async def call(request: Request) -> Response:
        return await handler(request)

    call.__doc__ = handler.__doc__
    return call


async def _on_http(request: Request, error: Exception) -> Response:
    """No such path, no such method: in the same words as everything else."""
    assert isinstance(error, HTTPException), "registered for these"
    what = {404: "no such path; GET /openapi.json lists them", 405: "another method is expected here"}
    return plainly(
        error.status_code,
        f"{request.url.path[:100]}: {what.get(error.status_code, error.detail)}",
        error.headers,
    )


def _described(path: Path) -> dict[str, object] | None:
    if path.body is None:
        return None
    schema = {"$ref": _REF.format(model=path.body.__name__)}
    content = {"application/json": {"schema": schema, "example": dict(path.example)}}
    return {"requestBody": {"required": True, "content": content}}


def _schema(app: FastAPI, paths: list[Path]) -> dict[str, object]:
    from fastapi.openapi.utils import get_openapi

    found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    kinds = [(each.body, "validation") for each in paths if each.body is not None]
    _, schemas = models_json_schema(kinds, ref_template=_REF)  # pyright: ignore[reportArgumentType]
    found.setdefault("components", {}).setdefault("schemas", {}).update(schemas.get("$defs", {}))
    return found
