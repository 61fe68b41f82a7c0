"""Where a model is measured that ranks will divide: on its device, whole if that has room, else by its first blocks.

Such a model waits on the CPU. One that does not fit whole is measured with one block and with two; what a further block
takes is the difference (`extrapolated`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import nn

from bigbatch.build.first_blocks import distinct_blocks, first_blocks
from bigbatch.build.measured import Measured
from bigbatch.facts import CalibrationFacts
from bigbatch.plan.memory import activation_bytes_per_token
from bigbatch.probe.hardware import resident_bytes
from bigbatch.units import show_bytes

BLOCKS = 2
"""Blocks that stand for all: the least whose difference shows one."""
_SMALLEST_TOKENS = 512
"""Of a micro-batch that there must be room for."""


@contextmanager
def at_work(on: Measured) -> Iterator[Measured]:
    """Inside, the model is where it will compute, as much of it as fits there; afterwards it is where it was."""
    if not on.divided:
        yield on
        return
    module, parts, home = on.ready.module, on.ready.anatomy, next(on.ready.module.parameters()).device
    needed = _needed_bytes(on)
    if needed <= on.memory_bytes or distinct_blocks(parts) <= BLOCKS:
        with _moved(module, on.hardware.device, str(home)):
            yield on
        return
    on.say(
        f"measuring by {BLOCKS} of {len(parts.blocks)} blocks: all would take {show_bytes(needed)}, "
        f"{show_bytes(on.memory_bytes)} may be used"
    )
    with first_blocks(module, parts, BLOCKS) as kept, _moved(module, on.hardware.device, str(home)):
        yield replace(on, ready=replace(on.ready, anatomy=kept), excerpt=True)


def _needed_bytes(on: Measured) -> int:
    """Of weights, gradients and a small micro-batch, beside what is in use now."""
    device = on.hardware.device
    weights = on.model.parameter_bytes if next(on.ready.module.parameters()).device.type != device else 0
    activations = round(activation_bytes_per_token(on.model, None) * _SMALLEST_TOKENS)
    return resident_bytes(device) + weights + 4 * on.model.trainable_parameters + activations


@contextmanager
def _moved(module: nn.Module, device: str, home: str) -> Iterator[None]:
    module.to(device)
    try:
        yield
    finally:
        module.to(home)


def extrapolated(one: CalibrationFacts, two: CalibrationFacts, on: Measured) -> CalibrationFacts:
    """What the whole model takes, from its first block and its first two.

    Args:
        one: measured with one block.
        two: measured with two, in micro-batches of the same size.
        on: the excerpt of two blocks.
    """
    times = line(one.seconds_per_token, two.seconds_per_token, on.model.blocks)
    slower = times / two.seconds_per_token
    trained = sum(item.numel() for item in on.ready.module.parameters() if item.requires_grad)
    held = sum(item.numel() * item.element_size() for item in on.ready.module.parameters())
    absent = 0 if on.hardware.device == "cpu" else on.model.parameter_bytes - held
    return replace(
        two,
        seconds_per_token=times,
        seconds_per_token_forward=line(
            one.seconds_per_token_forward, two.seconds_per_token_forward, on.model.blocks
        ),
        seconds_per_update=two.seconds_per_update * on.model.trainable_parameters / max(1, trained),
        activation_bytes_per_token=line(
            one.activation_bytes_per_token, two.activation_bytes_per_token, on.model.blocks
        ),
        selective_bytes_per_token=line(
            one.selective_bytes_per_token, two.selective_bytes_per_token, on.model.blocks
        ),
        resting_bytes=two.resting_bytes + absent,
        tried={size: seconds * slower for size, seconds in two.tried.items()},
    )


def line(one: float, two: float, blocks: int) -> float:
    """One block costs `one`, two cost `two`; what so many cost. Noise never makes a further block cheaper than none.

    Args:
        one: seconds, or bytes, of an excerpt of one block.
        two: the same of an excerpt of two blocks.
        blocks: of the whole model.
    """
    return one + (blocks - 1) * max(0.0, two - one)
