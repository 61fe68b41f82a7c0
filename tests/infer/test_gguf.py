"""Causal language models as GGUF: transformers' own loader gives the model's logits and tokens. `make test-onnx`."""

from __future__ import annotations

import pytest
import torch

import bigbatch
from bigbatch.errors import ModelError

pytestmark = pytest.mark.onnx
SHAPE = {
    "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 96,
}  # fmt: skip
SENTENCE = "nobody said why the crew was late, 12 times!"


@pytest.fixture(scope="module")
def bytes_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        [SENTENCE] * 9,
        trainers.BpeTrainer(vocab_size=290, special_tokens=["<end>"], initial_alphabet=alphabet),
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token="<end>")


@pytest.mark.parametrize(
    "kind, more", [("Llama", {}), ("Llama", {"tie_word_embeddings": True}), ("Qwen2", {})]
)
def test_the_loader_of_transformers_gives_the_same(tmp_path, bytes_tokenizer, kind, more):
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(
        getattr(transformers, f"{kind}Config")(**SHAPE, **more)
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.eval().save_pretrained(tmp_path / "model")
    bytes_tokenizer.save_pretrained(tmp_path / "model")
    out = bigbatch.export(tmp_path / "model", tmp_path / "out", to="gguf", texts=[SENTENCE, "late"])
    again = transformers.AutoModelForCausalLM.from_pretrained(
        out, gguf_file="model.gguf", dtype=torch.float32
    )
    ids = transformers.AutoTokenizer.from_pretrained(out, gguf_file="model.gguf")(SENTENCE).input_ids
    if kind == "Llama":  # Qwen 2's reader cuts words in Qwen's way, whatever the file says
        assert ids == bytes_tokenizer(SENTENCE).input_ids
    with torch.no_grad():
        given = torch.tensor([ids])
        torch.testing.assert_close(again(given).logits, model(given).logits, rtol=1e-5, atol=1e-5)


def test_other_models_are_refused_in_one_sentence(tmp_path, two_labels):
    with pytest.raises(ModelError, match="causal language models of the kinds llama"):
        bigbatch.export(two_labels, tmp_path / "out", to="gguf")
    assert list(tmp_path.iterdir()) == []
