"""A model without a head, whose outputs are the hidden states of its tokens: what embeddings are pooled from."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import TokenClassifierOutput


class Encoder(nn.Module):
    """The states of a base model as its logits, so that it runs as any model with a head of tokens does."""

    def __init__(self, base: PreTrainedModel) -> None:
        """Wrap a base model, which stays as it is; `model.names` takes `states_of.` off the names of its tensors."""
        super().__init__()
        self.states_of = base

    @property
    def config(self) -> Any:
        """The base model's."""
        return self.states_of.config

    @property
    def base_model(self) -> PreTrainedModel:
        """The base model: below the head that is not there."""
        return self.states_of

    def forward(self, **inputs: Any) -> TokenClassifierOutput:
        """(B, L, D) states of the last layer, behind its norm."""
        states_BLD: Tensor = self.states_of(**inputs).last_hidden_state
        return TokenClassifierOutput(logits=states_BLD)  # type: ignore[arg-type]

    def get_input_embeddings(self) -> nn.Module:
        """The base model's."""
        return self.states_of.get_input_embeddings()

    def set_attn_implementation(self, name: str) -> None:
        """Exchange the base model's attention."""
        self.states_of.set_attn_implementation(name)


def bare(module: nn.Module) -> nn.Module:
    """What transformers loads and saves: the base model of an `Encoder`, any other module itself."""
    return module.states_of if isinstance(module, Encoder) else module
