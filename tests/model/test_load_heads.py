"""Loading each kind of head from folders of its own kind, of another kind, and without a head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import BertConfig, BertModel

from bigbatch.errors import ModelError
from bigbatch.model.export import save_model
from bigbatch.model.load import load_model
from bigbatch.recipe.learning import ModelSpec
from tests.models import tiny, tiny_folder

TAGS = {0: "O", 1: "B-PER", 2: "I-PER"}


def _load(folder: Path | None = None, kind: str = "tokens", **changes: Any) -> Any:
    labels = {"outputs": 3, "id2label": TAGS} if kind in ("tokens", "sequence") else {}
    spec = ModelSpec(name=None if folder is None else str(folder))
    settings = {"kind": kind, "seed": 0, "dropout": None, **labels}
    return load_model(spec, **{**settings, **changes})


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def _same(module: nn.Module, stored: dict[str, torch.Tensor], prefix: str) -> bool:
    found = module.state_dict()
    names = [name for name in stored if name.startswith(prefix) and name in found]
    assert names
    return all(torch.equal(found[name], stored[name]) for name in names)


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("bert", "tokens"), ("gpt2", "tokens"), ("bert", "masked"), ("roberta", "masked"), ("electra", "masked"),
        ("gpt2", "causal"), ("llama", "causal"),
    ],
)  # fmt: skip
def test_a_head_of_its_own_kind_is_kept(family: str, kind: str, tmp_path: Path) -> None:
    labels = {"id2label": TAGS, "label2id": {}} if kind == "tokens" else {}
    folder = tiny_folder(tmp_path / "m", family, head=kind, tie_word_embeddings=True, **labels)
    loaded = _load(folder, kind)
    assert loaded.notes == ()
    assert type(loaded.module) is type(tiny(family, head=kind))
    stored = _weights(folder)
    assert all(torch.equal(loaded.module.state_dict()[name], item) for name, item in stored.items())


@pytest.mark.parametrize(("family", "kind"), [("bert", "masked"), ("gpt2", "causal"), ("llama", "causal")])
def test_tied_weights_stay_tied_through_loading_and_writing(family: str, kind: str, tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "m", family, head=kind, tie_word_embeddings=True)
    module = _load(folder, kind).module
    assert module.get_output_embeddings().weight is module.get_input_embeddings().weight
    with torch.no_grad():
        module.get_input_embeddings().weight.add_(1)
    save_model(module, None, tmp_path / "out", "card")
    again = _load(tmp_path / "out", kind).module
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert torch.equal(again.get_output_embeddings().weight, module.get_input_embeddings().weight)


def test_a_classifier_gives_its_body_to_a_language_model(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "m", "bert")
    loaded = _load(folder, "masked")
    (note,) = loaded.notes
    assert note.startswith("no weights for cls.predictions") and note.endswith("new head, seed 0")
    assert _same(loaded.module, _weights(folder), "bert.")
    assert loaded.module.get_output_embeddings().weight is loaded.module.get_input_embeddings().weight
    again = _load(folder, "masked").module.state_dict()
    assert all(torch.equal(item, again[name]) for name, item in loaded.module.state_dict().items())


@pytest.mark.parametrize("kind", ["tokens", "masked"])
def test_a_body_without_head_gets_one(kind: str, tmp_path: Path) -> None:
    config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    BertModel(config).save_pretrained(tmp_path)
    loaded = _load(tmp_path, kind)
    (note,) = loaded.notes
    assert "new head, seed 0" in note
    stored = {f"bert.{name}": item for name, item in _weights(tmp_path).items()}
    assert _same(loaded.module, stored, "bert.encoder")


def test_a_language_model_gives_its_body_to_tags(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "m", "bert", head="masked")
    loaded = _load(folder)
    assert loaded.notes == ("another number of labels (2 before, 3 now): new head, seed 0",) or (
        loaded.notes == ("no weights for classifier: new head, seed 0",)
    )
    assert _same(loaded.module, _weights(folder), "bert.")
    assert loaded.module.config.id2label == TAGS


def test_a_classifier_of_sentences_is_no_classifier_of_tokens(tmp_path: Path) -> None:
    """Both call their last layer `classifier`; with equal labels its weights would fit."""
    folder = tiny_folder(tmp_path / "m", "bert", id2label=TAGS, label2id={})
    loaded = _load(folder)
    assert loaded.notes == ("another kind of head (BertForSequenceClassification before): new head, seed 0",)
    stored = _weights(folder)
    assert not torch.equal(loaded.module.classifier.weight, stored["classifier.weight"])
    assert _same(loaded.module, stored, "bert.")
    back = _load(tiny_folder(tmp_path / "t", "bert", head="tokens", id2label=TAGS, label2id={}), "sequence")
    (note,) = back.notes
    assert note == "another kind of head (BertForTokenClassification before): new head, seed 0"


def test_a_body_must_be_there_even_where_the_head_shares_it(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = tiny_folder(tmp_path / "m", "gpt2", head="causal", tie_word_embeddings=True)
    stored = _weights(folder)
    gone = [name for name in stored if "wte" in name or "lm_head" in name]
    kept = {name: item for name, item in stored.items() if name not in gone}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"tensors of its body are missing.*transformer\.wte"):
        _load(folder, "causal")


@pytest.mark.parametrize(
    ("head", "kind", "message"),
    [
        ("sequence", "tokens", "one output per sample; the task needs an AutoModelForTokenClassification"),
        ("tokens", "sequence", "one output per token; the task needs an AutoModelForSequenceClassification"),
        ("tokens", "masked", "outputs are no token ids; the task needs an AutoModelForMaskedLM"),
    ],
)
def test_live_models_of_another_kind_are_refused(head: str, kind: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        _load(kind=kind, module=tiny("bert", head=head))


def test_live_models_keep_their_heads() -> None:
    model = tiny("llama", head="causal")
    before = {name: item.clone() for name, item in model.state_dict().items()}
    loaded = _load(kind="causal", module=model)
    assert loaded.module is model and loaded.notes == ()
    assert all(torch.equal(item, before[name]) for name, item in model.state_dict().items())
    tagger = tiny("bert", head="tokens", num_labels=5)
    assert "5 before, 3 now" in _load(module=tagger).notes[0]
    assert tagger.classifier.out_features == 3 and tagger.num_labels == 3


def test_an_encoder_is_no_causal_model_until_it_is_told(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "m", "bert", head="masked")
    with pytest.raises(ModelError, match="tokens see those that come after them.*is_decoder"):
        _load(folder, "causal")
    spec = ModelSpec(name=str(folder), config={"is_decoder": True})
    module = load_model(spec, kind="causal", seed=0, dropout=None).module
    assert _same(module, _weights(folder), "bert.")
