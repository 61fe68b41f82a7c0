"""What a wheel says of where it comes from."""

from __future__ import annotations

import subprocess

import pytest

from tools.wheel_urls import project_urls, urls_of

HOME = "https://example.org/team/bigbatch"


@pytest.mark.parametrize(
    "origin",
    ["https://example.org/team/bigbatch", "https://example.org/team/bigbatch.git\n", "git@example.org:team/bigbatch.git",
     "ssh://git@example.org/team/bigbatch", "https://somebody:secret@example.org/team/bigbatch.git"],
)  # fmt: skip
def test_an_origin_on_the_web_gives_its_pages(origin):
    found = project_urls(origin)
    assert found["Repository"] == HOME and found["Changelog"] == f"{HOME}/blob/HEAD/CHANGELOG.md"
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    "origin", ["", "/srv/bigbatch", "../bigbatch", "file:///srv/bigbatch", "http://localhost/b"]
)
def test_any_other_origin_gives_none(origin):
    assert project_urls(origin) == {}


def test_a_clone_an_archive_and_a_bare_folder(tmp_path):
    assert urls_of(tmp_path) == {}
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    assert urls_of(tmp_path) == {}
    subprocess.run(["git", "-C", tmp_path, "remote", "add", "origin", f"{HOME}.git"], check=True)
    assert urls_of(tmp_path)["Repository"] == HOME
    (tmp_path / "PKG-INFO").write_text(
        "Metadata-Version: 2.4\nProject-URL: Repository, https://example.org/it\n\nText"
    )
    assert urls_of(tmp_path) == {"Repository": "https://example.org/it"}
