"""Which folders a program of ours, and what it starts, looks for modules in."""

from __future__ import annotations

import os
import sys

import pytest

from bigbatch.launch.python import look_only_where_installed, python_words


def test_the_command_of_a_module_leaves_the_users_folder_out():
    assert python_words("bigbatch", "plan", python="/py") == ["/py", "-P", "-m", "bigbatch", "plan"]


@pytest.mark.parametrize(
    ("given", "left", "kept"),
    [
        (None, None, True),
        ("", "", True),
        ("/a", "/a", True),
        (":/a", "/a", False),
        ("/a:", "/a", False),
        ("/a::/b", "/a:/b", False),
        (":.", ".", True),  # asked for in so many words
    ],
)
def test_an_empty_entry_of_pythonpath_is_not_the_users_folder(tmp_path, monkeypatch, given, left, kept):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), "/elsewhere"])
    environ = {} if given is None else {"PYTHONPATH": given.replace(":", os.pathsep)}
    look_only_where_installed(environ)
    assert environ.get("PYTHONPATH") == (left and left.replace(":", os.pathsep))
    assert environ["PYTHONSAFEPATH"] == "1"
    assert (str(tmp_path) in sys.path) == kept
