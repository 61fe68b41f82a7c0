"""A run on addresses: trained, evaluated and predicted from a server; the same run as on files; no secret anywhere."""

from __future__ import annotations

import json

import pytest
import yaml

import bigbatch
from bigbatch.answers import predict_file
from bigbatch.commands import init
from bigbatch.errors import DataError
from tests.jobs import exhaust
from tests.models import WORDS, tiny_folder
from tests.remote import servers

SECRET = "s3cr3t"
SIGNED = f"?X-Amz-Signature={SECRET}"
KEYS = {
    "updates": 3,
    "batch": 8,
    "plan.packing": "padded",
    "plan.micro_tokens": 64,
    "task.labels": ["a", "b"],
}


def rows(count: int, first: int = 0) -> bytes:
    lines = [f"{WORDS[(first + n) % 9]} {WORDS[n % 7]} {n},{'ab'[n % 2]}" for n in range(count)]
    return "\n".join(["text,label", *lines, ""]).encode()


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    with servers.web() as found:
        found.files = {"/train.csv": rows(40), "/held.csv": rows(10, 5), "/new.csv": rows(6, 2)}
        yield found


def test_from_init_to_predictions(site, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    tiny_folder(tmp_path / "model")
    found = init(
        [f"{site.url}/train.csv{SIGNED}", f"{site.url}/test.csv{SIGNED}"], model=str(tmp_path / "model")
    )
    written = yaml.safe_load(found.path.read_text())
    assert written["data"]["train"] == f"{site.url}/train.csv" and SECRET not in found.path.read_text()
    files = {"data.train": f"{site.url}/train.csv{SIGNED}", "data.validation": f"{site.url}/held.csv{SIGNED}"}
    recipe = {"model": "model", "data": {"train": "x"}, "task": "classify"}
    run = exhaust(bigbatch.start(recipe, set={**KEYS, **files}, run_dir=tmp_path / "run"))
    assert run.status == "finished"
    facts = json.loads((run.path / "environment.json").read_text())["fetched"]
    assert [fact["address"] for fact in facts] == [f"{site.url}/held.csv", f"{site.url}/train.csv"]
    assert facts[1]["bytes"] == len(rows(40)) and facts[1]["tag"] == site.tag("/train.csv")
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert SECRET.encode() not in everything and SECRET not in "".join(capfd.readouterr())

    again = bigbatch.start(
        recipe, set={**KEYS, **files, "data.train": f"{site.url}/train.csv?sig=2"}, run_dir=run.path
    )
    assert again.status == "finished", "signed anew it is the same file, and the same run"
    for name in ("train", "held"):
        (tmp_path / f"{name}.csv").write_bytes(site.files[f"/{name}.csv"])
    own = {"data.train": str(tmp_path / "train.csv"), "data.validation": str(tmp_path / "held.csv")}
    assert bigbatch.start(recipe, set={**KEYS, **own}, run_dir=run.path).status == "finished", "so are files"

    figures = bigbatch.evaluate(run.path, f"{site.url}/held.csv{SIGNED}")
    assert (
        figures["samples"] == 10
        and figures["loss"] == bigbatch.evaluate(run.path, own["data.validation"])["loss"]
    )
    out = tmp_path / "out.jsonl"
    assert predict_file(run.path, f"{site.url}/new.csv{SIGNED}", str(out)) == 6
    assert len(out.read_text().splitlines()) == 6


def test_a_missing_file_is_refused_before_the_run_without_its_secret(site, tmp_path):
    tiny_folder(tmp_path / "model")
    recipe = {
        "model": str(tmp_path / "model"),
        "data": {"train": f"{site.url}/none.csv{SIGNED}"},
        "task": "classify",
    }
    with pytest.raises(DataError, match=r"none\.csv: no such file on the server \(404\)") as caught:
        bigbatch.start(recipe, set=KEYS, run_dir=tmp_path / "run")
    assert SECRET not in str(caught.value) and not (tmp_path / "run").exists()
    site.files["/bad.csv"] = b"text,label\nfine,a\nfine,b\n,b\n"
    with pytest.raises(DataError, match=r"bad\.csv:4: text: empty text") as caught:
        bigbatch.start(
            recipe, set={**KEYS, "data.train": f"{site.url}/bad.csv{SIGNED}"}, run_dir=tmp_path / "run"
        )
    assert SECRET not in str(caught.value)
