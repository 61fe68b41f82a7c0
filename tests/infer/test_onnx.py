"""Models as ONNX: onnxruntime gives the model's outputs, for any number of rows and tokens. `make test-onnx`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import bigbatch
from bigbatch.errors import UsageError
from bigbatch.infer import export


@pytest.mark.onnx
@pytest.mark.parametrize("to", ["onnx", "onnx-int8"])
def test_onnxruntime_gives_the_models_outputs(tmp_path, tokenizer, to):
    import onnxruntime
    from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        id2label={0: "bad", 1: "good", 2: "so so"},
    )  # fmt: skip
    run = tmp_path / "model"
    BertForSequenceClassification(config).eval().save_pretrained(run)
    tokenizer.save_pretrained(run)
    said: list[str] = []
    texts = ["a b c", "d", "e f g h i j k"]
    folder = bigbatch.export(run, tmp_path / "out", to=to, texts=texts, say=said.append)
    assert "outputs differ by" in said[0]
    model = AutoModelForSequenceClassification.from_pretrained(run).eval()
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    for count in (1, 3):
        batch = tokenizer(texts[:count], padding=True, return_tensors="np")
        given = {each.name: batch[each.name].astype(np.int64) for each in session.get_inputs()}
        with torch.no_grad():
            ours = model(**{name: torch.from_numpy(values) for name, values in given.items()}).logits.numpy()
        theirs = session.run(None, given)[0]
        assert np.abs(ours - theirs).max() < (1e-5 if to == "onnx" else 0.5)
    assert not (folder / "model.safetensors").exists()
    with pytest.raises(UsageError, match="nothing is overwritten"):
        bigbatch.export(run, folder, to=to)


def test_what_is_missing_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(
        UsageError, match=r"needs onnx, onnxscript, onnxruntime: pip install 'bigbatch\[onnx\]'"
    ):
        bigbatch.export(tmp_path, tmp_path / "out", to="onnx")
