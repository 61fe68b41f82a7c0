"""A server in this process: the application, a client, and helpers to ask many things at once."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from bigbatch.serve import engine as engines
from bigbatch.serve.app import State, application
from bigbatch.serve.figures import Figures
from bigbatch.serve.guard import Access
from bigbatch.serve.limits import Limits
from bigbatch.serve.models import Models, Opening, named


class Server:
    """One application and its models."""

    def __init__(self, words: list[str], limits: Limits, access: Access) -> None:
        self.said: list[str] = []
        self.figures, self.state, self.limits = Figures(), State(), limits
        self.models = Models(named(words), Opening(device="cpu"), limits, self.figures, self.said.append)
        self.app = application(
            self.models, figures=self.figures, limits=limits, access=access, state=self.state
        )

    def run(self, ask: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
        async def asking() -> Any:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await ask(client)

        return asyncio.run(asking())

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        content = body if isinstance(body, (str, bytes)) else json.dumps(body)
        given = {"content-type": "application/json", **headers}
        return self.run(lambda client: client.post(path, content=content, headers=given))

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.run(lambda client: client.get(path, headers=headers))


@contextmanager
def serving(*words: str | Path, access: Access | None = None, **limits: Any) -> Iterator[Server]:
    server = Server([str(word) for word in words], Limits(**limits), access or Access())
    try:
        yield server
    finally:
        server.models.close()


@pytest.fixture(scope="module")
def server(two_labels: Path) -> Iterator[Server]:
    with serving(f"flights={two_labels}") as found:
        yield found


def told(response: httpx.Response) -> str:
    """The sentence of an error."""
    return str(response.json()["error"]["message"])


class Held:
    """The engine waits in front of its first batch until it is let go."""

    def __init__(self, monkeypatch):
        self.begun, self.go, self.seen = threading.Event(), threading.Event(), []
        run = engines.predicted

        def held(opened, jobs):
            self.begun.set()
            self.go.wait(30)
            self.seen.append([list(job.work.rows) for job in jobs])
            run(opened, jobs)

        monkeypatch.setattr(engines, "predicted", held)

    async def busy(self, client):
        first = asyncio.ensure_future(client.post("/predict", json={"rows": ["first"]}))
        await asyncio.to_thread(self.begun.wait, 30)
        return first


async def until(found):
    while not found():
        await asyncio.sleep(0.002)
