"""A policy in effect: torch's autocast around the forward pass, with modules that switch it off and on.

Parameters and `.grad` stay fp32: autocast multiplies with copies, and their gradient is added to the fp32
parameter's. So master weights, accumulation, reduction and optimiser state are what they are in fp32. The backward
pass uses the formats that the forward pass used; it needs no switch of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bigbatch.graph.float8 import Float8Layers
from bigbatch.graph.policy import Policy, changes, is_norm, low_parameters
from bigbatch.graph.tf32 import tf32_products
from bigbatch.model.anatomy import device_of
from bigbatch.model.runner import Runner
from bigbatch.protocols import Forward
from bigbatch.samples import MicroBatch

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}
"""Formats whose operations autocast chooses; fp8 converts inside its own layers, and computes in bf16 around them."""
_HALVES = (torch.bfloat16, torch.float16)


class Casting:
    """A module under a policy. Without an active pass its hooks do nothing: fp32 passes stay what they are."""

    def __init__(self, module: nn.Module, policy: Policy, format: str, *, emulate: bool = False) -> None:
        """Hook the modules at which the format changes; `close` takes the hooks off.

        Args:
            module: the model, on its device.
            policy: of `policy_of`; it covers every module.
            format: `tf32`, `bf16`, `fp16` or `fp8`.
            emulate: fp8 without the hardware, for tests.
        """
        self.format = format
        self._policy = policy
        self._device_type = device_of(module).type
        self._root_low = policy[module]
        self._depth = 0
        self._open: list[torch.autocast] = []
        self._handles: list[RemovableHandle] = []
        self.weight_copies_bytes = 0
        """Bytes of the copies of weights that a forward pass multiplies with; they do not grow with its tokens."""
        self._float8: Float8Layers | None = None
        if format == "fp8":
            self._float8 = Float8Layers(module, policy, emulate=emulate)
        if format in AUTOCAST:
            for part, low in changes(module, policy):
                if part is not module:
                    self._hook(part, low)
            self.weight_copies_bytes = sum(2 * p.numel() for p in low_parameters(policy))

    def run(self, runner: Runner) -> Runner:
        """The runner under this policy until it is closed; its outputs are fp32, so that the loss is too."""
        outputs = runner.outputs
        runner.outputs = lambda output: _wide(outputs(output))
        runner.format_of = self._format_of
        runner.around, runner.span = (self.forward_pass, *runner.around), self.span
        runner.weight_copies_bytes = self.weight_copies_bytes
        runner.when_closed(self.close)
        return runner

    @contextmanager
    def span(self) -> Iterator[None]:
        """For a forward pass together with its backward pass: the switch of tf32 works on both."""
        with tf32_products(self.format == "tf32"):
            yield

    @contextmanager
    def forward_pass(self) -> Iterator[None]:
        """The policy is in effect inside."""
        self._depth += 1
        if self._float8 is not None:
            self._float8.swap_in()
        try:
            with self.span(), self._autocast(self._root_low):
                yield
        finally:
            self._depth -= 1
            while self._open:  # a module raised between its two hooks
                self._leave()
            if self._float8 is not None:
                self._float8.swap_out()

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _format_of(self, part: nn.Module) -> torch.dtype | None:
        return AUTOCAST.get(self.format) if self._policy[part] else None

    def _autocast(self, low: bool) -> torch.autocast:
        dtype = AUTOCAST.get(self.format)
        return torch.autocast(self._device_type, dtype=dtype, enabled=low and dtype is not None)

    def _hook(self, part: nn.Module, low: bool) -> None:
        # Around what others do in their hooks: a block that is run for read tokens only (`graph.lazy`) runs in a hook.
        if low:
            self._handles.append(part.register_forward_pre_hook(self._enter_low, prepend=True))
        elif is_norm(part):
            # Nothing in it that autocast would lower: wide inputs are enough, and compiled blocks can have them.
            hook = part.register_forward_pre_hook(self._widen, prepend=True, with_kwargs=True)
            self._handles.append(hook)
            return
        else:
            hook = part.register_forward_pre_hook(self._enter_fp32, prepend=True, with_kwargs=True)
            self._handles.append(hook)
        self._handles.append(part.register_forward_hook(self._exit, always_call=True))

    # A block that is recomputed runs in the backward pass, outside of `forward_pass`; there torch's checkpoint puts
    # autocast back as it was. So what counts is autocast, and the parts that were entered, not the pass.

    def _widen(
        self, _part: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[object, dict[str, object]] | None:
        if not torch.is_autocast_enabled(self._device_type):
            return None
        return _wide(args), {name: _wide(value) for name, value in kwargs.items()}

    def _enter_fp32(
        self, part: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[object, dict[str, object]] | None:
        wide = self._widen(part, args, kwargs)
        self._enter(False)
        return wide

    def _enter_low(self, _part: nn.Module, _args: tuple[object, ...]) -> None:
        self._enter(bool(self._depth or self._open))

    def _enter(self, low: bool) -> None:
        cast = self._autocast(low)
        cast.__enter__()
        self._open.append(cast)

    def _exit(self, _part: nn.Module, _args: object, _output: object) -> None:
        if self._open:
            self._leave()

    def _leave(self) -> None:
        self._open.pop().__exit__(None, None, None)


class PlainAutocast:
    """What a user of plain transformers gets in this format: autocast around the whole model, no policy."""

    def __init__(self, inner: Forward, format: str) -> None:
        self.inner, self.format = inner, format
        self.module: nn.Module = inner.module  # type: ignore[attr-defined]

    def __call__(self, micro_batch: MicroBatch) -> Tensor:
        """(U, C) fp32 outputs."""
        device = device_of(self.module).type
        with torch.autocast(device, dtype=AUTOCAST.get(self.format), enabled=self.format in AUTOCAST):
            return _wide(self.inner(micro_batch))


def _wide(value: Any) -> Any:
    """The value with its half-precision tensors as fp32; containers one level deep, as modules pass them."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in _HALVES else value
    if type(value) in (tuple, list):
        return type(value)(_wide(item) for item in value)
    return value
