"""One request's wait for its answer: until it is there, the deadline passes, or whoever asked is gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from starlette.requests import Request

from bigbatch.serve.engine import Engine
from bigbatch.serve.models import Models
from bigbatch.serve.queue import Job
from bigbatch.serve.refusals import Refused, as_refused, too_late
from bigbatch.serve.work import Work

T = TypeVar("T")
GONE = 499
"""Status of an answer that nobody reads; nginx's."""


class Asked:
    """A job in an engine's hands."""

    def __init__(self, models: Models, engine: Engine, work: Work, rows: int) -> None:
        """Put it into the engine's queue.

        Raises:
            Refused: 429 or 503.
        """
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[object] = self._loop.create_future()
        self.seconds = engine.limits.deadline_seconds
        self._job: Job[Work] = Job(
            work=work, kind=work.kind, rows=rows, tell=self._told, expires=time.monotonic() + self.seconds
        )
        self._engine = models.put(engine, self._job)

    def _told(self, answer: object) -> None:
        """From the engine's thread."""
        self._soon(lambda: self._settle(answer))

    def _soon(self, call: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # the loop has ended, and everybody who asked with it
            self._job.gone = True

    def _settle(self, answer: object) -> None:
        if self.future.done():
            return
        if isinstance(answer, Exception):
            self.future.set_exception(answer)
            self.future.exception()  # looked at: nobody may be left to read it
        else:
            self.future.set_result(answer)

    @property
    def left(self) -> float:
        """Seconds to its deadline."""
        return max(0.0, self._job.expires - time.monotonic())

    def give_up(self) -> None:
        """Nobody waits any more."""
        if not self.future.done():
            self._engine.queue.drop(self._job)

    def found(self) -> object:
        """The answer that is there.

        Raises:
            Refused: whatever went wrong.
        """
        error = self.future.exception()
        if isinstance(error, Exception):
            raise as_refused(error) from error
        return self.future.result()

    async def answer(self, request: Request) -> object:
        """What the engine says.

        Raises:
            Refused: 504, or 499 where whoever asked is gone; and whatever the engine found.
        """
        gone = asyncio.ensure_future(leaving(request))
        try:
            await asyncio.wait({self.future, gone}, timeout=self.left, return_when=asyncio.FIRST_COMPLETED)
            if self.future.done():
                return self.found()
            raise Refused(GONE, "nobody waits any more") if gone.done() else too_late(self.seconds)
        finally:
            gone.cancel()
            self.give_up()


async def leaving(request: Request) -> None:
    """Return when the client has gone; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
