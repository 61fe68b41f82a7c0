"""A head's kind says which streams reach a model and how; what comes back is each sample's own output."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration, ViTConfig, ViTForImageClassification

from bigbatch.model.anatomy import anatomy
from bigbatch.model.feeds import of_pack, padded
from bigbatch.model.heads import Input
from bigbatch.model.packing import can_pack
from bigbatch.model.runner import Runner, packed_runner, padded_runner
from bigbatch.samples import TOKENS, UNITS, MicroBatch, Stream, Table, offsets_of
from tests.models import tiny, tiny_batch

PAIRS = {
    "source": Input(arguments={"ids": "input_ids"}, mask="attention_mask"),
    TOKENS: Input(arguments={"ids": "decoder_input_ids"}, mask="decoder_attention_mask"),
}
PIXELS = {"image": Input(arguments={"pixels": "pixel_values"})}


def _micro_batch(units_at: list[list[int]], **streams: Stream) -> MicroBatch:
    counts_B = np.array([len(at) for at in units_at])
    units = {
        "at": np.concatenate(units_at).astype(np.int32),
        "values": np.zeros(counts_B.sum(), np.int64),
        "weights": np.ones(counts_B.sum(), np.float32),
    }
    table = Table(streams={**streams, UNITS: Stream(columns=units, offsets=offsets_of(counts_B))})
    return MicroBatch(
        index=0,
        sample_ids_B=np.arange(len(counts_B)),
        table=table,
        targets=table.targets,
        packing="padded",
        capacity_tokens=100,
    )


def _tokens(lengths: tuple[int, ...], seed: int) -> Stream:
    ids = np.random.default_rng(seed).integers(3, 90, sum(lengths)).astype(np.int32)
    return Stream(columns={"ids": ids}, offsets=offsets_of(np.array(lengths)), positions=1)


def test_two_streams_are_padded_or_packed_each_for_itself() -> None:
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=100, d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, pad_token_id=1,
    )  # fmt: skip
    model: Any = BartForConditionalGeneration(config)
    model = model.double().eval()
    source, tokens = _tokens((5, 3, 7), 1), _tokens((4, 6, 2), 2)
    at = [[0, 3], [5, 1, 2], [1]]
    found = padded_runner(model, 1, PAIRS)(_micro_batch(at, source=source, tokens=tokens))
    expected = []
    for sample, places in enumerate(at):
        inputs = {
            name: torch.as_tensor(stream.take(np.array([sample])).load().columns["ids"]).long()[None]
            for name, stream in (("input_ids", source), ("decoder_input_ids", tokens))
        }
        expected.append(model(**inputs).logits[0, places])
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=1e-12)
    assert can_pack(model, None, PAIRS)[0]
    pack = replace(_micro_batch(at, source=source, tokens=tokens), packing="packed")
    packed = packed_runner(model, anatomy(model), inputs=PAIRS)
    torch.testing.assert_close(packed(pack), torch.cat(expected), rtol=0, atol=1e-12)
    copied = deepcopy(model)  # with its hooks
    torch.testing.assert_close(
        Runner(module=copied, feed=packed.feed, units=of_pack)(pack), torch.cat(expected)
    )
    packed.close()
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in model.modules())


def test_pixels_are_given_whole() -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=8,
        patch_size=4, num_channels=1, num_labels=3,
    )  # fmt: skip
    model: Any = ViTForImageClassification(ViTConfig(**sizes)).eval()
    pixels = np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32)
    image = Stream(columns={"pixels": pixels}, offsets=np.arange(5), positions=5)
    found = padded_runner(model, 0, PIXELS)(_micro_batch([[0]] * 4, image=image))
    torch.testing.assert_close(found, model(pixel_values=torch.as_tensor(pixels)).logits)


def test_a_stream_that_is_missing_is_named() -> None:
    with pytest.raises(KeyError, match="source"):
        padded_runner(tiny("bert"), 0, PAIRS)(tiny_batch((3, 2)))


def test_entries_keep_their_shape() -> None:
    real_BL = np.array([[True, False], [True, True]])
    corners = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = padded(corners, real_BL, -1)
    assert found.dtype == np.float32
    assert found.tolist() == [[[0, 1, 2, 3], [-1] * 4], [[4, 5, 6, 7], [8, 9, 10, 11]]]
