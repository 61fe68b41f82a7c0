"""Files over HTTP: what comes is whole and current, or refused; servers that lie, stall, break off and change."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from bigbatch.errors import DataError, DiskError, MachineError
from bigbatch.remote.addresses import address_of
from bigbatch.remote.fetch import fetched, provenance
from bigbatch.remote.keep import Patience, cache_root
from tests.remote import servers

ROWS = b"text,label\n" + b"".join(b"row %d,%d\n" % (number, number % 2) for number in range(3000))
HURRIED = Patience(silent_seconds=0.3, slow_seconds=0.2, fewest_bytes=1000, attempts=3, pause_seconds=0.01)
SECRET = "s3cr3t"
FILE = "file:" + "//"


@pytest.fixture(scope="module")
def server():
    with servers.web() as site:
        yield site


@pytest.fixture
def site(server, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    server.files = {"/a.csv": ROWS}
    server.tricks, server.redirects = [], {}
    server.asked.clear()
    return server


def get(url: str, said: list[str] | None = None) -> Path:
    [(_, path)] = fetched(url, lambda name: True, (said if said is not None else []).append, HURRIED)
    return path


def test_a_file_is_fetched_once_and_asked_for_by_its_version(site):
    said: list[str] = []
    path = get(f"{site.url}/a.csv", said)
    assert path.read_bytes() == ROWS and path.suffix == ".csv" and "fetching" in said[0]
    assert get(f"{site.url}/a.csv") == path
    assert site.asked[1][1]["If-None-Match"] == site.tag("/a.csv")
    site.files["/a.csv"] = ROWS + b"more,1\n"
    newer = get(f"{site.url}/a.csv")
    assert newer.read_bytes() == ROWS + b"more,1\n" and path.read_bytes() == ROWS, (
        "whoever still reads the old one can"
    )
    assert provenance(f"{site.url}/a.csv")["tag"] == site.tag("/a.csv")


@pytest.mark.parametrize("trick", ["cut", "silent", "chunked"])
def test_what_breaks_off_goes_on_where_it_was(site, trick):
    site.tricks = [trick]
    said: list[str] = []
    assert get(f"{site.url}/a.csv", said).read_bytes() == ROWS
    half = len(ROWS) // 2
    assert site.asked[1][1]["Range"] == f"bytes={half}-" and any(
        f"from byte {half:,}" in line for line in said
    )


def test_what_breaks_off_again_and_again_is_kept_for_the_next_start_and_never_read(site):
    site.tricks = ["cut"] * 3
    with pytest.raises(MachineError, match=r"(?s)a\.csv: the connection ended early; .* are kept"):
        get(f"{site.url}/a.csv")
    assert not list(cache_root().glob("*/about.json"))
    before = len(site.asked)
    assert get(f"{site.url}/a.csv").read_bytes() == ROWS
    assert int(re.findall(r"\d+", site.asked[before][1]["Range"])[0]) > len(ROWS) // 2


@pytest.mark.parametrize("last", ["other", ""])
def test_a_file_that_changes_meanwhile_is_begun_anew(site, last):
    site.tricks = ["cut", last]
    site_tag = site.tag("/a.csv")
    if not last:
        site.tricks = ["cut", "untagged"]  # no versions any more
    found = get(f"{site.url}/a.csv").read_bytes()
    assert found == site.files["/a.csv"] and (site.tag("/a.csv") != site_tag) == bool(last)


def test_a_slow_server_is_given_up_and_told(site):
    site.tricks = ["drip"] * 3
    with pytest.raises(MachineError, match=r"only \d+ bytes came in|the connection ended early"):
        get(f"{site.url}/a.csv")


REFUSED = {
    "more": "sends more",
    "html": "a web page, not a file",
    "deny": "refuses it (403)",
    "gone": "the file is gone (410)",
}


@pytest.mark.parametrize(("trick", "what"), REFUSED.items())
def test_answers_that_are_no_file_are_refused(site, trick, what):
    site.tricks = [trick]
    with pytest.raises(DataError, match=re.escape(what)):
        get(f"{site.url}/a.csv")
    assert not list(cache_root().glob("*/about.json"))


def test_no_such_file_and_no_such_server(site):
    with pytest.raises(DataError, match=r"b\.csv: no such file on the server \(404\)"):
        get(f"{site.url}/b.csv")
    path = get(f"{site.url}/a.csv")
    site.tricks = ["busy"]
    said: list[str] = []
    assert get(f"{site.url}/a.csv", said) == path and "is used as it is" in said[-1]
    with pytest.raises(MachineError, match="cannot be reached"):
        get("http://127.0.0.1:1/a.csv")


def test_a_body_that_comes_packed_is_unpacked_and_a_bomb_is_not(site, monkeypatch):
    site.tricks = ["gzip"]
    assert get(f"{site.url}/a.csv").read_bytes() == ROWS
    site.files["/zeros.csv"] = bytes(2**20)
    site.tricks = ["gzip"]
    monkeypatch.setattr("bigbatch.remote.web._ALWAYS_BYTES", 2**16)
    with pytest.raises(DataError, match="unpacks to far more"):
        get(f"{site.url}/zeros.csv")


def test_redirects_are_followed_as_far_as_they_lead_to_a_server(site, tmp_path):
    site.redirects = {
        "/1": "/2",
        "/2": f"{site.url}/a.csv",
        "/round": "/round",
        "/file": f"{FILE}{tmp_path}/x",
    }
    site.redirects |= {f"/{number}x": f"/{number + 1}x" for number in range(20)} | {"/mail": "mailto:x@y"}
    (tmp_path / "x").write_text("text\n")
    assert get(f"{site.url}/1").read_bytes() == ROWS
    for start, what in {
        "/round": "in a circle", "/0x": "more than 10 redirects", "/file": "redirect to file:", "/mail": "redirect to",
    }.items():  # fmt: skip
        with pytest.raises(DataError, match=what):
            get(site.url + start)


def test_a_server_outside_does_not_send_us_into_our_own_network(site, monkeypatch):
    """Here all servers are inside: the first connection is made to look as if it were not."""
    from bigbatch.remote import web

    inside = web._is_inside
    monkeypatch.setattr(
        web, "_is_inside", lambda connection, host: host != "localhost" and inside(connection, host)
    )
    site.redirects = {"/1": "http://127.0.0.1:1/latest", "/2": f"{site.url}/a.csv", "/3": "/a.csv"}
    outside = site.url.replace("127.0.0.1", "localhost")
    asked = len(site.asked)
    with pytest.raises(DataError, match=r"into this machine's own network \(127\.0\.0\.1\)"):
        get(f"{outside}/2")
    assert len(site.asked) == asked + 1, "nothing was asked there"
    assert get(f"{outside}/3").read_bytes() == get(f"{site.url}/2").read_bytes() == ROWS


@pytest.mark.parametrize(
    ("host", "is_inside"), [("169.254.169.254", True), ("10.1.2.3", True), ("8.8.8.8", False)]
)
def test_what_is_inside(host, is_inside):
    from bigbatch.remote.web import _is_inside

    class Proxied:
        _tunnel_host = host

    assert _is_inside(Proxied(), host) is is_inside  # type: ignore[arg-type]


def test_a_body_without_an_end_does_not_fill_the_disk(site, monkeypatch):
    import shutil

    site.files["/long.csv"] = b"x" * 2**20
    monkeypatch.setattr("bigbatch.remote.keep._SPARE_BYTES", 2**16)
    monkeypatch.setattr("bigbatch.remote.web._CHUNK_BYTES", 2**14)
    free = iter([2**40, 2**40, 1])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Free", (), {"free": next(free)}))
    with pytest.raises(DiskError, match="free; XDG_CACHE_HOME"):
        get(f"{site.url}/long.csv")


def test_a_password_goes_to_its_own_server_alone_and_secrets_are_nowhere(site):
    with servers.web() as other:
        other.files = {"/a.csv": ROWS}
        site.redirects = {"/moved.csv": f"{other.url}/a.csv"}
        said: list[str] = []
        url = f"{site.url.replace('//', f'//me:{SECRET}@')}/moved.csv?X-Amz-Signature={SECRET}&id=3"
        get(url, said)
        assert "Authorization" in site.asked[0][1] and "Authorization" not in other.asked[0][1]
    site.redirects["/moved.csv"] = "/none.csv"
    with pytest.raises(DataError) as caught:
        get(url)
    kept = "".join(path.read_text(errors="replace") for path in cache_root().rglob("*") if path.is_file())
    names = "".join(map(str, cache_root().rglob("*")))
    assert SECRET not in "".join([*said, str(caught.value), kept, names, str(provenance(url))])
    signed_anew = url.replace(f"Signature={SECRET}", "Signature=other")
    assert address_of(signed_anew).key == address_of(url).key != address_of(url.replace("id=3", "id=4")).key


def test_a_damaged_cache_is_fetched_anew_and_a_shared_one_refused(site):
    path = get(f"{site.url}/a.csv")
    path.write_bytes(ROWS.replace(b"row 7", b"row 8"))
    assert get(f"{site.url}/a.csv").read_bytes() == ROWS
    about = next(cache_root().glob("*/about.json"))
    about.write_text(
        json.dumps({**json.loads(about.read_text()), "file": "../../../../../../../../etc/hostname"})
    )
    assert get(f"{site.url}/a.csv").read_bytes() == ROWS
    os.chmod(cache_root().parent, 0o777)
    with pytest.raises(MachineError, match="XDG_CACHE_HOME"):
        get(f"{site.url}/a.csv")


WRONG = {
    "ftp://host/a.csv": "ftp:// is not read",
    FILE + "/a.csv": f"{FILE} is not read",
    "https://host": "expected https://host/file",
    "https:///a.csv": "expected https://host/file",
    "https://host/a b.csv": "without blanks",
    "https://host:x/a.csv": "no such address",
}


@pytest.mark.parametrize(("text", "what"), WRONG.items())
def test_addresses_that_are_none_are_refused(text, what):
    with pytest.raises(DataError, match=re.escape(what)):
        address_of(text)
