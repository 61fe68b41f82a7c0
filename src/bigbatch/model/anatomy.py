"""The parts of a model, found by structure: one trial run of three tokens (or one image), no list of class names.

The trial sees which modules run before, between and after the repeated blocks, which embedding is given
running positions, whether the head gives one output a sample or one a token, and, by making all other tokens'
states NaN, which tokens it reads.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bigbatch.errors import ModelError
from bigbatch.facts import ModelFacts
from bigbatch.model.names import tied_names, unwrap
from bigbatch.model.quantised import hidden_numbers
from bigbatch.model.vision import black_image, check_images, positions_at, queries_of, reads_images

_TRIAL_TOKENS = 3
Pools = Literal["first", "last", "tokens"]
"""Which tokens of a sample a head reads: the first, the last, or each one for an output of its own."""


@dataclass(frozen=True, eq=False)
class BlockApplication:
    """One use of a block in a forward pass; ALBERT applies one module many times."""

    module: nn.Module
    index: int
    """Position in the forward pass, from 0."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stack:
    """Blocks that run one behind the other: all of them, or those of an encoder, or of its decoder."""

    container: nn.Module
    """The module whose forward applies them."""
    blocks: tuple[BlockApplication, ...]
    final_norm: nn.Module | None
    """Normalisation behind the last of them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Anatomy:
    """The parts of a model with a head."""

    outer: nn.Module
    """The model with its head, outside wrappers taken off."""
    base: nn.Module
    """The part below the head that transformers calls `base_model`."""
    embeddings: tuple[nn.Module, ...]
    """Modules with parameters that run before the first block; of a decoder behind an encoder, before its own."""
    blocks: tuple[BlockApplication, ...]
    """In the order in which they run; those of an encoder, then those of its decoder."""
    stacks: tuple[Stack, ...]
    """The same blocks: one stack, or encoder and decoder."""
    blocks_container: nn.Module
    """The module whose forward applies the blocks; `base` itself in GPT-2, Llama, ModernBERT."""
    final_norm: nn.Module | None
    """Normalisation between the last block and the head, inside `base`."""
    head: tuple[nn.Module, ...]
    """Modules with parameters that run after the blocks and the final norm: pooler and classifier, or what
    turns hidden states into logits of the vocabulary."""
    output_layer: nn.Module | None
    """The layer with a row per token id, of language models; its weight is often the embedding's (`tied`)."""
    tied: tuple[tuple[str, ...], ...]
    """Groups of parameter names that share one tensor."""
    pools: Pools
    """Which token of a sample the head reads; `tokens`: it gives one output per token."""
    pools_one_token: bool
    """Whether an output follows from one token's state alone, so that the head may be given single tokens. False
    when it mixes several (mean pooling): then samples cannot be packed."""
    position_offset: int
    """Position id of a sample's first token: 0, or 2 in RoBERTa and its kin."""
    max_positions: int | None
    """Longest sample in tokens that has positions; None when the configuration names no limit."""
    takes_positions: bool
    """Whether position ids can be given to `base`."""
    learned_positions: bool
    """Whether positions come from a learned table (longer samples fail) or are computed."""
    uses_segments: bool
    """Whether token types have an embedding of their own with at least two rows."""
    positions: int | None
    """Through the blocks, of a sample that has always as many: an image. None: as many as it has tokens."""


def headed_model(module: nn.Module) -> nn.Module:
    """The transformers model with a head inside `module`: wrappers and PEFT taken off.

    Raises:
        ModelError: not a transformers model with a head.
    """
    outer: Any = unwrap(module)
    if hasattr(outer, "get_base_model"):
        outer = outer.get_base_model()
    base = getattr(outer, "base_model", None)
    if not isinstance(base, nn.Module) or not hasattr(outer, "config"):
        raise ModelError(
            f"found a {type(outer).__name__}; expected a transformers model with a head "
            "(such as AutoModelForSequenceClassification gives), plain or wrapped by PEFT"
        )
    if base is outer and not (has_two_stacks(outer) and output_layer_of(outer)):  # T5 has its stacks itself
        raise ModelError(
            f"{type(outer).__name__} has no head; load it with the class for the task, "
            "such as AutoModelForSequenceClassification"
        )
    return outer


def has_two_stacks(outer: nn.Module) -> bool:
    """Whether the model is an encoder and a decoder."""
    return bool(getattr(outer.config, "is_encoder_decoder", False)) and not reads_images(outer)


def logits_of(output: Any) -> Tensor:
    """What a head gave: its logits; of answers in texts, those of start and end (B, L, 2); of boxes (B, Q, C + 4)
    logits, and centre, width and height as fractions of the image, and behind these (RT-DETR) the same of its earlier
    layers and of what its encoder proposes.
    """
    boxes_BQ4 = getattr(output, "pred_boxes", None)
    if boxes_BQ4 is not None:
        proposed = getattr(output, "enc_topk_logits", None)
        given = [output.logits, boxes_BQ4.to(output.logits.dtype)]
        if proposed is None:
            return torch.cat(given, dim=-1)
        earlier = zip(
            output.intermediate_logits.unbind(1), output.intermediate_reference_points.unbind(1), strict=True
        )
        return torch.cat(
            [
                *given,
                *(each for layer in list(earlier)[:-1] for each in layer),
                proposed,
                output.enc_topk_bboxes,
            ],
            dim=-1,
        )
    start_BL = getattr(output, "start_logits", None)
    return output.logits if start_BL is None else torch.stack([start_BL, output.end_logits], dim=-1)


def trial_inputs(outer: nn.Module) -> dict[str, Tensor]:
    """What a trial feeds the model: `trial_ids`, to its decoder too if it has one; or a black image."""
    if reads_images(outer):
        return black_image(outer)
    ids = trial_ids(outer)
    decoder = {"decoder_input_ids": ids} if has_two_stacks(outer) else {}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **decoder}


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode and no gradient inside; every submodule's own mode comes back afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


def accepts(module: nn.Module, argument: str) -> bool:
    """Whether the module's forward names this argument."""
    return argument in inspect.signature(module.forward).parameters


def device_of(module: nn.Module) -> torch.device:
    """Device of the first parameter."""
    return next(module.parameters()).device


def anatomy(module: nn.Module) -> Anatomy:
    """Find the parts by a trial run of three tokens, or an image, in eval mode; nothing of the module changes.

    Raises:
        ModelError: no head, or no repeated blocks; a model of images that averages over the batch.
    """
    outer = headed_model(module)
    if reads_images(outer):
        check_images(outer)
    base: nn.Module = outer.base_model  # pyright: ignore[reportAssignmentType]
    trial = _Trial(outer, base)
    with evaluating(outer):
        trial.run()
        pools, one = trial.pooled()
    config: Any = outer.config
    position, table = trial.positions
    limit = table.num_embeddings - position if table else getattr(config, "max_position_embeddings", None)
    return Anatomy(
        outer=outer,
        base=base,
        embeddings=tuple(trial.outside["before"]),
        blocks=tuple(BlockApplication(block, index) for index, block in enumerate(trial.applied)),
        stacks=trial.stacks(),
        blocks_container=trial.container,
        final_norm=trial.final_norm,
        head=tuple(part for part in trial.outside["after"] if part is not trial.final_norm),
        output_layer=output_layer_of(outer),
        tied=tied_names(outer),
        pools=pools,
        pools_one_token=one,
        position_offset=position,
        max_positions=limit,
        takes_positions=accepts(base, "position_ids"),
        learned_positions=table is not None,
        uses_segments=accepts(base, "token_type_ids") and (getattr(config, "type_vocab_size", 0) or 0) > 1,
        positions=trial.length if reads_images(outer) else None,
    )


def vocabulary_rows(outer: nn.Module) -> int:
    """Rows of the embedding of token ids; 0 where a model has none."""
    embedding = outer.get_input_embeddings() if not reads_images(outer) else None  # pyright: ignore
    return int(getattr(embedding, "num_embeddings", 0))


def output_layer_of(outer: nn.Module) -> nn.Module | None:
    """The layer that turns states into logits of the vocabulary; None where the head is of another kind."""
    found: Any = outer.get_output_embeddings() if hasattr(outer, "get_output_embeddings") else None  # pyright: ignore
    return found if isinstance(found, nn.Module) else None


def model_facts(module: nn.Module, parts: Anatomy | None = None) -> ModelFacts:
    """What the planner needs: tied parameters count once; `parts` are the module's, where they are known already."""
    parts = parts or anatomy(module)
    parameters = list(module.parameters())
    config: Any = parts.outer.config
    blocks = dict.fromkeys(application.module for application in parts.blocks)
    each = [sum(map(_bytes, block.parameters())) for block in blocks]
    return ModelFacts(
        family=str(config.model_type),
        parameters=sum(parameter.numel() for parameter in parameters) + hidden_numbers(module),
        trainable_parameters=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        parameter_bytes=sum(map(_bytes, parameters)),
        hidden=int(config.hidden_size),
        blocks=len(parts.blocks),
        vocabulary=vocabulary_rows(parts.outer),
        max_positions=parts.max_positions,
        blocks_bytes=sum(each),
        largest_block_bytes=max(each),
    )


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def trial_ids(outer: nn.Module) -> Tensor:
    """(1, 3) equal token ids, none of them padding: neither the configuration's nor what the embedding was built with,
    which some families count positions by whatever the configuration says.
    """
    embedding: Any = outer.get_input_embeddings()  # pyright: ignore
    padding = {getattr(outer.config, "pad_token_id", None), getattr(embedding, "padding_idx", None)}
    chosen = next(token for token in range(3) if token not in padding)
    return torch.full((1, _TRIAL_TOKENS), chosen, device=device_of(outer))


class _Trial:
    """Runs three equal tokens through the model and writes down what happens in which order."""

    def __init__(self, outer: nn.Module, base: nn.Module) -> None:
        self.outer, self.base = outer, base
        self.names = {part: name for name, part in outer.named_modules()}
        self.candidates = {
            block: owner for owner, blocks in _outermost_lists(base).items() for block in blocks
        }
        self.applied: list[nn.Module] = []
        self.outside: dict[str, list[nn.Module]] = {"before": [], "after": []}
        self.between: dict[nn.Module, nn.Module] = {}
        """Container of a stack that is not the last -> the norm behind it."""
        self.final_norm: nn.Module | None = None
        self.positions: tuple[int, nn.Embedding | None] = (0, None)
        self.container: nn.Module = base
        self.shape: torch.Size = torch.Size()
        """Of the logits."""
        self.length = _TRIAL_TOKENS
        """Positions that reach the first block."""

    def run(self) -> None:
        """One pass; fills the fields."""
        calls: list[nn.Module] = []
        handles = [part.register_forward_pre_hook(lambda part, _: calls.append(part)) for part in self.names]
        handles += [
            part.register_forward_pre_hook(self._see_positions)
            for part in self.names
            if isinstance(part, nn.Embedding)
        ]
        try:
            self.shape = self._forward().shape
        finally:
            for handle in handles:
                handle.remove()
        at = [index for index, part in enumerate(calls) if part in self.candidates]
        if not at:
            raise ModelError(
                f"{type(self.outer).__name__} has no list of repeated blocks that its forward runs"
            )
        if reads_images(self.outer):
            reached = positions_at([calls[index] for index in at], self._forward)
            at = [index for index in at if calls[index] in reached]
            if queries_of(self.outer):  # layers of what boxes are read from stand in lists, too
                at = [index for index in at if any(map(_is_norm, calls[index].modules()))]
            self.length = reached[calls[at[0]]]
        self.applied = [calls[index] for index in at]
        self.container = self.candidates[self.applied[-1]]
        inside_last = set(self.applied[-1].modules())
        outside = self._outside_parts()
        for index, part in enumerate(calls):
            if part not in outside or part in inside_last:
                continue
            phase = "before" if index < at[0] else "after" if index > at[-1] else "between"
            if phase == "between":
                phase = self._between(part, *(self.candidates[calls[one]] for one in _around(at, index)))
            if phase in self.outside and part not in self.outside[phase]:
                self.outside[phase].append(part)
        within = set(self.base.modules())
        norms = [part for part in self.outside["after"] if part in within and _is_norm(part)]
        self.final_norm = norms[0] if norms else None

    def _between(self, part: nn.Module, behind: nn.Module, ahead: nn.Module) -> str:
        """Where a module belongs that runs between two blocks, by the containers of both: in front of the second stack,
        unless it is the norm of the first.
        """
        if behind is ahead:
            return "between"
        if _is_norm(part) and part in set(behind.modules()):
            self.between[behind] = part
            return "between"
        return "before"

    def stacks(self) -> tuple[Stack, ...]:
        """The blocks, by the module that applies them."""
        numbered = [BlockApplication(block, index) for index, block in enumerate(self.applied)]
        grouped = groupby(numbered, key=lambda one: self.candidates[one.module])
        return tuple(
            Stack(
                container=container,
                blocks=tuple(blocks),
                final_norm=self.final_norm if container is self.container else self.between.get(container),
            )
            for container, blocks in grouped
        )

    def pooled(self) -> tuple[Pools, bool]:
        """Which token the head reads, and whether it reads only that one; a detector's reads all of its boxes."""
        if queries_of(self.outer):
            return "first", False
        if self.shape[1:-1] == (self.length,):
            alone = [self._finite_with_only(token, (0, token)) for token in range(self.length)]
            return "tokens", all(alone)
        if self._finite_with_only(0):
            return "first", True
        if self._finite_with_only(self.length - 1):
            return "last", True
        return "first", False

    def _finite_with_only(self, kept: int, output: tuple[int, ...] = ()) -> bool:
        """Whether the logits (at `output`) stay finite when all but one token leave the last block as NaN."""
        seen, at = 0, output

        def poison(_block: nn.Module, _inputs: Any, output: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen < len(self.applied):
                return None
            hidden_BTD: Tensor = output[0] if isinstance(output, tuple) else output
            poisoned = torch.full_like(hidden_BTD, float("nan"))
            poisoned[:, kept] = hidden_BTD[:, kept]
            return (poisoned, *output[1:]) if isinstance(output, tuple) else poisoned

        handles = [block.register_forward_hook(poison) for block in set(self.applied)]
        try:
            return bool(self._forward()[at].isfinite().all())
        finally:
            for handle in handles:
                handle.remove()

    def _forward(self) -> Tensor:
        options: dict[str, Any] = {"use_cache": False} if accepts(self.outer, "use_cache") else {}
        return logits_of(self.outer(**trial_inputs(self.outer), **options))

    def _see_positions(self, part: nn.Module, inputs: tuple[Any, ...]) -> None:
        """The position table is the embedding that is given running numbers (all token ids are equal)."""
        given = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
        # BART's table is given states, and counts them.
        if given is not None and not given.is_floating_point() and given.shape[-1] == _TRIAL_TOKENS:
            row = given.reshape(-1, _TRIAL_TOKENS)[0].tolist()
            if row == list(range(row[0], row[0] + _TRIAL_TOKENS)) and isinstance(part, nn.Embedding):
                self.positions = (row[0], part)

    def _outside_parts(self) -> set[nn.Module]:
        """Modules with parameters that hang directly on the path from the model down to its blocks."""
        path = {""}
        for block in self.applied:
            steps = self.names[block].split(".")
            path |= {".".join(steps[:count]) for count in range(1, len(steps))}
        return {
            part
            for part, name in self.names.items()
            if name.rpartition(".")[0] in path
            and name not in path
            and part not in self.candidates
            and any(True for _ in part.parameters())
        }


def _around(places: list[int], index: int) -> tuple[int, int]:
    """The nearest of the (ascending) places on either side."""
    after = next(number for number, place in enumerate(places) if place > index)
    return places[after - 1], places[after]


def _outermost_lists(base: nn.Module) -> dict[nn.Module, list[nn.Module]]:
    """Owner -> elements of each ModuleList that lies in no other ModuleList."""
    lists: dict[nn.Module, list[nn.Module]] = {}
    waiting = [base]
    while waiting:
        owner = waiting.pop(0)
        for child in owner.children():
            if isinstance(child, nn.ModuleList):
                lists.setdefault(owner, []).extend(child)
            else:
                waiting.append(child)
    return lists


def _is_norm(part: nn.Module) -> bool:
    """LayerNorm, RMSNorm and the like: no children, a one-dimensional weight, nothing larger."""
    weight = getattr(part, "weight", None)
    return (
        isinstance(weight, Tensor)
        and all(parameter.ndim == 1 for parameter in part.parameters())
        and not any(True for _ in part.children())
    )
