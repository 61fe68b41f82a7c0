"""Models that look at images: what size these have, how many positions they become, and what cannot be split.

Batch normalisation makes a result follow from how a batch is cut. Detectors of the DETR family keep its statistics as
they are in their backbones; `hold_statistics` does so wherever a model still counts them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from typing_extensions import override

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
    size = getattr(config, "image_size", None) or getattr(config, "eval_size", None)
    sides = [size, size] if isinstance(size, int) else list(size) if isinstance(size, (list, tuple)) else []
    if len(sides) != 2 or not all(isinstance(side, int) and 0 < side < 2**14 for side in sides):
        raise ModelError(
            f"{family}: model.config.image_size: found {size!r:.40}; expected the size that images are brought to, "
            "such as [480, 640] (height, width)"
        )
    channels = getattr(config, "num_channels", 3)
    if channels not in (1, 3):
        raise ModelError(
            f"{family}: model.config.num_channels: found {channels!r:.40}; expected 1 (grey) or 3 (colours)"
        )
    return channels, sides[0], sides[1]


def queries_of(outer: nn.Module) -> int:
    """How many boxes a model gives of an image; 0 where it gives none."""
    config = getattr(outer, "config", None)
    found = getattr(config, "num_detection_tokens", None) or getattr(config, "num_queries", None)
    return int(found or 0) if type(outer).__name__.endswith("ForObjectDetection") else 0


def rounds_of(outer: nn.Module) -> int:
    """How many sets of boxes a detector without an output for "no object" is taught (RT-DETR: its last layer's, those
    of the layers before it, those that its encoder proposes); 0: it has one.

    Raises:
        ModelError: it is made for a loss that is not known here.
    """
    config = outer.config
    if not queries_of(outer):
        return 0
    if hasattr(config, "focal_alpha") or hasattr(config, "weight_loss_fgl"):
        raise ModelError(
            f"{type(outer).__name__} is made for a loss that task: detect does not have; expected "
            "YOLOS, DETR or RT-DETR"
        )
    if not hasattr(config, "weight_loss_vfl"):
        return 0
    return int(config.decoder_layers) + 1 if getattr(config, "auxiliary_loss", False) else 1  # pyright: ignore


class _Held(nn.modules.batchnorm._BatchNorm):
    """Of a BatchNorm whose statistics nothing changes. It multiplies and adds: torch's own backward in evaluation mode
    (2.13, on the CPU) gives a wrong gradient of a single image where what comes back is a transposed view, as behind a
    flatten.
    """

    @override
    def train(self, mode: bool = True) -> Self:
        """Stay as in evaluation."""
        del mode
        return super().train(False)

    @override
    def forward(self, input: Tensor) -> Tensor:
        """(B, C, …) normalised."""
        assert self.running_mean is not None and self.running_var is not None
        scale_C = (self.running_var + self.eps).rsqrt()
        scale_C = scale_C if self.weight is None else scale_C * self.weight
        shift_C = -self.running_mean * scale_C
        shift_C = shift_C if self.bias is None else shift_C + self.bias
        wide = (-1, *[1] * (input.ndim - 2))
        return input * scale_C.view(wide) + shift_C.view(wide)


class HeldBatchNorm1d(_Held, nn.BatchNorm1d):
    """Normalises by the statistics that it came with; scale and shift are learnt."""


class HeldBatchNorm2d(_Held, nn.BatchNorm2d):
    """Normalises by the statistics that it came with; scale and shift are learnt."""


class HeldBatchNorm3d(_Held, nn.BatchNorm3d):
    """Normalises by the statistics that it came with; scale and shift are learnt."""


_HELD = {
    nn.BatchNorm1d: HeldBatchNorm1d,
    nn.BatchNorm2d: HeldBatchNorm2d,
    nn.BatchNorm3d: HeldBatchNorm3d,
}


def hold_statistics(outer: nn.Module) -> nn.Module:
    """The same detector, whose BatchNorms keep their statistics as they are."""
    for part in outer.modules() if queries_of(outer) else ():
        kind = _HELD.get(type(part)) if getattr(part, "running_mean", None) is not None else None
        if kind is not None:
            part.__class__ = kind
            part.train(False)
    return outer


def held_statistics(outer: nn.Module) -> str:
    """A note about them; empty where there are none."""
    held = sum(isinstance(part, _Held) for part in outer.modules())
    if not held:
        return ""
    return (
        f"{held} BatchNorms keep the statistics they came with, and learn scale and shift: otherwise the result would "
        "follow from how a batch is cut"
    )


def check_images(outer: nn.Module) -> None:
    """Refuse what would make a result depend on how a batch is cut.

    Raises:
        ModelError: batch normalisation.
    """
    found = [name for name, part in outer.named_modules() if _counts(part)]
    if found:
        raise ModelError(
            f"{type(outer).__name__} normalises over the batch ({found[0]} is a "
            f"{type(outer.get_submodule(found[0])).__name__}): its result would follow from how a batch is cut into "
            "micro-batches; expected a model that treats each image by itself, such as ViT, DeiT or DINOv2"
        )


def _counts(part: nn.Module) -> bool:
    name = type(part).__name__
    return (
        "BatchNorm" in name
        and "Frozen" not in name
        and not isinstance(part, _Held)
        and bool(list(part.buffers()))
    )


def black_image(outer: nn.Module) -> dict[str, Tensor]:
    """What a trial feeds the model."""
    weight = next(each for each in outer.parameters() if each.is_floating_point())
    return {"pixel_values": torch.zeros(1, *image_shape(outer), dtype=weight.dtype, device=weight.device)}


def positions_at(blocks: Sequence[nn.Module], run: Callable[[], object]) -> dict[nn.Module, int]:
    """How many positions reach each block that reads a sequence; convolutions of a backbone do not.

    Args:
        blocks: any.
        run: the model with an image.

    Raises:
        ModelError: none of them runs over positions one behind the other.
    """
    seen: dict[nn.Module, tuple[int, ...]] = {}

    def look(block: nn.Module, args: tuple[object, ...], options: dict[str, object]) -> None:
        shapes = [tuple(each.shape) for each in (*args, *options.values()) if isinstance(each, Tensor)]
        seen.setdefault(block, next(iter(shapes), ()))

    handles = [block.register_forward_pre_hook(look, with_kwargs=True) for block in dict.fromkeys(blocks)]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    found = {block: shape[1] for block, shape in seen.items() if len(shape) == 3}
    if not found:
        raise ModelError(
            "the model does not cut an image into patches that its blocks read as a sequence; expected one such as "
            "ViT, DeiT, BEiT or DINOv2"
        )
    return found
