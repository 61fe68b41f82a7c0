"""TFRecord files: what TensorFlow writes is read, what is written it reads; damage is named."""

from __future__ import annotations

import base64
import gzip
import struct
import zlib

import pytest

from bigbatch.errors import DataError
from bigbatch.files.kinds import read_file
from bigbatch.files.tfrecords import checksums, example_bytes, example_of, read_tfrecord, write_tfrecord

FEATURES = {"text": [b"hi"], "label": [1, -2], "score": [0.5], "none": []}


def record(data: bytes) -> bytes:
    head = struct.pack("<Q", len(data))
    sums = checksums([head, data])
    return head + struct.pack("<I", sums[0]) + data + struct.pack("<I", sums[1])


def test_checksums_are_those_of_the_standard():
    """RFC 3720, B.4, rotated and offset as TFRecord has them; of texts of unlike lengths at once."""
    known = {
        b"\0" * 32: 0x8A9136AA,
        b"\xff" * 32: 0x62A8AB43,
        bytes(range(32)): 0x46DD794E,
        b"123456789": 0xE3069283,
    }
    masked = [((each >> 15 | each << 17) + 0xA282EAD8) & 0xFFFFFFFF for each in known.values()]
    assert checksums(list(known)) == masked
    assert checksums([b""]) == [0xA282EAD8]


def test_an_example_by_hand():
    """protobuf's own encoding, written out: a map entry each, integers packed, floats packed."""
    label = b"\x0a\x12\x0a\x05label\x12\x09\x1a\x07\x0a\x05" + b"\x01\xac\x02\x7f\x00"
    found = example_of(b"\x0a" + bytes([len(label)]) + label)
    assert found == {"label": [1, 300, 127, 0]}
    score = b"\x0a\x11\x0a\x05score\x12\x08\x12\x06\x0a\x04" + struct.pack("<f", 0.5)
    assert example_of(b"\x0a" + bytes([len(score)]) + score) == {"score": [0.5]}
    unpacked = b"\x0a\x0d\x0a\x01n\x12\x08\x1a\x06\x08\x01\x08\xac\x02\x08"[:-1]
    unpacked = b"\x0a\x0c\x0a\x01n\x12\x07\x1a\x05\x08\x01\x08\xac\x02"
    assert example_of(b"\x0a" + bytes([len(unpacked)]) + unpacked) == {"n": [1, 300]}
    assert example_of(example_bytes(FEATURES)) == FEATURES


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zlib.compress], ids=["plain", "gzip", "zlib"])
def test_rows(tmp_path, pack):
    rows = [
        {"text": [b"one"], "label": [1], "ids": [1, 2], "image": [b"\xff\xd8"]},
        {"text": ["zwei ä".encode()], "label": [], "ids": [3], "image": [b"\x89"]},
        {"text": [b"three"], "ids": []},
    ]
    path = tmp_path / "x.tfrecord-00000-of-00002"
    path.write_bytes(pack(b"".join(record(example_bytes(row)) for row in rows)))
    raw = read_file("x", path, "utf-8")
    assert raw.columns == ("ids", "image", "label", "text")
    assert dict(raw.load(raw.columns)) == {
        "text": ["one", "zwei ä", "three"],
        "label": [1, None, None],
        "ids": [[1, 2], [3], []],
        "image": [b"\xff\xd8", b"\x89", None],
    }
    assert raw.where(2) == "x:3" and raw.lacks("label") == [2]


def test_written_is_read(tmp_path):
    for name in ("a.tfrecord", "a.tfrecord.gz"):
        with (tmp_path / name).open("wb") as file:
            assert write_tfrecord(file, iter([example_bytes(FEATURES)] * 3), packed=name.endswith("gz")) == 3
        raw = read_file(name, tmp_path / name, "utf-8")
        assert raw.rows == 3 and raw.load(["label"])["label"] == [[1, -2]] * 3


GOOD = record(example_bytes(FEATURES))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (GOOD + GOOD[:5], r"x:2: the record at byte \d+ is cut off within its length"),
        (GOOD + GOOD[:-1], r"x:2: the record at byte \d+ says \d+ bytes, and"),
        (GOOD + GOOD[:20] + b"\0" + GOOD[21:], "x:2: the record's bytes differ from their checksum"),
        (b"\x01" + GOOD[1:], "x:1: .* a length that its checksum denies"),
        (
            struct.pack("<Q", 2**40) + struct.pack("<I", checksums([struct.pack("<Q", 2**40)])[0]),
            "says 1,099,",
        ),
        (b"text,label\none,a\n", "no TFRecord"),
        (record(b"\x12\x00"), "x:1: .*SequenceExample"),
        (record(b"\xff" * 12), "x:1: .*more than 64 bits"),
        (record(b"\x0a\x7f\x00"), "x:1: .*a field says 127 bytes, 1 are there"),
        (gzip.compress(GOOD)[:-9], "cut off"),
        (gzip.compress(b"\0" * 2**29), "unpacks to more than 256"),
    ],
    ids=range(11),
)
def test_damage_is_named(content, said):
    with pytest.raises(DataError, match=said):
        read_tfrecord("x", content)


WRITTEN_BY_TENSORFLOW = {
    "plain": "SQAAAAAAAAA2JQ6jCkcKDwoDaWRzEggaBgoEAQKsAgoOCgVsYWJlbBIFGgMKAQEKEQoFc2NvcmUSCBIGCgQAAAA/ChEKBHRleHQSCQoHCgVo"
    "ZWxsb2WfcuhNAAAAAAAAAD1j1KYKSwoJCgNpZHMSAhoAChcKBWxhYmVsEg4aDAoK+f//////////AQoRCgVzY29yZRIIEgYKBMrySfEKEgoEdGV4"
    "dBIKCggKBnfDtnJsZHqwLnY=",
    "gzip": "H4sIAAAAAAAAA/NkgAAzVb7FXO5c/FzMmSnFQhxSbFwsjExrmLj4uFhzEpNSc4RYpZi5GBm5BLlYi5Pzi1KFOISASoAa7YFCLCWpFSVCnFzs"
    "XKwZqTk5+anzi174Qg22Tb6yjMubixNiMJMUA5c4zEg+KR4urp//oQDd7FOfPD9yCUHN5uLi4GIrP7ytKCelaoNeGQBPNklptgAAAA==",
    "zlib": "eJzzZIAAM1W+xVzuXPxczJkpxUIcUmxcLIxMa5i4+LhYcxKTUnOEWKWYuRgZuQS5WIuT84tShTiEgEqAGu2BQiwlqRUlQpxc7FysGak5Ofmp"
    "84te+EINtk2+sozLm4sTYjCTFAOXOMxIPikeLq6f/6EA3exTnzw/cglBzebi4uBiKz+8rSgnpWqDXhkAktMsPA==",
}


@pytest.mark.parametrize("pack", WRITTEN_BY_TENSORFLOW)
def test_what_tensorflow_wrote(pack):
    """Two records by tf.io.TFRecordWriter of TensorFlow 2.21, with its three kinds of packing."""
    raw = read_tfrecord("x", base64.b64decode(WRITTEN_BY_TENSORFLOW[pack]))
    assert dict(raw.load(raw.columns)) == {
        "text": ["hello", "wörld"],
        "label": [1, -7],
        "score": [0.5, struct.unpack("<f", struct.pack("<f", -1e30))[0]],
        "ids": [[1, 2, 300], []],
    }
    if pack == "plain":
        rows = [
            {"text": [b"hello"], "label": [1], "score": [0.5], "ids": [1, 2, 300]},
            {"text": ["wörld".encode()], "label": [-7], "score": [-1e30], "ids": []},
        ]
        # A list without values is one of bytes to us, and has its own kind there.
        assert record(example_bytes(rows[0])) == base64.b64decode(WRITTEN_BY_TENSORFLOW[pack])[:89]
