"""Run code for its shapes: tensors without memory, the bytes that would be alive, the collectives that would be sent.

What hangs on the model's numbers has a shape and nothing else (torch's fake tensors). What does not is computed: token
ids, counts, and what ranks tell each other.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from bigbatch.parallel.dry import Collective, collective_of, local_part, stand_ins

if TYPE_CHECKING:
    from torch._ops import OpOverload


class Shapes(TorchDispatchMode):
    """Watches every operation; from `empty` on, it is done for its shapes alone."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = ""
        """What is going on; whoever runs the code says so."""
        self.sent: list[Collective] = []
        """Collectives since the beginning, in order."""
        self.bytes_now = 0
        """Of all tensors alive, those in one memory once."""
        self.peak_bytes = 0
        self.peak_phase = ""
        self._alive: dict[int, tuple[int, weakref.ref[torch.UntypedStorage]]] = {}
        """Address of a storage -> its bytes, and who tells when it is gone."""
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Do the operation, and see what it made and sent."""
        if stand_ins(types):
            return NotImplemented
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        known = inputs and not any(isinstance(item, FakeTensor) for item in inputs)
        if func is torch.ops.aten._local_scalar_dense.default and not known:
            return _one(inputs[0])
        if known:
            with _disable_current_modes():
                result = func(*args, **kwargs or {})
        else:
            result = func(*args, **kwargs or {})
        found = collective_of(func, args)
        if found is not None:
            self.sent.append(found)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and not stand_ins((type(leaf),)):
                self.see(leaf)
        return result

    def see(self, tensor: Tensor) -> None:
        """Count a tensor's memory for as long as it lives."""
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address not in self._alive:
            gone = weakref.ref(storage, lambda _: self._resized(address, None))
            self._alive[address] = (0, gone)
            self._resized(address, storage.nbytes())

    def see_module(self, module: nn.Module) -> None:
        """Count parameters and buffers that were made before anybody watched."""
        for tensor in (*module.parameters(), *module.buffers()):
            self.see(local_part(tensor))

    def forget_peak(self) -> None:
        """The next peak begins with what is alive now."""
        self.peak_bytes, self.peak_phase = self.bytes_now, self.phase

    def empty(self, module: nn.Module) -> None:
        """Exchange the module's tensors for ones without memory; tied ones stay tied."""
        for part in module.modules():
            held: list[dict[str, Any]] = [part._parameters, part._buffers]
            for tensors in held:
                for name, tensor in tensors.items():
                    if tensor is not None:
                        tensors[name] = self._fake.from_tensor(tensor)
        self.see_module(module)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """New tensors have no memory inside, unless they are made from numbers that are known."""
        with self._fake, self.watching():
            yield

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Every operation inside is seen; those on tensors with memory are done as always."""
        # FSDP frees gathered parameters by giving their memory another size, which is no operation.
        resize = torch.UntypedStorage.resize_

        def watched(self_: torch.UntypedStorage, size: int) -> torch.UntypedStorage:
            result = resize(self_, size)
            if self_._cdata in self._alive:
                self._resized(self_._cdata, self_.nbytes())
            return result

        torch.UntypedStorage.resize_ = watched  # pyright: ignore[reportAttributeAccessIssue]
        try:
            with self:
                yield
        finally:
            torch.UntypedStorage.resize_ = resize

    def _resized(self, address: int, size: int | None) -> None:
        """None: it is gone."""
        before, gone = self._alive.pop(address)
        self.bytes_now += (size or 0) - before
        if size is not None:
            self._alive[address] = (size, gone)
        if self.bytes_now > self.peak_bytes:
            self.peak_bytes, self.peak_phase = self.bytes_now, self.phase


def _one(tensor: Tensor) -> bool | int | float:
    """A number that is not known reads as one: finite, and true."""
    return True if tensor.dtype is torch.bool else 1.0 if tensor.dtype.is_floating_point else 1
