"""Code that a run directory names: run where it was made here, asked for elsewhere, never for a loss."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import bigbatch
from bigbatch.cli.app import main
from bigbatch.errors import UsageError
from bigbatch.infer.load import open_model
from bigbatch.recipe.made_here import MARK, mark, why_to_ask
from tests.models import tiny_folder

EVIL = """
import os
os.mkdir({ran!r})
from bigbatch.tasks.classify import Classify
class Mine(Classify): pass
def loss(logits, targets): raise SystemExit
def figure(predictions, targets): return 1.0
"""


def leave_mark(run: Path) -> None:
    """As training does."""
    (run / MARK).write_text(mark(run) or "")


ROWS = [{"text": "great flight", "label": "LABEL_0"}, {"text": "late again", "label": "LABEL_1"}]


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    return tmp_path / "ran"


@pytest.fixture
def run(tmp_path: Path, ran: Path) -> Path:
    """A run directory as somebody may send it."""
    folder = tmp_path / "run"
    tiny_folder(folder / "model")
    (folder / "code").mkdir()
    for place in (folder / "code" / "evil.py", folder / "evil.py"):
        place.write_text(EVIL.format(ran=str(ran)))
    return folder


def names(run: Path, **keys: Any) -> None:
    recipe = {"model": "bert-base-uncased", "data": {"train": "train.csv"}, **keys}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def ask_everything(run: Path) -> None:
    """All commands that read a run directory."""
    (run.parent / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    bigbatch.predict(run, ["great flight"])
    bigbatch.evaluate(run, ROWS)
    bigbatch.read(run)
    for words in (
        ["predict", str(run), str(run.parent / "rows.jsonl"), "--out", str(run.parent / "out.jsonl")],
        ["evaluate", str(run), str(run.parent / "rows.jsonl")],
        ["report", str(run)],
        ["compare", str(run), str(run)],
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert not ended.value.code, words


@pytest.mark.parametrize("name", ["evil.py:loss", "code/evil.py:loss", "antigravity:loss"])
def test_a_loss_is_never_run(run: Path, ran: Path, name: str) -> None:
    names(run, loss=name)
    for change in (
        {"observers": ["evil.py:figure"]},
        {"optimizer": {"name": "evil.py:figure"}},
        {"schedule": {"name": "evil.py:figure"}},
    ):
        names(run, loss=name, **change)
        assert len(bigbatch.predict(run, ["great flight"])) == 1
    ask_everything(run)
    assert not ran.exists()


@pytest.mark.parametrize(
    "keys",
    [
        {"task": "evil.py:Mine"},
        {"task": "code/evil.py:Mine"},
        {"metrics": ["accuracy", "evil.py:figure"]},
        {"task": {"name": "subprocess:Popen", "args": {"args": "true"}}},
        {"metrics": ["antigravity:fly"]},
    ],
)
def test_a_task_or_metric_of_a_foreign_folder_is_asked_for(run: Path, ran: Path, keys: Any) -> None:
    names(run, **keys)
    with pytest.raises(
        UsageError, match=r"needs code that the run names .*--code \(in Python: code=True\)"
    ) as error:
        bigbatch.evaluate(run, ROWS)
    assert error.value.exit_code == 2
    if "task" in keys:
        with pytest.raises(UsageError, match="needs code"):
            bigbatch.predict(run, ["great flight"])
    else:  # prediction has no use for a metric
        assert len(bigbatch.predict(run, ["great flight"])) == 1
    assert not ran.exists()


def test_asked_for_it_runs(run: Path, ran: Path) -> None:
    names(run, task="evil.py:Mine")
    assert len(bigbatch.predict(run, ["great flight"], code=True)) == 1
    assert ran.exists()


class TestMadeHere:
    """The mark that training leaves."""

    @pytest.fixture
    def made(self, run: Path) -> Path:
        names(run, task="evil.py:Mine")
        leave_mark(run)
        return run

    def test_what_was_made_here_runs_unasked(self, made: Path, ran: Path) -> None:
        assert why_to_ask(made) is None
        open_model(made)
        assert ran.exists()
        key = Path.home() / ".local" / "share" / "bigbatch" / "key"
        assert key.stat().st_mode & 0o777 == 0o600

    def test_moved_it_is_still_ours(self, made: Path, tmp_path: Path) -> None:
        shutil.move(made, tmp_path / "elsewhere")
        assert why_to_ask(tmp_path / "elsewhere") is None

    @pytest.mark.parametrize("name", ["recipe.yaml", "code/evil.py", "code/more.py", MARK])
    def test_changed_since(self, made: Path, name: str) -> None:
        with (made / name).open("a") as file:
            file.write("\n# more\n")
        assert why_to_ask(made) == "it was not made here by you, or its recipe or code were changed since"

    @pytest.mark.timeout(60)
    def test_a_pipe_in_the_place_of_the_mark_is_not_waited_for(self, made: Path) -> None:
        (made / MARK).unlink()
        os.mkfifo(made / MARK)
        assert why_to_ask(made) == "it was not made here by you, or its recipe or code were changed since"

    @pytest.mark.parametrize("name", [".", "recipe.yaml", "code", "code/evil.py"])
    def test_others_may_write_it(self, made: Path, name: str) -> None:
        (made / name).chmod(0o777)
        assert "others may write" in str(why_to_ask(made))

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    @pytest.mark.parametrize("name", [".", "recipe.yaml", "code/evil.py"])
    def test_another_users(self, made: Path, name: str) -> None:
        os.chown(made / name, 65534, 65534)
        assert "belongs to another user" in str(why_to_ask(made))

    def test_a_link(self, made: Path, tmp_path: Path) -> None:
        shutil.move(made / "code" / "evil.py", tmp_path / "evil.py")
        (made / "code" / "evil.py").symlink_to(tmp_path / "evil.py")
        assert "is a link" in str(why_to_ask(made))

    def test_another_users_key(self, made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("HOME", str(tmp_path / "other"))
        assert "not made here" in str(why_to_ask(made))
        leave_mark(made)
        assert why_to_ask(made) is None

    def test_without_a_home_that_can_be_written(
        self, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("HOME", str(tmp_path / "file"))
        names(run, task="evil.py:Mine")
        leave_mark(run)
        assert "not made here" in str(why_to_ask(run))
