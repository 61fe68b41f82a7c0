"""Who computed what from what: which operations a result depends on, and which were computed twice.

Tensors are followed by their storage. Each storage has a value number: equal numbers were computed by the same
operations from the same inputs (value numbering, as compilers do it).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

if TYPE_CHECKING:
    from torch._ops import OpOverload


_UNSEEDED = torch.Tag.nondeterministic_seeded
_UNWRITTEN = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
"""Their results hold anything, so two of them are not the same value."""


class Flow:
    """Sources and value numbers of every storage that a trace has seen."""

    def __init__(self) -> None:
        self._alive: dict[int, StorageWeakRef] = {}
        # A weak reference keeps the storage's address from being used again, but not its memory.
        self._writers: dict[int, list[int]] = {}
        self._values: dict[int, int] = {}
        self._numbers: dict[Any, tuple[int, int]] = {}
        self._next = 0
        self.sources: list[set[int]] = []
        """Per operation: the operations that wrote what it reads."""
        self.written_outside: set[int] = set()
        """Operations that change a tensor which was there before: buffers, say."""

    def storage(self, tensor: Tensor) -> int:
        """A number that no other storage of the trace has."""
        reference = StorageWeakRef(held(tensor))
        return self._alive.setdefault(reference.cdata, reference).cdata

    def reads(self, tensors: Iterable[Tensor]) -> set[int]:
        """The operations that wrote these tensors."""
        found: set[int] = set()
        for tensor in tensors:
            found.update(self._writers.get(self.storage(tensor), ()))
        return found

    def spec(self, value: object) -> object:
        """An argument as something that can be compared: a tensor by its value number and layout."""
        if isinstance(value, Tensor):
            layout = (value.dtype, tuple(value.shape), *_strided(value))
            return ("tensor", self._value(self.storage(value)), layout, value.device)
        if isinstance(value, (list, tuple)):
            return tuple(self.spec(item) for item in value)
        if isinstance(value, dict):
            return tuple((key, self.spec(item)) for key, item in value.items())
        return (type(value), repr(value))

    def note(
        self,
        func: OpOverload,
        spec: object,
        sources: set[int],
        fresh: Iterable[Tensor],
        changed: Iterable[Tensor],
    ) -> int | None:
        """Enter the next operation.

        Args:
            func: the operator.
            spec: its arguments, as `spec` gave them before it ran.
            sources: as `reads` gave them before it ran.
            fresh: outputs in storages of their own.
            changed: inputs that it changed in place.

        Returns:
            The number of the operation that computed the same before; None when there is none.
        """
        operation = len(self.sources)
        self.sources.append(sources)
        pure = _UNSEEDED not in func.tags and func._schema.name.partition("::")[2] not in _UNWRITTEN
        key = (func, spec) if pure else (operation,)
        first, base = self._numbers.setdefault(key, (operation, self._next))
        written = 0
        for tensor in fresh:
            self._written(tensor, operation, base + written, anew=True)
            written += 1
        for tensor in changed:
            self._written(tensor, operation, base + written, anew=False)
            written += 1
        if first == operation:
            self._next += written
        return first if first != operation and written else None

    def needed(self, roots: Iterable[int]) -> set[int]:
        """The operations that these depend on, themselves included."""
        found: set[int] = set()
        waiting = [*roots, *self.written_outside]
        while waiting:
            operation = waiting.pop()
            if operation not in found:
                found.add(operation)
                waiting.extend(self.sources[operation])
        return found

    def _value(self, storage: int) -> int:
        """Of a storage that no operation made: weights, data."""
        if storage not in self._values:
            self._values[storage] = self._next
            self._next += 1
        return self._values[storage]

    def _written(self, tensor: Tensor, operation: int, value: int, *, anew: bool) -> None:
        storage = self.storage(tensor)
        if anew:
            self._writers[storage] = []
        elif storage not in self._writers:
            self.written_outside.add(operation)
        self._writers.setdefault(storage, []).append(operation)
        self._values[storage] = value


def held(tensor: Tensor) -> torch.UntypedStorage:
    """Where the tensor's values lie; a sparse tensor has them in a dense one."""
    return (tensor._values() if tensor.layout == torch.sparse_coo else tensor).untyped_storage()


def _strided(tensor: Tensor) -> tuple[object, ...]:
    """How the values lie in their storage."""
    if tensor.layout != torch.strided:
        return (tensor.layout,)
    return (tensor.stride(), tensor.storage_offset())


def tensors_in(value: object) -> Iterator[Tensor]:
    """Every tensor of arguments or results, however nested in lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
