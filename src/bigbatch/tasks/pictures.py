"""What a model takes for an image: from its configuration, and from the preprocessor file beside it, read as data.

The same words go into the folder of a trained model, so that transformers' image processors give the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from bigbatch.data.pixels import BILINEAR, ImageForm
from bigbatch.errors import ModelError
from bigbatch.model.anatomy import Anatomy
from bigbatch.model.folder import read_in
from bigbatch.model.vision import image_shape, queries_of, rounds_of

PROCESSOR = "preprocessor_config.json"


def form_of(parts: Anatomy, folder: str | None) -> ImageForm | None:
    """What the model takes; None: it reads text.

    Args:
        parts: of the model.
        folder: a local one that the model came from, perhaps with a preprocessor file; without, mean and deviation are
            0.5, as ViT's are.

    Raises:
        ModelError: the file says what no preprocessor does.
    """
    if parts.positions is None:
        return None
    channels, height, width = image_shape(parts.outer)
    found = {}
    if folder and (Path(folder) / PROCESSOR).is_file():
        found = read_in(Path(folder), PROCESSOR)
    where = f"{folder}/{PROCESSOR}"
    means, deviations = (
        _numbers(found.get(name, usual), channels, f"{where}: {name}")
        for name, usual in (("image_mean", 0.5), ("image_std", 0.5))
    )
    if found.get("do_normalize") is False:
        means, deviations = (0.0,), (1.0,)
    if min(deviations) <= 0:
        raise ModelError(f"{where}: image_std: found {min(deviations)}; expected numbers above 0")
    resample = found.get("resample", BILINEAR)
    if not isinstance(resample, int) or not 0 <= resample <= 5:
        raise ModelError(f"{where}: resample: found {resample!r:.40}; expected a number of Pillow's, 0 to 5")
    scale = found.get("rescale_factor", 1 / 255) if found.get("do_rescale", True) else 1.0
    return ImageForm(
        height=height,
        width=width,
        channels=channels,
        positions=parts.positions,
        queries=queries_of(parts.outer),
        rounds=rounds_of(parts.outer),
        shortest=None if queries_of(parts.outer) else _shortest(found, height, width, where),
        resample=resample,
        scale=_numbers(scale, 1, f"{where}: rescale_factor")[0],
        mean=means,
        deviation=deviations,
    )


def _numbers(said: object, channels: int, where: str) -> tuple[float, ...]:
    """One number, or one a channel; of more (a file for colours, a model of greys) their mean."""
    entries = said if isinstance(said, list) else [said]
    found = [float(each) for each in entries if isinstance(each, (int, float)) and abs(each) < 1e6]
    if not found or len(found) < len(entries):
        raise ModelError(f"{where}: found {said!r:.60}; expected a number, or one a channel")
    if len(found) in (1, channels):
        return tuple(found)
    if channels == 1:
        return (sum(found) / len(found),)
    raise ModelError(f"{where}: found {len(found)} numbers; expected one for each of {channels} channels")


def _shortest(found: Mapping[str, object], height: int, width: int, where: str) -> int | None:
    """The shorter side that images are brought to before their middle is taken, where the file says so."""
    size = found.get("size")
    edge = size.get("shortest_edge") if isinstance(size, Mapping) else None
    if edge is None or found.get("do_center_crop") is False:
        return None
    if not isinstance(edge, int) or not 0 < edge < 2**14:
        raise ModelError(f"{where}: size.shortest_edge: found {edge!r:.40}; expected a number of pixels")
    return max(edge, height, width)


def processor_config(form: ImageForm) -> str:
    """A preprocessor file that makes the same numbers."""
    size = {"height": form.height, "width": form.width}
    crop = {"do_center_crop": True, "size": {"shortest_edge": form.shortest}, "crop_size": size}
    plain = "ViTImageProcessor" if form.shortest is None else "DeiTImageProcessor"
    # They differ in how outputs become boxes: probabilities of each class alone, or with no object among them.
    boxes = "RTDetrImageProcessor" if form.rounds else "YolosImageProcessor"
    found = {
        "image_processor_type": boxes if form.queries else plain,
        **({"do_pad": False} if form.queries else {}),
        "do_resize": True,
        **({"size": size} if form.shortest is None else crop),
        "resample": form.resample,
        "do_rescale": True,
        "rescale_factor": form.scale,
        "do_normalize": True,
        "image_mean": list(form.mean) * (form.channels // len(form.mean)),
        "image_std": list(form.deviation) * (form.channels // len(form.deviation)),
    }
    return json.dumps(found, indent=2) + "\n"
