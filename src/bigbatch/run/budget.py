"""How long measuring before a run may take: 3 % of the run or 10 seconds, whichever is more.

What does not fit is left out, and a default takes its place, with that reason in the plan.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from bigbatch.units import show_seconds

SHARE = 0.03
LEAST_SECONDS = 10.0


class Budget:
    """Begins when it is made."""

    def __init__(self, run_tokens: float, clock: Callable[[], float] = time.perf_counter) -> None:
        """`run_tokens`: that training will compute."""
        self._run_tokens = run_tokens
        self._clock = clock
        self._began = clock()

    @property
    def spent_seconds(self) -> float:
        """So far."""
        return self._clock() - self._began

    def refusal(self, seconds: float, seconds_per_token: float, *, may_save: float) -> str:
        """Why something is not measured; empty when it may be.

        Args:
            seconds: that it is expected to take.
            seconds_per_token: of training, as far as it is known.
            may_save: share of the run that it may save at best: it must not take longer than that.
        """
        run = self._run_tokens * seconds_per_token
        allowed = max(LEAST_SECONDS, SHARE * run)
        if self.spent_seconds + seconds > allowed:
            return (
                f"trying would take {show_seconds(seconds)}, and all measuring before a run of {show_seconds(run)} "
                f"may take {show_seconds(allowed)}"
            )
        if seconds > may_save * run:
            return f"trying would take {show_seconds(seconds)}, more than the {may_save:.0%} that it may save"
        return ""
