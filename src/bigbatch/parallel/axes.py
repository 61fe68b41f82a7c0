"""The process groups along the axes of a mesh: ranks are inside their collectives while a pass runs.

A rank that cannot finish a pass closes its groups. Gloo then fails at once in whoever waits for it, that one closes its
own, and so on: in hundredths of a second nobody is inside a collective (accelerators: `parallel.alarm`). Words are in
another group, so all can say what happened; then the groups are opened again, under the names that DTensor knows.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import (
    _abort_process_group,
    _get_default_store,
    _register_process_group,  # pyright: ignore[reportPrivateImportUsage]
    _resolve_process_group,  # pyright: ignore[reportPrivateImportUsage]
    _set_pg_timeout,
    _unregister_process_group,  # pyright: ignore[reportPrivateImportUsage]
)

from bigbatch.parallel.alarm import Alarm
from bigbatch.parallel.group import patience

_OPENINGS = itertools.count(1)
"""Of this process, whichever run they are for: what a rank that left has written stays in the store."""


class AxisGroups:
    """A mesh, and this rank's group along each of its axes."""

    def __init__(self, axes: Sequence[str], sizes: Sequence[int], device: str) -> None:
        """Open them; every rank must.

        Args:
            axes: their names.
            sizes: ranks along each; the last one changes fastest.
            device: `cpu`, `cuda:0`, …: its type is the mesh's.
        """
        kind = device.partition(":")[0]
        backend = "fake" if dist.get_backend() == "fake" else "gloo" if kind == "cpu" else "nccl"
        # Groups of their own, even along an axis of all ranks: words must get through while a pass runs.
        self.mesh: DeviceMesh = init_device_mesh(
            kind, tuple(sizes), mesh_dim_names=tuple(axes), backend_override={axis: backend for axis in axes}
        )
        self._backend = backend
        # DTensor remembers the first of equal meshes for ever: all of them know their groups by the same names.
        self._names: list[Any] = [f"bigbatch {'x'.join(map(str, sizes))} {kind}: {axis}" for axis in axes]
        self._patience = None if backend == "fake" else patience()
        for name, axis in zip(self._names, axes, strict=True):
            group = self.mesh.get_group(axis)
            if self._patience is not None:
                _set_pg_timeout(self._patience, group)
            self._name(name, group)
        self.mesh._dim_group_names = list(self._names)
        lines = [self.mesh.mesh.movedim(number, -1).reshape(-1, size) for number, size in enumerate(sizes)]
        self._lines: list[list[list[int]]] = [each.tolist() for each in lines]
        """For each axis the ranks of all its groups, in the order in which they are opened."""
        self._alarm: Alarm | None = None
        self._open = True
        self._begin()

    def close(self) -> None:
        """Leave the groups, whatever goes on in them."""
        if not self._open:
            return
        self._open = False
        if self._alarm is not None:
            self._alarm.close()
            self._alarm.ring()
        for name in self._names:
            group = _resolve_process_group(name)
            self.mesh._pg_registry.clear()
            _unregister_process_group(name)
            if self._backend == "nccl":
                _abort_process_group(group)
            else:
                # Gloo's own abort leaves the connections open; nobody holds this group any more.
                dist.destroy_process_group(group)
            del group

    def open(self) -> None:
        """Open them again; every rank must, after all have closed them."""
        own = dist.get_rank()
        for name, lines in zip(self._names, self._lines, strict=True):
            for ranks in lines:
                group: Any = dist.new_group(ranks, self._patience, backend=self._backend)
                if own in ranks:
                    self._name(name, group)
        self._open = True
        self._begin()

    def _name(self, name: Any, group: Any) -> None:
        """From now on this is the group of that name."""
        with suppress(RuntimeError):  # nobody had it
            _unregister_process_group(name)
        _register_process_group(name, group)
        self.mesh._pg_registry[name] = group

    def end(self) -> None:
        """Watch no longer over groups that whoever opened torch.distributed closes."""
        if self._alarm is not None:
            self._alarm.close()

    def _begin(self) -> None:
        number = next(_OPENINGS)
        if self._backend == "nccl":
            self._alarm = Alarm(_get_default_store(), number, dist.get_rank(), self._abort)

    def _abort(self) -> None:
        """Let this rank's main thread out; the groups themselves are closed there."""
        for name in self._names:
            _resolve_process_group(name).abort()


_WORDS = ("gloo", "NCCL", "process group", "Connection closed", "Connection reset", "Broken pipe")


def is_group_error(trouble: BaseException) -> bool:
    """Whether a collective failed: its group was closed, here or by another rank."""
    if isinstance(trouble, dist.DistError):
        return True
    return isinstance(trouble, RuntimeError) and any(word in str(trouble) for word in _WORDS)
