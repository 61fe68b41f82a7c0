"""Pages: links lead somewhere, both READMEs show the same, nothing speaks of one particular machine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import all_pages, blocks, links

ROOT = Path(__file__).resolve().parents[2]
MACHINE = re.compile(r"/(home|root|Users|work|opt|tmp)/\w|file://|localhost:\d")


def shown(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", all_pages(ROOT), ids=shown)
def test_links_to_files_lead_somewhere(page):
    missing = [
        target
        for target in links(page)
        if not re.match(r"https?://|mailto:|#", target)
        and not (page.parent / target.partition("#")[0]).exists()
    ]
    assert missing == []


def test_both_readmes_show_the_same_commands():
    english, chinese = (
        [(block.language, block.commands, block.run) for block in blocks(ROOT / name)]
        for name in ("README.md", "README.zh-CN.md")
    )
    assert english == chinese


def test_both_readmes_have_the_same_shape():
    def shape(name: str) -> list[str]:
        text = (ROOT / name).read_text(encoding="utf-8")
        return re.findall(r"^(#+) |^(\|)|^(- )|(<!-- .*? -->)", text, flags=re.M)  # type: ignore[return-value]

    assert shape("README.md") == shape("README.zh-CN.md")
    english, chinese = (
        set(links(ROOT / name)) - {"README.md", "README.zh-CN.md"}
        for name in ("README.md", "README.zh-CN.md")
    )
    assert english == chinese


def test_figures_are_the_same_in_both_readmes():
    def figures(name: str) -> list[str]:
        text = (ROOT / name).read_text(encoding="utf-8")
        return re.findall(
            r"\d+(?:[.,]\d+)*", "".join(re.findall(r"<!-- figures.*?/figures", text, flags=re.S))
        )

    assert figures("README.md") == figures("README.zh-CN.md")


def test_yaml_blocks_are_yaml():
    for page in all_pages(ROOT):
        for block in blocks(page):
            if block.language == "yaml":
                assert isinstance(yaml.safe_load(block.body), dict), shown(page)


def test_make_targets_that_pages_name_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    named = {
        word
        for page in all_pages(ROOT)
        for word in re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(encoding="utf-8"), flags=re.M)
    }
    assert named - targets == set()


def test_no_file_speaks_of_one_machine():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    names = listed.stdout.split() if listed.returncode == 0 else []
    guilty = [
        f"{name}:{number}"
        for name in names
        if Path(name).suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".cff", ".txt", ".html", ".json", ""}
        and name
        not in ("tests/docs/test_pages.py", "tests/test_wheel.py")  # they name such places to refuse them
        and (ROOT / name).is_file()
        for number, line in enumerate(
            (ROOT / name).read_text(encoding="utf-8", errors="replace").splitlines(), start=1
        )
        if MACHINE.search(line)
    ]
    assert guilty == []
