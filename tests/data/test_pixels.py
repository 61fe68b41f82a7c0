"""Bytes to pixels: upright, in the model's colours and size; what is damaged or too large is refused in words."""

from __future__ import annotations

import builtins
import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bigbatch.data.pixels import ImageForm, decoded
from bigbatch.errors import DataError
from bigbatch.files.images import encoded

COLOURS = ImageForm(height=4, width=6, channels=3, positions=1)
GREY = ImageForm(height=4, width=6, channels=1, positions=1)
RANDOM = np.random.default_rng(0)


def content(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF", "GIF"])
def test_pixels_that_fit_stay_as_they_are(kind):
    pixels = RANDOM.integers(0, 256, (4, 6, 3)).astype(np.uint8)
    if kind == "GIF":
        pixels[...] = 7
    assert np.array_equal(decoded(content(Image.fromarray(pixels), kind), COLOURS), pixels)


def test_resized_as_pillow_does():
    pixels = RANDOM.integers(0, 256, (9, 7, 3)).astype(np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((6, 4), Image.Resampling.BILINEAR))
    assert np.array_equal(decoded(encoded(pixels), COLOURS), expected)


def test_the_middle_after_the_shorter_side():
    pixels = RANDOM.integers(0, 256, (20, 16, 3)).astype(np.uint8)
    form = ImageForm(height=6, width=6, channels=3, positions=1, shortest=8)
    resized = np.asarray(Image.fromarray(pixels).resize((8, 10), Image.Resampling.BILINEAR))
    assert np.array_equal(decoded(encoded(pixels), form), resized[2:8, 1:7])


def test_upright_as_the_camera_says():
    pixels = RANDOM.integers(0, 256, (6, 4, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    turned = decoded(content(Image.fromarray(pixels), exif=exif), COLOURS)
    assert np.array_equal(turned, np.rot90(pixels, -1))


def test_colours():
    grey = RANDOM.integers(0, 256, (4, 6)).astype(np.uint8)
    assert np.array_equal(decoded(content(Image.fromarray(grey)), COLOURS), np.repeat(grey[..., None], 3, 2))
    assert np.array_equal(decoded(content(Image.fromarray(grey)), GREY)[..., 0], grey)
    deep = (grey.astype(np.uint16) << 8) + 200
    assert np.array_equal(decoded(content(Image.fromarray(deep)), GREY)[..., 0], grey), "16 bits, not clipped"
    palette = Image.fromarray(grey).convert("P")
    assert np.array_equal(decoded(content(palette), GREY)[..., 0], grey)
    seen = Image.fromarray(grey).convert("RGBA")
    assert decoded(content(seen), COLOURS).shape == (4, 6, 3)


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it is huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [9_460, 15_000, 60_000])
def test_bombs(side):
    with pytest.raises(ValueError, match=r"pixels|decompression bomb"):
        decoded(bomb(side, side), COLOURS)


WHOLE = content(Image.fromarray(RANDOM.integers(0, 256, (40, 40, 3)).astype(np.uint8)))
JPEG = content(Image.fromarray(RANDOM.integers(0, 256, (40, 40, 3)).astype(np.uint8)), "JPEG")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (b"", "empty"),
        (b"hello, I am text", "no image"),
        (WHOLE[:60], "damaged"),
        (WHOLE[: len(WHOLE) // 2], "damaged"),
        (JPEG[: len(JPEG) // 2], "damaged"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image"),
        (b"P6 4 4 255\n123", "damaged"),
    ],
    ids=["empty", "text", "head", "half", "half a JPEG", "a program", "short"],
)
def test_what_cannot_be_decoded(broken, said):
    with pytest.raises(ValueError, match=said):
        decoded(broken, COLOURS)


def test_without_pillow(monkeypatch):
    whole = builtins.__import__

    def missing(name, *rest, **more):
        if name.partition(".")[0] == "PIL":
            raise ImportError(name)
        return whole(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(DataError, match=r"pip install 'bigbatch\[image\]'"):
        decoded(WHOLE, COLOURS)


def test_numbers_are_rounded_once():
    form = ImageForm(
        height=1,
        width=1,
        channels=3,
        positions=1,
        mean=(0.485, 0.456, 0.406),
        deviation=(0.229, 0.224, 0.225),
    )
    exact = (np.arange(256) / 255 - 0.456) / 0.224
    assert np.array_equal(form.numbers()[1], exact.astype(np.float32))
    assert form.numbers().shape == (3, 256)


def test_pixels_of_32_bits_are_refused_since_nobody_says_what_white_is():
    wide = Image.fromarray(np.arange(24, dtype=np.int32).reshape(4, 6))
    with pytest.raises(ValueError, match="pixels of 32 bits; expected 8 or 16 bits each"):
        decoded(content(wide, "TIFF"), GREY)
    grey = b"P5 2 1 65535\n" + bytes([200, 0, 7, 0])
    assert decoded(grey, replace(GREY, height=1, width=2))[..., 0].tolist() == [[200, 7]]
