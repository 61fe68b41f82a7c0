"""A model as TensorFlow's SavedModel: keras-hub builds the backbone from the same weights, TensorFlow writes it.

    folder/saved_model.pb, variables/   signature serving_default: (B, T) int64 input_ids, attention_mask and, of BERT,
                                        token_type_ids -> `logits`, or `last_hidden_state` of a model without a head

TensorFlow has an interpreter of its own (`infer/in_tensorflow.py`): it does not get on with torch in one environment.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from safetensors.torch import save_file

from bigbatch.errors import ModelError, UsageError
from bigbatch.infer import in_tensorflow
from bigbatch.infer.alike import Batch, Outputs
from bigbatch.written import replace_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FILE = "saved_model.pb"
NEEDED = ("tensorflow", "keras_hub", "safetensors")
_MAKE = "python3 -m venv tf && tf/bin/pip install tensorflow-cpu keras-hub safetensors, then --python tf/bin/python"
_CHECK_SECONDS, _MOST_SECONDS = 120, 1800
_LINES = 3


class Head(NamedTuple):
    """What stands behind a backbone."""

    start: str
    """`sequence`: each token; `first`: the first one; `pooled`: that, through the backbone's own layer."""
    layers: Sequence[tuple[str, str]] = ()
    """(name of a linear layer, what is applied to its outputs)."""


_BARE = Head("sequence")
_TAGS = Head("sequence", [("classifier", "")])
_ROBERTA = Head("first", [("classifier.dense", "tanh"), ("classifier.out_proj", "")])
HEADS: Mapping[str, Head] = {
    "BertModel": _BARE,
    "BertForSequenceClassification": Head("pooled", [("classifier", "")]),
    "BertForTokenClassification": _TAGS,
    "DistilBertModel": _BARE,
    "DistilBertForSequenceClassification": Head("first", [("pre_classifier", "relu"), ("classifier", "")]),
    "DistilBertForTokenClassification": _TAGS,
    "RobertaForSequenceClassification": _ROBERTA,
    "RobertaForTokenClassification": _TAGS,
    "XLMRobertaForSequenceClassification": _ROBERTA,
    "XLMRobertaForTokenClassification": _TAGS,
}
_INPUTS = {"input_ids": "token_ids", "attention_mask": "padding_mask"}


def check_tensorflow(python: str | None) -> str:
    """The interpreter that has TensorFlow and keras-hub.

    Args:
        python: its path; None: this one.

    Raises:
        UsageError: it is not there, or has not all of it; with what makes one.
    """
    found = python or sys.executable
    look = f"import importlib.util as u; print(*(n for n in {NEEDED!r} if u.find_spec(n) is None))"
    try:
        done = subprocess.run(
            [found, "-I", "-c", look], capture_output=True, text=True, timeout=_CHECK_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(f"--python {found}: cannot be run: {error}") from None
    missing = done.stdout.split()
    if missing:
        raise UsageError(f"--to savedmodel: {found} has no {', '.join(missing)}: {_MAKE}")
    return found


def write_savedmodel(
    module: PreTrainedModel, folder: Path, batches: Sequence[Batch], *, python: str
) -> Outputs:
    """Write a SavedModel into a folder that is there; what it gives, read again.

    Args:
        module: the model, on the CPU, in evaluation.
        folder: of the exported model.
        batches: that it is tried on.
        python: an interpreter with TensorFlow.

    Raises:
        ModelError: a model that is not written, or TensorFlow's own words.
    """
    kind = type(module).__name__
    if kind not in HEADS:
        raise ModelError(f"--to savedmodel writes {', '.join(HEADS)}, not {kind}; --to onnx writes more")
    inputs = _INPUTS | ({"token_type_ids": "segment_ids"} if kind.startswith("Bert") else {})
    head = HEADS[kind]
    with tempfile.TemporaryDirectory(prefix="bigbatch-") as place:
        work = Path(place)
        _write_weights(module, work / "model")
        output = "logits" if head.layers else "last_hidden_state"
        about = {"start": head.start, "layers": head.layers, "inputs": inputs, "output": output}
        replace_text(work / "head.json", json.dumps(about))
        given = {
            f"{number}/{name}": _given(batch, name) for number, batch in enumerate(batches) for name in inputs
        }
        np.savez(work / "batches.npz", **given)  # pyright: ignore[reportArgumentType]
        _run([python, "-I", in_tensorflow.__file__, str(work), str(folder)])
        with np.load(work / "outputs.npz") as found:
            return Outputs(
                [found[str(number)] for number in range(len(batches))], float(found["milliseconds"])
            )


def _given(batch: Batch, name: str) -> np.ndarray:
    """An input; of segments zeros, where the tokenizer gives none."""
    return batch[name].numpy() if name in batch else np.zeros_like(batch["input_ids"].numpy())


def _write_weights(module: PreTrainedModel, folder: Path) -> None:
    """As keras-hub reads them: fp32, and with a layer of BERT's that tags do without."""
    folder.mkdir()
    state = {name: value.detach().float().contiguous() for name, value in module.state_dict().items()}
    words = next((name for name in state if name.endswith("embeddings.word_embeddings.weight")), "")
    prefix = words.removesuffix("embeddings.word_embeddings.weight")
    if type(module).__name__.startswith("Bert") and f"{prefix}pooler.dense.weight" not in state:
        width = state[words].shape[1]
        state[f"{prefix}pooler.dense.weight"] = state[words].new_zeros((width, width))
        state[f"{prefix}pooler.dense.bias"] = state[words].new_zeros(width)
    save_file(state, folder / "model.safetensors")
    replace_text(folder / "config.json", module.config.to_json_string(use_diff=False))


def _run(words: Sequence[str]) -> None:
    """A process of its own.

    Raises:
        ModelError: with its last words.
    """
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_MOST_SECONDS)
    except subprocess.TimeoutExpired:
        raise ModelError(f"TensorFlow has not ended within {_MOST_SECONDS:,} s") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()][-_LINES:]
        raise ModelError(f"TensorFlow cannot write this model: {' '.join(said) or done.returncode}")
