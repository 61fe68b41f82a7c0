"""MLflow: metrics in batches. A metric of one name, update, time and value is stored once, however often it is sent.

Where: `MLFLOW_TRACKING_URI`, else `sqlite:///RUN/../mlflow.db`, beside the run directories.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TypeVar

from bigbatch.protocols import Json
from bigbatch.track.entries import Entry
from bigbatch.track.kinds import About, Ending

_MOST_METRICS, _MOST_PARAMS, _MOST_LETTERS = 1000, 100, 500
"""What one request of MLflow takes, and a parameter's value."""
_ENDINGS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
_Item = TypeVar("_Item")
_TAG = "bigbatch.run_id"


class Mlflow:
    """A run of the experiment that is called like the folder of run directories."""

    def open(self, about: About, kept: Json) -> bool:
        """Find the run by the id of ours, or make it; parameters of one that goes on stay."""
        import mlflow
        from mlflow.entities import Param, RunStatus

        default = f"sqlite:///{about.folder.resolve().parent / 'mlflow.db'}"
        self._client = mlflow.MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or default)
        experiment = self._client.get_experiment_by_name(about.project)
        where = experiment.experiment_id if experiment else self._client.create_experiment(
            about.project, artifact_location=None if "MLFLOW_TRACKING_URI" in os.environ
            else (about.folder.resolve().parent / "mlflow-files").as_uri())  # fmt: skip
        found = self._client.search_runs([where], f"tags.`{_TAG}` = '{about.id}'", max_results=1)
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status=RunStatus.to_string(RunStatus.RUNNING))
        else:
            self._id = self._client.create_run(where, run_name=about.name, tags={_TAG: about.id}).info.run_id
            told = {_name(key): text for key, text in about.settings.items()}
            told |= {_name(f"plan.{key}"): text for key, text in about.plan.items()}
            params = [Param(key, text[:_MOST_LETTERS]) for key, text in told.items()]
            for part in _parts(params, _MOST_PARAMS):
                self._client.log_batch(self._id, params=part)
        return not found and kept is not None

    def send(self, entries: Sequence[Entry]) -> Json:
        """Metrics by update, with the record's own time; an event is a tag."""
        from mlflow.entities import Metric, RunTag

        metrics = [
            Metric(_name(name), figure, round(1000 * entry.seconds), entry.step)
            for entry in entries
            for name, figure in entry.figures.items()
        ]
        for part in _parts(metrics, _MOST_METRICS):
            self._client.log_batch(self._id, metrics=part)
        tags = [
            RunTag(
                _name(f"event.{entry.number:06d}.{entry.event}"),
                f"update {entry.step}: {entry.text}"[:_MOST_LETTERS],
            )
            for entry in entries
            if entry.event
        ]
        for part in _parts(tags, _MOST_PARAMS):
            self._client.log_batch(self._id, tags=part)
        return self._id

    def finish(self, ending: Ending) -> Json:
        """Final figures, files, state."""
        from mlflow.entities import Metric

        for part in _parts(list(ending.figures.items()), _MOST_METRICS):
            self._client.log_batch(
                self._id, metrics=[Metric(_name(name), figure, 0, 0) for name, figure in part]
            )
        for path in ending.files:
            self._client.log_artifact(self._id, str(path), "model" if path.parent.name == "model" else None)
        if ending.state in _ENDINGS:
            self._client.set_terminated(self._id, status=_ENDINGS[ending.state])
        return self._id


def _parts(items: Sequence[_Item], most: int) -> Iterator[Sequence[_Item]]:
    for begin in range(0, len(items), most):
        yield items[begin : begin + most]


def _name(text: str) -> str:
    """What MLflow takes as a name: letters, digits, and `_-. /:`."""
    return "".join(letter if letter.isalnum() or letter in "_-. /:" else "_" for letter in text)[:250]
