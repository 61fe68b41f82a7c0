"""Watches one micro-batch run: every operation of torch's dispatcher, forward and backward, and whose work it is.

Forward operations belong to the innermost module that runs. A backward operation belongs to the module in which its
autograd node was made: nodes are numbered in the order of their making, so the number tells.
"""

from __future__ import annotations

import contextlib
import sys
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from bigbatch.graph.flops import formula_of
from bigbatch.graph.flow import Flow, held, tensors_in

if TYPE_CHECKING:
    from torch._ops import OpOverload
    from torch.utils.hooks import RemovableHandle


aten = torch.ops.aten
Phase = Literal["forward", "loss", "backward", "recompute"]
_LARGEST_NODE = 2**63
"""Nodes that add to `.grad` have no place in the order: their number is the largest there is."""
_READS_HOST = ("item", "tolist", "cpu", "__bool__", "__int__", "__float__", "__index__")
"""Tensor methods that wait until a GPU has caught up."""
_WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive", "equal")
"""Operations that do."""


@dataclass(eq=False)
class Call:
    """One run of a module."""

    name: str
    """As in `named_modules`."""
    kind: str
    """Class name; empty for a stage outside every module."""
    parent: int
    """The call around it; -1 for none."""
    block: int | None
    """Number of the block application that it is or lies in."""
    leaf: bool
    output_shape: tuple[int, ...] = ()
    unread_P: Tensor | None = None
    """(positions,) bool: rows of the output whose gradient is exactly zero; None when it gets no gradient."""


@dataclass(eq=False, slots=True)
class Operation:
    """One operation of the dispatcher. Views are not among them: they compute nothing."""

    name: str
    call: int
    """Whose work it is; -1 outside every module."""
    phase: Phase
    flops: int
    read_bytes: int
    written_bytes: int
    seconds: float
    repeats: int | None
    """The operation that computed the same before."""
    cast: tuple[str, str] | None = None
    """(from, to) of a change of dtype."""
    undoes: str | None = None
    """The dtype in between, when a cast takes back the cast before it."""


@dataclass(frozen=True)
class Wait:
    """A place where a GPU's queue would run empty."""

    what: str
    call: int
    phase: Phase
    place: str
    """`file.py:12 function`."""


@dataclass(eq=False)
class Trace:
    """Everything that was seen. `watching` fills it."""

    calls: list[Call] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    kept: dict[int, int] = field(default_factory=dict)
    """Call -> bytes kept for the backward pass."""
    collected: dict[str, int] = field(default_factory=dict)
    """Output field that nobody asked for -> bytes."""
    uncounted: dict[str, int] = field(default_factory=dict)
    """Operation outside torch's own without a FLOP formula -> calls."""
    flow: Flow = field(default_factory=Flow)
    phase: Phase = "forward"
    on_accelerator: bool = False
    """Whether the model is on one: then reading tensors of the host waits for nothing."""

    _stack: list[int] = field(default_factory=list)
    _starts: list[int] = field(default_factory=list)
    _owners: list[int] = field(default_factory=list)
    _kept_storages: set[int] = field(default_factory=set)
    _casts: dict[int, tuple[int, torch.dtype, torch.dtype]] = field(default_factory=dict)
    _applied: int = 0
    _quiet: int = 0
    _waiting: int = 0

    # ------------------------------------------------------------ whose work it is

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """What runs inside is ours, not the model's."""
        self._quiet += 1
        try:
            yield
        finally:
            self._quiet -= 1

    @property
    def current(self) -> int:
        """The call whose work is done now."""
        if self._stack:
            return self._stack[-1]
        node = torch._C._current_autograd_node() if self.phase == "backward" else None
        return -1 if node is None else self._owner(node._sequence_nr())

    def _owner(self, number: int) -> int:
        """The call in which the node of this number was made."""
        at = bisect_right(self._starts, number) - 1
        return self._owners[at] if at >= 0 and number < _LARGEST_NODE else -1

    def _entered(self, owner: int) -> None:
        """From here on, nodes are made by this call."""
        self._starts.append(torch.autograd._get_sequence_nr())  # pyright: ignore
        self._owners.append(owner)

    @contextmanager
    def stage(self, phase: Phase, name: str) -> Iterator[None]:
        """Work outside every module: what prepares inputs and picks outputs, the loss."""
        self.phase = phase
        self.calls.append(Call(name, "", -1, None, False))
        self._stack.append(len(self.calls) - 1)
        self._entered(self._stack[-1])
        try:
            yield
        finally:
            self._stack.pop()
            self._entered(-1)

    def enter(self, name: str, module: nn.Module, is_block: bool) -> None:
        """A module begins to run.

        Args:
            name: as in `named_modules`.
            module: the one.
            is_block: whether it is one of the model's repeated blocks.
        """
        block = self.calls[self._stack[-1]].block if self._stack else None
        if self.phase == "backward":  # recomputation: the block is the one whose gradient is due
            due = self.current
            block = self.calls[due].block if due >= 0 and block is None else block
        elif is_block and block is None:
            block, self._applied = self._applied, self._applied + 1
        parent = self._stack[-1] if self._stack else -1
        leaf = next(module.children(), None) is None
        self.calls.append(Call(name, type(module).__name__, parent, block, leaf))
        self._stack.append(len(self.calls) - 1)
        self._entered(self._stack[-1])

    def leave(self, output: object) -> None:
        """It is done."""
        number = self._stack.pop()
        self._entered(self._stack[-1] if self._stack else -1)
        if self.phase == "backward":
            return
        call = self.calls[number]
        self._see_collected(output)
        first = next(tensors_in(_plain(output)), None)
        if first is not None and first.is_floating_point() and first.ndim >= 2 and first.requires_grad:
            call.output_shape = tuple(first.shape)
            first.register_hook(lambda gradient: self._see_unread(call, gradient))

    def _see_unread(self, call: Call, gradient: Tensor) -> None:
        with self.quiet():
            unread_P = (gradient == 0).all(-1).flatten()
            # A tensor that several consumers share may be hooked once and read once: the sum is what counts.
            call.unread_P = unread_P if call.unread_P is None else call.unread_P & unread_P

    def _see_collected(self, output: object) -> None:
        if not isinstance(output, Mapping):
            return
        for name in ("hidden_states", "attentions", "past_key_values"):
            found = output.get(name)
            if found is not None:
                tensors = list(tensors_in(found if isinstance(found, (list, tuple)) else []))
                self.collected[name] = max(self.collected.get(name, 0), sum(map(_bytes, tensors)))

    def pack(self, tensor: Tensor) -> Tensor:
        """Told of every tensor that autograd keeps."""
        if self._quiet:
            return tensor
        storage = self.flow.storage(tensor)
        if storage not in self._kept_storages:
            self._kept_storages.add(storage)
            self.kept[self.current] = self.kept.get(self.current, 0) + held(tensor).nbytes()
        with self.quiet():
            return tensor.detach()  # the tensor itself would keep its own node alive

    def ignore_storages(self, module: nn.Module) -> None:
        """Weights and buffers are there anyway."""
        for tensor in (*module.parameters(), *module.buffers()):
            self._kept_storages.add(self.flow.storage(tensor))

    # ------------------------------------------------------------ operations

    def run(self, func: OpOverload, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        """Do the operation and write down what it was.

        Args:
            func: an operation of torch's dispatcher.
            args: its arguments by place.
            kwargs: its arguments by name.

        Returns:
            What it gives.
        """
        if self._quiet:
            return func(*args, **kwargs)
        with self.quiet():
            inputs = list(tensors_in((args, kwargs)))
            changed = _changed(func, args, kwargs)
            sources, spec = self.flow.reads(inputs), self.flow.spec((args, kwargs))
            before = {self.flow.storage(tensor) for tensor in inputs}
            started = time.perf_counter()
            result = func(*args, **kwargs)
            seconds = time.perf_counter() - started
            outputs = list(tensors_in(result))
            fresh = [tensor for tensor in outputs if self.flow.storage(tensor) not in before]
            self._see_wait(func, args, kwargs, result)
            if not (fresh or changed or outputs == []):
                return result  # a view
            repeats = self.flow.note(func, spec, sources, fresh, changed)
            recomputing = self.phase == "backward" and bool(self._stack)
            operation = Operation(
                name=_name(func),
                call=self.current,
                phase="recompute" if recomputing else self.phase,
                flops=self._flops(func, args, kwargs, result),
                read_bytes=sum(map(_bytes, _each_once(inputs))),
                written_bytes=sum(map(_bytes, [*fresh, *changed])),
                seconds=seconds,
                repeats=repeats,
            )
            self._see_cast(operation, inputs, fresh, changed)
            self.operations.append(operation)
        return result

    def _flops(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int:
        formula = formula_of(_name(func), func)
        if formula is None:
            if func.namespace not in ("aten", "prims", "prim"):
                self.uncounted[_name(func)] = self.uncounted.get(_name(func), 0) + 1
            return 0
        return int(formula(*args, **kwargs, out_val=result))

    def _see_cast(
        self, operation: Operation, inputs: list[Tensor], fresh: list[Tensor], changed: list[Tensor]
    ) -> None:
        """A change of dtype, and whether it takes back the one before it."""
        for tensor in changed:
            self._casts.pop(self.flow.storage(tensor), None)
        if operation.name != "_to_copy" or not inputs or not fresh or inputs[0].dtype == fresh[0].dtype:
            return
        source, made = inputs[0], fresh[0]
        operation.cast = (_short(source.dtype), _short(made.dtype))
        earlier = self._casts.get(self.flow.storage(source))
        if earlier is not None and earlier[1] == made.dtype:
            operation.undoes = _short(source.dtype)
        self._casts[self.flow.storage(made)] = (len(self.operations), source.dtype, made.dtype)

    # ------------------------------------------------------------ waits

    def _see_wait(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        if self._waiting:
            return
        name = _name(func)
        tensors = list(tensors_in(args))
        waits = name in _WAITS
        if name == "index":  # an index of booleans is counted first
            # Rows of embeddings (`sparse=True`) are for CPUs only: nothing waits there.
            rows = not self.on_accelerator and _node_name().startswith("EmbeddingBackward")
            waits = not rows and any(one.dtype in (torch.bool, torch.uint8) for one in tensors[1:])
        elif name == "repeat_interleave":
            waits = kwargs.get("output_size") is None
        elif name in ("_to_copy", "copy_"):
            target = result if name == "_to_copy" else tensors[0]
            waits = target.device.type == "cpu" and any(one.device.type != "cpu" for one in tensors)
        if waits:
            self.wait(name, tensors)

    def wait(self, what: str, tensors: list[Tensor]) -> None:
        """A place that waits, unless the machine has an accelerator and this tensor is not on it."""
        if self.on_accelerator and all(tensor.device.type == "cpu" for tensor in tensors):
            return
        python = self.phase != "backward" or bool(self._stack)  # else autograd's own code runs
        phase: Phase = "recompute" if self.phase == "backward" and python else self.phase
        place = _place(sys._getframe()) if python else ""
        self.waits.append(Wait(what, self.current, phase, place))

    @contextmanager
    def reading_host(self, what: str, tensors: list[Tensor]) -> Iterator[None]:
        """A tensor method that waits: counted once, however many operations it is made of."""
        if not self._waiting and not self._quiet:
            self.wait(what, tensors)
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1


class _Operations(TorchDispatchMode):
    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        return self.trace.run(func, args, kwargs or {})


class _Methods(TorchFunctionMode):
    """Names the tensor methods that read values; what they are made of does not tell them apart."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name not in _READS_HOST:
            return func(*args, **(kwargs or {}))
        with self.trace.reading_host(name, list(tensors_in(args))):
            return func(*args, **(kwargs or {}))


@contextmanager
def watching(module: nn.Module, blocks: Mapping[nn.Module, object]) -> Iterator[Trace]:
    """A trace of what `module` and the code around it do inside.

    Args:
        module: the model; each of its modules gets hooks, which are gone afterwards.
        blocks: its repeated blocks (as keys); their applications are numbered in the order in which they run.
    """
    trace = Trace()
    trace.ignore_storages(module)
    trace.on_accelerator = any(parameter.device.type != "cpu" for parameter in module.parameters())
    with ExitStack() as stack:
        for name, part in module.named_modules():
            for handle in _hooks(trace, name, part, part in blocks):
                stack.callback(handle.remove)
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(trace.pack, lambda tensor: tensor))
        stack.enter_context(_Methods(trace))
        stack.enter_context(_Operations(trace))
        yield trace


def _hooks(trace: Trace, name: str, part: nn.Module, is_block: bool) -> list[RemovableHandle]:
    """First in, last out: hooks of others, such as the packed path's, count as the module's own work."""
    return [
        part.register_forward_pre_hook(lambda module, _: trace.enter(name, module, is_block), prepend=True),
        # Also after an exception: the lazy last block leaves its first pass by one.
        part.register_forward_hook(lambda _module, _inputs, output: trace.leave(output), always_call=True),
    ]


# ---------------------------------------------------------------- small things


def _plain(output: object) -> object:
    """The values of an output object, in order."""
    return list(output.values()) if isinstance(output, Mapping) else output


def _name(func: Any) -> str:
    return func._schema.name.partition("::")[2] if hasattr(func, "_schema") else str(func)


def _node_name() -> str:
    """The autograd node that is being computed; empty outside the backward pass."""
    node = torch._C._current_autograd_node()
    return "" if node is None else node.name()


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _bytes(tensor: Tensor) -> int:
    """What the tensor's elements take; an expanded one no more than its storage."""
    return min(tensor.numel() * tensor.element_size(), held(tensor).nbytes())


def _each_once(tensors: list[Tensor]) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())


def _changed(func: OpOverload, args: tuple[object, ...], kwargs: dict[str, object]) -> list[Tensor]:
    """Inputs that the operation writes to, as its schema says."""
    found: list[Tensor] = []
    if not func._schema.is_mutable:
        return found
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[index] if index < len(args) else kwargs.get(argument.name)
            found.extend(tensors_in(value))
    return found


_OURS = str(Path(__file__).parent)
_TORCH = str(Path(torch.__file__).parent)


def _place(frame: FrameType | None) -> str:
    """The innermost line of code that is neither torch's nor the tracer's: `masking_utils.py:369 function`."""
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((_OURS, _TORCH, contextlib.__file__, "<")):
            return f"{Path(file).name}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return ""
