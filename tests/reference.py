"""The oracle: large-batch training as a textbook writes it. Imports nothing from bigbatch, and must not.

One update = one forward of the whole padded global batch, the weighted sum of the losses divided by the sum of
the weights, one backward, one clip, one AdamW step. Nothing is split, sorted, packed or accumulated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


def padded(batch: Sequence[Mapping[str, Any]], pad_id: int) -> dict[str, torch.Tensor]:
    """The rows of a batch as one rectangle: (B, L) ids, attention mask and, if they have them, token types."""
    length = max(len(row["ids"]) for row in batch)

    def rectangle(rows: Iterable[Sequence[int]], fill: int) -> torch.Tensor:
        return torch.tensor([[*map(int, row), *[fill] * (length - len(row))] for row in rows])

    inputs = {
        "input_ids": rectangle((row["ids"] for row in batch), pad_id),
        "attention_mask": rectangle(([1] * len(row["ids"]) for row in batch), 0),
    }
    if batch[0].get("segments") is not None:
        inputs["token_type_ids"] = rectangle((row["segments"] for row in batch), 0)
    return inputs


def losses_B(logits_BC: torch.Tensor, batch: Sequence[Mapping[str, Any]], kind: str) -> torch.Tensor:
    """One loss a row: cross-entropy, binary cross-entropy averaged over the labels, or squared error."""
    targets = torch.as_tensor([row["target"] for row in batch])
    if kind == "single":
        return F.cross_entropy(logits_BC, targets.long(), reduction="none")
    targets = targets.to(logits_BC.dtype).reshape(logits_BC.shape)
    if kind == "multi":
        return F.binary_cross_entropy_with_logits(logits_BC, targets, reduction="none").mean(1)
    return (logits_BC - targets).square().mean(1)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases and the weights of norms (all one-dimensional) do not."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {
            "params": [parameter for parameter in trainable if parameter.ndim > 1],
            "weight_decay": weight_decay,
        },
        {"params": [parameter for parameter in trainable if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def reference_updates(
    model: nn.Module,
    batches: Sequence[Sequence[Mapping[str, Any]]],
    *,
    kind: str,
    pad_id: int,
    lrs: Sequence[float],
    clip: float | None = None,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    pools: str = "first",
    on_gradient: Callable[[int, dict[str, torch.Tensor]], None] | None = None,
) -> list[tuple[float, float]]:
    """Train `model` in place, one update a batch; returns (loss, gradient norm before clipping) of each.

    Args:
        model: a transformers sequence classifier, in the dtype to compute in, dropout 0.
        batches: rows with `ids`, `target`, optional `segments`, optional `weight` (sample times class weight).
        kind: `single`, `multi` or `regression`.
        pad_id: the token that fills the rectangle; never a real token of a row.
        lrs: the learning rate of each update.
        clip: largest L2 norm of the whole gradient; None does not clip.
        on_gradient: called with each update's number, from 0, and its gradient by parameter name, before clipping.
        pools: `last` for models that read the last real token and find it by `config.pad_token_id`.
    """
    assert pools == "first" or model.config.pad_token_id == pad_id
    optimizer = torch.optim.AdamW(
        decay_groups(model, weight_decay), lr=lrs[0], betas=betas, eps=eps, foreach=False, fused=False
    )
    figures = []
    for number, (batch, lr) in enumerate(zip(batches, lrs, strict=True)):
        logits = model(**padded(batch, pad_id)).logits
        weights = torch.tensor([row.get("weight", 1.0) for row in batch], dtype=logits.dtype)
        loss = (losses_B(logits, batch, kind) * weights).sum() / weights.sum()
        optimizer.zero_grad()
        loss.backward()
        if on_gradient is not None:
            named = model.named_parameters()
            on_gradient(number, {name: p.grad.clone() for name, p in named if p.grad is not None})
        norm = nn.utils.clip_grad_norm_(model.parameters(), float("inf") if clip is None else clip)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        figures.append((float(loss.detach()), float(norm)))
    return figures
