"""One process is the whole world: nothing to reduce, nothing to wait for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from bigbatch.parallel.undivided import Undivided
from bigbatch.places import ALL
from bigbatch.protocols import Shared


class SingleWorld(Undivided):
    """`protocols.World` of one process, without torch.distributed."""

    rank = 0
    size = 1
    part = ALL

    def exchange(self, numbers: Sequence[float]) -> list[list[float]]:
        """The numbers themselves."""
        return [[float(number) for number in numbers]]

    def sum_counts(self, counts: Mapping[str, float]) -> dict[str, float]:
        """The counts themselves."""
        return {name: float(count) for name, count in counts.items()}

    def gather(self, value: Shared) -> list[Shared]:
        """The value itself."""
        return [value]

    def share(self, value: Any = None) -> Any:
        """The value itself."""
        return value

    def gather_rows(self, rows: np.ndarray) -> list[np.ndarray]:
        """The rows themselves."""
        return [rows]

    def reduce_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Nothing: the gradients are already those of the whole batch."""

    def leave(self) -> None:
        """Nobody waits."""

    def was_let_out(self, trouble: BaseException) -> bool:
        """By nobody."""
        return False

    def renew(self) -> None:
        """Nothing was begun with others."""

    def last_backward(self) -> None:
        """Nothing has to travel."""

    def barrier(self) -> None:
        """Nobody to wait for."""

    def close(self) -> None:
        """Nothing is held."""
