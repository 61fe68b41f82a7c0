"""Buckets, against a server that speaks as much of S3 as a reader asks for."""

from __future__ import annotations

import time

import pytest

from bigbatch.errors import DataError, MachineError
from bigbatch.files.kinds import is_data
from bigbatch.remote import stores
from bigbatch.remote.addresses import address_of
from bigbatch.remote.fetch import fetched
from bigbatch.remote.keep import Interrupted, Patience, cache_root
from tests.remote import servers

HURRIED = Patience(silent_seconds=1.0, attempts=2, pause_seconds=0.01)
SECRET = "wJalrXUtnFEMI"


@pytest.fixture(scope="module")
def server():
    with servers.bucket() as site:
        yield site


@pytest.fixture
def site(server, tmp_path, monkeypatch):
    for name, value in {
        "XDG_CACHE_HOME": str(tmp_path / "cache"), "AWS_ENDPOINT_URL": server.url, "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_EC2_METADATA_DISABLED": "true", "no_proxy": "*",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    server.files = {
        "/box/rows/a-1.csv": b"text,label\none,1\n", "/box/rows/a-2.csv": b"text,label\ntwo,2\n",
        "/box/rows/deep/a-3.csv": b"text,label\nthree,3\n", "/box/rows/notes.md": b"# notes\n", "/box/empty/x.md": b"",
    }  # fmt: skip
    server.tricks = []
    server.asked.clear()
    return server


def get(text: str, said: list[str] | None = None) -> dict[str, bytes]:
    found = fetched(text, is_data, (said if said is not None else []).append, HURRIED)
    return {name: path.read_bytes() for name, path in found}


def test_a_file_is_fetched_once_and_asked_for_by_its_version(site):
    said: list[str] = []
    assert get("s3://box/rows/a-1.csv", said) == {"s3://box/rows/a-1.csv": b"text,label\none,1\n"}
    assert len(said) == 1
    get("s3://box/rows/a-1.csv", said)
    assert len(said) == 1, "nothing was fetched anew"
    site.files["/box/rows/a-1.csv"] = b"text,label\nother,1\n"
    assert get("s3://box/rows/a-1.csv")["s3://box/rows/a-1.csv"] == b"text,label\nother,1\n"
    assert "AWS4-HMAC" in str(site.asked) and SECRET not in str([site.asked, said])


@pytest.mark.parametrize(
    ("text", "names"),
    {
        "s3://box/rows/": ["a-1.csv", "a-2.csv"],
        "s3://box/rows/*.csv": ["a-1.csv", "a-2.csv"],
        "s3://box/rows/a-[!1].csv": ["a-2.csv"],
        "s3://box/**/*.csv": ["a-1.csv", "a-2.csv", "deep/a-3.csv"],
    }.items(),
)
def test_folders_and_patterns(site, text, names):
    assert list(get(text)) == [f"s3://box/rows/{name}" for name in names]


def test_what_is_not_there_or_not_for_us_is_refused(site):
    for text in ("s3://box/rows/none.csv", "s3://box/none/*.csv", "s3://box/empty/"):
        with pytest.raises(DataError, match=r"no (such )?file"):
            get(text)
    site.tricks = ["deny"]
    with pytest.raises(DataError, match="does not let us read it; set AWS_ACCESS_KEY_ID") as caught:
        get("s3://box/rows/*.csv")
    assert SECRET not in str(caught.value) and not list(cache_root().glob("*/about.json"))


def test_a_store_that_is_away_is_said_so(site, monkeypatch):
    get("s3://box/rows/a-1.csv")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(MachineError, match="s3://box/rows/a-2.csv: the store cannot be reached"):
        get("s3://box/rows/a-2.csv")
    with pytest.raises(MachineError, match="the store cannot be reached"):
        get("s3://box/rows/*.csv")
    said: list[str] = []
    assert get("s3://box/rows/a-1.csv", said) and "is used as it is" in said[-1]


def test_a_transfer_that_broke_off_goes_on_with_the_same_version_alone(site):
    store = stores.Store(address_of("s3://box/rows/a-1.csv"), HURRIED)
    body, tag = site.files["/box/rows/a-1.csv"], site.tag("/box/rows/a-1.csv")
    answer = store.open(4, tag, None)
    assert answer is not None and (answer.start, answer.size_bytes) == (4, len(body))
    assert b"".join(answer.chunks) == body[4:]
    other = store.open(4, '"another"', None)
    assert other is not None and other.start == 0 and store.open(0, None, tag) is None
    site.files["/box/rows/a-1.csv"] = body + b"more,1\n"
    with pytest.raises(Interrupted, match="has changed"):
        list(other.chunks)


MEANINGS = {
    "When reading information for key 'x' in bucket 'b': AWS Error ACCESS_DENIED during HeadObject": DataError,
    "AWS Error NO_SUCH_BUCKET during ListObjectsV2 operation: The bucket does not exist": DataError,
    "google::cloud::Status(PERMISSION_DENIED: ...)": DataError,
    "Path does not exist 'b/x'": DataError,
    "AWS Error NETWORK_CONNECTION during HeadObject: curlCode: 28, Timeout was reached": Interrupted,
}


@pytest.mark.parametrize("scheme", ["s3", "gs"])
@pytest.mark.parametrize(("text", "kind"), MEANINGS.items())
def test_what_clients_say_is_understood_and_not_repeated(scheme, text, kind):
    found = stores.Store(address_of(f"{scheme}://b/x.csv"), HURRIED)._meaning(OSError(f"{text} {SECRET}"))
    assert type(found) is kind and SECRET not in str(found)


# ---------------------------------------------------------------- Google's


@pytest.fixture
def google(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    with servers.google() as found:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", found.url)
        found.files = {"/box/rows/a b.csv": b"text,label\none,1\n"}
        yield found


def test_a_file_of_googles_store_comes_while_other_threads_move(google):
    """The server is a thread of this process: a client that held Python still while it asks would wait for ever."""
    assert get("gs://box/rows/a%20b.csv") == {"gs://box/rows/a%20b.csv": google.files["/box/rows/a b.csv"]}
    asked = len([path for path, _ in google.asked if "alt=media" in path])
    assert get("gs://box/rows/a%20b.csv") and asked == 1 == len(
        [path for path, _ in google.asked if "alt=media" in path]
    )
    with pytest.raises(DataError, match="no such file in the bucket"):
        get("gs://box/rows/none.csv")


def test_googles_store_that_is_away_is_given_up_in_the_time_that_was_asked_for(google):
    google.tricks = ["busy"] * 1000
    began = time.monotonic()
    with pytest.raises(MachineError, match="the store cannot be reached"):
        get("gs://box/rows/a%20b.csv")
    assert time.monotonic() - began < 30, "its own patience is a quarter of an hour"
