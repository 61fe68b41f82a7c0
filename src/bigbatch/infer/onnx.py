"""A model as ONNX: the graph that onnxruntime and others run.

    folder/model.onnx (.data)   inputs (B, T) of any B and T: input_ids, attention_mask, and token_type_ids where the
                                tokenizer gives them; of images pixel_values (B, C, H, W)

transformers' exporter writes the graph; `onnx-int8` has its matrices rounded by onnxruntime (dynamic quantisation).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bigbatch.errors import ModelError
from bigbatch.infer.alike import Batch, quietly

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FILE = "model.onnx"


def write_onnx(module: PreTrainedModel, folder: Path, batch: Batch, *, int8: bool) -> None:
    """Write `model.onnx` into a folder that is there.

    Args:
        module: the model, on the CPU, in evaluation.
        folder: of the exported model.
        batch: of more than one row, for the exporter to follow.
        int8: whether matrices are rounded to 8 bits.

    Raises:
        ModelError: the model cannot be exported.
    """
    try:
        with quietly():
            from transformers.exporters.configs import OnnxConfig
            from transformers.exporters.exporter_onnx import OnnxExporter

            program = OnnxExporter().export(module, dict(batch), config=OnnxConfig(dynamic=True))
            program.save_pretrained(folder)
    except Exception as error:  # whatever the exporter meets in a model
        raise ModelError(f"this model cannot be exported to ONNX: {type(error).__name__}: {error}") from error
    if int8:
        _round(folder)


def by_onnxruntime(file: Path) -> Callable[[Batch], np.ndarray]:
    """The file, run."""
    import onnxruntime  # type: ignore[import-not-found]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda batch: session.run(None, {name: batch[name].numpy() for name in names})[0]


def _round(folder: Path) -> None:
    """The file with matrices of 8 bits in place of the file."""
    from onnxruntime.quantization import (  # type: ignore[import-not-found]
        QuantType,
        quantize_dynamic,
    )

    rounded = folder / f"int8-{FILE}"
    with quietly():
        quantize_dynamic(folder / FILE, rounded, weight_type=QuantType.QInt8)
    (folder / f"{FILE}.data").unlink(missing_ok=True)
    rounded.replace(folder / FILE)
