"""What is asked of hosts, what is refused, and the words that start an agent there."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from pathlib import Path

import pytest

from bigbatch.errors import MachineError, UsageError
from bigbatch.launch.ssh import Hosts, agent_on, ask, command_on, ranks_on, refuse_differences

RECIPE = "model: bert-base-uncased\ndata: {train: rows.csv}\n"


@pytest.fixture
def hosts(tmp_path, monkeypatch, root) -> Hosts:
    programs = tmp_path / "bin"
    programs.mkdir()
    shutil.copy(root / "tests" / "launch" / "fake_ssh", programs / "ssh")
    monkeypatch.setenv("PATH", f"{programs}:{Path(sys.executable).parent}:/usr/bin:/bin")
    (tmp_path / "rows.csv").write_text("text,label\na,0\nb,1\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    environ = {"PYTHONPATH": str(root / "src"), "BIGBATCH_EPOCHS": "2", "HF_TOKEN": "secret", "LANG": "C"}
    return Hosts(names=["a", "b"], python=sys.executable, folder=tmp_path, environ=environ)


def test_settings_are_passed_on_and_secrets_are_not(hosts):
    words = command_on(hosts, "a", ["bigbatch"], {"GLOO_SOCKET_IFNAME": "eth0"})
    assert words[0] == "ssh" and words[-2] == "a" and "BatchMode=yes" in words
    assert "BIGBATCH_EPOCHS=2" in words[-1] and "GLOO_SOCKET_IFNAME=eth0" in words[-1]
    assert "secret" not in words[-1] and "LANG" not in words[-1]


def test_equal_hosts_answer(hosts):
    facts = ask(hosts, "recipe.yaml", [], hosts.folder)
    assert list(facts) == ["a", "b"] and facts["a"]["same"] == facts["b"]["same"]
    assert facts["a"]["same"]["rows.csv"].startswith("19 bytes, sha256")
    assert facts["a"]["address"] == "127.0.0.1" and facts["a"]["interface"] == "lo"
    words = agent_on(
        hosts,
        "b",
        facts,
        launch_folder=hosts.folder,
        ranks=2,
        min_nodes=1,
        max_restarts=3,
        words=["train", "x"],
    )
    there = shlex.split(words[-1])
    assert "--nnodes=1:2" in there and "--nproc-per-node=2" in there
    assert any(word.startswith("--rdzv-conf=is_host=0") for word in there) and "BIGBATCH_HOST=b" in there


def test_an_unknown_host_is_named_at_once(hosts):
    started = time.monotonic()
    with pytest.raises(MachineError, match="host nosuch cannot be reached: .*resolve"):
        ask(Hosts(**{**vars(hosts), "names": ["a", "nosuch"]}), "recipe.yaml", [], hosts.folder)
    assert time.monotonic() - started < 30


def test_a_program_a_recipe_and_a_disk_that_are_missing_are_refused(hosts):
    with pytest.raises(UsageError, match="--python names another"):
        ask(Hosts(**{**vars(hosts), "python": "/no/python"}), "recipe.yaml", [], hosts.folder)
    with pytest.raises(UsageError, match=r"host a: .*no such file"):
        ask(hosts, "other.yaml", [], hosts.folder)
    with pytest.raises(UsageError, match="a disk that all hosts share"):
        ask(hosts, "recipe.yaml", [], hosts.folder / "not-there")
    with pytest.raises(UsageError, match="'-oProxyCommand=x'"):
        ask(Hosts(**{**vars(hosts), "names": ["-oProxyCommand=x"]}), "recipe.yaml", [], hosts.folder)


def test_differences_are_refused_with_both_values():
    same = {"a": {"recipe": "1", "torch": "2.13"}, "b": {"recipe": "2", "torch": "2.13"}}
    with pytest.raises(UsageError, match="recipe: a has 1, b has 2") as raised:
        refuse_differences(same)
    assert "torch" not in str(raised.value)
    refuse_differences({"a": {"recipe": "1"}, "b": {"recipe": "1"}})


def test_ranks_are_shared_out():
    facts = {"a": {"accelerators": 4}, "b": {"accelerators": 0}}
    assert ranks_on(facts, None) == {"a": 4, "b": 1}
    assert ranks_on(facts, 6) == {"a": 3, "b": 3}
    with pytest.raises(UsageError, match="5 ranks"):
        ranks_on(facts, 5)
