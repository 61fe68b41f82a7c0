"""Ctrl-C and SIGTERM: the first is a request that the loop reads when it is safe, the second an exit."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType

from bigbatch.parallel.agree import Leaving
from bigbatch.processes import Handler

_WATCHED = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Leaving):
    """Raised inside the loop where it is safe to leave: nothing of the update in progress has been applied."""

    def __init__(self, signal: signal.Signals | None, why: str | None = None) -> None:
        super().__init__(
            None if signal is None else int(signal),
            why or ("the run was left early" if signal is None else f"{signal.name} was received"),
        )


class SignalFlag:
    """Context manager that turns the first SIGINT or SIGTERM into `requested`.

    A second signal ends the process at once with 128 + its number, without any clean-up: what is on the disk
    is always consistent. Only the main thread can handle signals; in any other (some notebooks, servers)
    nothing is installed and `requested` stays None.

    Example:
        >>> with SignalFlag() as flag:
        ...     flag.requested is None
        True
    """

    def __init__(self, grace_seconds: float | None = None) -> None:
        """After SIGTERM the process ends in `grace_seconds` at the latest, saved or not; None waits."""
        self._grace_seconds = grace_seconds
        self._deadline: threading.Timer | None = None
        self.requested: signal.Signals | None = None
        """The first signal that came; None while there was none."""
        self._before: dict[signal.Signals, Handler] = {}
        self._requested_at = 0.0

    @property
    def exit_code(self) -> int | None:
        """130 after SIGINT, 143 after SIGTERM, None while there was none."""
        return None if self.requested is None else 128 + self.requested

    def poll(self) -> None:
        """Leave, if a signal came.

        Raises:
            Interrupted: it did.
        """
        if self.requested is not None:
            raise Interrupted(self.requested)

    def poll_late(self) -> None:
        """Leave, if the signal came so long ago that the work in progress may not end within the grace period.

        Raises:
            Interrupted: half of it is over; the other half is for saving.
        """
        if self.requested is None or self._grace_seconds is None:
            return
        waited = time.monotonic() - self._requested_at
        if waited > self._grace_seconds / 2:
            name = self.requested.name
            raise Interrupted(
                self.requested,
                f"{name} was received {waited:.0f} s ago and the work in progress had not ended: launch.grace "
                f"is {self._grace_seconds:g} s, so it was dropped half-way",
            )

    def __enter__(self) -> SignalFlag:
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _WATCHED}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put back the handlers that were there before."""
        for number, handler in self._before.items():
            # None: the handler was not installed from Python, and cannot be put back from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
        if self._deadline is not None:
            self._deadline.cancel()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            os._exit(128 + number)
        self.requested = signal.Signals(number)
        self._requested_at = time.monotonic()
        if number == signal.SIGTERM and self._grace_seconds is not None:
            # The scheduler will kill soon: better to leave with the code that says "resumable".
            self._deadline = threading.Timer(self._grace_seconds, os._exit, args=[128 + number])
            self._deadline.daemon = True
            self._deadline.start()
