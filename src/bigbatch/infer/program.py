"""A model as a program of `torch.export`: what plain torch runs, without transformers and without this project.

folder/model.pt2   `torch.export.load("model.pt2").module()(input_ids=…, attention_mask=…)`, (B, T) of any B and T
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from bigbatch.errors import ModelError
from bigbatch.infer.alike import Batch, quietly

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FILE = "model.pt2"
_PLAINLY = {"return_dict": False, "use_cache": False}


def write_program(module: PreTrainedModel, folder: Path, batch: Batch) -> None:
    """Write `model.pt2` into a folder that is there.

    Args:
        module: the model, on the CPU, in evaluation.
        folder: of the exported model.
        batch: of more than one row, for the exporter to follow.

    Raises:
        ModelError: the model cannot be exported.
    """
    try:
        with quietly():
            from transformers.exporters.configs import DynamoConfig
            from transformers.exporters.exporter_dynamo import DynamoExporter

            # Outputs as a tuple: transformers' own types would be needed again to load the file.
            given = {**batch, **_PLAINLY}
            program, _ = DynamoExporter().export_program(module, given, DynamoConfig(dynamic=True))
            torch.export.save(program, folder / FILE)
    except Exception as error:  # whatever the exporter meets in a model
        raise ModelError(
            f"torch.export does not follow this model: {type(error).__name__}: {error}; --to transformers writes it "
            "as a folder that transformers opens"
        ) from error


def by_torch(file: Path) -> Callable[[Batch], np.ndarray]:
    """The file, loaded and run by torch alone."""
    with quietly():
        run = torch.export.load(file).module()

    def first(batch: Batch) -> np.ndarray:
        with torch.inference_mode():
            return run(**batch)[0].float().numpy()

    return first
