from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

import bigbatch.store.directory as directory_module
from bigbatch.errors import DiskError
from bigbatch.facts import HardwareFacts
from bigbatch.store.directory import RunDirectory, environment_facts
from tests.store.crashes import FailingOps

HARDWARE = HardwareFacts(device="cpu", device_name="x", memory_bytes=8, cores=2, threads=1)


def test_files_have_the_names_of_the_contract():
    run = RunDirectory(Path("runs/tweets"))
    assert [path.name for path in (run.recipe, run.code, run.plan, run.environment, run.status, run.metrics)] == [
        "recipe.yaml", "code", "plan.json", "environment.json", "status.json", "metrics.jsonl",
    ]  # fmt: skip
    assert [path.name for path in (run.checkpoints, run.model, run.result, run.report, run.logs)] == [
        "checkpoints", "model", "result.json", "report.html", "logs",
    ]  # fmt: skip


def test_status_has_exactly_the_keys_of_the_contract(tmp_path):
    run = RunDirectory(tmp_path, job_id="77")
    assert run.read_status() is None
    run.write_status("running", 3)
    found = json.loads(run.status.read_text())
    assert set(found) == {"state", "update", "host", "job_id", "updated_at"}
    assert (found["state"], found["update"], found["job_id"]) == ("running", 3, "77")
    status = run.read_status()
    assert status is not None and status.state == "running" and status.updated_at.endswith("Z")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "running"}', '{"state": 1, "x": 2}'])
def test_a_damaged_status_is_none(tmp_path, text):
    (tmp_path / "status.json").write_text(text)
    assert RunDirectory(tmp_path).read_status() is None


def test_a_status_of_an_unknown_state_is_none(tmp_path):
    run = RunDirectory(tmp_path)
    run.write_status("finished", 3)
    run.status.write_text(run.status.read_text().replace("finished", "paused"))
    assert run.read_status() is None


def test_preflight_passes_and_leaves_nothing_behind(tmp_path):
    RunDirectory(tmp_path / "runs" / "tweets").preflight(bytes_needed=1000)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_preflight_refuses_a_directory_that_cannot_be_written(tmp_path, code):
    run = RunDirectory(tmp_path / "runs" / "tweets", ops=FailingOps(1, code))
    with pytest.raises(DiskError, match=rf"cannot write .*tweets: {os.strerror(code)} \(needs 5 B .* free"):
        run.preflight(bytes_needed=5)


def test_preflight_refuses_a_file_in_the_way(tmp_path):
    (tmp_path / "tweets").write_text("mine")
    with pytest.raises(DiskError, match="tweets"):
        RunDirectory(tmp_path / "tweets").preflight(bytes_needed=5)


def test_preflight_refuses_a_small_disk_with_both_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(directory_module, "free_bytes", lambda path: 2_000_000)
    run = RunDirectory(tmp_path / "tweets")
    run.preflight(bytes_needed=2_000_000)
    with pytest.raises(
        DiskError, match=r"too small: the run needs 1\.9 MiB \(2,000,001 bytes\).*2,000,000 bytes\) are free"
    ):
        run.preflight(bytes_needed=2_000_001)
    assert os.listdir(tmp_path) == []


def test_create_makes_the_parents(tmp_path):
    run = RunDirectory(tmp_path / "runs" / "tweets")
    run.create()
    run.create()
    assert run.path.is_dir()


def test_environment_holds_versions_and_no_secrets(monkeypatch):
    monkeypatch.setenv("API_TOKEN", "hunter2")
    facts = environment_facts(HARDWARE, {"train": "abc"})
    assert "hunter2" not in json.dumps(facts) and "API_TOKEN" not in json.dumps(facts)
    assert facts["versions"]["torch"] and facts["versions"]["python"].startswith("3.")
    assert facts["hardware"]["threads"] == 1
    assert facts["data_fingerprint"] == {"train": "abc"}


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(directory_module, "_PACKAGES", ("no-such-package-here",))
    assert environment_facts(HARDWARE, "abc")["versions"]["no-such-package-here"] is None


def test_temporary_files_of_a_kill_are_removed(tmp_path):
    run = RunDirectory(tmp_path)
    run.write_status("running", 1)
    (tmp_path / ".tmp-status.json").write_text("{")
    (tmp_path / ".tmp-model").mkdir()
    (tmp_path / ".tmp-model" / "x").write_text("half")
    assert run.clean() == [".tmp-model", ".tmp-status.json"]
    assert os.listdir(tmp_path) == ["status.json"]
