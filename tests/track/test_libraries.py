"""The trackers themselves, read back by their own readers; `make test-trackers` installs them beside the rest."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bigbatch.track.kinds import KINDS, tracker_of
from bigbatch.track.sending import send_run
from tests.report.fake_run import records, write_run

pytestmark = [pytest.mark.trackers, pytest.mark.filterwarnings("ignore")]
LINES = records(40, evaluate_every=10)
UPDATES = [line for line in LINES if line["kind"] == "update"]
EVALS = [line for line in LINES if line["kind"] == "eval"]
Points = dict[str, list[tuple[int, float]]]


@pytest.fixture(scope="module", autouse=True)
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trackio reads where it is once, when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))
        yield


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = write_run(tmp_path / tmp_path.name / "tweets")
    (folder / "identity.json").write_text(json.dumps({"run_id": "0123456789abcdef"}))
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "config.json").write_text("{}")
    write(folder, LINES)
    return folder


def write(run: Path, lines: list[dict[str, object]], state: str = "finished") -> None:
    (run / "new").write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.replace(run / "new", run / "metrics.jsonl")
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"state": state}))


def tensorboard(run: Path) -> Points:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = event_accumulator.EventAccumulator(
        str(run / "track" / "tensorboard"), size_guidance={"scalars": 0}
    )
    found.Reload()
    return {tag: [(one.step, one.value) for one in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def mlflow(run: Path) -> Points:
    module = pytest.importorskip("mlflow")
    client = module.MlflowClient(f"sqlite:///{run.parent / 'mlflow.db'}")
    (one,) = client.search_runs([client.get_experiment_by_name(run.parent.name).experiment_id])
    names = one.data.metrics
    return {
        name: [(m.step, m.value) for m in client.get_metric_history(one.info.run_id, name)] for name in names
    }


def trackio(run: Path) -> Points:
    storage = pytest.importorskip("trackio.sqlite_storage").SQLiteStorage
    found: Points = {}
    for row in storage.get_logs(run.parent.name, "tweets"):
        for name, value in row.items():
            if "/" in name:
                found.setdefault(name, []).append((row["step"], value))
    return found


def wandb(run: Path) -> Points:
    """The records of its log, a LevelDB log of protocol buffers: blocks of 32 KiB, after 7 bytes of its own."""
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    found: Points = {}
    for path in (run / "track" / "wandb").glob("offline-run-*/*.wandb"):
        data, place, parts = path.read_bytes(), 7, b""
        while place + 7 <= len(data):
            if 32768 - place % 32768 < 7:
                place += 32768 - place % 32768
                continue
            _, length, kind = struct.unpack("<IHB", data[place : place + 7])
            parts += data[place + 7 : place + 7 + length]
            place += 7 + length
            if kind in (1, 4):
                record, parts = Record.FromString(parts), b""
                row = {
                    (item.key or "/".join(item.nested_key)): item.value_json for item in record.history.item
                }
                for name, text in row.items():
                    if name not in ("update", "seconds", "event", "text") and not name.startswith("_"):
                        found.setdefault(name, []).append((json.loads(row["update"]), json.loads(text)))
    return found


READERS: dict[str, Callable[[Path], Points]] = {
    "tensorboard": tensorboard, "wandb": wandb, "mlflow": mlflow, "trackio": trackio,
}  # fmt: skip


def check(kind: str, run: Path) -> None:
    """Each figure of each record once, none else."""
    found = {
        name: sorted(points) for name, points in READERS[kind](run).items() if not name.startswith("final/")
    }
    wanted: Points = {}
    for prefix, lines in (("train", UPDATES), ("validation", EVALS), ("test", EVALS)):
        for line in lines:
            for name, value in line.items():
                if (
                    prefix in ("train", line.get("split"))
                    and isinstance(value, (int, float))
                    and name not in ("step", "nonfinite")
                ):
                    wanted.setdefault(f"{prefix}/{name}", []).append((line["step"], float(value)))
    assert set(found) == set(wanted)
    for name, points in wanted.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points], name
        assert [value for _, value in found[name]] == pytest.approx(
            [value for _, value in points], rel=1e-6
        ), name


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    for module in KINDS[request.param].modules:
        pytest.importorskip(module)
    return request.param


def test_a_run_is_sent_once_and_read_back(kind: str, run: Path) -> None:
    assert send_run(run, kind, tracker_of(kind)) == len(LINES)
    check(kind, run)
    assert send_run(run, kind, tracker_of(kind)) == 0
    check(kind, run)


def test_a_run_that_was_resumed_goes_on_in_the_same_one(kind: str, run: Path) -> None:
    event = {
        "kind": "event",
        "step": 20,
        "event": "resumed",
        "why": "w",
        "did": "d",
        "time": LINES[0]["time"],
    }
    whole = (
        [line for line in LINES if line["step"] <= 20]
        + [event]
        + [line for line in LINES if line["step"] > 20]
    )
    write(run, LINES[:30], "interrupted")
    send_run(run, kind, tracker_of(kind))
    write(run, whole)
    send_run(run, kind, tracker_of(kind))
    check(kind, run)


_KILLED = """
import os, signal, sys
from pathlib import Path
from bigbatch.track import sending
from bigbatch.track.kinds import tracker_of

moments = int(sys.argv[3])
sending._BATCH_BYTES = 2500
real = sending.replace_text

def remembered(path, text):
    global moments
    moments -= 1
    if moments == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(path, text)
    moments -= 1
    if moments == 0:
        os.kill(os.getpid(), signal.SIGKILL)

sending.replace_text = remembered
sending.send_run(Path(sys.argv[1]), sys.argv[2], tracker_of(sys.argv[2]))
"""


def test_killed_between_sending_and_remembering(kind: str, run: Path) -> None:
    """SIGKILL before and behind the moment at which it is written down what was sent; then it goes on."""
    killed = 0
    environ = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_SERVICE")}
    for moments in (1, 2, 3, 6, 9):
        ended = subprocess.run(
            [sys.executable, "-c", _KILLED, str(run), kind, str(moments)],
            env=environ,
            capture_output=True,
            timeout=300,
        )
        assert ended.returncode in (0, -signal.SIGKILL), ended.stderr.decode()
        killed += ended.returncode != 0
    assert killed >= 3
    send_run(run, kind, tracker_of(kind))
    check(kind, run)


def test_mlflow_has_the_recipe_the_plan_and_the_files(run: Path) -> None:
    module = pytest.importorskip("mlflow")
    send_run(run, "mlflow", tracker_of("mlflow"))
    client = module.MlflowClient(f"sqlite:///{run.parent / 'mlflow.db'}")
    (one,) = client.search_runs([client.get_experiment_by_name(run.parent.name).experiment_id])
    assert one.data.params["optimizer.lr"] == "0.0005" and one.data.params["plan.packing"].startswith(
        "packed ("
    )
    assert one.info.status == "FINISHED" and any(name.endswith("nonfinite") for name in one.data.tags)
    names = {found.path for found in client.list_artifacts(one.info.run_id)}
    assert {"recipe.yaml", "plan.json", "evaluation.json", "model"} <= names
