"""Which tokens of a sample see which (`model.attention`), as a function of two places, and how a model is given it.

The pattern is a part of the model: a hook on its base hands it to every attention call as a keyword argument, whoever
runs the model and however it is fed, and its configuration says it, so that the saved folder does.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from bigbatch.errors import ModelError
from bigbatch.model.memory import REMEMBERED, without_gradient
from bigbatch.recipe.attention import AttentionSpec

PATTERN = "attention_pattern"
"""Name of the keyword argument that carries the Pattern."""
IN_CONFIG = "bigbatch_attention"
"""Key of config.json."""
_LENGTHS = 9
"""Of how many samples pairs are counted."""


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """Which token sees which: the table of `recipe.attention`."""

    window: int = 0
    """q sees k where abs(q - k) < window."""
    stride: int = 0
    """… or where q - k is a multiple of it; 0: no such."""
    block: int = 0
    """… or where both lie in one block of so many; 0: there are none."""
    summary: int = 0
    """… or where k is one of the last so many of its block."""
    first: int = 0
    """… or where q or k is one of the first so many of the sample."""

    @classmethod
    def of(cls, spec: AttentionSpec | None) -> Pattern | None:
        """The pattern that a recipe asks for; None: all tokens see all."""
        if spec is None or spec.pattern == "full":
            return None
        return cls(
            window=spec.window or 0,
            stride=spec.stride or 0,
            block=spec.block or 0,
            summary=spec.summary or 0,
            first=spec.first,
        )

    @property
    def is_window(self) -> bool:
        """Whether it is a window and nothing else, which many kernels know."""
        return not (self.stride or self.block or self.first)

    def near(self, q: Tensor, k: Tensor) -> Tensor:
        """Whether they are neighbours: in one window, or in one block. Places are broadcast.

        Example:
            >>> Pattern(block=3).near(torch.tensor([[3], [4]]), torch.arange(6)).int().tolist()
            [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1]]
        """
        if not self.block:
            return (q - k).abs() < self.window
        return q.div(self.block, rounding_mode="floor") == k.div(self.block, rounding_mode="floor")

    def seen(self, q: Tensor, k: Tensor) -> Tensor:
        """Whether q sees k (bool), both places in their sample, broadcast; of decoders, beside k <= q.

        Args:
            q: places of queries.
            k: places of keys.

        Example:
            >>> Pattern(window=1, stride=3).seen(torch.tensor([[4]]), torch.arange(9)).int().tolist()
            [[0, 1, 0, 0, 1, 0, 0, 1, 0]]
        """
        found = self.near(q, k)
        if self.stride:
            found = found | ((q - k) % self.stride == 0)
        if self.summary:
            found = found | (k % self.block >= self.block - self.summary)
        if self.first:
            found = found | (q < self.first) | (k < self.first)
        return found

    def covers(self, tokens: int) -> bool:
        """Whether every token of a sample of so many sees all the others."""
        return tokens <= max(self.window, self.block, self.first) or self.stride == 1

    def pairs(self, tokens: int, causal: bool) -> int:
        """How many pairs of a sample of so many tokens are seen.

        Args:
            tokens: of the sample.
            causal: whether none sees what comes behind it.

        Example:
            >>> Pattern(window=2).pairs(4, causal=False), Pattern(window=2).pairs(4, causal=True)
            (10, 7)
        """
        q = np.arange(tokens)
        end = q + 1 if causal else np.full(tokens, tokens)
        low, high = (q - self.window + 1, q + self.window) if not self.block else _own_block(q, self.block)
        low, high = np.clip(low, 0, end), np.clip(high, 0, end)
        # Neighbours, and what lies in front of and behind them.
        seen = high - low + self._further(q, low) + self._further(q, end) - self._further(q, high)
        return int(np.where(q < self.first, end, seen).sum())

    def _further(self, q: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Of the keys in front of `end`, how many q sees wherever its neighbours are."""
        first = np.minimum(end, self.first)
        if self.block:
            summaries = end // self.block * self.summary, first // self.block * self.summary
            begun = (np.maximum(each % self.block - self.block + self.summary, 0) for each in (end, first))
            last, before = (whole + part for whole, part in zip(summaries, begun, strict=True))
            return first + last - before
        if not self.stride:
            return first
        at = q % self.stride
        multiples, before = ((each - at + self.stride - 1) // self.stride for each in (end, first))
        return first + multiples - before

    def __str__(self) -> str:
        """For people: `local attention (window 256)`."""
        name = "fixed" if self.block else "strided" if self.stride else "global" if self.first else "local"
        said = [f"{key} {value}" for key, value in asdict(self).items() if value and key != "first"]
        said += [f"first {self.first} global"] if self.first else []
        return f"{name} attention ({', '.join(said)})"


def _own_block(q: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the block of each query begins and ends."""
    return q // block * block, (q // block + 1) * block


def pattern_of(module: nn.Module) -> Pattern | None:
    """The pattern that a model was given; None: all tokens see all."""
    for part in module.modules():
        for hook in part._forward_pre_hooks.values():
            if isinstance(hook, partial) and hook.func is _hand_down:
                return hook.args[0]
    return None


def told_pattern(module: nn.Module, lengths_B: np.ndarray) -> str:
    """A model's pattern, and how much of all pairs of these samples it leaves; empty: all tokens see all.

    Args:
        module: a model.
        lengths_B: (B,) tokens of samples.
    """
    pattern = pattern_of(module)
    if pattern is None:
        return ""
    at = np.linspace(0, 1, _LENGTHS)
    lengths = np.quantile(lengths_B, at, method="nearest").astype(np.int64)
    causal = any(getattr(part, "is_causal", False) is True for part in module.modules())
    seen = sum(pattern.pairs(int(length), causal) for length in lengths)
    every = sum(int(length) * (int(length) + 1) // 2 if causal else int(length) ** 2 for length in lengths)
    return f"{pattern}: {seen / max(1, every):.1%} of the pairs of tokens"


def told_by(config: object, where: str) -> Pattern | None:
    """The pattern that a configuration names; None: it names none.

    Args:
        config: of a model.
        where: its place, for the message.

    Raises:
        ModelError: it is none.
    """
    found = getattr(config, IN_CONFIG, None)
    if found is None:
        return None
    try:
        return Pattern.of(AttentionSpec.model_validate(found))
    except ValidationError as error:
        what = error.errors()[0]
        key = ".".join([IN_CONFIG, *map(str, what["loc"])])
        raise ModelError(
            f"{where}: {key}: {what['msg']}; expected what a recipe has as model.attention"
        ) from error


def hand_down(base: nn.Module, pattern: Pattern | None) -> None:
    """Have every attention call of a base model told of the pattern, from now on; None: of none.

    Args:
        base: the model below its head.
        pattern: which tokens see which.
    """
    for key, hook in list(base._forward_pre_hooks.items()):
        if isinstance(hook, partial) and hook.func is _hand_down:
            del base._forward_pre_hooks[key]
            base._forward_pre_hooks_with_kwargs.pop(key, None)
    if pattern is not None:
        base.register_forward_pre_hook(partial(_hand_down, pattern), with_kwargs=True)


def _hand_down(
    pattern: Pattern, _base: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[tuple[object, ...], dict[str, object]]:
    return args, {**kwargs, PATTERN: pattern}


def plain_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: object,
) -> tuple[Tensor, None]:
    """Transformers' own SDPA of padded samples, with the pattern as a mask of all pairs.

    Samples are padded on the right, or, of text that is written, on the left; the mask says where each begins.

    Args:
        module: the attention module.
        query: (B, heads, L, width).
        key: (B, key heads, L, width).
        value: as the key.
        attention_mask: (B, 1, L, L) bool; None: all, or those up to the query. Fewer queries than keys are the last.
        dropout: probability of dropping an attention weight.
        scaling: factor on the scores.
        options: `attention_pattern`, `is_causal` and what else the model hands down.

    Returns:
        (B, L, heads, width), None.
    """
    key, value = without_gradient(key, value, options.pop(REMEMBERED, None))
    pattern = options.pop(PATTERN, None)
    if isinstance(pattern, Pattern):
        causal = options.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else causal
        attention_mask = _narrowed(attention_mask, pattern, (query, key), bool(causal))
    return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)  # type: ignore


def _narrowed(mask: Tensor | None, pattern: Pattern, of_QK: tuple[Tensor, Tensor], causal: bool) -> Tensor:
    """(B or 1, 1, Q, K) bool, or fp as the mask is: what of a mask a pattern leaves."""
    queries, keys = (each.shape[2] for each in of_QK)
    k_K = torch.arange(keys, device=of_QK[0].device)
    q_Q1 = k_K[keys - queries :, None]  # of text that is written, the last tokens alone
    if mask is None:
        seen = pattern.seen(q_Q1, k_K)
        return (seen & (k_K <= q_Q1) if causal else seen)[None, None]
    shown = mask if mask.dtype is torch.bool else mask > torch.finfo(mask.dtype).min / 2
    if pattern.block or pattern.first:
        # Places count from the first token of a sample, which the last query sees, if it is real; else all see it.
        start_B111 = shown[:, :, -1:].int().argmax(-1, keepdim=True)
        k_K, q_Q1 = k_K - start_B111, q_Q1 - start_B111
    seen = pattern.seen(q_Q1, k_K)
    if mask.dtype is not torch.bool:
        return mask.masked_fill(~seen, torch.finfo(mask.dtype).min)
    # A padded query may be left without any key: it sees padding instead, and nobody reads its answer.
    padding = ~shown.any(-2, keepdim=True)[..., keys - queries :].transpose(2, 3)
    return mask & (seen | padding)
