"""Names and their models; a newer model takes over between two batches, and no request is lost."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bigbatch.documents import last_stage
from bigbatch.errors import BigbatchError, UsageError
from bigbatch.infer.load import Loaded, open_model
from bigbatch.serve.engine import Engine
from bigbatch.serve.figures import Figures
from bigbatch.serve.limits import Limits
from bigbatch.serve.queue import Job
from bigbatch.serve.refusals import Refused
from bigbatch.serve.work import Work

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
Say = Callable[[str], object]
Signature = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How models are opened."""

    device: str | None = None
    code: bool = False


def named(words: Sequence[str]) -> dict[str, Path]:
    """`name=folder`, or a folder, which has its own name.

    Raises:
        UsageError: two of one name, or a name that no request could hold.
    """
    found: dict[str, Path] = {}
    for word in words:
        name, equals, place = word.partition("=")
        path = Path(place if equals else word)
        name = name if equals else path.resolve().name
        if (not place and equals) or not _NAME.fullmatch(name):
            raise UsageError(
                f"{word}: expected a folder, or NAME=FOLDER with letters, digits, '.', '_' and '-'"
            )
        if name in found:
            raise UsageError(f"two models are called {name}: give them names of their own, such as a={path}")
        found[name] = path
    if not found:
        raise UsageError("serve needs a run or a model folder")
    return found


class Models:
    """All models of a server."""

    def __init__(
        self, places: Mapping[str, Path], how: Opening, limits: Limits, figures: Figures, say: Say
    ) -> None:
        """Open them all.

        Args:
            places: name -> run or model folder.
            how: to open them.
            limits: of requests.
            figures: that are counted in.
            say: told what the operator should know.

        Raises:
            UsageError, ModelError: as `open_model`.
        """
        self._places, self._how, self._limits, self._figures, self._say = places, how, limits, figures, say
        self._engines: dict[str, Engine] = {}
        self._signatures: dict[str, Signature] = {}
        self._reloading = threading.Lock()
        for name, place in places.items():
            self._signatures[name] = signature_of(place)
            self._engines[name] = self._opened(name, place)
            figures.watch(name, lambda name=name: self._engines[name].queue.rows)

    @property
    def names(self) -> list[str]:
        """In the order in which they were given."""
        return list(self._engines)

    def engine(self, name: str | None) -> Engine:
        """The engine of a name; None: there is only one.

        Raises:
            Refused: 404 with the names there are.
        """
        known = ", ".join(self._engines)
        if name is None and len(self._engines) == 1:
            return next(iter(self._engines.values()))
        if name is None:
            raise Refused(422, f"model: say which one; there are {known}")
        if name not in self._engines:
            raise Refused(404, f"no model {name[:100]!r}; there is {known}")
        return self._engines[name]

    def put(self, engine: Engine, job: Job[Work]) -> Engine:
        """Give a job to an engine, or to the one that has just taken over from it; which one has it.

        Raises:
            Refused: it has no room, or the server ends.
        """
        try:
            engine.queue.put(job)
        except Refused as refused:
            now = self._engines[engine.name]
            if refused.status != 503 or now is engine:
                raise
            now.queue.put(job)
            return now
        return engine

    def reload(self, *, only_changed: bool = True) -> None:
        """Open anew what has changed on the disk, then let it take over; what cannot be opened changes nothing.

        Called from a thread of its own: it returns when the former models have answered all that they had.

        Args:
            only_changed: False: all of them.
        """
        with self._reloading:
            for name, place in self._places.items():
                found = signature_of(place)
                if not found or (only_changed and found == self._signatures[name]):
                    continue
                try:
                    engine = self._opened(name, place)
                except (BigbatchError, OSError) as error:
                    self._say(f"{name}: the former model goes on; the newer one cannot be opened: {error}")
                    self._signatures[name] = found
                    self._figures.reloaded(name, "failed")
                    continue
                if signature_of(place) != found:  # written to meanwhile: the next look takes it
                    engine.close(self._limits.drain_seconds)
                    continue
                former, self._engines[name] = self._engines[name], engine
                self._signatures[name] = found
                self._figures.reloaded(name, "done")
                self._say(f"{name}: a newer model answers ({place})")
                former.close(self._limits.drain_seconds)

    def close(self) -> None:
        """Answer what waits; then no more."""
        for engine in self._engines.values():
            engine.queue.close()
        for engine in self._engines.values():
            if not engine.close(self._limits.drain_seconds):
                engine.queue.abandon()

    def _opened(self, name: str, place: Path) -> Engine:
        opened: Loaded = open_model(place, device=self._how.device, code=self._how.code, metrics=False)
        for note in opened.notes:
            self._say(f"{name}: note: {note}")
        engine = Engine(name, opened, self._limits, self._figures, self._say)
        engine.wait_until_ready()
        return engine


def signature_of(place: Path) -> Signature:
    """What changes when a folder's model does: each file's name, size, time and inode; empty while there is none."""
    try:
        folder = last_stage(place, of_all=True)
        model = folder / "model" if (place / "recipe.yaml").is_file() else folder
        files = sorted(path for path in model.resolve().iterdir() if path.is_file())
        stats = [(path, path.stat()) for path in files]
    except (OSError, BigbatchError):
        return ()
    return tuple((str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino) for path, stat in stats)
