"""Answers that are errors: a status, a sentence, and when to come back."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from bigbatch.errors import UsageError

_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        """Say what and why.

        Args:
            status: of HTTP.
            message: what is wrong and what would be right, in one sentence.
            retry_after: seconds after which it may work.
        """
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after


def full(waiting: int, retry_after: int) -> Refused:
    """The queue has no room.

    Args:
        waiting: rows in it.
        retry_after: seconds that they need.
    """
    return Refused(429, f"{waiting} rows wait already; come back in {retry_after} s", retry_after=retry_after)


def ending() -> Refused:
    """The server drains."""
    return Refused(
        503, "this server is ending; another one, or the same in a while, will answer", retry_after=5
    )


def too_late(seconds: float) -> Refused:
    """A deadline has passed."""
    return Refused(504, f"no answer within {seconds:g} s; send less at a time, or raise --deadline")


def body_of(status: int, message: str) -> bytes:
    """An error as OpenAI's clients read it."""
    kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return json.dumps({"error": {"message": message, "type": kind, "code": status}}).encode()


def headers_of(refused: Refused) -> dict[str, str]:
    """What goes with it."""
    found = {} if refused.retry_after is None else {"retry-after": str(refused.retry_after)}
    return {**found, "www-authenticate": "Bearer"} if refused.status == 401 else found


def answer_to(refused: Refused) -> Response:
    """As a response."""
    content = body_of(refused.status, refused.message)
    return Response(content, refused.status, headers_of(refused), "application/json")


def as_refused(error: Exception) -> Refused:
    """What whoever asked is told of any error: of ours the sentence, of a bug nothing that is not theirs."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, UsageError):
        return Refused(422, str(error))
    return Refused(500, "something went wrong here; the server's own output says what")


async def on_refused(request: Request, error: Exception) -> Response:
    """For the application's table of handlers."""
    del request
    return answer_to(as_refused(error))


def plainly(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error without an exception.

    Args:
        status: of HTTP.
        message: a sentence.
        headers: further ones.
    """
    return Response(body_of(status, message), status, dict(headers or {}), "application/json")
