"""From the bytes of an image to the pixels that a model is shown. Pillow decodes; it is only needed here.

Formats are named one by one: one that runs a program to decode (EPS, say) is never tried. A file that claims more than
`MOST_PIXELS` is refused before anything is unpacked.
"""

from __future__ import annotations

import base64
import io
import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from bigbatch.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
_WIDENED = ("PNG", "PPM")
"""Of these Pillow gives 16 bits a pixel as whole numbers of 32 (PNG: until Pillow 11)."""
MOST_PIXELS = 89_478_485
"""Pillow's own limit: as many as fit in 256 MiB, three bytes each."""
BILINEAR = 2
MISSING = "reading images needs Pillow, which is not installed: pip install 'bigbatch[image]' (or: pip install pillow)"


@dataclass(frozen=True, kw_only=True)
class ImageForm:
    """What a model takes for an image: size, and how pixels become numbers."""

    height: int
    width: int
    channels: int
    """1 (grey) or 3 (red, green, blue)."""
    positions: int
    """Through the blocks: its patches and what the model adds, such as `[CLS]`."""
    queries: int = 0
    """Boxes that it gives of an image; 0: it gives none."""
    rounds: int = 0
    """Sets of them that a detector without an output for "no object" is taught (RT-DETR); 0: it has one."""
    shortest: int | None = None
    """Brought to this length of the shorter side, of which the middle is taken; None: brought to height and width,
    whatever its own."""
    resample: int = BILINEAR
    """Pillow's number of how it is resized."""
    scale: float = 1 / 255
    """What pixels (0 … 255) are multiplied by, before mean and deviation."""
    mean: tuple[float, ...] = (0.5,)
    """Of each channel, or of all."""
    deviation: tuple[float, ...] = (0.5,)

    def numbers(self) -> np.ndarray:
        """(C, 256) float32: what each value of a pixel becomes, rounded once."""
        mean_C, deviation_C = (
            np.broadcast_to(np.asarray(each, np.float64), self.channels)
            for each in (self.mean, self.deviation)
        )
        values = np.arange(256, dtype=np.float64) * self.scale
        return ((values - mean_C[:, None]) / deviation_C[:, None]).astype(np.float32)


def pillow() -> ModuleType:
    """Pillow's `Image`.

    Raises:
        DataError: it is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise DataError(MISSING) from None
    return Image


def decoded(content: bytes, form: ImageForm) -> np.ndarray:
    """(H, W, C) uint8: the image upright, in the model's colours and size; arguments and errors of `measured`."""
    return measured(content, form)[0]


def measured(content: bytes, form: ImageForm) -> tuple[np.ndarray, tuple[int, int]]:
    """The image upright, in the model's colours and size (H, W, C) uint8; and how wide and high it was before that.

    Args:
        content: a file of one of `FORMATS`; of several pictures the first.
        form: what the model takes.

    Raises:
        ValueError: no image, a damaged one, or one that is too large.
    """
    image = pillow()
    from PIL import ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata; pixels are what counts
        try:
            with image.open(io.BytesIO(content), formats=FORMATS) as found:
                _check_size(*found.size)
                found.load()
                picture = _coloured(ImageOps.exif_transpose(found), form.channels, found.format)
        except (OSError, SyntaxError, EOFError, IndexError, TypeError, OverflowError, MemoryError) as error:
            raise ValueError(_why(content, error)) from None
        except image.DecompressionBombError as error:
            raise ValueError(str(error)) from None
    pixels = np.asarray(_sized(picture, form), np.uint8)
    return pixels.reshape(form.height, form.width, form.channels), picture.size


def normalised(pixels: np.ndarray, numbers_CV: np.ndarray) -> np.ndarray:
    """(B, C, H, W) float32 of pixels.

    Args:
        pixels: (B, H, W, C) uint8.
        numbers_CV: (C, 256) what each value becomes (`ImageForm.numbers`).
    """
    return np.stack([numbers_CV[channel][pixels[..., channel]] for channel in range(len(numbers_CV))], 1)


def thumbnail(pixels: np.ndarray, most: int = 128) -> str:
    """A small picture for a page: PNG in base64.

    Args:
        pixels: (H, W, C) uint8.
        most: pixels of its longer side.
    """
    picture = pillow().fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    picture.thumbnail((most, most))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def _why(content: bytes, error: BaseException) -> str:
    if not content:
        return "the file is empty; expected an image"
    kinds = ", ".join(FORMATS)
    if type(error).__name__ == "UnidentifiedImageError":
        return f"no image ({len(content):,} bytes that start with {content[:8]!r}); expected one of {kinds}"
    return f"a damaged image ({error}); put a complete one in its place, or remove the row"


def _check_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"an image of {width:,} x {height:,} pixels; at most {MOST_PIXELS:,} are decoded. Scale it down first"
        )
    if not width or not height:
        raise ValueError(f"an image of {width} x {height} pixels")


def _coloured(picture: Picture, channels: int, kind: str | None) -> Picture:
    """Grey or red, green and blue, 8 bits each.

    Args:
        picture: in any of Pillow's modes.
        channels: 1 or 3.
        kind: of its file.
    """
    if picture.mode == "I" and kind not in _WIDENED:
        raise ValueError("pixels of 32 bits; expected 8 or 16 bits each")
    if picture.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip at 255
        wide = np.asarray(picture).astype(np.int64)
        if wide.size and (wide.min() < 0 or wide.max() > 65535):
            raise ValueError(f"pixels from {wide.min()} to {wide.max()}; expected 8 or 16 bits each")
        picture = pillow().fromarray((wide >> 8).astype(np.uint8))
    elif picture.mode == "F":
        raise ValueError("pixels are floating-point numbers; expected 8 or 16 bits each")
    elif picture.mode in ("P", "PA") and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture.convert("L" if channels == 1 else "RGB")


def _sized(picture: Picture, form: ImageForm) -> Picture:
    """Resized, and where the form says so its middle."""
    width, height = picture.size
    wanted = (form.width, form.height)
    if form.shortest is not None:
        if width <= height:
            size = form.shortest, int(form.shortest * height / width)
        else:
            size = int(form.shortest * width / height), form.shortest
        picture = picture if size == picture.size else picture.resize(size, form.resample)
        left, top = (size[0] - form.width) // 2, (size[1] - form.height) // 2
        return picture.crop((left, top, left + form.width, top + form.height))
    return picture if picture.size == wanted else picture.resize(wanted, form.resample)
