"""Models as TensorFlow's SavedModel: `make test-tensorflow`."""

from __future__ import annotations

import os
import subprocess

import numpy as np
import pytest
import torch

import bigbatch

PYTHON = os.environ.get("TENSORFLOW_PYTHON", "")
pytestmark = pytest.mark.tensorflow
THEIRS = """
import sys, numpy, tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
with numpy.load(sys.argv[2]) as given:
    found = serve(**{name: tf.constant(given[name]) for name in given.files})
numpy.save(sys.argv[3], found["logits"].numpy())
"""


@pytest.mark.parametrize("kind", ["BertForSequenceClassification", "BertForTokenClassification"])
def test_tensorflow_gives_the_models_outputs(tmp_path, two_labels, kind):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(two_labels)
    config = transformers.AutoConfig.from_pretrained(two_labels)
    torch.manual_seed(0)
    model = getattr(transformers, kind)(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    said: list[str] = []
    out = bigbatch.export(
        tmp_path / "model", tmp_path / "out", to="savedmodel", python=PYTHON, say=said.append
    )
    batch = tokenizer(["great flight", "a b c d e f"], padding=True, return_tensors="pt")
    given = {name: value.numpy() for name, value in batch.items()}
    given.setdefault("token_type_ids", np.zeros_like(given["input_ids"]))
    np.savez(tmp_path / "batch.npz", **given)
    words = [str(out), str(tmp_path / "batch.npz"), str(tmp_path / "logits.npy")]
    subprocess.run([PYTHON, "-c", THEIRS, *words], check=True, capture_output=True)
    with torch.no_grad():
        ours = model(**batch).logits.numpy()
    found = np.load(tmp_path / "logits.npy")
    keep = given["attention_mask"].astype(bool) if ours.ndim == 3 else slice(None)
    np.testing.assert_allclose(found[keep], ours[keep], rtol=1e-4, atol=1e-5)
    assert "saved_model.pb" in said[0]
