"""Logits that are not computed yet: the same loss and gradients as the model's own logits, or a reason why not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from bigbatch.model import logits as room
from bigbatch.model.anatomy import anatomy
from bigbatch.model.logits import DeferredLogits, deferred, why_not_deferred
from bigbatch.model.runner import packed_runner, padded_runner
from bigbatch.tasks.language import surprise, surprise_U
from tests.models import PACKABLE, tiny, tiny_batch, tiny_class
from tests.split import TOLERANCE, gradient_error, worst_tensor

LENGTHS = (12, 5, 9, 3, 20, 1)
CASES = [
    ("bert", "masked", True),
    ("bert", "masked", False),
    ("roberta", "masked", True),
    ("electra", "masked", True),
    ("distilbert", "masked", True),
    ("albert", "masked", True),
    ("modernbert", "masked", True),
    ("gpt2", "causal", True),
    ("llama", "causal", True),
    ("llama", "causal", False),
    ("qwen3", "causal", False),
]
"""Family, head, whether the output layer is the embedding. BERT's kin have a bias, decoders have none."""


def _gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("dtype", "reduction"),
    [(torch.float64, "sum"), (torch.float32, "sum"), (torch.float64, "each")],
    ids=["fp64", "fp32", "each-fp64"],
)
@pytest.mark.parametrize(("family", "head", "tied"), CASES)
def test_loss_and_gradients_equal_those_of_the_full_logits(family, head, tied, dtype, reduction, monkeypatch):
    monkeypatch.setattr(room, "_SMALLEST_CHUNK", 3)
    monkeypatch.setattr(room, "_CPU_CHUNK_BYTES", 0)
    # A gradient of exactly zero is noise relative to itself, and with large weights that noise is large.
    model = tiny(family, head=head, tie_word_embeddings=tied, initializer_range=0.05).to(dtype)
    layer = model.get_output_embeddings()
    assert (layer.weight is model.get_input_embeddings().weight) == tied
    batch = tiny_batch(LENGTHS, pools="tokens", segments=anatomy(model).uses_segments)
    targets_U = torch.as_tensor(batch.targets.values) + 7
    weights_U = torch.linspace(0.5, 2, len(targets_U), dtype=dtype) if reduction == "each" else torch.ones(())
    plain = padded_runner(model, model.config.pad_token_id)
    losses_U = F.cross_entropy(plain(batch), targets_U, reduction="none")
    expected = _gradients(model, (losses_U * weights_U).sum())
    assert why_not_deferred(anatomy(model)) == ""
    inner: list[Any] = [plain]
    if family in PACKABLE:
        inner.append(packed_runner(model, anatomy(model)))
    for forward in inner:
        outputs = deferred(forward, layer)(batch)
        assert isinstance(outputs, DeferredLogits) and outputs.chunk_rows < len(outputs)
        found = (
            surprise_U(outputs, targets_U) * weights_U
            if reduction == "each"
            else surprise(outputs, targets_U)
        )
        loss = float((losses_U * weights_U).detach().sum())
        assert abs(float(found.detach().sum()) - loss) <= TOLERANCE[dtype] * loss
        gradients = _gradients(model, found.sum())
        assert gradients.keys() == expected.keys()
        assert gradient_error(gradients, expected) <= TOLERANCE[dtype]
        assert worst_tensor(gradients, expected, TOLERANCE[dtype])[1] <= 1


def test_the_full_logits_never_exist(monkeypatch):
    """Nothing as large as (units, vocabulary) is allocated, forward or backward."""
    monkeypatch.setattr(room, "_SMALLEST_CHUNK", 4)
    monkeypatch.setattr(room, "_CPU_CHUNK_BYTES", 0)
    model = tiny("bert", head="masked", vocab_size=5000, hidden_size=16, num_attention_heads=2)
    batch = tiny_batch((30,) * 40, pools="tokens")
    units = len(batch.reads_U)
    limit = units * 5000

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            found = func(*args, **(kwargs or {}))
            for each in found if isinstance(found, (tuple, list)) else [found]:
                if isinstance(each, Tensor):
                    self.seen = max(self.seen, each.numel())
            return found

    targets_U = torch.as_tensor(batch.targets.values)
    forward = packed_runner(model, anatomy(model))
    with Largest() as plain:
        F.cross_entropy(forward(batch), targets_U, reduction="sum").backward()
    assert plain.seen == limit
    with Largest() as chunked:
        surprise(deferred(forward, model.get_output_embeddings())(batch), targets_U).backward()
    assert chunked.seen < limit / 4


def test_the_module_is_as_before_between_calls_and_after_errors():
    model = tiny("bert", head="masked")
    layer = model.get_output_embeddings()

    def broken(*_given):
        assert layer(torch.ones(2, 32)).shape == (2, 32)
        raise RuntimeError("no")

    before = model(input_ids=torch.tensor([[5, 6, 7]])).logits
    handle = model.register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="no"):
        deferred(padded_runner(model, 0), layer)(tiny_batch())
    handle.remove()
    assert torch.equal(model(input_ids=torch.tensor([[5, 6, 7]])).logits, before)
    assert "forward" not in vars(layer)


def _decoder(name: str, **fields: Any) -> Any:
    sizes = {
        "vocab_size": 60, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**sizes, **fields})
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


def test_a_cap_on_the_logits_is_found_out():
    reason = "its logits are changed behind its output layer (capped, say)"
    assert why_not_deferred(anatomy(_decoder("Gemma2", final_logit_softcapping=0.05))) == reason
    assert why_not_deferred(anatomy(_decoder("Gemma2", final_logit_softcapping=None))) == ""


@pytest.mark.parametrize(
    ("name", "fields"), [("Granite", {"logits_scaling": 8.0}), ("Cohere", {"logit_scale": 0.06})]
)
def test_a_factor_on_the_logits_reaches_the_hidden_states(name, fields):
    model = _decoder(name, **fields).double()
    batch = tiny_batch(LENGTHS, pools="tokens")
    batch.table["tokens"].columns["ids"][:] %= 60
    forward, targets_U = padded_runner(model, 0), torch.as_tensor(batch.targets.values)
    assert why_not_deferred(anatomy(model)) == ""
    whole = F.cross_entropy(forward(batch), targets_U, reduction="sum")
    expected = _gradients(model, whole)
    found = surprise(deferred(forward, model.get_output_embeddings())(batch), targets_U)
    assert abs(float(found.detach() - whole.detach())) <= 1e-10 * float(whole.detach())
    assert gradient_error(_gradients(model, found), expected) <= 1e-10


def test_layers_that_are_more_than_a_matrix_are_found_out():
    """An adapter starts at zero: its logits are the plain layer's, and its gradient would be lost."""
    model = tiny("llama", head="causal")

    class Adapted(nn.Linear):
        def __init__(self):
            super().__init__(32, 100, bias=False)
            self.up = nn.Parameter(torch.zeros(100, 2))
            self.down = nn.Parameter(torch.ones(2, 32))

        def forward(self, input):
            return super().forward(input) + input @ self.down.T @ self.up.T

    model.set_output_embeddings(Adapted())
    assert why_not_deferred(anatomy(model)) == "its output layer is not a plain linear one"
    assert (
        why_not_deferred(anatomy(tiny("bert", head="tokens"))) == "its output layer is not a plain linear one"
    )


def test_every_family_with_a_language_head_defers():
    families = (
        "bert",
        "roberta",
        "xlm-r",
        "electra",
        "albert",
        "distilbert",
        "modernbert",
        "mpnet",
        "deberta-v3",
    )
    for family in families:
        assert tiny_class(family, "masked")
        assert why_not_deferred(anatomy(tiny(family, head="masked"))) == "", family
    for family in ("gpt2", "llama", "mistral", "qwen2", "qwen3"):
        assert why_not_deferred(anatomy(tiny(family, head="causal"))) == "", family
