"""Run by an interpreter that has TensorFlow and keras-hub: weights become a SavedModel, which is read again and run.
Imports nothing of this project.

    python in_tensorflow.py WORK OUT

`WORK/model` holds config.json and model.safetensors; `WORK/head.json` what stands behind the backbone, and
`WORK/batches.npz` what is tried; `WORK/outputs.npz` is what the SavedModel gives, read again from OUT.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np


def main(work: Path, out: Path) -> None:
    """Write the SavedModel, read it again, run it.

    Args:
        work: what is given.
        out: the folder of the SavedModel.
    """
    import keras  # type: ignore[import-not-found]
    import keras_hub  # type: ignore[import-not-found]
    from safetensors.numpy import load_file

    import tensorflow as tf  # type: ignore[import-not-found]

    if keras.config.backend() != "tensorflow":
        sys.exit(f"keras runs on {keras.config.backend()}; set KERAS_BACKEND=tensorflow")
    head = json.loads((work / "head.json").read_text())
    weights = load_file(work / "model" / "model.safetensors")
    backbone = keras_hub.models.Backbone.from_preset(str(work / "model"))
    if json.loads((work / "model" / "config.json").read_text()).get("hidden_act", "gelu") == "gelu":
        for layer in backbone._flatten_layers():  # keras-hub builds BERT with the approximation by tanh
            if getattr(getattr(layer, "activation", None), "__name__", "").startswith("gelu"):
                layer.activation = tf.nn.gelu
    layers = [
        (tf.constant(weights[f"{name}.weight"].T), tf.constant(weights[f"{name}.bias"]), kind)
        for name, kind in head["layers"]
    ]
    activations = {"": tf.identity, "tanh": tf.tanh, "relu": tf.nn.relu}

    def forward(**inputs: object) -> dict[str, object]:
        given = {theirs: inputs[ours] for ours, theirs in head["inputs"].items()}
        found = backbone(given, training=False)
        if head["start"] == "pooled":
            values = found["pooled_output"]
        else:
            values = found["sequence_output"] if isinstance(found, dict) else found
            values = values[:, 0] if head["start"] == "first" else values
        for kernel, bias, kind in layers:
            values = activations[kind](tf.tensordot(values, kernel, 1) + bias)
        return {head["output"]: values}

    holder = tf.Module()
    for name, part in (("backbone", backbone), ("head", [each[:2] for each in layers])):
        setattr(holder, name, part)  # what an attribute holds is saved with the function
    names = list(head["inputs"])
    signature = {name: tf.TensorSpec((None, None), tf.int64, name=name) for name in names}
    serving = tf.function(forward).get_concrete_function(**signature)
    tf.saved_model.save(holder, str(out), signatures={"serving_default": serving})
    _try(tf, out, work, names, head["output"])


def _try(tf: ModuleType, out: Path, work: Path, names: Sequence[str], output: str) -> None:
    """Read it again and write what it gives."""
    serve = tf.saved_model.load(str(out)).signatures["serving_default"]
    found, seconds = [], 0.0
    with np.load(work / "batches.npz") as batches:
        count = 1 + max(int(key.split("/")[0]) for key in batches.files)
        for number in range(count):
            batch = {name: tf.constant(batches[f"{number}/{name}"]) for name in names}
            if number == count - 1:
                serve(**batch)  # the first of a shape plans its memory
            started = time.perf_counter()
            found.append(serve(**batch)[output].numpy())
            seconds = time.perf_counter() - started
    outputs = {str(number): each for number, each in enumerate(found)}
    np.savez(work / "outputs.npz", milliseconds=1000 * seconds, **outputs)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
