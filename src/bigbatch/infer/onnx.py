"""A model as ONNX: the graph that onnxruntime and others run, compared with the model before anybody has it.

    folder/model.onnx (.data)   inputs (B, T) of any B and T: input_ids, attention_mask, and token_type_ids where the
                                tokenizer gives them; of images pixel_values (B, C, H, W)
    folder/*.json, …            configuration and tokenizer, as in the model's own folder

transformers' exporter writes the graph; `onnx-int8` has its matrices rounded by onnxruntime (dynamic quantisation).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch

from bigbatch.errors import ModelError, UsageError
from bigbatch.model.anatomy import headed_model
from bigbatch.units import show_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bigbatch.infer.load import Loaded

FILE = "model.onnx"
TOLERANCE = 1e-4
"""Largest difference of an output, relative to the largest output or 1, that is not refused."""
_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_SHAPES = ((1, 5), (3, 17), (2, 64))
"""Rows and tokens of what the two are compared on, besides real rows."""


class Compared(NamedTuple):
    """How an exported model differs from the model."""

    difference: float
    """Largest of an output, relative to the largest output or 1."""
    same: float
    """Share of outputs whose largest place is the same."""
    torch_ms: float
    """A batch of the last shape, by the model."""
    onnx_ms: float


def check_installed() -> None:
    """Whether what writes and runs ONNX is there.

    Raises:
        UsageError: with the line that installs it.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(f"--to onnx needs {', '.join(missing)}: pip install 'bigbatch[onnx]'")


def write_onnx(
    opened: Loaded, folder: Path, texts: Sequence[str], *, int8: bool, say: Callable[[str], object]
) -> Compared:
    """Write `model.onnx` into a folder that is there, and compare what it gives with what the model gives.

    Args:
        opened: the model, on the CPU, adapters merged.
        folder: of the exported model.
        texts: real rows to compare on, besides made ones; may be empty.
        int8: whether matrices are rounded to 8 bits; then nothing is refused, and the difference is told.
        say: told size, speed and difference.

    Raises:
        ModelError: the model cannot be exported, or gives other outputs than the file.
    """
    module = cast("PreTrainedModel", headed_model(opened.module)).eval()
    batches = list(_batches(opened, module, texts))
    try:
        with _quietly():
            from transformers.exporters.configs import OnnxConfig
            from transformers.exporters.exporter_onnx import OnnxExporter

            program = OnnxExporter().export(module, dict(batches[1]), config=OnnxConfig(dynamic=True))
            program.save_pretrained(folder)
    except Exception as error:  # whatever the exporter meets in a model
        raise ModelError(f"this model cannot be exported to ONNX: {type(error).__name__}: {error}") from error
    if int8:
        _round(folder)
    found = _compared(module, folder / FILE, batches)
    size = sum(path.stat().st_size for path in folder.glob(f"{FILE}*"))
    say(
        f"{FILE}: {show_bytes(size)}; outputs differ by {found.difference:.1e} at most, the largest one is the same in "
        f"{found.same:.1%}; a batch of {batches[-1][next(iter(batches[-1]))].shape[0]} takes {found.onnx_ms:.1f} ms, "
        f"the model's own {found.torch_ms:.1f} ms"
    )
    if not int8 and not found.difference <= TOLERANCE:
        raise ModelError(
            f"what was exported gives other outputs ({found.difference:.1e}, at most {TOLERANCE:g} is allowed)"
        )
    return found


def _batches(
    opened: Loaded, module: torch.nn.Module, texts: Sequence[str]
) -> Iterator[dict[str, torch.Tensor]]:
    """Padded batches: of made rows, then of real ones."""
    draws = np.random.default_rng(0)
    image = opened.task.facts.image
    if image is not None:
        for rows, _ in _SHAPES:
            shape = (rows, image.channels, image.height, image.width)
            yield {"pixel_values": torch.from_numpy(draws.standard_normal(shape).astype(np.float32))}
        return
    tokenizer = cast("PreTrainedTokenizerBase | None", opened.tokenizer)
    if tokenizer is None:
        raise ModelError("a model without a tokenizer is not exported to ONNX")
    names = [
        name
        for name in tokenizer.model_input_names
        if name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    special = {int(each) for each in tokenizer.all_special_ids}
    ordinary = np.array([each for each in range(len(tokenizer)) if each not in special] or [0])
    for rows, tokens in _SHAPES:
        lengths = np.maximum(1, tokens - np.arange(rows) * (tokens // (rows + 1)))
        mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
        ids = np.where(mask, draws.choice(ordinary, (rows, tokens)), tokenizer.pad_token_id or 0)
        made = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        yield {name: torch.from_numpy(made[name].astype(np.int64)) for name in names}
    for first in range(0, len(texts), 8):
        found = tokenizer(
            list(texts[first : first + 8]), padding=True, truncation=True, max_length=opened.task.facts.max_length,
            return_tensors="pt",
        )  # fmt: skip
        yield {name: found[name] for name in names}


def _compared(module: torch.nn.Module, file: Path, batches: Sequence[dict[str, torch.Tensor]]) -> Compared:
    """Outputs of both on all batches; seconds on the last of the made ones."""
    import onnxruntime  # type: ignore[import-not-found]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    worst, same, places, seconds = 0.0, 0, 0, (0.0, 0.0)
    for batch in batches:
        started = time.perf_counter()
        with torch.no_grad():
            ours = module(**batch)[0].numpy()
        half = time.perf_counter()
        theirs = session.run(None, {name: batch[name].numpy() for name in names})[0]
        seconds = (half - started, time.perf_counter() - half)
        if "attention_mask" in batch and ours.ndim == 3:  # what stands at padding is nobody's
            keep = batch["attention_mask"].numpy().astype(bool)
            ours, theirs = ours[keep], theirs[keep]
        worst = max(worst, float(np.abs(ours - theirs).max() / max(1.0, np.abs(ours).max())))
        same += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        places += int(np.prod(ours.shape[:-1]))
    return Compared(worst, same / places, 1000 * seconds[0], 1000 * seconds[1])


def _round(folder: Path) -> None:
    """The file with matrices of 8 bits in place of the file."""
    from onnxruntime.quantization import (  # type: ignore[import-not-found]
        QuantType,
        quantize_dynamic,
    )

    rounded = folder / f"int8-{FILE}"
    with _quietly():
        quantize_dynamic(folder / FILE, rounded, weight_type=QuantType.QInt8)
    (folder / f"{FILE}.data").unlink(missing_ok=True)
    rounded.replace(folder / FILE)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's progress and its libraries' warnings."""
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
