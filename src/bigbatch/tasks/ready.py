"""A model with its tokenizer, and the task that knows both: made to fit, and run the plain way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from bigbatch.model.anatomy import Anatomy, anatomy
from bigbatch.model.checks import check_model, pad_id
from bigbatch.model.heads import HEADS, HeadClass
from bigbatch.model.logits import deferred, why_not_deferred
from bigbatch.model.memory import beside_memory, memory_of
from bigbatch.model.pooling import pooled, usual_pooling
from bigbatch.model.runner import Runner, padded_runner
from bigbatch.protocols import Tokenizer
from bigbatch.tasks.base import Task
from bigbatch.tasks.clm import CausalLM
from bigbatch.tasks.pictures import form_of
from bigbatch.tasks.vocabulary import vocabulary_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Ready:
    """A model with its tokenizer, and the task that knows both."""

    module: nn.Module
    anatomy: Anatomy
    tokenizer: Tokenizer | None
    task: Task
    max_length: int
    pad_id: int
    deferred: bool
    """Whether the forward stops in front of the output layer (`model.logits`)."""
    notes: tuple[str, ...]

    @property
    def head(self) -> HeadClass:
        """What is known of the head that the task asks for."""
        return HEADS[self.task.head.kind]


def made_ready(
    module: nn.Module,
    tokenizer: Tokenizer | None,
    task: Task,
    *,
    max_length: int | None,
    folder: str | None,
    notes: Sequence[str] = (),
) -> Ready:
    """Check that model and tokenizer fit, and tell the task what it asks of them.

    Args:
        module: on its device.
        tokenizer: None where rows are token ids.
        task: that the module was built for.
        max_length: tokens of a sample, as it was asked for; None: as many as both take.
        folder: that the model came from; its files say what it was trained with.
        notes: what was found so far.

    Raises:
        ModelError: with what to change.
    """
    parts = anatomy(module)
    longest = parts.max_positions or 2**31
    if tokenizer is not None:
        longest = check_model(module, tokenizer, max_length, padded=True, parts=parts)
    # Rows of token ids are not cut, but joined and divided they can be.
    piece, memory = min(longest, max_length or longest), 0
    if isinstance(task, CausalLM):
        piece = piece if max_length else beside_memory(parts, piece)
        memory = memory_of(parts, piece)
    task = task.with_facts(
        pools=parts.pools,
        max_length=longest,
        block_length=piece,
        memory=memory,
        vocabulary=vocabulary_of(tokenizer, module),
        tokenizer=tokenizer,
        pooling=usual_pooling(module, folder),
        image=form_of(parts, folder),
    )
    defers, found = HEADS[task.head.kind].defers_logits, list(notes)
    obstacle = why_not_deferred(parts) if defers else ""
    if obstacle:
        found.append(f"logits are computed whole, which takes memory: {obstacle}")
    if task.facts.memory:
        found.append(
            f"pieces are read with up to {task.facts.memory} tokens in front of them (model.memory); "
            "counts of tokens include these, losses and figures do not"
        )
    return Ready(
        module=module,
        anatomy=parts,
        tokenizer=tokenizer,
        task=task,
        max_length=longest,
        pad_id=pad_id(module, tokenizer) or 0,
        deferred=defers and not obstacle,
        notes=tuple(found),
    )


def plain_runner(ready: Ready) -> Runner:
    """The padded way to what the task is given: right for every model."""
    return read_as_asked(padded_runner(ready.module, ready.pad_id, ready.head.inputs), ready)


def read_as_asked(runner: Runner, ready: Ready) -> Runner:
    """The runner with outputs as the task takes them: in front of logits that nobody reads whole, or pooled."""
    if ready.deferred and ready.anatomy.output_layer is not None:
        return deferred(runner, ready.anatomy.output_layer)
    return pooled(runner, ready.task.pooled_by)
