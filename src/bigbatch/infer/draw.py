"""Images drawn by a model of velocities: from noise at time 0 to images at time 1.

    x <- x + (v(x, t) + v(x + h v(x, t), t + h)) h / 2        Heun's method, h = 1 / steps
    v = v_none + g (v_class - v_none)                         guidance g (Ho and Salimans 2022)

An image follows from (seed, its number, its class) alone: neither what else is drawn nor how many at a time change it,
beyond rounding.

Shapes: B images, C, H, W of one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bigbatch.data.noise import normals
from bigbatch.data.order import sample_states
from bigbatch.data.pixels import ImageForm, pillow
from bigbatch.errors import UsageError
from bigbatch.files.problems import nearest
from bigbatch.infer.load import Loaded
from bigbatch.model.anatomy import device_of, evaluating, logits_of
from bigbatch.model.vision import image_shape
from bigbatch.tasks.diffuse import Diffuse

DRAWING = 0xD2A3
"""Stream of random numbers."""
AT_A_TIME = 64


def drawn_images(
    module: nn.Module, task: Diffuse, classes_B: np.ndarray, numbers_B: np.ndarray, seed: int
) -> np.ndarray:
    """(B, H, W, C) uint8.

    Args:
        module: gives velocities; its mode comes back afterwards.
        task: says how many steps, and how far to the class.
        classes_B: (B,) of each image.
        numbers_B: (B,) by which noise differs.
        seed: of all of them.
    """
    form, found = task.facts.image, []
    assert form is not None, "the model has not been looked at"
    with evaluating(module):
        for begin in range(0, len(classes_B), AT_A_TIME):
            part = slice(begin, begin + AT_A_TIME)
            found.append(_drawn(module, task, classes_B[part], numbers_B[part], seed))
    return np.concatenate([as_pixels(each, form) for each in found])


def _drawn(
    module: nn.Module, task: Diffuse, classes_B: np.ndarray, numbers_B: np.ndarray, seed: int
) -> np.ndarray:
    shape = (len(classes_B), *image_shape(module))
    states_B = sample_states(
        seed, DRAWING, np.zeros(len(numbers_B), np.int64), np.asarray(numbers_B, np.int64)
    )
    noise = normals(states_B, int(np.prod(shape[1:]))).reshape(shape)
    kind = next(each.dtype for each in module.parameters() if each.is_floating_point())
    device = device_of(module)
    images = torch.from_numpy(noise).to(device, kind)
    labels_B = torch.from_numpy(np.asarray(classes_B, np.int64)).to(device)
    return heun(_velocity(module, labels_B, task), images, task.steps).double().cpu().numpy()


def _velocity(module: nn.Module, labels_B: Tensor, task: Diffuse) -> Callable[[Tensor, float], Tensor]:
    none_B = torch.full_like(labels_B, len(task.label_names))

    def of(images: Tensor, time: float) -> Tensor:
        times_B = images.new_full((len(images),), time)

        def asked(labels: Tensor) -> Tensor:
            return logits_of(module(pixel_values=images, times=times_B, labels=labels)).view_as(images)

        of_class = asked(labels_B)
        if task.guidance == 1:
            return of_class
        of_none = asked(none_B)
        return of_none + task.guidance * (of_class - of_none)

    return of


def heun(velocity: Callable[[Tensor, float], Tensor], images: Tensor, steps: int) -> Tensor:
    """Where a velocity moves images from time 0 to time 1.

    Args:
        velocity: of images at a time.
        images: at time 0.
        steps: of equal length; of the last one only the beginning counts, since at time 1 nothing is left to move.
    """
    length = 1.0 / steps
    for step in range(steps):
        time = step * length
        first = velocity(images, time)
        ahead = images + length * first
        images = (
            ahead if step == steps - 1 else images + length / 2 * (first + velocity(ahead, time + length))
        )
    return images


def as_pixels(images: np.ndarray, form: ImageForm) -> np.ndarray:
    """(B, H, W, C) uint8 of the model's numbers.

    Args:
        images: (B, C, H, W).
        form: what the model takes.
    """
    mean_C, deviation_C = (
        np.broadcast_to(np.asarray(each, np.float64), form.channels)[:, None, None]
        for each in (form.mean, form.deviation)
    )
    values = (images * deviation_C + mean_C) / form.scale
    return np.rint(values).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def grid_of(module: nn.Module, task: Diffuse, each: int, seed: int, most_classes: int = 20) -> np.ndarray:
    """(height, width, C) uint8: a row a class.

    Args:
        module: gives velocities.
        task: of it.
        each: images of a class.
        seed: of all.
        most_classes: rows at most.
    """
    classes = min(len(task.label_names), most_classes)
    classes_B = np.repeat(np.arange(classes), each)
    pixels = drawn_images(module, task, classes_B, np.arange(len(classes_B)), seed)
    _, height, width, channels = pixels.shape
    tiles = pixels.reshape(classes, each, height, width, channels)
    return tiles.swapaxes(1, 2).reshape(classes * height, each * width, channels)


def draw_labels(opened: Loaded, labels: Sequence[str], seed: int) -> np.ndarray:
    """(B, H, W, C) uint8: an image of each label, in order.

    Args:
        opened: a model that draws.
        labels: names of classes.
        seed: of all images; one is told from the next of the same class by its place.

    Raises:
        UsageError: a class that the model does not know.
    """
    task = opened.task
    assert isinstance(task, Diffuse)
    known = {name: number for number, name in enumerate(task.label_names)}
    for place, label in enumerate(labels, start=1):
        if label not in known:
            hint = nearest(label, list(known)) or "."
            raise UsageError(
                f"image {place}: this model draws no {label!r}{hint} It knows: {', '.join(known)}"
            )
    classes_B = np.array([known[label] for label in labels], np.int64)
    return drawn_images(opened.module, task, classes_B, np.arange(len(labels)), seed)


def write_images(pixels: np.ndarray, labels: Sequence[str], folder: Path) -> list[Path]:
    """Each image as a PNG file of its own in a new folder; the files.

    Args:
        pixels: (B, H, W, C) uint8.
        labels: of each.
        folder: that must not be there, or be empty.

    Raises:
        UsageError: there are files in it.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists; give the name of a new folder, since nothing is overwritten")
    folder.mkdir(parents=True, exist_ok=True)
    digits, paths = len(str(len(labels))), []
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True), start=1):
        safe = "".join(sign if sign.isalnum() else "-" for sign in label)[:60]
        path = folder / f"{number:0{digits}d}-{safe}.png"
        pillow().fromarray(image[..., 0] if image.shape[2] == 1 else image).save(path, "PNG")
        paths.append(path)
    return paths
