"""Low-rank adapters: small matrices that are trained beside the products of a model, which stays as it is.

    y = W x + b + s B A dropout(x)      A (r, in), B (out, r); s = alpha / r, with rslora alpha / sqrt(r)

With dora the sum W + s B A is brought to rows of length m, which are trained: they begin as the lengths of W's rows.

PEFT computes this: it puts its layers into the model in place of the linear ones, and the model stays the same object.
Which layers those are is found by structure (`model.anatomy`). What runs behind the blocks, the head, is trained whole.

Source: Hu et al. 2021, arXiv 2106.09685 (LoRA); Kalajdzievski 2023, arXiv 2312.03732 (rsLoRA); Liu et al. 2024, arXiv
2402.09353 (DoRA). Differs from the first: all linear layers of the blocks, not attention's alone, and A is drawn as
PEFT draws it (Kaiming's uniform), where the paper has a normal distribution (`init: gaussian`).

Example:
    `model: {name: org/name, adapter: {name: lora, r: 16, alpha: 32}}`: a BERT of 12 blocks of width 768 trains 2.7
    million parameters and its head instead of 109 million.
"""

from __future__ import annotations

import copy
import difflib
import importlib
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import ModuleType
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from bigbatch.errors import ModelError
from bigbatch.model.anatomy import Anatomy, anatomy
from bigbatch.model.encoder import bare
from bigbatch.model.names import clean_name, unwrap
from bigbatch.model.quantised import QuantisedLinear, hidden_numbers, open_all

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from peft.tuners.lora import LoraLayer

    from bigbatch.recipe.adapters import AdapterSpec

ADAPTER = "default"
"""What PEFT calls the one adapter here, in names of parameters too."""
_SEED = 0x10A
"""Added to seed.model, so that A is not drawn from the numbers of a new head."""
_INIT = {"kaiming": True, "gaussian": "gaussian", "orthogonal": "orthogonal"}


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Which layers get adapters, and with which settings."""

    targets: Sequence[str]
    """Dotted names in the transformers model."""
    settings: Mapping[str, object]
    """Of PEFT's LoraConfig, beside the targets."""


def peft() -> ModuleType:
    """The library.

    Raises:
        ModelError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("peft")
    except ImportError as error:
        raise ModelError(
            f"model.adapter: adapters need peft ({error}); pip install 'bigbatch[adapters]'"
        ) from error


def has_adapters(module: nn.Module) -> bool:
    """Whether a model, wrapped by PEFT or not, has adapters in it."""
    return bool(getattr(bare(unwrap(module)), "peft_config", None))


def is_wrapped(module: nn.Module) -> bool:
    """Whether a model is inside PEFT's own wrapper, as a live one can be."""
    return hasattr(module, "merge_and_unload")


def layers_of(spec: AdapterSpec, parts: Anatomy) -> Layers:
    """What a recipe asks for.

    Args:
        spec: `recipe.model.adapter`.
        parts: of the model.

    Raises:
        ModelError: a pattern that matches no linear layer, with the nearest names.
    """
    names = linear_names(parts)
    targets = names.blocks if spec.targets == "auto" else _matching(spec.targets, names)
    if not targets:
        raise ModelError(
            f"model.adapter: the blocks of {type(parts.outer).__name__} have no linear layers that adapters fit beside"
        )
    settings = {
        "r": spec.r,
        "lora_alpha": int(spec.alpha) if spec.alpha == int(spec.alpha) else spec.alpha,
        "lora_dropout": spec.dropout,
        "init_lora_weights": _INIT[spec.init],
        "use_rslora": spec.rslora,
        "use_dora": spec.dora,
    }
    if spec.init == "orthogonal" and spec.r % 2:
        raise ModelError(f"model.adapter.r: init: orthogonal needs an even rank; found {spec.r}")
    return Layers(targets=targets, settings=settings)


@dataclass(frozen=True)
class _Names:
    """Linear layers, by where they are."""

    blocks: list[str]
    others: list[str]
    """Neither in the blocks nor in the head."""
    head: list[str]


def linear_names(parts: Anatomy) -> _Names:
    """Dotted names of a model's linear layers; a layer that is applied many times once."""
    named = {
        part: name
        for name, part in bare(parts.outer).named_modules()
        if type(part) in (nn.Linear, Conv1D, QuantisedLinear)
    }
    inside = {part for block in parts.blocks for part in block.module.modules()}
    behind = {part for module in (*parts.head, parts.output_layer) if module for part in module.modules()}
    return _Names(
        blocks=[name for part, name in named.items() if part in inside],
        others=[name for part, name in named.items() if part not in inside | behind],
        head=[name for part, name in named.items() if part in behind - inside],
    )


def _matching(patterns: Sequence[str], names: _Names) -> list[str]:
    """Layers that match any of the patterns, in the model's order."""
    known, chosen = [*names.blocks, *names.others], set[str]()
    for pattern in patterns:
        found = [name for name in known if _matches(name, pattern)]
        if not found:
            raise ModelError(_no_match(pattern, known, names.head))
        chosen.update(found)
    return [name for name in known if name in chosen]


def _matches(name: str, pattern: str) -> bool:
    """Whether a whole name, or what it ends in behind a dot, matches: `query` is `*.query`."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


def _no_match(pattern: str, known: Sequence[str], head: Sequence[str]) -> str:
    if any(_matches(name, pattern) for name in head):
        return (
            f"model.adapter.targets: {pattern!r} matches the head alone, which is trained whole: leave it out"
        )
    ends = list(dict.fromkeys(name.rpartition(".")[2] for name in known))
    near = difflib.get_close_matches(pattern.strip("*."), [*ends, *known], n=3, cutoff=0.4) or ends[:6]
    counted = ", ".join(f"{end} ({sum(_matches(name, end) for name in known)} layers)" for end in near)
    return (
        f"model.adapter.targets: {pattern!r} matches none of {len(known)} linear layers; near names: {counted}; "
        "auto takes all of the blocks"
    )


def put_in(module: nn.Module, layers: Layers, *, seed: int, new: Collection[str] = ()) -> str:
    """Put adapters into a model, in place; all else but its head is frozen.

    Args:
        module: with its head, on the CPU.
        layers: of it.
        seed: `seed.model`; the global generators are left as they were.
        new: names of parameters that nobody has trained yet: they are trained too, whatever the head.

    Returns:
        What is trained, for people.
    """
    parts = anatomy(module)
    trained = _head_parameters(parts)
    trained |= {id(item) for name, item in module.named_parameters() if clean_name(name) in set(new)}
    model = bare(unwrap(module))
    library = peft()
    config = library.LoraConfig(
        target_modules=list(layers.targets),
        fan_in_fan_out=type(model.get_submodule(layers.targets[0])) is Conv1D,
        **layers.settings,
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.default_generator.manual_seed((seed + _SEED) % 2**63)
        warnings.simplefilter("ignore")  # of layers of another kind than the first, which it handles
        library.inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    for item in module.parameters():
        if id(item) in trained:
            item.requires_grad_(True)
    sizes = [(item.numel(), item.requires_grad) for item in module.parameters()]
    total = sum(size for size, _ in sizes) + hidden_numbers(module)
    count = sum(size for size, trains in sizes if trains)
    return (
        f"adapters beside {len(layers.targets)} linear layers (r {config.r}, alpha {config.lora_alpha:g}): {count:,} "
        f"of {total:,} parameters are trained ({count / total:.2%}), the others stay as they are"
    )


def _head_parameters(parts: Anatomy) -> set[int]:
    """Of a head with labels; what turns states into tokens of the vocabulary belongs to the model."""
    if parts.output_layer is not None:
        return set()
    return {id(item) for part in parts.head for item in part.parameters()}


def config_of(module: nn.Module) -> LoraConfig:
    """PEFT's configuration of the adapters in a model.

    Raises:
        ModelError: there are several of them.
    """
    found: Mapping[str, LoraConfig] = getattr(bare(unwrap(module)), "peft_config", {})
    if len(found) != 1:
        raise ModelError(f"the model has {len(found)} adapters ({', '.join(found)}); expected one")
    return next(iter(found.values()))


def is_plain_lora(module: nn.Module) -> bool:
    """Whether all that is trained is one adapter as this project makes them, and a head."""
    if len(getattr(bare(unwrap(module)), "peft_config", {})) != 1:
        return False
    found = config_of(module)
    whole = [name for name, item in module.named_parameters() if item.requires_grad and "lora_" not in name]
    return (
        str(getattr(found.peft_type, "value", found.peft_type)) == "LORA"
        and found.bias == "none"
        and found.init_lora_weights in (True, False, "gaussian", "orthogonal")
        and not (
            found.rank_pattern or found.alpha_pattern or found.target_parameters or found.layer_replication
        )
        and all(".modules_to_save." in name for name in whole)
    )


def lora_layers(module: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """Name and module of each layer that has adapters."""
    for name, part in module.named_modules():
        if hasattr(part, "base_layer") and hasattr(part, "lora_A"):
            yield name, cast("LoraLayer", part)


def merged(module: nn.Module) -> nn.Module:
    """A copy of the transformers model with the adapters' part added to its weights, and no adapters.

    What is kept in 8 or 4 bits becomes fp32 first: the sum is not rounded again.
    """
    outer = copy.deepcopy(bare(unwrap(module)))
    if is_wrapped(outer):
        return cast("PeftModel", outer).merge_and_unload()
    for _, layer in lora_layers(outer):
        opened = layer.get_base_layer()
        if isinstance(opened, QuantisedLinear):
            vars(layer)["fan_in_fan_out"] = opened.turned  # of the layer that comes in its place
    open_all(outer)
    for name, layer in list(lora_layers(outer)):
        layer.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(outer.get_submodule(parent), child, layer.get_base_layer())
    del outer.peft_config
    return outer


@contextmanager
def without(module: nn.Module) -> Iterator[None]:
    """The model inside as if it had no adapters; its head stays the trained one."""
    layers = [layer for _, layer in lora_layers(module)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
