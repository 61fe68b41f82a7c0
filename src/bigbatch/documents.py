"""What a run's own JSON files hold, as a schema: a file that says otherwise is damaged, and its reader says where.

More keys than these are fine (another version may have written them), other types are not. Numbers are finite already:
`stored.json_value` takes no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypeVar, cast

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from bigbatch.stored import MOST_BYTES, Damaged, json_value, read_object

MOST_COUNT = 2**53
"""What a count can be: the largest whole number that every reader of JSON agrees on."""
Count = Annotated[int, Field(ge=0, lt=MOST_COUNT)]
Amount = Annotated[float, Field(ge=0, lt=1e30)]
Figure = Annotated[float, Field(gt=-1e300, lt=1e300)] | None
Name = Annotated[str, Field(min_length=1, max_length=1000)]
Phase = Literal["starting", "accumulate", "reduce", "evaluate", "save", "waiting", "ended"]
"""What a rank is doing, as its sign of life says."""
State = Literal["running", "finished", "interrupted", "failed"]


class StatusFile(TypedDict):
    """status.json."""

    state: State
    update: Count
    host: str
    job_id: str | None
    updated_at: str


class IdentityFile(TypedDict):
    """identity.json."""

    run_id: Name
    digest: Name
    what: dict[str, object]
    outdates: NotRequired[str | None]
    classes: NotRequired[list[str]]
    derived: NotRequired[dict[Name, Name]]


class LockFile(TypedDict):
    """lock.json: exactly this."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]
    host: str
    pid: Annotated[int, Field(gt=0, lt=2**31)]
    process_start: str
    machine: str
    job_id: str | None
    token: str


class SignFile(TypedDict):
    """A sign of life: beat-0003.json."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]
    rank: Count
    size: Annotated[int, Field(ge=1, lt=2**31)]
    host: str
    pid: Annotated[int, Field(gt=0, lt=2**31)]
    start: NotRequired[str]
    machine: NotRequired[str]
    restart: Count
    update: Count
    phase: Phase
    beats: Count
    ticks: Count
    at: Amount


class ChoiceEntry(TypedDict):
    """One choice of plan.json."""

    value: object
    reason: str
    source: Literal["user", "default", "derived", "measured"]
    prediction: NotRequired[Figure]
    unit: NotRequired[str | None]


class BestEntry(TypedDict):
    """The best evaluation of result.json."""

    metric: Name
    value: Figure
    step: Count


class KeptEntry(TypedDict):
    """Which weights were kept, in result.json; further keys say why."""

    update: Count
    of: Literal["final", "best", "average"]
    why: NotRequired[str]
    metric: NotRequired[Name | None]
    best_update: NotRequired[Count | None]
    difference: NotRequired[Figure]
    p: NotRequired[Figure]
    evaluations: NotRequired[Count]
    rows: NotRequired[Count | None]


class ResultFile(TypedDict):
    """result.json."""

    exit_reason: str
    updates: Count
    samples: Count
    tokens: NotRequired[Count]
    best: NotRequired[BestEntry | None]
    kept: NotRequired[KeptEntry | None]
    final: dict[str, dict[str, Figure]]
    train_seconds: Amount
    evaluate_seconds: NotRequired[Amount]
    inference_samples_per_second: NotRequired[Figure]
    peak_memory_bytes: NotRequired[Count | None]
    predicted: NotRequired[dict[str, Figure] | None]
    missed_gates: NotRequired[list[str]]
    baseline: NotRequired[dict[str, dict[str, dict[str, Figure]]]]
    verdict: NotRequired[str]
    model: NotRequired[str]


class StageEntry(TypedDict):
    """One stage of stages.json."""

    name: Name
    folder: Annotated[str, Field(pattern=r"^[0-9]+-[A-Za-z0-9_-]+$")] | None


class StagesFile(TypedDict):
    """stages.json."""

    stages: Annotated[list[StageEntry], Field(min_length=1)]


class BaselineFile(TypedDict):
    """baseline.json."""

    of: str
    metric: str
    figures: dict[str, dict[str, dict[str, Figure]]]
    scores: dict[str, dict[str, list[float]]]
    notes: list[str]
    seconds: Amount


class SplitEntry(TypedDict, total=False):
    """One split of evaluation.json."""

    labels: list[str] | None
    confusion: list[list[Amount]] | None
    calibration: list[dict[str, Figure]] | None
    examples: list[dict[str, object]] | None
    texts: list[dict[str, object]] | None


class UpdateLine(TypedDict):
    """An update in metrics.jsonl."""

    kind: Literal["update"]
    step: Annotated[int, Field(ge=1, lt=MOST_COUNT)]
    time: NotRequired[str]
    samples: NotRequired[Count]
    tokens: NotRequired[Count]
    batch_samples: NotRequired[Count]
    batch_tokens: NotRequired[Count]
    loss: NotRequired[Figure]
    grad_norm: NotRequired[Figure]
    lr: NotRequired[Figure]
    seconds: NotRequired[Figure]
    wait_seconds: NotRequired[Figure]
    padding_share: NotRequired[Figure]
    peak_memory_bytes: NotRequired[Count | None]
    skipped: NotRequired[bool]


class EvalLine(TypedDict):
    """An evaluation in metrics.jsonl."""

    kind: Literal["eval"]
    step: Count
    split: Name
    time: NotRequired[str]
    loss: NotRequired[Figure]
    seconds: NotRequired[Figure]


class EventLine(TypedDict):
    """An event in metrics.jsonl."""

    kind: Literal["event"]
    step: Count
    event: Name
    time: NotRequired[str]
    why: NotRequired[str]
    did: NotRequired[str]


Line = UpdateLine | EvalLine | EventLine
"""A line of metrics.jsonl."""
Schema = TypeVar("Schema")
"""What a file was found to hold."""
PLAN = dict[str, ChoiceEntry]
"""plan.json."""
_SCHEMAS: Mapping[str, type[Mapping[str, object]]] = {
    "status.json": StatusFile,
    "identity.json": IdentityFile,
    "plan.json": PLAN,
    "result.json": ResultFile,
    "baseline.json": BaselineFile,
    "evaluation.json": dict[str, SplitEntry],
    "environment.json": dict[str, object],
    "graph.json": dict[str, object],
    "audit.json": dict[str, object],
    "stages.json": StagesFile,
}
DOCUMENTS = tuple(_SCHEMAS)
"""Names of a run's JSON files."""
_LINES: Mapping[str, type[Line]] = {
    "update": UpdateLine,
    "eval": EvalLine,
    "event": EventLine,
}


def read_document(path: Path, *, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """One of a run's JSON files, by its name.

    Raises:
        Damaged: with what is wrong; the file may hold anything.
        OSError: not there, or not for us.
    """
    found = read_object(path, most_bytes=most_bytes)
    checked(found, _SCHEMAS[path.name])
    return found


def readable(path: Path) -> dict[str, Any] | None:
    """The same, or None for a file that is missing or damaged."""
    try:
        return read_document(path)
    except (OSError, Damaged):
        return None


def last_stage(run: Path, *, of_all: bool = False) -> Path:
    """Of a run with stages the directory of the last one that has begun; of any other run that one itself.

    Args:
        run: a directory.
        of_all: the last one of all, also before it has begun.
    """
    found = readable(run / "stages.json")
    if found is None:
        return run
    folders = [entry["folder"] for entry in found["stages"]]
    begun = [folder for folder in folders if folder is not None]
    return run / "stages" / str(folders[-1] if of_all else [None, *begun][-1])


def record_of(line: bytes | str) -> Line:
    """One line of metrics.jsonl.

    Raises:
        Damaged: with what is wrong.
    """
    found = json_value(line)
    kind = found.get("kind") if isinstance(found, dict) else None
    if not isinstance(found, dict) or not isinstance(kind, str) or kind not in _LINES:
        raise Damaged("is no record of an update, an evaluation or an event")
    known = checked(found, _LINES[kind])
    if kind != "event" and any(isinstance(value, (list, dict)) for value in found.values()):
        raise Damaged("holds a list or an object; expected figures")
    return known


def checked(found: object, schema: type[Schema]) -> Schema:
    """The value itself, once it has the types of a schema.

    Raises:
        Damaged: names the first key that is missing or of another type.
    """
    try:
        _adapter(schema).validate_python(found, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])[:100]
        raise Damaged(f"has a wrong {place or 'content'}: {first['msg'].lower()}") from None
    return cast(Schema, found)


@cache
def _adapter(schema: type[Schema]) -> TypeAdapter[Schema]:
    return TypeAdapter(schema)
