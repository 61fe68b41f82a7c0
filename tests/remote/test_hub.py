"""Data sets of the hub, against a server with its endpoints: a commit, files of rows, no scripts, no network."""

from __future__ import annotations

import pytest

from bigbatch.errors import DataError, MachineError
from bigbatch.files.kinds import is_data
from bigbatch.remote.fetch import fetched
from tests.remote import servers
from tests.remote.servers import COMMIT

CARD = """---
license: mit
configs:
- config_name: other
  data_files: other/*.csv
- config_name: default
  data_files:
  - split: train
    path: [data/a-*.csv]
  - split: held
    path: data/b.csv
---
# A data set
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    from huggingface_hub import constants

    with servers.hub() as found:
        found.files = {
            "/data/train-1.csv": b"text,label\na,1\n",
            "/data/dev.csv": b"text,label\nb,2\n",
            "/x.py": b"1/0",
        }
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, found.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("no_proxy", "*")
        yield found


def get(text: str, said: list[str] | None = None) -> dict[str, bytes]:
    found = fetched(text, is_data, (said if said is not None else []).append)
    return {name.removeprefix(f"hf://datasets/org/name@{COMMIT}/"): path.read_bytes() for name, path in found}


@pytest.mark.parametrize(
    ("rest", "names"),
    {
        "": ["data/train-1.csv"], "@v1/validation": ["data/dev.csv"], "/data/dev.csv": ["data/dev.csv"],
        "@main/data": ["data/dev.csv", "data/train-1.csv"], "/data/*.csv": ["data/dev.csv", "data/train-1.csv"],
        f"@{COMMIT}/train": ["data/train-1.csv"],
    }.items(),
)  # fmt: skip
def test_splits_files_folders_and_patterns_at_a_commit(site, rest, names):
    said: list[str] = []
    found = get(f"hf://datasets/org/name{rest}", said)
    assert list(found) == names and all(found[name] == site.files[f"/{name}"] for name in names)
    assert bool(said) == (COMMIT not in rest) and all(COMMIT in line for line in said)
    assert not any("x.py" in path for path, _ in site.asked), "a script is never even fetched"


def test_splits_are_those_that_the_page_declares(site):
    site.files = {
        f"/{name}": name.encode()
        for name in ("data/a-1.csv", "data/a-2.csv", "data/b.csv", "other/train.csv")
    }
    site.files["/README.md"] = CARD.encode()
    assert list(get("hf://datasets/org/name")) == ["data/a-1.csv", "data/a-2.csv"]
    assert list(get("hf://datasets/org/name/held")) == ["data/b.csv"]
    with pytest.raises(DataError, match="no split or file 'test'; there are: held, train"):
        get("hf://datasets/org/name/test")


def test_what_is_not_there_is_refused(site):
    for text, what in {
        "hf://datasets/org/name@v2": "no revision 'v2'", "hf://datasets/org/other": "no such data set, or it is not public",
        "hf://datasets/org/name/x.py": "holds no rows", "hf://datasets/org/name/test": "there are: data/dev.csv",
        "hf://models/org/name": "expected hf://datasets/org/name",
    }.items():  # fmt: skip
        with pytest.raises(DataError, match=what):
            get(text)
    site.files["/sub/train.csv"] = b""
    with pytest.raises(DataError, match="may be one of several"):
        get("hf://datasets/org/name")
    site.files = {"/x.py": b"1/0"}
    with pytest.raises(DataError, match="a script, which is never run here"):
        get("hf://datasets/org/name")


def test_without_the_hub_its_cache_is_used(site, monkeypatch):
    from huggingface_hub import constants

    before = get("hf://datasets/org/name@main")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    site.files.clear()
    assert get("hf://datasets/org/name@main") == before == get(f"hf://datasets/org/name@{COMMIT}")
    with pytest.raises(
        MachineError, match="HF_HUB_OFFLINE is set, and its cache has not fetched this revision"
    ):
        get("hf://datasets/org/name@v9")
