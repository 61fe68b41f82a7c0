"""A diffusion transformer: patches of a noisy image in, the velocity of each of its pixels out.

Time and class set a shift, a scale and a gate of each block, which begin at 0: a new block does nothing (adaLN-Zero).
A folder of it is config.json and model.safetensors; this file and torch are enough to read them.

Reference:
    Peebles and Xie 2022, Scalable diffusion models with transformers. Differs in that it learns the velocity of a
    straight path (`tasks.diffuse`) and no variance.

Shapes: B images, C channels, H, W pixels, P patches, D hidden width, N numbers of a patch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

_WAVES = 256
"""Numbers that a time becomes first."""


class FlowDiTConfig(PreTrainedConfig):
    """What a `FlowDiT` is made of."""

    model_type = "flow_dit"

    def __init__(
        self,
        image_size: int = 28,
        patch_size: int = 4,
        num_channels: int = 1,
        hidden_size: int = 192,
        num_hidden_layers: int = 6,
        num_attention_heads: int = 6,
        intermediate_size: int = 768,
        initializer_range: float = 0.02,
        **others: Any,
    ) -> None:
        """Keep the sizes.

        Args:
            image_size: pixels of a side.
            patch_size: pixels of a patch's side.
            num_channels: 1 or 3.
            hidden_size: D.
            num_hidden_layers: blocks.
            num_attention_heads: of each.
            intermediate_size: width between the two layers of a block's second half.
            initializer_range: standard deviation of new weights.
            others: of every configuration; `num_labels` are the classes.
        """
        self.image_size, self.patch_size, self.num_channels = image_size, patch_size, num_channels
        self.hidden_size, self.intermediate_size = hidden_size, intermediate_size
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, num_attention_heads
        self.initializer_range = initializer_range
        super().__init__(**others)
        if image_size % patch_size or hidden_size % num_attention_heads:
            raise ValueError(
                f"image_size {image_size} must be a multiple of patch_size {patch_size}, and hidden_size "
                f"{hidden_size} of num_attention_heads {num_attention_heads}"
            )


class _Silent(nn.Linear):
    """A layer that gives 0 at first."""


class _Block(nn.Module):
    """Attention and two layers, each shifted, scaled and gated by time and class."""

    def __init__(self, config: FlowDiTConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.modulation = _Silent(width, 6 * width)
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.up = nn.Linear(width, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, width)

    def forward(self, hidden_BPD: Tensor, condition_BD: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition_BD)[:, None].chunk(6, dim=-1)
        hidden_BPD = hidden_BPD + gate1 * self._attend(self.norm1(hidden_BPD) * (1 + scale1) + shift1)
        inner = self.up(self.norm2(hidden_BPD) * (1 + scale2) + shift2)
        return hidden_BPD + gate2 * self.down(functional.gelu(inner, approximate="tanh"))

    def _attend(self, hidden_BPD: Tensor) -> Tensor:
        images, patches, width = hidden_BPD.shape
        split = self.qkv(hidden_BPD).view(images, patches, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        found = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(found.transpose(1, 2).reshape(images, patches, width))


class _Dits(PreTrainedModel):
    """What both classes have in common."""

    config_class = FlowDiTConfig
    base_model_prefix = "dit"
    main_input_name = "pixel_values"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Small normal weights, and 0 where a new block or the whole must do nothing."""
        if isinstance(module, _Silent):
            nn.init.zeros_(module.weight)
        elif isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


class FlowDiTModel(_Dits):
    """Everything below the layer that gives velocities."""

    def __init__(self, config: FlowDiTConfig) -> None:
        super().__init__(config)
        width, patch = config.hidden_size, config.patch_size
        self.patches = nn.Linear(patch * patch * config.num_channels, width)
        places = torch.randn((config.image_size // patch) ** 2, width)
        self.places = nn.Parameter(places * config.initializer_range)
        self.time = nn.Sequential(nn.Linear(_WAVES, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = nn.Embedding(_classes(config) + 1, width)
        self.blocks = nn.ModuleList([_Block(config) for _ in range(config.num_hidden_layers)])
        self.post_init()

    def forward(self, pixel_values: Tensor, times: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, P, D) states and (B, D) what time and class became.

        Args:
            pixel_values: (B, C, H, W).
            times: (B,) from 0 to 1.
            labels: (B,) int64 classes.
        """
        condition_BD = functional.silu(self.time(waves_of(times)) + self.classes(labels))
        hidden_BPD = self.patches(patches_of(pixel_values, self.config.patch_size)) + self.places
        for block in self.blocks:
            hidden_BPD = block(hidden_BPD, condition_BD)
        return hidden_BPD, condition_BD


class FlowDiT(_Dits):
    """A diffusion transformer: `logits` are velocities, (B, C H W)."""

    def __init__(self, config: FlowDiTConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.dit = FlowDiTModel(config)
        self.modulation = _Silent(width, 2 * width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.velocity = _Silent(width, config.patch_size**2 * config.num_channels)
        self.post_init()

    def forward(
        self, pixel_values: Tensor, times: Tensor | None = None, labels: Tensor | None = None, **_: object
    ) -> ImageClassifierOutput:
        """The velocity at a place and a time.

        Args:
            pixel_values: (B, C, H, W), from noise (time 0) to images (time 1).
            times: (B,) from 0 to 1; None: 0.5.
            labels: (B,) int64 classes, `num_labels` for none of them; None: none.
        """
        images = len(pixel_values)
        if times is None:
            times = pixel_values.new_full((images,), 0.5)
        if labels is None:
            labels = torch.full((images,), _classes(self.config), device=pixel_values.device)
        hidden_BPD, condition_BD = self.dit(pixel_values, times, labels)
        shift, scale = self.modulation(condition_BD)[:, None].chunk(2, dim=-1)
        velocities_BPN = self.velocity(self.norm(hidden_BPD) * (1 + scale) + shift)
        velocities = images_of(velocities_BPN, pixel_values.shape, self.config.patch_size)
        return ImageClassifierOutput(logits=velocities.flatten(1))  # pyright: ignore[reportArgumentType]


def _classes(config: PreTrainedConfig) -> int:
    return config.num_labels or 0


def waves_of(times_B: Tensor) -> Tensor:
    """(B, 256): cosines and sines of 1000 t, of wave lengths from 2 pi to 20000 pi."""
    half = _WAVES // 2
    rates = torch.exp(
        -math.log(10000.0) * torch.arange(half, device=times_B.device, dtype=times_B.dtype) / half
    )
    angles = 1000.0 * times_B[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def patches_of(pixels_BCHW: Tensor, patch: int) -> Tensor:
    """(B, P, N): row by row; of a patch row by row, its channels side by side."""
    images, channels, height, width = pixels_BCHW.shape
    cut = pixels_BCHW.reshape(images, channels, height // patch, patch, width // patch, patch)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(images, -1, patch * patch * channels)


def images_of(patches_BPN: Tensor, shape: torch.Size, patch: int) -> Tensor:
    """(B, C, H, W), of which these are the patches.

    Args:
        patches_BPN: as `patches_of` gives them.
        shape: of the images.
        patch: pixels of a patch's side.
    """
    images, channels, height, width = shape
    cut = patches_BPN.reshape(images, height // patch, width // patch, patch, patch, channels)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(shape)


def known_to_transformers() -> None:
    """Let transformers open folders of it."""
    AutoConfig.register(FlowDiTConfig.model_type, FlowDiTConfig, exist_ok=True)
    AutoModel.register(FlowDiTConfig, FlowDiT, exist_ok=True)
