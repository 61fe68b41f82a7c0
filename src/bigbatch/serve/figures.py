"""What the server counts, in Prometheus' words, in a registry of its own."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_POWERS = tuple(2**power for power in range(13))


class Figures:
    """All of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        own = self._registry
        self._requests = Counter("bigbatch_requests", "Answered requests", ("path", "status"), registry=own)
        self._seconds = Histogram(
            "bigbatch_request_seconds",
            "From a request's head to its answer's end",
            ("path",),
            buckets=_SECONDS,
            registry=own,
        )
        self._batch_requests = Histogram(
            "bigbatch_batch_requests", "Requests that ran together", ("model",), buckets=_POWERS, registry=own
        )
        self._batch_rows = Histogram(
            "bigbatch_batch_rows", "Rows that ran together", ("model",), buckets=_POWERS, registry=own
        )
        self._batch_tokens = Histogram(
            "bigbatch_batch_tokens",
            "Tokens that ran together, without padding",
            ("model",),
            buckets=_POWERS,
            registry=own,
        )
        self._batch_seconds = Histogram(
            "bigbatch_batch_seconds", "Of a batch in the model", ("model",), buckets=_SECONDS, registry=own
        )
        self._waiting = Gauge("bigbatch_waiting_rows", "Rows in the queue", ("model",), registry=own)
        self._reloads = Counter(
            "bigbatch_reloads", "Models that took over", ("model", "outcome"), registry=own
        )

    def answered(self, path: str, status: int, seconds: float) -> None:
        """One request has its answer.

        Args:
            path: one of those that there are, else `other`.
            status: of HTTP; 499: nobody waited for it any more.
            seconds: from its head to its answer's end.
        """
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def gathered(self, model: str, requests: int, rows: int, tokens: int) -> None:
        """A batch is about to run.

        Args:
            model: its name.
            requests: that it answers.
            rows: of all.
            tokens: of all, without padding.
        """
        if requests:
            self._batch_requests.labels(model).observe(requests)
            self._batch_rows.labels(model).observe(rows)
            self._batch_tokens.labels(model).observe(tokens)

    def ran(self, model: str, seconds: float) -> None:
        """A batch has run."""
        self._batch_seconds.labels(model).observe(seconds)

    def watch(self, model: str, rows: Callable[[], float]) -> None:
        """Ask for the length of a model's queue whenever figures are read."""
        self._waiting.labels(model).set_function(rows)

    def reloaded(self, model: str, outcome: str) -> None:
        """A newer model took over, or could not."""
        self._reloads.labels(model, outcome).inc()

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self._registry)
