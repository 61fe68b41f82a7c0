"""The diffusion transformer, held against the paper's formulas written out image by image and head by head."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bigbatch.model.dit import FlowDiT, FlowDiTConfig, images_of, patches_of
from tests.drawings import tiny_dit


def layer(weights: dict[str, Tensor], name: str, values: Tensor) -> Tensor:
    return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def standardised(values: Tensor) -> Tensor:
    centred = values - values.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def gelu(values: Tensor) -> Tensor:
    return 0.5 * values * (1 + torch.tanh(math.sqrt(2 / math.pi) * (values + 0.044715 * values**3)))


def by_hand(model: FlowDiT, image: Tensor, time: float, label: int) -> Tensor:
    """(C, H, W) velocity of one image."""
    w, patch, heads = model.state_dict(), 4, 2
    angles = [1000 * time * math.exp(-math.log(10000) * k / 128) for k in range(128)]
    waves = torch.tensor([*map(math.cos, angles), *map(math.sin, angles)], dtype=torch.float64)
    silu = torch.nn.functional.silu
    condition = silu(
        layer(w, "dit.time.2", silu(layer(w, "dit.time.0", waves))) + w["dit.classes.weight"][label]
    )
    rows = [
        torch.stack(
            [image[c, top + y, left + x] for y in range(patch) for x in range(patch) for c in range(3)]
        )
        for top in (0, 4)
        for left in (0, 4)
    ]
    hidden = layer(w, "dit.patches", torch.stack(rows)) + w["dit.places"]
    for number in range(2):
        name = f"dit.blocks.{number}"
        shift1, scale1, gate1, shift2, scale2, gate2 = layer(w, f"{name}.modulation", condition).chunk(6)
        query, key, value = layer(w, f"{name}.qkv", standardised(hidden) * (1 + scale1) + shift1).chunk(3, 1)
        attended = []
        for head in range(heads):
            part = slice(8 * head, 8 * head + 8)
            shares = (query[:, part] @ key[:, part].T / math.sqrt(8)).softmax(1)
            attended.append(shares @ value[:, part])
        hidden = hidden + gate1 * layer(w, f"{name}.proj", torch.cat(attended, 1))
        inner = gelu(layer(w, f"{name}.up", standardised(hidden) * (1 + scale2) + shift2))
        hidden = hidden + gate2 * layer(w, f"{name}.down", inner)
    shift, scale = layer(w, "modulation", condition).chunk(2)
    found = layer(w, "velocity", standardised(hidden) * (1 + scale) + shift)
    velocity = torch.zeros(3, 8, 8, dtype=torch.float64)
    for place, row in enumerate(found):
        top, left = 4 * (place // 2), 4 * (place % 2)
        for number, each in enumerate(row):
            velocity[number % 3, top + number // 12, left + number // 3 % 4] = each
    return velocity


def test_it_computes_the_formulas():
    model = tiny_dit().double()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=generator)
    times, labels = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64), torch.tensor([2, 3, 0])
    with torch.no_grad():
        found = model(images, times, labels).logits.view_as(images)
        for image, time, label, velocity in zip(images, times, labels, found, strict=True):
            torch.testing.assert_close(
                velocity, by_hand(model, image, float(time), int(label)), rtol=1e-10, atol=1e-10
            )
        alone = model(images).logits
        torch.testing.assert_close(
            alone, model(images, torch.full((3,), 0.5).double(), torch.full((3,), 3)).logits
        )


def test_patches_and_images_are_each_others_inverse():
    images = torch.arange(2 * 3 * 8 * 12.0).reshape(2, 3, 8, 12)
    assert torch.equal(images_of(patches_of(images, 4), images.shape, 4), images)


def test_a_new_one_says_nothing_and_hears_only_through_its_last_layer():
    model = FlowDiT(FlowDiTConfig(image_size=8, hidden_size=16, num_attention_heads=2, intermediate_size=32))
    assert not model(torch.randn(2, 1, 8, 8)).logits.any()
    model(torch.randn(2, 1, 8, 8)).logits.sum().backward()
    learns = {name for name, each in model.named_parameters() if each.grad is not None and each.grad.any()}
    assert learns == {"velocity.weight", "velocity.bias"}


def test_a_folder_opens_with_this_file_and_torch_alone(tmp_path):
    from safetensors.torch import load_file

    model = tiny_dit()
    model.save_pretrained(tmp_path)
    again = FlowDiT(FlowDiTConfig.from_pretrained(tmp_path))
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    image = torch.randn(1, 3, 8, 8)
    assert torch.equal(again.eval()(image).logits, model(image).logits)


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="image_size 30 must be a multiple of patch_size 4"):
        FlowDiTConfig(image_size=30)
