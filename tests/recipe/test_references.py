from __future__ import annotations

import importlib.util
import marshal
import os
import struct
import sys
from importlib.util import MAGIC_NUMBER
from pathlib import Path

import pytest

from bigbatch.errors import RecipeError
from bigbatch.recipe.load import load_recipe
from bigbatch.recipe.references import is_reference, referenced_files, references, resolve_reference


@pytest.mark.parametrize(
    "text", ["a.b:c", "file.py:name", "sub/dir/file.py:name", "../x.py:N", "/abs/x y.py:n", "a:b"]
)
def test_references(text):
    assert is_reference(text)


@pytest.mark.parametrize(
    "text", ["adamw", "a.b", "a:b:c", "hf://x/y", "a.py:1x", "a b:c", ":x", "x:", "a.b: c", "a\nb.py:c"]
)
def test_other_text(text):
    assert not is_reference(text)


def test_a_file_is_loaded_once_from_the_recipes_folder(tmp_path):
    (tmp_path / "mine.py").write_text("class A: pass\ndef make(): return A()\n")
    make = resolve_reference("mine.py:make", tmp_path)
    assert isinstance(make(), resolve_reference("mine.py:A", tmp_path))


def test_a_changed_file_is_loaded_anew(tmp_path):
    (tmp_path / "mine.py").write_text("x = 1\n")
    assert resolve_reference("mine.py:x", tmp_path) == 1
    (tmp_path / "mine.py").write_text("x = 2\n")
    assert resolve_reference("mine.py:x", tmp_path) == 2


def test_bytecode_beside_a_file_is_neither_run_nor_written(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("value = 'as written'")
    code = compile("value = 'as somebody left it'", str(file), "exec")
    stat = file.stat()
    place = Path(importlib.util.cache_from_source(str(file)))
    assert resolve_reference("mine.py:value", tmp_path) == "as written"
    assert not place.exists()
    other = tmp_path / "theirs"
    other.mkdir()
    (other / "mine.py").write_bytes(file.read_bytes())
    os.utime(other / "mine.py", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    place = Path(importlib.util.cache_from_source(str(other / "mine.py")))
    place.parent.mkdir()
    head = MAGIC_NUMBER + struct.pack("<III", 0, int(stat.st_mtime), stat.st_size)
    place.write_bytes(head + marshal.dumps(code))
    assert resolve_reference("mine.py:value", other) == "as written"


def test_an_installed_module():
    from collections import OrderedDict

    assert resolve_reference("collections:OrderedDict", "unused") is OrderedDict  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reference", "part"),
    [
        ("mine.py:focl", "mine.py has no focl; did you mean focal?"),
        ("mne.py:focal", "did you mean mine.py?"),
        ("broken.py:x", "broken.py:2: NameError: name 'oops' is not defined"),
        ("exits.py:x", "exits.py:1: SystemExit: 3"),
        ("syntax.py:x", "syntax.py:1: SyntaxError"),
        ("needs.py:x", "needs.py:1: ModuleNotFoundError: No module named 'not_installed_anywhere'"),
        (
            "not_installed_anywhere.sub:x",
            "no module not_installed_anywhere.sub is installed or on PYTHONPATH",
        ),
        ("collections:Nothing", "collections has no Nothing"),
        ("plain", "expected package.module:name or file.py:name"),
    ],
)
def test_what_goes_wrong_is_said(tmp_path, reference, part):
    (tmp_path / "mine.py").write_text("def focal(): pass\n")
    (tmp_path / "broken.py").write_text("import sys\noops\n")
    (tmp_path / "exits.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "syntax.py").write_text("def (:\n")
    (tmp_path / "needs.py").write_text("import not_installed_anywhere\n")
    with pytest.raises(RecipeError) as caught:
        resolve_reference(reference, tmp_path)
    assert part in str(caught.value)


def test_the_files_of_a_recipe_are_listed_without_running_them(tmp_path):
    (tmp_path / "mine.py").write_text("raise SystemExit\n")
    (tmp_path / "recipe.yaml").write_text(
        "model: m\ndata: {train: t}\nloss: 'mine.py:focal'\nmetrics: [accuracy, 'mine.py:cost']\n"
        "observers: ['email.mime.text:MIMEText']\n"
    )
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert references(recipe) == {
        "loss": "mine.py:focal",
        "metrics[1]": "mine.py:cost",
        "observers[0]": "email.mime.text:MIMEText",
    }
    sys.modules.pop("email.mime.text", None)
    files = referenced_files(recipe)
    assert files[0] == (tmp_path / "mine.py").resolve()
    assert files[1].parts[-3:] == ("email", "mime", "text.py")
    assert "email.mime.text" not in sys.modules


def test_missing_files_are_all_named(tmp_path):
    (tmp_path / "recipe.yaml").write_text("model: m\ndata: {train: t}\nloss: 'a.py:x'\ntask: 'no_pkg.b:T'\n")
    with pytest.raises(RecipeError) as caught:
        referenced_files(load_recipe(tmp_path / "recipe.yaml"))
    assert [problem.key for problem in caught.value.problems] == ["task", "loss"]
