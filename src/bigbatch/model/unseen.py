"""Attention masks of padded batches, made without reading a value of them.

transformers looks at every mask to see whether it masks anything (`mask.all()`), which on a GPU waits until all
queued work is done. The padded feed knows the lengths, so nobody has to look.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from bigbatch.model.patterns import plain_attention

UNSEEN = "bigbatch_padded"
"""transformers' own SDPA with `unseen_mask`."""


def unseen_mask(*args: Any, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """The `sdpa_mask` of transformers, decided by shapes alone, for samples that are padded on the right.

    A causal query never reaches the padding behind it, so causal attention needs no padding mask. Where the mask
    is needed it is made, whatever is in it.
    """
    if attention_mask is None or options.get("allow_is_causal_skip", True):
        return sdpa_mask(*args, attention_mask=None, **options)
    return sdpa_mask(
        *args, attention_mask=attention_mask, **{**options, "allow_is_bidirectional_skip": False}
    )


@contextmanager
def nobody_looks(outer: nn.Module, implementations: tuple[str, ...]) -> Iterator[None]:
    """Have the model make its masks with `unseen_mask` inside, if it uses one of these implementations.

    Only inside: whoever calls the model directly may pad on the left.
    """
    AttentionInterface.register(UNSEEN, plain_attention)
    AttentionMaskInterface.register(UNSEEN, unseen_mask)
    configs: list[Any] = list({id(one): one for one in (outer.config, _base(outer).config)}.values())
    before = [config._attn_implementation for config in configs]
    if not set(before) <= set(implementations):
        yield
        return
    try:
        for config in configs:
            config._attn_implementation = UNSEEN
        yield
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation = implementation


def follows_interface(outer: nn.Module) -> bool:
    """Whether the model takes attention and masks from transformers' interfaces."""
    return bool(getattr(_base(outer), "_supports_attention_backend", False))


def is_causal(outer: nn.Module) -> bool:
    """Whether any attention of the model looks only backwards."""
    return any(getattr(part, "is_causal", False) is True for part in outer.modules())


def _base(outer: nn.Module) -> Any:
    return getattr(outer, "base_model", outer)
