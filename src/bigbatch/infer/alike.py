"""Whether a model in another format gives the model's outputs: on made batches of several shapes, and on real rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from bigbatch.data.batches import batch_of
from bigbatch.data.packs import micro_batches
from bigbatch.data.tokens import as_table
from bigbatch.errors import ModelError
from bigbatch.infer.predict import encoded_rows
from bigbatch.infer.quick import Quick
from bigbatch.units import show_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from bigbatch.infer.load import Loaded
    from bigbatch.infer.unlabelled import PlacedRow

Batch = Mapping[str, Tensor]
TOLERANCE = 1e-4
"""Largest difference of an output, relative to the largest output or 1, that is not refused."""
MOST_ROWS = 1024
"""Real rows that are compared; more say nothing more, and take their time twice."""
_MICRO_TOKENS = 2048
_SHAPES = ((1, 5), (3, 17), (2, 64))
"""Rows and tokens of the made batches."""
_TEXT = ("input_ids", "attention_mask", "token_type_ids")


class Outputs(NamedTuple):
    """What a program gave."""

    of_batches: Sequence[np.ndarray]
    """Of each batch (B, C), or (B, T, C)."""
    milliseconds: float
    """The last of the made batches."""


class Compared(NamedTuple):
    """How an exported model differs from the model."""

    difference: float
    """Largest of an output, relative to the largest output or 1."""
    same: float
    """Share of outputs whose largest place is the same."""
    rows: int
    """Real ones that it was tried on."""


def batches_of(opened: Loaded, rows: Sequence[PlacedRow] = ()) -> list[dict[str, Tensor]]:
    """Padded batches, each with the same arguments: real rows as the task encodes them, then made ones.

    Args:
        opened: the model.
        rows: (place, role -> value); `MOST_ROWS` of them are taken.

    Raises:
        DataError: a row that the task cannot read, with its place.
        ModelError: a model without a tokenizer, whose ids nobody knows.
    """
    made = list(_made(opened))
    names = set(made[0])
    return [*_real(opened, rows[:MOST_ROWS], names), *made]


def _made(opened: Loaded) -> Iterator[dict[str, Tensor]]:
    draws = np.random.default_rng(0)
    image = opened.task.facts.image
    if image is not None:
        for rows, _ in _SHAPES:
            shape = (rows, image.channels, image.height, image.width)
            yield {"pixel_values": torch.from_numpy(draws.standard_normal(shape).astype(np.float32))}
        return
    tokenizer = cast("PreTrainedTokenizerBase | None", opened.tokenizer)
    if tokenizer is None:
        raise ModelError("a model without a tokenizer is not exported to this format")
    names = [name for name in tokenizer.model_input_names if name in _TEXT]
    special = {int(each) for each in tokenizer.all_special_ids}
    ordinary = np.array([each for each in range(len(tokenizer)) if each not in special] or [0])
    longest = opened.positions or opened.max_length
    for rows, most in _SHAPES:
        tokens = min(most, longest)
        lengths = np.maximum(1, tokens - np.arange(rows) * (tokens // (rows + 1)))
        mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
        ids = np.where(mask, draws.choice(ordinary, (rows, tokens)), tokenizer.pad_token_id or 0)
        made = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        yield {name: torch.from_numpy(made[name].astype(np.int64)) for name in names}


def _real(opened: Loaded, rows: Sequence[PlacedRow], names: set[str]) -> Iterator[dict[str, Tensor]]:
    """Rows as the run would be fed, padded."""
    if not rows:
        return
    assert isinstance(opened.forward, Quick), "what open_model gives"
    samples = encoded_rows(rows, opened.task, opened.tokenizer, opened.forward)
    table = opened.task.fixed(as_table(samples, opened.task.sequences, opened.task.prepare))
    batch = batch_of(table, np.arange(len(table)))
    for each in micro_batches(batch, micro_tokens=_MICRO_TOKENS, packing="padded"):
        fed = opened.forward.plain.feed(each)
        found = {name: value for name, value in fed.items() if name in names and isinstance(value, Tensor)}
        for name, filler in (("attention_mask", 1), ("token_type_ids", 0)):
            if name in names and name not in found:
                found[name] = torch.full_like(found["input_ids"], filler)
        yield found


def outputs_of(run: Callable[[Batch], np.ndarray], batches: Sequence[Batch]) -> Outputs:
    """What a program gives for each batch, and how long the last takes."""
    found, started = [], 0.0
    for batch in batches:
        started = perf_counter()
        found.append(run(batch))
    return Outputs(found, 1000 * (perf_counter() - started))


def by_module(module: torch.nn.Module) -> Callable[[Batch], np.ndarray]:
    """A module, run: the first of its outputs."""

    def run(batch: Batch) -> np.ndarray:
        with torch.inference_mode():
            return module(**batch)[0].float().numpy()

    return run


def compared(ours: Outputs, theirs: Outputs, batches: Sequence[Batch], rows: int = 0) -> Compared:
    """How the outputs of two programs differ.

    Args:
        ours: of the model.
        theirs: of what was exported.
        batches: that both were given.
        rows: real ones among them.

    Raises:
        ModelError: they have other shapes.
    """
    worst, same, places = 0.0, 0, 0
    for own, other, batch in zip(ours.of_batches, theirs.of_batches, batches, strict=True):
        if own.shape != other.shape:
            raise ModelError(f"what was exported gives outputs {other.shape}, the model {own.shape}")
        if "attention_mask" in batch and own.ndim == 3:  # what stands at padding is nobody's
            keep = batch["attention_mask"].numpy().astype(bool)
            own, other = own[keep], other[keep]
        apart = np.abs(own - other).max() / max(1.0, np.abs(own).max())
        worst = max(worst, float(apart)) if np.isfinite(apart) else float("inf")
        same += int((own.argmax(-1) == other.argmax(-1)).sum())
        places += int(np.prod(own.shape[:-1]))
    return Compared(worst, same / places, rows)


def told(found: Compared, ours: Outputs, theirs: Outputs, *, name: str, size: int) -> str:
    """The sentence that says how large, how near and how fast it is.

    Args:
        found: the comparison.
        ours: of the model.
        theirs: of what was exported.
        name: of the file.
        size: of it, bytes.
    """
    on = f" on {found.rows:,} real rows and made ones" if found.rows else ""
    batch = len(ours.of_batches[-1])
    return (
        f"{name}: {show_bytes(size)}; outputs differ by {found.difference:.1e} at most{on}, the largest one is the "
        f"same in {found.same:.1%}; a batch of {batch} takes {theirs.milliseconds:.1f} ms, the model's own "
        f"{ours.milliseconds:.1f} ms"
    )


def refuse_others(found: Compared) -> None:
    """Refuse what gives other outputs.

    Raises:
        ModelError: with the difference.
    """
    if not found.difference <= TOLERANCE:
        raise ModelError(
            f"what was exported gives other outputs ({found.difference:.1e}, at most {TOLERANCE:g} is allowed)"
        )


def first_rows(rows: Iterator[PlacedRow]) -> list[PlacedRow]:
    """As many as are compared."""
    return list(islice(rows, MOST_ROWS))


@contextmanager
def quietly() -> Iterator[None]:
    """Without an exporter's progress and its libraries' warnings."""
    import logging
    import warnings

    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
