"""Names of parameters: without wrapper prefixes, and each tied tensor once."""

from __future__ import annotations

from torch import nn

_LEADING = ("module.", "states_of.")
_ANYWHERE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


def clean_name(name: str) -> str:
    """The name without the prefixes that data parallel, compile, sharding, recomputation and encoder wrappers add.

    >>> clean_name("module._orig_mod.bert.encoder.layer.0._checkpoint_wrapped_module.output.dense.bias")
    'bert.encoder.layer.0.output.dense.bias'
    """
    before = ""
    while before != name:
        before = name
        for prefix in _LEADING:
            name = name.removeprefix(prefix)
        for prefix in _ANYWHERE:
            if name.startswith(prefix):
                name = name.removeprefix(prefix)
            name = name.replace(f".{prefix}", ".")
    return name


def unwrap(module: nn.Module) -> nn.Module:
    """The module inside data-parallel and compile wrappers; PEFT wrappers stay."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and type(module).__name__ in ("DistributedDataParallel", "DataParallel"):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def named_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Clean name -> parameter, tied tensors once, under the first of their names."""
    return {clean_name(name): parameter for name, parameter in module.named_parameters()}


def tied_names(module: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Groups of clean names that share one tensor; the first of each group is its name."""
    groups: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(clean_name(name))
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)


def aliases(module: nn.Module) -> dict[str, str]:
    """Every further name of a tied tensor -> the name that it is stored under."""
    return {other: names[0] for names in tied_names(module) for other in names[1:]}
