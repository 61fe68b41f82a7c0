"""How much of anything a server takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What bounds memory and time, whatever is sent."""

    wait_seconds: float = 0.005
    """A request waits at most so long for others that run with it."""
    queue_rows: int = 1024
    """Rows that wait for one model; more are refused with 429."""
    deadline_seconds: float = 30.0
    """From a request's arrival to its answer; then 504."""
    body_bytes: int = 4 << 20
    """Of one request; a larger one is refused with 413, unread."""
    bodies_bytes: int = 64 << 20
    """Of all requests that are being read or answered; more are refused with 429."""
    body_seconds: float = 20.0
    """A body has to be there by then; else 408."""
    rows: int = 256
    """Texts or rows of one request."""
    characters: int = 100_000
    """Of one text."""
    new_tokens: int = 1024
    """That one text may ask to have written."""
    drain_seconds: float = 30.0
    """Requests in flight get so long when the server ends."""
    connections: int = 512
    """At a time; more are refused with 503."""
