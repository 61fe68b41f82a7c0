"""A plain PyTorch loop, as an expert writes it: sorted by length, padded to the longest, the sum divided once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy, softmax
from transformers import AutoTokenizer

from bigbatch.study.contestants.common import (
    Clock,
    by_length,
    predicted,
    read_rows,
    run_contestant,
    texts_of,
    tokenised,
    with_details,
)
from bigbatch.study.contestants.trainer import load_model
from bigbatch.study.jobs import Job, Outcome


def compete(_variant: str, job: Job) -> Outcome:
    """Train and predict."""
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    rows = read_rows(job)
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    examples = tokenised(job, tokenizer, rows)
    lengths = [len(example["input_ids"]) for example in examples]
    model = load_model(job).to(job.device).train()
    forward = torch.compile(model, dynamic=True) if job.compile else model
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": job.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=job.lr,
        betas=job.betas,
        eps=job.eps,
        fused=True,
    )
    clock, losses, norms = Clock(job), [], []
    for update in range(job.updates):
        batch = job.order[update * job.batch_samples : (update + 1) * job.batch_samples]
        units = sum(_units(job, lengths[row]) for row in batch)
        loss = torch.zeros((), device=job.device)
        for piece in _pieces(by_length(batch, lengths), job.micro_samples):
            inputs = pad([examples[row] for row in piece], tokenizer, job.device)
            labels = labels_of(inputs)
            with torch.autocast(torch.device(job.device).type, torch.bfloat16, job.precision == "bf16"):
                logits = forward(**inputs).logits
            part = summed_loss(job, logits.float(), labels) / units
            part.backward()
            loss += part.detach()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), job.clip or float("inf"))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss)
        norms.append(norm)
        clock.update_ended()
    timing = None
    if job.kind == "classify":
        timing = predicted(job, rows, lambda asked: _predict(forward, job, tokenizer, asked))
    outcome = clock.outcome(lengths, loss=float(losses[0]), grad_norm=float(norms[0]), timing=timing)
    return with_details(outcome, micro_samples=job.micro_samples)


def summed_loss(job: Job, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, summed over samples; clm: over predicted tokens.

    Args:
        job: its kind.
        logits: (B, C) fp32; clm: (B, L, V).
        labels: (B,) int64; clm: (B, L), -100 where nothing is learnt.
    """
    if job.kind == "clm":
        return cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    return cross_entropy(logits, labels, reduction="sum")


def pad(examples: Sequence[dict[str, Any]], tokenizer: Any, device: str) -> dict[str, torch.Tensor]:
    """Examples as one rectangle, padded to the longest.

    Args:
        examples: as `tokenised` gives them.
        tokenizer: knows the padding.
        device: where they go.
    """
    return dict(tokenizer.pad(list(examples), return_tensors="pt").to(device, non_blocking=True))


def labels_of(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The classes, taken out of the inputs; clm: the tokens themselves, -100 where there is padding."""
    if "labels" in inputs:
        return inputs.pop("labels")
    return inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)


def _units(job: Job, length: int) -> int:
    return length - 1 if job.kind == "clm" else 1


def _pieces(rows: Sequence[int], size: int) -> list[Sequence[int]]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]


def _predict(
    forward: Callable[..., Any], job: Job, tokenizer: Any, asked: Sequence[dict[str, str]]
) -> list[dict[str, float]]:
    """Texts -> probabilities by label, in the order of the texts."""
    getattr(forward, "eval", lambda: None)()
    found = tokenizer(*texts_of(asked), truncation=True, max_length=job.max_length)
    examples = [{name: values[index] for name, values in found.items()} for index in range(len(asked))]
    order = by_length(range(len(asked)), [len(example["input_ids"]) for example in examples])
    described: list[dict[str, float]] = [{}] * len(asked)
    with (
        torch.inference_mode(),
        torch.autocast(torch.device(job.device).type, torch.bfloat16, job.precision == "bf16"),
    ):
        for piece in _pieces(order, job.micro_samples):
            logits = forward(**pad([examples[index] for index in piece], tokenizer, job.device)).logits
            for index, own in zip(piece, softmax(logits.float(), -1).tolist(), strict=True):
                described[index] = dict(zip(job.labels, own, strict=True))
    return described


if __name__ == "__main__":
    run_contestant(compete)
