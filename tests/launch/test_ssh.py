"""What is asked of hosts, what is refused, and the words that start an agent there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bigbatch.errors import MachineError, UsageError
from bigbatch.launch.facts import facts
from bigbatch.launch.passed import resolved_keys
from bigbatch.launch.ssh import (
    Call,
    Hosts,
    _answer,
    agent_on,
    ask,
    call_on,
    look_there,
    ranks_on,
    refuse_differences,
)
from bigbatch.launch.start import launched
from bigbatch.recipe.load import load_recipe
from bigbatch.run.beat import Sign

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


def test_settings_are_passed_on_and_credentials_are_not(hosts):
    more = {
        "BIGBATCH_TOKENS": "20000",
        "BIGBATCH_LOSS__ARGS__KEY": "a",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_ENDPOINT": "https://me:pw@hub",
    }
    environ = {**hosts.environ, **more}
    call = call_on(replace(hosts, environ=environ), "a", ["bigbatch"], {"GLOO_SOCKET_IFNAME": "eth0"})
    assert json.loads(call.line)["variables"] == {
        **{"PYTHONPATH": environ["PYTHONPATH"], "BIGBATCH_EPOCHS": "2", "GLOO_SOCKET_IFNAME": "eth0"},
        **more,
    }


def test_the_command_line_says_nothing(hosts):
    """Whatever is passed on, `ps` shows the same words."""
    one = call_on(hosts, "a", ["bigbatch", "train", "recipe.yaml"], {})
    bare = replace(hosts, environ={}, folder=Path("/"))
    assert one.words == call_on(bare, "a", ["other"], {"HF_ENDPOINT": "https://me:pw@hub"}).words
    assert one.words[0] == "ssh" and one.words[-2] == "a"
    assert {"BatchMode=yes", "-a", "-x", "ClearAllForwardings=yes"} <= set(one.words)


def test_what_comes_behind_the_first_line_is_left_to_the_program(hosts):
    (hosts.folder / "there.py").write_text(
        "import os; print(os.getcwd(), os.environ['BIGBATCH_EPOCHS'], input())"
    )
    environ = {**hosts.environ, "PYTHONPATH": str(hosts.folder)}
    call = call_on(replace(hosts, environ=environ), "a", ["there"], {})
    done = subprocess.run(call.words, input=f"{call.line}15\n", capture_output=True, text=True)
    assert done.stdout == f"{hosts.folder} 2 15\n", done.stderr


def test_a_host_that_resolves_another_recipe_is_named_with_the_keys(hosts, monkeypatch):
    """Its own site file, or a variable of its own: whatever is read there and not here."""
    here = load_recipe(hosts.folder / "recipe.yaml", ["batch.samples=8"], environ=hosts.environ)
    ask(hosts, "recipe.yaml", ["batch.samples=8"], hosts.folder, resolved_keys(here))
    monkeypatch.setenv("BIGBATCH_TOKENS", "20000")
    monkeypatch.setenv("BIGBATCH_OPTIMIZER__LR", "1")
    with pytest.raises(
        UsageError, match=r"host a reads another recipe.*: batch.samples, epochs, optimizer.lr, tokens differ"
    ):
        bare = replace(hosts, environ={"PYTHONPATH": hosts.environ["PYTHONPATH"]})
        ask(bare, "recipe.yaml", [], hosts.folder, resolved_keys(here))


@pytest.mark.parametrize(
    "name",
    [
        "-oProxyCommand=x",
        "a;touch x",
        "a b",
        "a\nb",
        "$(x)",
        "me;x@a",
        "-l@a",
        "@a",
        "a@",
        "ssh://a",
        "a\u2028",
        "",
    ],
)
def test_what_is_no_host_is_refused_before_anything_is_asked(hosts, name, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UsageError, match="among the hosts"):
        recipe = load_recipe(hosts.folder / "recipe.yaml")
        launched(recipe, ["train", "recipe.yaml"], None, {}, print, hosts=["good", name])
    with pytest.raises(UsageError, match=r"launch\.hosts"):
        load_recipe(hosts.folder / "recipe.yaml", {"launch.hosts": ["good", name]})


@pytest.mark.parametrize("name", ["node1", "me@node-2.lab", "10.0.0.1", "fe80::1%eth0", "gpu_3"])
def test_what_is_one_is_taken(hosts, name):
    assert load_recipe(hosts.folder / "recipe.yaml", {"launch.hosts": [name]}).launch.hosts == [name]


def test_only_our_hosts_are_asked_about_a_process(hosts, tmp_path):
    sign = Sign(
        rank=0,
        size=1,
        host="elsewhere",
        pid=1,
        restart=0,
        update=0,
        phase="starting",
        beats=1,
        ticks=1,
        at=0.0,
    )
    assert look_there(hosts, sign) is None
    assert look_there(hosts, replace(sign, host="a")) is not None
    with pytest.raises(ValueError):
        look_there(hosts, replace(sign, host="a", pid=f"1; touch {tmp_path}/x;"))  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()


def test_equal_hosts_answer(hosts):
    facts = ask(hosts, "recipe.yaml", [], hosts.folder)
    assert list(facts) == ["a", "b"] and facts["a"]["same"] == facts["b"]["same"]
    assert facts["a"]["same"]["rows.csv"].startswith("19 bytes, sha256")
    assert facts["a"]["address"] == "127.0.0.1" and facts["a"]["interface"] == "lo"
    call = agent_on(
        hosts,
        "b",
        facts,
        launch_folder=hosts.folder,
        ranks=2,
        min_nodes=1,
        max_restarts=3,
        words=["train", "x"],
    )
    there = json.loads(call.line)
    assert {"--nnodes=1:2", "--nproc-per-node=2"} <= set(there["words"])
    assert there["words"][:3] == ["-P", "-m", "bigbatch.parallel.agent"]
    assert there["words"][3:6] == [str(hosts.folder), "join", "127.0.0.1"]
    assert there["variables"]["BIGBATCH_HOST"] == "b"


def test_files_of_every_stage_are_compared(hosts):
    """Whatever the last of them reads."""
    (hosts.folder / "texts.csv").write_text("text\na\n")
    (hosts.folder / "staged.yaml").write_text(
        "model: bert-base-uncased\nstages:\n- {task: mlm, data: {train: texts.csv}}\n"
        "- {task: classify, data: {train: rows.csv}}\n"
    )
    asked = {"recipe": hosts.folder / "staged.yaml", "changes": [], "peer": None, "seen": hosts.folder}
    found = facts(asked, hosts.environ)
    assert {"texts.csv", "rows.csv"} <= found["same"].keys() and "stages" in found["keys"]


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


def test_differences_are_refused_with_both_values():
    same = {"a": {"rows.csv": "1", "torch": "2.13"}, "b": {"rows.csv": "2", "torch": "2.13"}}
    with pytest.raises(UsageError, match=r"rows\.csv: a has 1, b has 2") as raised:
        refuse_differences(same)
    assert "torch" not in str(raised.value)
    refuse_differences({"a": {"rows.csv": "1"}, "b": {"rows.csv": "1"}})


def test_what_only_a_launcher_reads_may_be_said_on_one_host_alone(hosts):
    request = {"recipe": hosts.folder / "recipe.yaml", "changes": {}, "peer": None, "seen": hosts.folder}
    bare = facts(request, hosts.environ)
    said = facts(
        {**request, "changes": {"launch.hosts": ["a", "b"], "launch.max_restarts": 2}}, hosts.environ
    )
    assert bare["same"] == said["same"] and bare["keys"] == said["keys"]


def test_ranks_are_shared_out():
    facts = {"a": {"accelerators": 4}, "b": {"accelerators": 0}}
    assert ranks_on(facts, None) == {"a": 4, "b": 1}
    assert ranks_on(facts, 6) == {"a": 3, "b": 3}
    with pytest.raises(UsageError, match="5 ranks"):
        ranks_on(facts, 5)


@pytest.mark.parametrize("said", ["", "Welcome!", "[]", "[" * 100_000, '{"a": 1e400}', '{"sees": true}'])
def test_an_answer_that_is_none_is_the_hosts_and_no_bug(hosts, said):
    call = Call(words=[sys.executable, "-c", f"print({said!r})"], line="settings\n")
    with pytest.raises(UsageError, match="host a: its answer"):
        _answer(hosts, "a", call, {})
