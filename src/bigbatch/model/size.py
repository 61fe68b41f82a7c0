"""How large a model would be, before anything of it is allocated."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules import module as registration

from bigbatch.errors import DoesNotFit, ModelError
from bigbatch.model.files import check_weights

MOST_LAYERS = 10_000
MOST_LABELS = 1_000_000
_MOST_MODULES = 500_000
_MOST_ELEMENTS = 10**13
"""Ten times the largest published models."""
_MOST_BUFFERED = 2**32
_NEW_ELEMENTS = 50_000_000
"""Of a head or pooler that the weights do not have."""
_NEW_TENSORS = 1_000
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers")


def check_numbers(config: Mapping[str, Any], where: str) -> None:
    """Refuse counts that would be looped over before any tensor is made.

    Args:
        config: a configuration, as JSON has it; those inside it too.
        where: the file, for the message.

    Raises:
        ModelError: the key, what was found and what was expected.
    """
    for key, value in config.items():
        if isinstance(value, Mapping) and key not in ("id2label", "label2id"):
            check_numbers(value, f"{where}: {key}")
        most = MOST_LAYERS if key in _LAYERS else MOST_LABELS if key == "num_labels" else None
        if most is None or value is None or isinstance(value, (list, dict)):
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise ModelError(
                f"{where}: {key}: found {_shown(value)}; expected a whole number from 1 to {most:,}"
            )
    labels = config.get("id2label")
    if labels is not None and not isinstance(labels, Mapping):
        raise ModelError(
            f"{where}: id2label: found {type(labels).__name__}; expected names of labels by number"
        )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 40 else f"{text[:40]}…"


@dataclass(frozen=True)
class Stored:
    """What safetensors files hold."""

    tensors: int
    numbers: int


def stored_in(files: Sequence[Path]) -> Stored:
    """Tensors in some safetensors files, by their headers.

    Raises:
        ModelError: a file without a header, or with more than it has room for.
    """
    tensors = numbers = 0
    for file in files:
        shapes = [tensor["shape"] for tensor in check_weights(file).values()]
        tensors += len(shapes)
        numbers += sum(map(prod, shapes))
    return Stored(tensors, numbers)


@contextmanager
def bounded(where: str, stored: Stored | None) -> Iterator[None]:
    """While a model is built inside: stop as soon as it has more parts than it can have.

    Args:
        where: the configuration, for the message.
        stored: what its files hold; None: the weights will be random.

    Raises:
        ModelError: when it does.
    """
    most, most_tensors, told = _MOST_ELEMENTS, _MOST_MODULES, "parameters"
    if stored is not None:
        # What is tied is made twice; a fused tensor of the file may become a few of the model.
        most, most_tensors = 2 * stored.numbers + _NEW_ELEMENTS, 4 * stored.tensors + _NEW_TENSORS
        told = f"parameters, where the weights hold {stored.numbers:,} in {stored.tensors:,} tensors"
    counts = {"modules": 0, "tensors": 0, "numbers": 0, "buffered": 0}

    def count(what: str, found: int, limit: int, told: str) -> None:
        counts[what] += found
        if counts[what] > limit:
            raise ModelError(
                f"{where}: describes a model with more than {limit:,} {told}; correct its sizes "
                "(vocab_size, hidden_size, num_hidden_layers, max_position_embeddings, …)"
            )

    def on_module(_module: Any, _name: str, part: Any) -> None:
        count("modules", part is not None, _MOST_MODULES, "parts")

    def on_parameter(_module: Any, _name: str, part: Any) -> None:
        count("numbers", 0 if part is None else part.numel(), most, told)
        count("tensors", part is not None, most_tensors, f"tensors of {told}")

    def on_buffer(_module: Any, _name: str, part: Any) -> None:
        count("buffered", 0 if part is None else part.numel(), _MOST_BUFFERED, "numbers in buffers")

    handles = [
        registration.register_module_module_registration_hook(on_module),
        registration.register_module_parameter_registration_hook(on_parameter),
        registration.register_module_buffer_registration_hook(on_buffer),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def check_fits(build: Callable[[], Any], where: str) -> None:
    """Build a model without memory, and see whether it would fit into the machine's.

    Args:
        build: makes the model with random weights.
        where: the configuration, for the message.

    Raises:
        ModelError: it has more parts than any model.
        DoesNotFit: its parameters alone, in fp32, are more than the machine has memory.
    """
    try:
        with torch.device("meta"), bounded(where, None):
            module = build()
    except (NotImplementedError, RuntimeError):
        return  # some models look into tensors while they are built; building it for real says what is wrong
    fits_memory(sum(item.numel() for item in module.parameters()), where)


def fits_memory(numbers: int, where: str) -> None:
    """Refuse more fp32 numbers than the machine has memory.

    Raises:
        DoesNotFit: says both.
    """
    if not hasattr(os, "sysconf"):
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if 4 * numbers > memory:
        raise DoesNotFit(
            f"{where}: {numbers:,} parameters take {4 * numbers / 2**30:,.0f} GiB in fp32; the machine has "
            f"{memory / 2**30:,.0f} GiB. Take a smaller model, or a machine with more memory"
        )
