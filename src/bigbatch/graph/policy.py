"""Which module computes in the low format, by its role in the model; patterns of names override roles.

By default fp32: embeddings, every normalisation, the head unless it multiplies more than a block (logits over a
vocabulary), and the loss, which is computed outside the model. Attention's scores and softmax are fp32 inside torch's
fused kernels, whatever format query and key have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from bigbatch.errors import Problem, RecipeError
from bigbatch.model.anatomy import Anatomy
from bigbatch.model.names import clean_name

Policy = Mapping[nn.Module, bool]
"""Module -> whether it computes in the low format."""


@dataclass(frozen=True, eq=False)
class Unit:
    """A part of the model that is judged as one: the embeddings, a block, the head."""

    name: str
    """Dotted name of its module."""
    module: nn.Module
    applications: int
    """How often a forward pass runs it; ALBERT applies one block many times."""

    @property
    def products(self) -> int:
        """Multiplications per token in its matrix products."""
        looked_up = {
            parameter for part in self.module.modules() if isinstance(part, nn.Embedding)
            for parameter in part.parameters()
        }  # fmt: skip
        return self.applications * sum(
            parameter.numel()
            for parameter in self.module.parameters()
            if parameter.ndim >= 2 and parameter not in looked_up
        )


def is_norm(part: nn.Module) -> bool:
    """LayerNorm, RMSNorm and the like: no children, a one-dimensional weight, nothing larger."""
    parameters = list(part.parameters())
    small = bool(parameters) and all(parameter.ndim == 1 for parameter in parameters)
    return small and not any(True for _ in part.children())


def units_of(module: nn.Module, parts: Anatomy) -> list[Unit]:
    """Embeddings, blocks and head, in the order of the forward pass; a shared block once."""
    names = {part: clean_name(name) for name, part in module.named_modules()}
    blocks = [application.module for application in parts.blocks]
    chosen = [*parts.embeddings, *dict.fromkeys(blocks), *parts.head]
    return [Unit(names[part], part, max(1, blocks.count(part))) for part in dict.fromkeys(chosen)]


def policy_of(
    module: nn.Module, parts: Anatomy, *, keep_fp32: Sequence[str] = (), allow_low: Sequence[str] = ()
) -> Policy:
    """Decide for every module.

    A module does as its parent does, unless a pattern matches its name (`keep_fp32` before `allow_low`) or its
    role keeps it in fp32.

    Args:
        module: the model.
        parts: its anatomy.
        keep_fp32: patterns of dotted module names; `*` matches anything, dots included.
        allow_low: patterns of modules that may be low although their role is fp32.

    Raises:
        RecipeError: a pattern that matches no module.
    """
    _check(module, {"keep_fp32": keep_fp32, "allow_low": allow_low})
    kept = {*parts.embeddings, *_small_heads(parts)}
    policy: dict[nn.Module, bool] = {}
    for name, part, parent in _walk(module):
        if any(fnmatchcase(name, pattern) for pattern in keep_fp32):
            policy[part] = False
        elif any(fnmatchcase(name, pattern) for pattern in allow_low):
            policy[part] = True
        elif part in kept or is_norm(part):
            policy[part] = False
        else:
            policy[part] = policy[parent] if parent is not None else True
    return policy


def _small_heads(parts: Anatomy) -> list[nn.Module]:
    """Parts of the head that multiply no more than a block. Logits over a vocabulary are most of a small model's work:
    their product may be low, what comes out of it is fp32 before the loss all the same.
    """
    blocks = [application.module for application in parts.blocks]
    most = max(Unit("", block, 1).products for block in blocks)
    return [part for part in parts.head if Unit("", part, 1).products <= most]


def only(policy: Policy, unit: Unit) -> Policy:
    """As `policy` inside one unit, fp32 everywhere else."""
    inside = set(unit.module.modules())
    return {part: low and part in inside for part, low in policy.items()}


def changes(module: nn.Module, policy: Policy) -> Iterator[tuple[nn.Module, bool]]:
    """Modules that do not do as their parent does, and the root."""
    for _, part, parent in _walk(module):
        if parent is None or policy[part] != policy[parent]:
            yield part, policy[part]


def low_parameters(policy: Policy) -> list[nn.Parameter]:
    """Matrices of low modules, tied ones once: a forward pass makes a copy of each in the format."""
    found = {
        parameter: None
        for part, low in policy.items()
        if low and not isinstance(part, nn.Embedding)
        for parameter in part.parameters(recurse=False)
        if parameter.ndim >= 2 and parameter.is_floating_point()
    }
    return list(found)


def _walk(module: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Module | None]]:
    """(clean name, module, parent), parents first; a shared module under its first name."""
    found = dict(module.named_modules())
    for name, part in found.items():
        parent = None if not name else found.get(name.rpartition(".")[0], module)
        yield clean_name(name), part, parent


def _check(module: nn.Module, patterns: Mapping[str, Sequence[str]]) -> None:
    names = [clean_name(name) for name, _ in module.named_modules()]
    problems = [
        Problem(
            where="recipe",
            key=f"plan.precision.{key}",
            what=f"found {pattern!r}, which matches no module; names look like {_examples(names)}",
        )
        for key, given in patterns.items()
        for pattern in given
        if not any(fnmatchcase(name, pattern) for name in names)
    ]
    if problems:
        raise RecipeError(problems)


def _examples(names: Sequence[str]) -> str:
    return " or ".join(names[index] for index in sorted({len(names) // 3, len(names) - 1}))
