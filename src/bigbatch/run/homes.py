"""A directory that holds another run: what the user is told, and how a live model goes on in one that it began.

A live model's weights are part of what a run is, and they do not come back: training moves them, and a new head is
random. The checkpoint has them all, so whoever says `resume=True` needs only a model that is built the same way.
"""

from __future__ import annotations

from pathlib import Path

from bigbatch.build.inputs import Live
from bigbatch.store.checkpoints import list_checkpoints
from bigbatch.store.directory import RunDirectory
from bigbatch.store.identity import Decision, Fingerprint, NewName, Start, read_identity

MODEL = "data.contents.model"
"""Key of the fingerprint: the weights that a run began with."""


def as_begun(what: Fingerprint, home: Path, live: Live) -> Fingerprint:
    """What a run that is resumed with a live model computes: all as now, and the weights those that it began with.

    Without a complete checkpoint the weights do count, and so does every other difference.

    Args:
        what: of this command.
        home: the directory that the recipe names.
        live: objects of the caller's process.
    """
    identity = read_identity(home)
    if live.module is None or identity is None or not list_checkpoints(RunDirectory(home).checkpoints):
        return what
    return Fingerprint(what={**what.what, MODEL: identity.fingerprint.what.get(MODEL)})


def told_home(decision: Decision, asked: Path, live: Live) -> str | None:
    """Why a run lives in another directory than it asked for; None when it does not.

    Args:
        decision: what is to be done, and where.
        asked: the directory that the recipe names.
        live: objects of the caller's process.
    """
    if isinstance(decision, Start) or (decision.path == asked and not isinstance(decision, NewName)):
        return None
    goes = "goes to" if isinstance(decision, NewName) else "is in"
    other = f"this one {goes} {decision.path}"
    only_model = [found.partition(":")[0] for found in decision.differences] == [MODEL]
    if live.module is None or not only_model:
        return f"{asked} holds another run ({'; '.join(decision.differences)}); {other}"
    status = RunDirectory(asked).read_status()
    if status is not None and status.state == "finished":
        return f"{asked} holds a finished run that began with other weights than the model has now; {other}"
    return (
        f"{asked} holds a run that has not finished and began with other weights than the model has now (it was "
        f"trained since, or has a new random head); {other}. To go on with that one: resume=True"
    )
