from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture(scope="session")
def tokenizer():
    """One letter, one token; [CLS] a b [SEP] and token types for pairs, as BERT has them."""
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@pytest.fixture(scope="session")
def plain_tokenizer():
    """As GPT-2's: no special tokens, no token types."""
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="[UNK]", model_input_names=["input_ids", "attention_mask"]
    )


class Tiny(nn.Module):
    """Sum of a sample's token vectors, then dropout and a head; computed sample by sample."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.vectors = nn.Parameter(torch.randn(len(WORDS), 4, generator=generator))
        self.head = nn.Parameter(torch.randn(outputs, 4, generator=generator))
        self.dropout = nn.Dropout(0.5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return (self.dropout(self.vectors[ids].sum(0)) * self.head).sum(-1)


class TinyForward:
    """Outputs of packed samples; counts what it was given."""

    def __init__(self, outputs: int = 2) -> None:
        self.module = Tiny(outputs)
        self.calls: list[int] = []

    def __call__(self, micro_batch) -> torch.Tensor:
        self.calls.append(len(micro_batch.sample_ids_B))
        samples = torch.from_numpy(micro_batch.ids_T).split(micro_batch.lengths_B.tolist())
        return torch.stack([self.module(ids) for ids in samples])


@pytest.fixture
def forward():
    return TinyForward()


@pytest.fixture(scope="session")
def make_forward():
    """Forwards with another number of outputs."""
    return TinyForward
