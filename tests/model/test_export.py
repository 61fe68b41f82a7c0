from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bigbatch.model.anatomy import anatomy
from bigbatch.model.export import save_model
from bigbatch.model.runner import packed_runner
from bigbatch.model.streams import Weights
from bigbatch.model.tensors import named_tensors
from tests.models import FAMILIES, HEADS, tiny, tiny_batch, tiny_class, tiny_tokenizer

IDS = torch.tensor([[5, 9, 11, 7, 3]])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_folder_opens_with_the_same_logits(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
        if family == "bert":  # what packing installs must not be written out
            packed_runner(model, anatomy(model))(tiny_batch())
    tokenizer = tiny_tokenizer(tmp_path / "words")
    save_model(model, tokenizer, tmp_path / "out", "# A card\n")
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        # The tensors are the same bits; the logits need not be: a BLAS may sum in another order where a file was mapped
        # to memory of another alignment.
        ours, theirs = model.state_dict(), opened.state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert torch.allclose(opened(input_ids=IDS).logits, expected, rtol=1e-6, atol=1e-6)
    assert (tmp_path / "out" / "README.md").read_text() == "# A card\n"
    written = (tmp_path / "out" / "config.json").read_text()
    assert "bigbatch" not in written
    assert str(tmp_path) not in written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "words"]
    if family == "qwen2":  # its tokenizer class brings its own way to split text, whatever the file says
        return
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again("great flight")["input_ids"] == tokenizer("great flight")["input_ids"]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_stored_weights_make_the_same_files_as_transformers_own(
    family: str, head: str, tmp_path: Path
) -> None:
    if tiny_class(family, head) is None:
        pytest.skip(f"transformers has no {family} for {head}")
    model = tiny(family, head=head, **({"is_decoder": True} if (family, head) == ("bert", "causal") else {}))
    tensors, aliases = named_tensors(model)
    like = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    asked: list[str] = []

    def read(name: str) -> torch.Tensor:
        asked.append(name)
        return tensors[name].detach().clone()

    save_model(model, None, tmp_path / "stored", "", Weights(like=like, read=read, aliases=aliases))
    save_model(model, None, tmp_path / "own", "")
    assert len(asked) == len(set(asked))
    ours, own = (load_file(tmp_path / kind / "model.safetensors") for kind in ("stored", "own"))
    assert ours.keys() == own.keys()
    assert all(torch.equal(ours[name], own[name]) and ours[name].dtype == own[name].dtype for name in own)
    files = [sorted(path.name for path in (tmp_path / kind).iterdir()) for kind in ("stored", "own")]
    assert files[0] == files[1]
    opened = tiny_class(family, head).from_pretrained(tmp_path / "stored").state_dict()
    assert all(torch.equal(opened[name], tensor) for name, tensor in model.state_dict().items())


def test_labels_are_written(tmp_path: Path) -> None:
    model = tiny("bert", id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1})
    save_model(model, None, tmp_path / "out", "")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["id2label"] == {"0": "no", "1": "yes"}


def test_an_older_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "stale.txt").write_text("old")
    save_model(tiny("bert"), None, target, "new")
    assert sorted(path.name for path in target.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_a_failure_leaves_the_older_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    save_model(tiny("bert"), None, target, "first")

    class Broken:
        def save_pretrained(self, _folder: Path) -> None:
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        save_model(tiny("bert", seed=1), Broken(), target, "second")
    assert (target / "README.md").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_adapters_are_merged_on_a_copy(tmp_path: Path) -> None:
    from peft import LoraConfig, TaskType, get_peft_model

    settings = LoraConfig(task_type=TaskType.SEQ_CLS, target_modules=["query"], r=2, init_lora_weights=False)
    wrapped: Any = get_peft_model(tiny("bert"), settings).eval()
    names = [name for name, _ in wrapped.named_parameters()]
    with torch.no_grad():
        expected = wrapped(input_ids=IDS).logits
    save_model(wrapped, None, tmp_path / "out", "")
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        torch.testing.assert_close(opened(input_ids=IDS).logits, expected, rtol=1e-5, atol=1e-6)
    assert [name for name, _ in wrapped.named_parameters()] == names


def test_nothing_of_a_live_models_code_is_written(tmp_path: Path) -> None:
    """Its configuration and tokenizer may name code; whoever opens the folder and trusts it would run that."""
    model = tiny("bert")
    model.config.auto_map = {"AutoModelForSequenceClassification": "someone/repo--evil.Model"}
    model.config.custom_pipelines = {"x": {"impl": "evil.Pipe"}}
    tokenizer = tiny_tokenizer(tmp_path / "words")
    tokenizer.init_kwargs["auto_map"] = {"AutoTokenizer": ["evil.T", None]}
    save_model(model, tokenizer, tmp_path / "out", "card")
    written = {path.name: path.read_text() for path in (tmp_path / "out").glob("*.json")}
    assert not [name for name, text in written.items() if "evil" in text or "auto_map" in text]
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert opened.dtype == torch.float32
    assert model.config.auto_map, "the live model keeps what it had"
