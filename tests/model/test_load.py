from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bigbatch.errors import ModelError
from bigbatch.model.load import LoadedModel, known_labels, load_model
from bigbatch.model.tokenizer import load_tokenizer
from tests.models import tiny, tiny_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with a trained head for neg, neutral, pos."""
    path = tmp_path_factory.mktemp("model")
    names = {0: "neg", 1: "neutral", 2: "pos"}
    return tiny_folder(path, id2label=names, label2id={name: index for index, name in names.items()})


def _spec(name: Any = None, **changes: Any) -> Any:
    fields = {
        "revision": None,
        "tokenizer": None,
        "init": "pretrained",
        "config": {},
        "trainable": "all",
        "attention": None,
        "memory": None,
        "adapter": None,
    }
    return SimpleNamespace(**{"name": None if name is None else str(name), **fields, **changes})


def _load(
    spec: Any, labels: tuple[str, ...] | None = ("neg", "neutral", "pos"), **changes: Any
) -> LoadedModel:
    settings: dict[str, Any] = {
        "outputs": len(labels) if labels else 1,
        "id2label": dict(enumerate(labels)) if labels else None,
        "problem_type": "single_label_classification" if labels else "regression",
        "seed": 0,
        "dropout": None,
    }
    return load_model(spec, **{**settings, **changes})


def _weights(loaded: LoadedModel) -> dict[str, Tensor]:
    return {name: item.detach().clone() for name, item in loaded.module.named_parameters()}


def _differing(left: dict[str, Tensor], right: dict[str, Tensor]) -> set[str]:
    return {name for name in left if not torch.equal(left[name], right[name])}


HEAD = {"classifier.weight", "classifier.bias"}


def test_the_same_labels_keep_the_head(folder: Path) -> None:
    loaded = _load(_spec(folder))
    assert loaded.notes == ()
    assert not loaded.module.training
    assert _differing(_weights(loaded), dict(tiny("bert", vocab_size=49).named_parameters())) == set()
    config: Any = loaded.module.config
    assert config.id2label == {0: "neg", 1: "neutral", 2: "pos"}
    assert config.problem_type == "single_label_classification"


@pytest.mark.parametrize(
    ("labels", "note"),
    [
        (("a", "b"), "another number of labels (3 before, 2 now): new head, seed 0"),
        (("a", "b", "c"), "other labels (neg, neutral, pos … before, a, b, c … now): new head, seed 0"),
        (None, "another number of labels (3 before, 1 now): new head, seed 0"),
    ],
)
def test_other_labels_get_a_new_seeded_head(folder: Path, labels: Any, note: str) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = _load(_spec(folder), labels)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.notes == (note,)
    torch.manual_seed(2)
    assert _differing(_weights(first), _weights(_load(_spec(folder), labels))) == set()
    other = _weights(_load(_spec(folder), labels, seed=3))
    assert _differing(_weights(first), other) == {"classifier.weight"}
    trained = _weights(_load(_spec(folder)))
    body = {name: item for name, item in _weights(first).items() if name not in HEAD}
    assert _differing(body, trained) == set()
    module: Any = first.module
    assert module.classifier.out_features == (len(labels) if labels else 1)
    assert module.config.num_labels == module.num_labels == module.classifier.out_features


def test_labels_in_another_order_are_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="labels in another order"):
        _load(_spec(folder), ("pos", "neutral", "neg"))


def test_known_labels(folder: Path, tmp_path: Path) -> None:
    assert known_labels(_spec(folder)) == ("neg", "neutral", "pos")
    assert known_labels(_spec(tiny_folder(tmp_path / "m"))) is None
    assert known_labels(_spec(), tiny("bert", id2label={0: "no", 1: "yes"})) == ("no", "yes")
    with pytest.raises(ModelError, match="none given"):
        known_labels(_spec())


def test_weights_without_a_head_get_one(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copied = shutil.copytree(folder, tmp_path / "body")
    tensors = load_file(copied / "model.safetensors")
    kept = {name: item for name, item in tensors.items() if not name.startswith("classifier")}
    save_file(kept, copied / "model.safetensors", metadata={"format": "pt"})
    loaded = _load(_spec(copied), ("a", "b", "c"))
    assert loaded.notes == ("no weights for classifier: new head, seed 0",)
    assert _differing(_weights(loaded), _weights(_load(_spec(copied), ("a", "b", "c")))) == set()


def test_weights_without_a_body_are_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copied = shutil.copytree(folder, tmp_path / "half")
    tensors = load_file(copied / "model.safetensors")
    kept = {name: item for name, item in tensors.items() if "layer.1" not in name}
    save_file(kept, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"16 tensors of its body are missing .*bert\.encoder\.layer\.1"):
        _load(_spec(copied))


def test_random_weights_are_seeded_and_need_no_file(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "config.json", tmp_path)
    spec = _spec(tmp_path, init="random", config={"num_hidden_layers": 1})
    first, second = _load(spec), _load(spec)
    assert first.notes == ("random weights, seed 0",)
    assert _differing(_weights(first), _weights(second)) == set()
    assert "bert.pooler.dense.weight" in _differing(_weights(first), _weights(_load(spec, seed=1)))
    assert not any("layer.1." in name for name in _weights(first))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hiden_size": 3}, r"model\.config\.hiden_size: bert has no such field; did you mean hidden_size\?"),
        ({"hidden_size": "x"}, r"model\.config\.hidden_size: found 'x'; .*expected int"),
        ({"num_labels": 3}, r"model\.config\.num_labels: cannot be set here; it comes from the labels"),
        ({"auto_map": {}}, r"model\.config\.auto_map: cannot be set here"),
        ({"vocab_size": 7}, "tensors of its body are missing or have another shape"),
    ],
)
def test_overrides_that_cannot_be_are_refused(folder: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        _load(_spec(folder, config=config))


def test_overrides_and_dropout_reach_the_model(folder: Path) -> None:
    module: Any = _load(_spec(folder, config={"pad_token_id": 5}), dropout=0.25).module
    assert module.config.pad_token_id == 5
    assert {part.p for part in module.modules() if isinstance(part, nn.Dropout)} == {0.25}


def test_code_of_a_folder_is_never_run(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    copied = shutil.copytree(folder, tmp_path / "canary")
    code = f"open({str(marker)!r}, 'w').close()\n"
    for name in ("modeling_canary.py", "configuration_canary.py", "tokenization_canary.py"):
        (copied / name).write_text(code)
    auto = {
        "AutoConfig": "configuration_canary.Config",
        "AutoModelForSequenceClassification": "modeling_canary.Model",
    }
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "auto_map": auto}))
    words = json.loads((copied / "tokenizer_config.json").read_text())
    mapped = {"AutoTokenizer": ["tokenization_canary.Slow", None]}
    (copied / "tokenizer_config.json").write_text(json.dumps({**words, "auto_map": mapped}))
    loaded = _load(_spec(copied))
    assert loaded.notes == (
        "canary brings code of its own (auto_map); it is ignored, transformers' own bert is used",
    )
    load_tokenizer(_spec(copied))
    (copied / "config.json").write_text(json.dumps({**config, "model_type": "canary_x", "auto_map": auto}))
    for open_it in (_load, known_labels):
        with pytest.raises(ModelError, match="needs code from the folder"):
            open_it(_spec(copied))
    assert not marker.exists()


def test_pickled_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    copied = shutil.copytree(folder, tmp_path / "pickle")
    (copied / "model.safetensors").unlink()

    class Canary:
        def __reduce__(self) -> Any:
            return (Path.touch, (marker,))

    torch.save({"w": Canary()}, copied / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pickled weights \(pytorch_model\.bin\).*save_pretrained"):
        _load(_spec(copied))
    assert not marker.exists()
    torch.load(copied / "pytorch_model.bin", weights_only=False)
    assert marker.exists(), "the canary itself must work"


def test_broken_files_are_said(folder: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(folder, tmp_path / "broken")
    (copied / "model.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(ModelError, match=r"broken/model\.safetensors: cannot be opened"):
        _load(_spec(copied))
    (copied / "config.json").write_text('{"model_type": "bert"')
    with pytest.raises(ModelError, match="is not valid JSON"):
        _load(_spec(copied))
    (copied / "config.json").write_text('{"model_type": "bertt"}')
    with pytest.raises(ModelError, match=r"found 'bertt'.*did you mean 'bert'\?"):
        _load(_spec(copied))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "found no folder './nowhere'"),
        ("someone/no-such-model", r"not in the local cache.*hf download someone/no-such-model"),
        (None, "model.name: none given"),
    ],
)
def test_what_is_not_there_is_said(name: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        _load(_spec(name))
    with pytest.raises(ModelError, match=message):
        load_tokenizer(_spec(name))


def test_a_tokenizer_of_its_own(folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder / name, bare)
    tokenizer = load_tokenizer(_spec(bare, tokenizer=str(folder)))
    assert tokenizer("great flight")["input_ids"] == [2, 9, 7, 3]


class TestLive:
    """Models that the caller built."""

    def test_generic_names_keep_the_head_and_get_the_names(self) -> None:
        model = tiny("bert")
        before = {name: item.detach().clone() for name, item in model.named_parameters()}
        loaded = _load(_spec(), ("x", "y", "z"), module=model)
        assert loaded.module is model
        assert loaded.notes == ()
        assert _differing(before, _weights(loaded)) == set()
        assert model.config.label2id == {"x": 0, "y": 1, "z": 2}

    @pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "modernbert", "deberta-v3"])
    def test_another_number_of_labels_renews_only_the_last_layer(self, family: str) -> None:
        model = tiny(family)
        before = {name: item.detach().clone() for name, item in model.named_parameters()}
        state = torch.get_rng_state()
        loaded = _load(_spec(), ("a", "b", "c", "d", "e"), module=model)
        assert torch.equal(torch.get_rng_state(), state)
        assert loaded.notes == ("another number of labels (3 before, 5 now): new head, seed 0",)
        changed = {name for name, item in model.named_parameters() if item.shape != before[name].shape}
        assert changed <= {"classifier.weight", "classifier.bias", "score.weight"} | {
            "classifier.out_proj.weight",
            "classifier.out_proj.bias",
        }
        assert _differing({n: i for n, i in before.items() if n not in changed}, _weights(loaded)) == set()
        ids = torch.tensor([[5, 6, 7]])
        assert model(input_ids=ids).logits.shape == (1, 5)
        again = _weights(_load(_spec(), ("a", "b", "c", "d", "e"), module=tiny(family)))
        assert _differing(_weights(loaded), again) == set()

    def test_frozen_stays_frozen(self) -> None:
        model = tiny("bert")
        model.bert.requires_grad_(False)
        _load(_spec(), ("x", "y", "z"), module=model)
        trained = [name for name, item in model.named_parameters() if item.requires_grad]
        assert trained == ["classifier.weight", "classifier.bias"]
        _load(_spec(trainable=["bert.pooler.*", "classifier.*"]), ("x", "y", "z"), module=model)
        assert [name for name, item in model.named_parameters() if item.requires_grad] == trained

    def test_dropout_reaches_modules_and_numbers(self) -> None:
        model = tiny("llama")
        _load(_spec(), ("x", "y", "z"), module=model, dropout=0.3)
        assert model.model.layers[0].self_attn.attention_dropout == 0.3
        encoder = tiny("bert")
        _load(_spec(), ("x", "y", "z"), module=encoder, dropout=0.3)
        assert {part.p for part in encoder.modules() if isinstance(part, nn.Dropout)} == {0.3}

    def test_only_the_pad_token_can_be_set(self) -> None:
        model = tiny("gpt2", pad_token_id=None)
        _load(_spec(config={"pad_token_id": 2}), module=model)
        assert model.config.pad_token_id == 2
        with pytest.raises(ModelError, match="hidden_size: a live model is already built"):
            _load(_spec(config={"hidden_size": 2}), module=model)

    @pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
    def test_peft_trains_its_trainable_part(self) -> None:
        from peft import LoraConfig, TaskType, get_peft_model

        settings = LoraConfig(task_type=TaskType.SEQ_CLS, target_modules=["query"], r=2)
        wrapped: Any = get_peft_model(tiny("bert"), settings)
        before = {name for name, item in wrapped.named_parameters() if item.requires_grad}
        loaded = _load(_spec(), ("x", "y", "z"), module=wrapped)
        assert {name for name, item in loaded.module.named_parameters() if item.requires_grad} == before
        assert any("lora_A" in name for name in before)
        with pytest.raises(ModelError, match="PEFT-wrapped model must be built with num_labels=2"):
            _load(_spec(), ("x", "y"), module=wrapped)

    def test_other_modules_are_refused(self) -> None:
        with pytest.raises(ModelError, match="found a Linear"):
            _load(_spec(), module=nn.Linear(2, 2))


def test_an_encoder_decoder_is_refused_before_anything_is_built(tmp_path):
    from transformers import T5Config, T5ForConditionalGeneration

    model = T5ForConditionalGeneration(
        T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    )
    model.save_pretrained(tmp_path)
    for kind in ("sequence", "tokens", "masked", "causal", "hidden"):
        with pytest.raises(ModelError, match=r"encoder-decoder \(t5\), which task seq2seq trains"):
            load_model(_spec(tmp_path), kind=kind, outputs=2, seed=0, dropout=None)
    with pytest.raises(ModelError, match=r"T5ForConditionalGeneration: found an encoder-decoder"):
        load_model(_spec(), kind="causal", seed=0, dropout=None, module=model)
