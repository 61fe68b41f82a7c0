"""Models that look at images: what size these have, how many positions they become, and what cannot be split."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bigbatch.errors import ModelError


def reads_images(outer: nn.Module) -> bool:
    """Whether a model is given pixels instead of token ids."""
    return getattr(outer, "main_input_name", None) == "pixel_values"


def image_shape(outer: nn.Module) -> tuple[int, int, int]:
    """(channels, height, width) of the images that a model was built for.

    Raises:
        ModelError: its configuration does not say.
    """
    config, family = outer.config, outer.config.model_type  # pyright: ignore[reportAttributeAccessIssue]
    size = getattr(config, "image_size", None)
    sides = [size, size] if isinstance(size, int) else list(size) if isinstance(size, (list, tuple)) else []
    if len(sides) != 2 or not all(isinstance(side, int) and 0 < side < 2**14 for side in sides):
        raise ModelError(
            f"{family}: model.config.image_size: found {size!r:.40}; expected the size of its images"
        )
    channels = getattr(config, "num_channels", 3)
    if channels not in (1, 3):
        raise ModelError(
            f"{family}: model.config.num_channels: found {channels!r:.40}; expected 1 (grey) or 3 (colours)"
        )
    return channels, sides[0], sides[1]


def queries_of(outer: nn.Module) -> int:
    """How many boxes a model gives of an image; 0 where it gives none."""
    config = outer.config
    found = getattr(config, "num_detection_tokens", None) or getattr(config, "num_queries", None)
    return int(found or 0) if type(outer).__name__.endswith("ForObjectDetection") else 0


def check_images(outer: nn.Module) -> None:
    """Refuse what would make a result depend on how a batch is cut.

    Raises:
        ModelError: batch normalisation.
    """
    found = [
        name
        for name, part in outer.named_modules()
        if "BatchNorm" in type(part).__name__ and list(part.buffers())
    ]
    if found:
        raise ModelError(
            f"{type(outer).__name__} normalises over the batch ({found[0]} is a "
            f"{type(outer.get_submodule(found[0])).__name__}): its result would follow from how a batch is cut into "
            "micro-batches; expected a model that treats each image by itself, such as ViT, DeiT or DINOv2"
        )


def black_image(outer: nn.Module) -> dict[str, Tensor]:
    """What a trial feeds the model."""
    weight = next(each for each in outer.parameters() if each.is_floating_point())
    return {"pixel_values": torch.zeros(1, *image_shape(outer), dtype=weight.dtype, device=weight.device)}


def positions_at(block: nn.Module, run: Callable[[], object]) -> int:
    """How many positions reach a block.

    Args:
        block: the first.
        run: the model with an image.

    Raises:
        ModelError: its blocks do not run over positions one behind the other.
    """
    seen: list[tuple[int, ...]] = []

    def look(_block: nn.Module, args: tuple[object, ...], options: dict[str, object]) -> None:
        seen.extend(tuple(each.shape) for each in (*args, *options.values()) if isinstance(each, Tensor))

    handle = block.register_forward_pre_hook(look, with_kwargs=True)
    try:
        run()
    finally:
        handle.remove()
    if not seen or len(seen[0]) != 3:
        raise ModelError(
            "the model does not cut an image into patches that its blocks read as a sequence; expected one such as "
            "ViT, DeiT, BEiT or DINOv2"
        )
    return seen[0][1]
