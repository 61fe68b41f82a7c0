"""The house: which room may import which, how long a file may be, what starts without torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tools import house as figures_of

LONGEST_FILE_LINES = 450


def source_files(root: Path) -> list[Path]:
    """All Python files of the package."""
    return sorted((root / "src" / "bigbatch").rglob("*.py"))


def test_rooms_import_only_rooms_further_down(root, monkeypatch, capsys):
    from importlinter.application.use_cases import lint_imports
    from importlinter.configuration import configure

    configure()
    monkeypatch.chdir(root)
    passed = lint_imports(config_filename="pyproject.toml", cache_dir=None)
    assert passed, capsys.readouterr().out


def test_every_room_has_its_floor(root):
    """A new room must be put somewhere: the layers are exhaustive, optional rooms stand in parentheses."""
    contracts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    floors = next(contract for contract in contracts if contract["id"] == "floors")
    named = {name for layer in floors["layers"] for name in re.findall(r"\w+", layer)}
    package = root / "src" / "bigbatch"
    rooms = {path.stem for path in package.glob("*.py")} | {
        path.parent.name for path in package.glob("*/__init__.py")
    }
    assert rooms - {"__init__", "__main__"} <= named


def test_rooms_ask_the_package_itself_only_for_its_version(root):
    """Whatever else it offers comes from the top floor."""
    guilty = [
        f"{path.relative_to(root)}: {name}"
        for path in source_files(root)
        if path.parent.name not in ("cli", "bigbatch")
        for name in asked_of_the_package(ast.parse(path.read_text(encoding="utf-8")))
        if name != "__version__"
    ]
    assert guilty == []


def asked_of_the_package(tree: ast.AST) -> list[str]:
    """Names after `from bigbatch import`, and attributes of `bigbatch`."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "bigbatch":
            names += [alias.name for alias in node.names]
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "bigbatch"
        ):
            names.append(node.attr)
    return names


def test_every_import_names_a_module_that_is_there(root):
    """Whoever moves a module meets the files that others wrote meanwhile: an import inside a function fails late."""
    missing = []
    for path in sorted(
        path for folder in ("src", "tests", "benchmarks", "tools") for path in (root / folder).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in (
                "bigbatch",
                "tests",
                "tools",
            ):
                missing += [f"{path.relative_to(root)}:{node.lineno} {name}" for name in absent(root, node)]
    assert missing == []


def absent(root: Path, node: ast.ImportFrom) -> list[str]:
    """What an import takes from a module or a package that has no such thing."""
    assert node.module is not None
    place = root / ("src" if node.module.startswith("bigbatch") else "") / node.module.replace(".", "/")
    if place.with_suffix(".py").exists():
        return []
    inside = place / "__init__.py"
    said = inside.read_text(encoding="utf-8") if inside.exists() else ""
    return [
        f"{node.module}.{alias.name}"
        for alias in node.names
        if not ((place / f"{alias.name}.py").exists() or (place / alias.name).is_dir() or alias.name in said)
    ]


def test_only_parallel_knows_torch_distributed(root):
    guilty = [
        f"{path.relative_to(root)}:{number}"
        for path in source_files(root)
        if "parallel" not in path.relative_to(root / "src" / "bigbatch").parts[:1]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(
            r"^\s*(import|from)\s+torch\.distributed|^\s*from torch import .*\bdistributed\b|\btorch\.distributed\.\w",
            line,
        )
    ]
    assert guilty == []


def test_nothing_can_unpickle(root):
    """Neither what a file holds nor what a peer says; torch's agent alone does, among holders of the key."""
    words = r"^\s*(?:from|import) (?:pickle|marshal|shelve|dill|cloudpickle|joblib)\b|torch\.load\(|_object_list\(|gather_object\("
    guilty = [
        f"{path.relative_to(root)}:{number}"
        for path in source_files(root)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(words, line)
    ]
    assert guilty == []


def test_files_stay_readable(root):
    lengths = {
        str(path.relative_to(root)): len(path.read_text(encoding="utf-8").splitlines())
        for path in source_files(root)
    }
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE_LINES} == {}


def test_no_script_hides_a_module(root):
    """A script's own folder comes first on its import path: `datasets.py` beside it is what a library would import."""
    known = {*sys.stdlib_module_names, *packages_distributions()} - {"benchmarks", "tests", "tools"}
    scripts = [
        path
        for folder in ("benchmarks", "tools", "examples", "docs")
        for path in (root / folder).rglob("*.py")
    ]
    assert len(scripts) > 10
    hidden = [str(path.relative_to(root)) for path in scripts if path.stem in known]
    assert hidden == []


UNDRAWN = ("data", "infer", "model", "tasks")
"""Rooms whose `__init__.py` names the files to read first, and no file that is not there."""


def test_every_room_draws_its_files(root):
    wrong = []
    for inside in (root / "src" / "bigbatch").glob("*/**/__init__.py"):
        named = set(re.findall(r"(\w+)\.py\b", inside.read_text(encoding="utf-8")))
        there = {path.stem for path in inside.parent.glob("*.py")} - {"__init__"}
        room = inside.parent.relative_to(root / "src" / "bigbatch").as_posix()
        wrong += [f"{room}: {name}.py is drawn and not there" for name in sorted(named - there)]
        if room not in UNDRAWN:
            wrong += [f"{room}: {name}.py is there and not drawn" for name in sorted(there - named)]
    assert wrong == []


def test_modules_that_texts_name_are_there(root):
    """`metrics.states` in a docstring or on a page. Rooms that are called like a section of the recipe are left out."""
    package = root / "src" / "bigbatch"
    sections = {"data", "launch", "model", "plan", "recipe", "run"}
    rooms = "|".join(
        path.parent.name for path in package.glob("*/__init__.py") if path.parent.name not in sections
    )
    named = re.compile(rf"`({rooms})\.(?!jsonl?`)(\w+)(?:\.\w+)*`")
    gone = [
        f"{path.relative_to(root)}: {found[0]}"
        for path in [*source_files(root), *(root / "docs").glob("*.md")]
        for found in named.finditer(path.read_text(encoding="utf-8"))
        if not (package / found[1] / f"{found[2]}.py").exists()
    ]
    assert gone == []


def test_every_room_says_what_it_is_for(root):
    silent = [
        str(path.relative_to(root))
        for path in source_files(root)
        if not path.read_text(encoding="utf-8").lstrip().startswith(('"""', 'r"""'))
    ]
    assert silent == []


@pytest.mark.parametrize(
    "module",
    [
        "bigbatch",
        "bigbatch.cli",
        "bigbatch.recipe",
        "bigbatch.recipe.load",
        "bigbatch.rules",
        "bigbatch.plan",
        "bigbatch.report",
    ],
)
def test_words_and_arithmetic_do_not_load_torch(module, python):
    heavy = {"torch", "transformers", "pandas", "datasets"}
    code = f"import sys, {module}; print(sorted(sys.modules.keys() & {heavy}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


WRITES_ELSEWHERE = {
    "model/folder.py": "a view of a model folder, in a folder that only this user can enter",
    "infer/writers.py": "makes its file with O_EXCL, and links it to its name",
    "recipe/made_here.py": "a key in the user's home, with O_EXCL",
    "private.py": "makes a passing folder with mkdtemp",
    "parallel/served.py": "makes its file with O_EXCL, and for this user alone whatever the umask",
    "study/prepare.py": "rows of a CSV, into a folder that was made a moment ago",
    "study/runner.py": "a copy into a folder that was made a moment ago",
    "track/tensorboard.py": "cuts a file that `written.py` has opened",
}
"""Beside `written.py`."""


def test_every_file_is_written_by_one_module(root):
    """What opens a file for writing by itself follows links, or waits for a pipe."""
    package = root / "src" / "bigbatch"
    found = {
        str(path.relative_to(package))
        for path in source_files(root)
        if "contestants" not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and _writes(node)
    }
    assert found - {"written.py"} == set(WRITES_ELSEWHERE)


def _writes(call: ast.Call) -> bool:
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    said = [*call.args, *(word.value for word in call.keywords)]
    words = [str(word.value) for word in said if isinstance(word, ast.Constant)]
    if name == "open" and getattr(getattr(call.func, "value", None), "id", "") == "os":
        return "O_CREAT" in ast.unparse(call) or "O_WRONLY" in ast.unparse(call).replace(
            "os.devnull, os.O_WRONLY", ""
        )
    if name in ("open", "fdopen"):
        return any(re.fullmatch("[rbt]*[wax][bt+]*", word) or word == "r+" for word in words)
    return name in (
        *("write_text", "write_bytes", "touch", "mkdtemp", "mkstemp", "NamedTemporaryFile"),
        *("copyfile", "copy", "copy2", "copytree", "truncate"),
    ) and not (name == "copy" and getattr(getattr(call.func, "value", None), "id", "") != "shutil")


def test_only_cli_and_launch_read_the_environment(root):
    """The exceptions are switches of the tokenizers', of cuBLAS, of threads and of compilers that are set, a program of its
    own, the place of a store or of a tracker as its own tools know it, and what asks for our frames in tracebacks.
    """
    guilty = [
        f"{path.relative_to(root)}:{number}"
        for path in source_files(root)
        if path.name not in ("agent.py", "caches.py", "private.py", "stores.py", "waiting.py")
        and path.parent.name != "track"
        and not {"cli", "launch"} & set(path.relative_to(root / "src" / "bigbatch").parts)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(r"os\.environ\b|os\.getenv\b", line)
        and not re.search("TOKENIZERS_PARALLELISM|CUBLAS_WORKSPACE_CONFIG|TRACEBACK_VARIABLE", line)
    ]
    assert guilty == []


def test_only_these_modules_write_the_environment(root):
    """A variable that is set changes what every library and child process does: each such place is known."""
    pattern = r"environ\[[^\]]+\] = |environ\.(setdefault|update|pop)\(|\bputenv\("
    found = {
        path.relative_to(root / "src" / "bigbatch").as_posix()
        for path in source_files(root)
        if re.search(pattern, path.read_text(encoding="utf-8"))
    }
    assert found == {
        "data/tokens.py",  # the tokenizers' threads
        "launch/python.py",  # where Python looks for modules
        "launch/slurm_step.py",  # what torchrun would have said
        "launch/ssh.py",  # what a host is told
        "parallel/agent.py",
        "parallel/meeting.py",
        "private.py",  # where compiled code lies
        "build/build.py",  # cuBLAS
        "caches.py",  # how much oneDNN keeps
        "waiting.py",  # how threads wait
    }


def test_the_quick_tests_are_there(root):
    from tests.conftest import QUICK

    assert all(
        list((root / "tests").glob(f"{name}/test_*.py")) + list((root / "tests").glob(f"test_{name}.py"))
        for name in QUICK
    )


# ---------------------------------------------------------------- figures that may only get better: tools/house.py


@pytest.fixture(scope="module")
def house(root):
    return figures_of.House(root)


@pytest.fixture(scope="module")
def traced(root):
    return figures_of.path(root)


def test_no_figure_of_the_house_is_worse_than_it_was(root, house):
    found = figures_of.figures(house)
    assert {f"{word}_lines" for word in figures_of.SCREENS} <= found.keys(), (
        "update, loop or build has moved: say where in tools/house.py, SCREENS"
    )
    assert figures_of.complaints(found, figures_of.read_bounds(root)) == []


def test_no_room_says_any_more_often(root, house):
    bounds = figures_of.read_bounds(root)["any_of"]
    assert figures_of.complaints_of_rooms(figures_of.mentions_of_any(house), bounds) == []


def test_the_path_from_the_command_line_to_the_weights_grows_no_longer(root, traced):
    assert figures_of.complaints(figures_of.path_figures(traced), figures_of.read_bounds(root)) == []
    assert traced["gradient"][0].file == traced["optimizer"][0].file == "cli/app.py"


def test_the_page_shows_the_path_as_it_is(root, traced):
    page = (root / "docs" / "house.md").read_text(encoding="utf-8")
    assert figures_of.PATH_BEGINS in page
    assert figures_of.with_path(page, figures_of.path_text(traced)) == page, "python tools/house.py --lower"
