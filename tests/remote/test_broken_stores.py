"""Buckets whose servers die in the middle of a file, stall and come back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigbatch.errors import MachineError
from bigbatch.remote.fetch import fetched
from bigbatch.remote.keep import Patience, cache_root
from tests.remote import servers
from tests.remote.servers import Site

PATIENCE = Patience(silent_seconds=1.0, attempts=3, pause_seconds=0.01)
ROWS = b"text,label\n" + b"".join(b"row %07d,%d\n" % (number, number % 2) for number in range(200_000))
"""Some pieces of a transfer."""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with servers.bucket() as site:
        for name, value in {
            "XDG_CACHE_HOME": str(tmp_path / "cache"), "AWS_ENDPOINT_URL": site.url, "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "x", "AWS_EC2_METADATA_DISABLED": "true", "no_proxy": "*",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        site.files = {"/box/a.csv": ROWS}
        site.address = "s3://box/a.csv"
        yield site


def get(site: Site, said: list[str] | None = None) -> bytes:
    [(_, path)] = fetched(
        site.address, lambda name: True, (said if said is not None else []).append, PATIENCE
    )
    return path.read_bytes()


def firsts(site: Site) -> list[int]:
    """The first byte that each request of the file asked for."""
    ranges = [
        {name.lower(): value for name, value in headers.items()}.get("range", "") for _, headers in site.asked
    ]
    return [int(found[1]) for each in ranges if (found := re.match(r"bytes=(\d+)-", each))]


@pytest.mark.parametrize("trick", ["cut", pytest.param("silent", marks=pytest.mark.stress)])
def test_a_server_that_dies_in_the_middle_gives_the_file_in_the_end(store: Site, trick: str) -> None:
    store.tricks = ["", trick]
    assert get(store) == ROWS


def test_what_dies_again_and_again_is_no_file_and_goes_on_where_it_was(store: Site) -> None:
    store.tricks = ["", *["cut"] * 60]
    with pytest.raises(MachineError, match=r"box/a\.csv: "):
        get(store)
    assert not list(cache_root().glob("*/about.json")), "half a file is none"
    part = max((path.stat().st_size for path in cache_root().glob("*/part")), default=0)
    store.tricks, said = [], []
    store.asked.clear()
    assert get(store, said) == ROWS
    assert part >= 2**20, "the first piece was there"
    assert any(f"from byte {part:,} on" in line for line in said), said
    assert min(firsts(store)) >= part, "what is there is not asked for again"


def test_another_version_after_the_break_is_begun_anew(store: Site) -> None:
    store.tricks = ["", *["cut"] * 60]
    with pytest.raises(MachineError):
        get(store)
    store.tricks = []
    newer = ROWS[::-1] + b"x"
    store.files["/box/a.csv"] = newer
    assert get(store) == newer, "no mixture of two versions"
