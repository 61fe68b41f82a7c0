"""`bigbatch serve`: open the models, listen, answer; SIGTERM drains, SIGHUP looks for newer models."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from typing_extensions import override

from bigbatch.errors import UsageError
from bigbatch.serve.app import State, application
from bigbatch.serve.figures import Figures
from bigbatch.serve.guard import Access, digest_of
from bigbatch.serve.limits import Limits
from bigbatch.serve.listening import Patient, is_loopback, listening
from bigbatch.serve.models import Models, Opening, named
from bigbatch.stored import Damaged, read_bytes

Say = Callable[[str], object]
_SHORTEST, _MOST_BYTES = 16, 1 << 16


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What `bigbatch serve` was told."""

    models: Sequence[str]
    host: str = "127.0.0.1"
    port: int = 8000
    token_file: Path | None = None
    reload_seconds: float = 0.0
    """How often the folders are looked at for newer models; 0: on SIGHUP alone."""
    opening: Opening = field(default_factory=Opening)
    limits: Limits = field(default_factory=Limits)


def serve(how: Serving, say: Say) -> None:
    """Answer until SIGTERM or Ctrl-C, then what is still asked; a second one ends at once.

    Args:
        how: everything.
        say: told what the operator should know.

    Raises:
        UsageError: models that cannot be opened, or a bind that would let anybody in.
        MachineError: the port is taken.
    """
    access = access_of(how)
    places = named(how.models)
    with contextlib.closing(listening(how.host, how.port)) as sock:
        figures = Figures()
        models = Models(places, how.opening, how.limits, figures, say)
        state = State()
        app = application(models, figures=figures, limits=how.limits, access=access, state=state)
        config = uvicorn.Config(
            app, http=Patient, ws="none", log_config=None, access_log=False, lifespan="on", server_header=False,
            timeout_keep_alive=30, timeout_graceful_shutdown=max(1, round(how.limits.drain_seconds)),
            limit_concurrency=how.limits.connections, backlog=1024, h11_max_incomplete_event_size=16 << 10,
        )  # fmt: skip
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        host, port = sock.getsockname()[:2]
        shown = f"[{host}]" if ":" in str(host) else host
        begun = f"{', '.join(models.names)}: http://{shown}:{port} (Ctrl-C ends it)"
        server = _Server(config, state, models, how.reload_seconds, say, begun)
        asyncio.run(server.serve([sock]))
        say(
            "ended; every request that was taken has its answer"
            if server.clean
            else "ended in the middle of requests"
        )


class _Server(uvicorn.Server):
    """uvicorn's, with signals that end in exit code 0 and models that change."""

    def __init__(
        self, config: uvicorn.Config, state: State, models: Models, every: float, say: Say, begun: str
    ) -> None:
        super().__init__(config)
        self._begun = begun
        self._state, self._models, self._every, self._say = state, models, every, say
        self._look = asyncio.Event()
        self.clean = True

    @override
    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, self._look.set)
        looking = asyncio.ensure_future(self._reload())
        try:
            await super().serve(sockets)
        finally:
            looking.cancel()

    @override
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ours are there already."""
        yield

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._say(self._begun)

    def _end(self) -> None:
        if self.should_exit:
            self.clean, self.force_exit = False, True
            return
        self._state.draining = self.should_exit = True
        self._say("draining: no more requests are taken; once more ends at once")

    async def _reload(self) -> None:
        while True:
            asked = True
            try:
                async with asyncio.timeout(self._every or None):
                    await self._look.wait()
            except TimeoutError:
                asked = False
            self._look.clear()
            await asyncio.to_thread(self._models.reload, only_changed=True)
            if asked:
                self._say("looked for newer models")


def access_of(how: Serving) -> Access:
    """Who may ask.

    Raises:
        UsageError: everybody of a network, without a token; or a file without tokens.
    """
    loopback = is_loopback(how.host)
    if how.token_file is None:
        if not loopback:
            raise UsageError(
                f"--host {how.host}: others reach this address, so requests need a token: write one into a file "
                "(openssl rand -hex 32 > token; chmod 600 token) and give --token-file token"
            )
        return Access()
    try:
        text = read_bytes(how.token_file, most_bytes=_MOST_BYTES).decode()
    except (OSError, Damaged, ValueError) as error:
        raise UsageError(f"--token-file {how.token_file}: cannot be read: {error}") from None
    tokens = [line.strip() for line in text.splitlines() if line.strip()]
    short = [number for number, token in enumerate(tokens, start=1) if len(token) < _SHORTEST]
    if not tokens or short:
        found = f"token {short[0]} is shorter" if tokens else "it is empty"
        raise UsageError(
            f"--token-file {how.token_file}: {found}; expected a token a line, of at least {_SHORTEST} characters: "
            "openssl rand -hex 32"
        )
    if how.token_file.stat().st_mode & 0o077:
        raise UsageError(f"--token-file {how.token_file}: others may read it: chmod 600 {how.token_file}")
    return Access(tokens=tuple(map(digest_of, tokens)), only_loopback=loopback)
