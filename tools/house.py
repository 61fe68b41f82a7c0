"""Figures of the house: how long, how tangled, how plainly typed the sources are. A test lets none get worse.

    python tools/house.py               # today's figures beside their bounds in tests/house.json
    python tools/house.py FOLDER        # of another checkout: before and after
    python tools/house.py --lower       # what has got better becomes the bound; the path goes into docs/house.md

Worse than a bound fails, and so does much better, until the bound is lowered. What moves from one room to another is
written down room by room as long as the total has not grown.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise, takewhile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LONG_FUNCTION_LINES = 80
MANY_ARGUMENTS = 3
SCREENS = {
    "update": ("step/together.py", "Together.update"),
    "loop": ("run/loop.py", "loop"),
    "build": ("build/build.py", "build"),
}
"""The three functions that are to be read on one screen each: where they are."""
PATH_BEGINS, PATH_ENDS = "<!-- the path -->", "<!-- the path ends -->"

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Figure(NamedTuple):
    """One measure of the house."""

    value: float
    meaning: str
    where: Sequence[str] = ()
    """What makes it so, worst first: shown where it fails."""
    margin: float = 0.0
    """How much better it may be before the bound has to follow, as a fraction of the bound."""
    more_is_better: bool = False
    bound: bool = True
    """Whether the test holds it to its bound; else it is only shown."""

    def worse_than(self, bound: float) -> bool:
        """Whether the bound is broken."""
        return self.value < bound if self.more_is_better else self.value > bound

    def far_better_than(self, bound: float) -> bool:
        """Whether the bound should follow."""
        gain = self.value - bound if self.more_is_better else bound - self.value
        return gain > self.margin * bound


@dataclass(frozen=True)
class House:
    """The sources of one checkout."""

    root: Path = ROOT
    texts: dict[str, str] = field(init=False)
    """Path below src/bigbatch -> text."""

    def __post_init__(self) -> None:
        package = self.root / "src" / "bigbatch"
        texts = {
            path.relative_to(package).as_posix(): path.read_text(encoding="utf-8")
            for path in sorted(package.rglob("*.py"))
        }
        object.__setattr__(self, "texts", texts)

    @cached_property
    def trees(self) -> dict[str, ast.Module]:
        """Each file, parsed."""
        return {name: ast.parse(text) for name, text in self.texts.items()}

    @cached_property
    def lines(self) -> dict[str, int]:
        """Lines of each file."""
        return {name: len(text.splitlines()) for name, text in self.texts.items()}

    @cached_property
    def rooms(self) -> dict[str, int]:
        """Lines of each room; a file of the top floor is none."""
        found: dict[str, int] = {}
        for name, lines in self.lines.items():
            if "/" in name:
                found[room_of(name)] = found.get(room_of(name), 0) + lines
        return found

    @cached_property
    def floors(self) -> list[list[str]]:
        """Rooms and leaves from top to bottom, as pyproject.toml has them."""
        settings = tomllib.loads((self.root / "pyproject.toml").read_text(encoding="utf-8"))
        contracts = settings["tool"]["importlinter"]["contracts"]
        layers = next(contract["layers"] for contract in contracts if contract["id"] == "floors")
        return [re.findall(r"\w+", layer) for layer in layers]

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """File -> files that it imports from: at its top, inside functions and for types alone."""
        files = {name.removesuffix(".py").replace("/", "."): name for name in self.texts}
        packages = {module.removesuffix(".__init__"): name for module, name in files.items()}
        found: dict[str, set[str]] = {name: set() for name in self.texts}
        for name, tree in self.trees.items():
            for module in imported(tree):
                if module in packages and packages[module] != name:
                    found[name].add(packages[module])
        return found

    def functions(self, name: str) -> Iterator[tuple[str, Function]]:
        """(qualified name, function) of a file, nested ones too."""
        yield from named_functions(self.trees[name], "")

    def function(self, name: str, qualified: str) -> Function | None:
        """One function; None where it is not."""
        if name not in self.texts:
            return None
        return dict(self.functions(name)).get(qualified)


def room_of(name: str) -> str:
    """`run/loop.py` -> `run`, `api.py` -> `api`."""
    return name.partition("/")[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[str]:
    """Modules below bigbatch that a file names, without `bigbatch.`; those of them that do not exist are names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("bigbatch."):
                    yield alias.name.removeprefix("bigbatch.")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "bigbatch":
            module = (node.module or "").removeprefix("bigbatch").removeprefix(".")
            yield module
            for alias in node.names:
                yield f"{module}.{alias.name}" if module else alias.name


def named_functions(node: ast.AST, before: str) -> Iterator[tuple[str, Function]]:
    """Functions below a node, with the names of what they stand in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield before + child.name, child
            yield from named_functions(child, f"{before}{child.name}.<locals>.")
        elif isinstance(child, ast.ClassDef):
            yield from named_functions(child, f"{before}{child.name}.")
        else:
            yield from named_functions(child, before)


def length(function: Function) -> int:
    """Lines from `def` to the end, without the docstring."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    if ast.get_docstring(function) is not None:
        text = function.body[0]
        lines -= (text.end_lineno or 0) - text.lineno + 1
    return lines


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach one another (Tarjan's strongly connected components, those of two and more)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        number[node] = lowest[node] = len(number)
        stack.append(node)
        for other in sorted(arrows.get(node, ())):
            if other not in number:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], number[other])
        if lowest[node] == number[node]:
            place = stack.index(node)
            group, stack[place:] = stack[place:], []
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(arrows):
        if node not in number:
            visit(node)
    return found


# ---------------------------------------------------------------- the figures


def mentions_of_any(house: House) -> dict[str, int]:
    """Room, or file of the top floor -> how often its annotations say `Any`."""
    found: dict[str, int] = {}
    for name, tree in house.trees.items():
        count = sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(tree))
        if count:
            found[room_of(name)] = found.get(room_of(name), 0) + count
    return found


def questions_to_tasks(house: House) -> list[str]:
    """Places where a task is asked whether it has something."""
    return [
        f"{name}:{node.lineno} {ast.unparse(node)}"
        for name, tree in house.trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") in ("getattr", "hasattr")
        and re.search(r"(^|[._])task$", ast.unparse(node.args[0]))
    ]


def upward_arrows(house: House) -> list[str]:
    """Imports of a room on the same floor or above."""
    floor = {room: place for place, rooms in enumerate(house.floors) for room in rooms}
    return [
        f"{name} -> {other}"
        for name, others in house.imports.items()
        for other in sorted(others)
        if (mine := room_of(name)) != (its := room_of(other))
        and "__" not in mine
        and its != "__init__"
        and floor[its] <= floor[mine]
    ]


def circles_of_rooms(house: House) -> list[list[str]]:
    """Rooms that import one another, one way or another."""
    arrows: dict[str, set[str]] = {}
    for name, others in house.imports.items():
        arrows.setdefault(room_of(name), set()).update({room_of(other) for other in others})
    # The package's own door looks up what it offers when it is first asked.
    return circles({room: others - {"__init__"} for room, others in arrows.items() if "__" not in room})


def long_functions(house: House) -> list[str]:
    """Functions that no screen holds, longest first."""
    found = [
        (length(function), f"{name}:{function.lineno} {qualified}")
        for name in house.texts
        for qualified, function in house.functions(name)
        if length(function) > LONG_FUNCTION_LINES
    ]
    return [f"{place} ({lines} lines)" for lines, place in sorted(found, reverse=True)]


def silent_functions(house: House) -> list[str]:
    """Public functions of three and more arguments whose docstring does not say of each what it is, or speaks of one
    that is gone. A command's arguments have help texts instead.
    """
    return [
        f"{name}:{function.lineno} {qualified}"
        for name in house.texts
        for qualified, function in house.functions(name)
        if is_public(qualified)
        and len(arguments(function)) >= MANY_ARGUMENTS
        and not says_its_arguments(function)
        and not any(re.search(r"override|\.command\(", ast.unparse(mark)) for mark in function.decorator_list)
    ]


def says_its_arguments(function: Function) -> bool:
    """Whether the section Args names each argument, and nothing else."""
    section = (ast.get_docstring(function) or "").partition("\nArgs:\n")[2]
    lines = takewhile(lambda line: not line or line.startswith(" "), section.splitlines())
    named = [re.match(r"    ([\w*]+(?:, [\w*]+)*): ", line) for line in lines]
    said = {name.lstrip("*") for found in named if found for name in found[1].split(", ")}
    rest = [each.arg for each in (function.args.vararg, function.args.kwarg) if each is not None]
    return set(arguments(function)) <= said <= {*arguments(function), *rest}


def is_public(qualified: str) -> bool:
    """Whether others may call it: neither private nor inside another function."""
    return not any(part.startswith(("_", "<")) for part in qualified.split("."))


def arguments(function: Function) -> list[str]:
    """Names of what is passed, without `self`."""
    given = function.args
    names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return [name for name in names if name not in ("self", "cls")]


def lines_of_tests(house: House) -> int:
    """Of all Python below tests/, without docstrings."""
    return sum(
        lines_of_code(path.read_text(encoding="utf-8")) for path in (house.root / "tests").rglob("*.py")
    )


def lines_of_code(text: str) -> int:
    """Lines without docstrings, those of fields too: what a sentence says needs no test."""
    said = sum(
        (node.end_lineno or node.lineno) - node.lineno + 1
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
    return len(text.splitlines()) - said


def figures(house: House) -> dict[str, Figure]:
    """All that is found by reading; the path is traced (`path_figures`)."""
    every_any = mentions_of_any(house)
    total = sum(house.lines.values())
    largest = max(house.rooms, key=lambda room: house.rooms[room])
    rooms, files = circles_of_rooms(house), circles(house.imports)
    asked, upward, long, silent = (
        measure(house) for measure in (questions_to_tasks, upward_arrows, long_functions, silent_functions)
    )
    found = {
        "lines": Figure(total, "lines of src", bound=False),
        "files": Figure(len(house.texts), "files of src", bound=False),
        "median_file": Figure(
            statistics.median(house.lines.values()), "lines of the middle file", bound=False
        ),
        "small_files": Figure(
            sum(lines < 40 for lines in house.lines.values()), "files of less than 40 lines", bound=False
        ),
        "rooms": Figure(len(house.rooms), "rooms", margin=0.1),
        "largest_room": Figure(
            round(100 * house.rooms[largest] / total, 1), f"largest room, % of src: {largest}", margin=0.1
        ),
        "upward_arrows": Figure(len(upward), "imports that go up or sideways", upward),
        "circles_of_rooms": Figure(
            sum(map(len, rooms)), "rooms in circles", [" <-> ".join(group) for group in rooms]
        ),
        "circles_of_files": Figure(
            sum(map(len, files)), "files in circles", [" <-> ".join(group) for group in files]
        ),
        "any": Figure(sum(every_any.values()), "mentions of Any", margin=0.05),
        "asked_tasks": Figure(len(asked), "getattr and hasattr on a task", asked),
        "long_functions": Figure(len(long), f"functions over {LONG_FUNCTION_LINES} lines", long),
        "silent_functions": Figure(
            len(silent),
            f"public functions of {MANY_ARGUMENTS} and more arguments that do not say what each is",
            silent,
            margin=0.05,
        ),
        "tests_to_source": Figure(
            round(lines_of_tests(house) / sum(map(lines_of_code, house.texts.values())), 3),
            "lines of tests to one of src, without docstrings",
            more_is_better=True,
            margin=0.2,  # enough is enough: nobody has to write lines down
        ),
    }
    for word, (name, qualified) in SCREENS.items():
        function = house.function(name, qualified)
        if function is not None:
            found[f"{word}_lines"] = Figure(length(function), f"lines of `{word}`: {name} {qualified}")
    return found


class Step(NamedTuple):
    """One function on the way from the command line to the weights."""

    file: str
    line: int
    """Where it is defined."""
    name: str


def path(root: Path = ROOT) -> dict[str, list[Step]]:
    """Our functions on the stack when the gradient is taken and when the optimiser is called, in a real run."""
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}:{root}", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "trace_path.py")],
        env=environment, cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {
        end: [Step(*step) for step in steps]
        for end, steps in json.loads(done.stdout.splitlines()[-1]).items()
    }


def path_figures(traced: Mapping[str, Sequence[Step]]) -> dict[str, Figure]:
    """Files, calls from one file to another and functions on the way to `optimizer.step`."""
    calls = {
        (before, after)
        for steps in traced.values()
        for before, after in pairwise(steps)
        if before.file != after.file
    }
    files = list(dict.fromkeys(step.file for steps in traced.values() for step in steps))
    return {
        "path_files": Figure(len(files), "files from the command line to the weights", files),
        "path_calls": Figure(
            len(calls) + 1,
            "calls between them, the optimiser's the last",
            [f"{before.file} {before.name} -> {after.file} {after.name}" for before, after in calls],
        ),
        "path_frames": Figure(
            len(traced["optimizer"]),
            "our functions on the stack of optimizer.step",
            [f"{step.file} {step.name}" for step in traced["optimizer"]],
        ),
    }


def path_text(traced: Mapping[str, Sequence[Step]]) -> str:
    """The path as docs/house.md shows it: functions of the gradient's way, then those that only the optimiser's has."""
    gradient, optimizer = traced["gradient"], traced["optimizer"]
    shared = sum(left == right for left, right in zip(gradient, optimizer, strict=False))
    rows = [*gradient, *optimizer[shared:]]
    width = max(len(f"{step.file}:{step.line}") for step in rows)

    def shown(steps: Sequence[Step]) -> list[str]:
        return [f"{f'{step.file}:{step.line}':{width}}  {step.name}" for step in steps]

    lines = [*shown(gradient), "", "and behind the executor's return", *shown(optimizer[shared:])]
    return "\n".join(["```", *lines, "```"])


# ---------------------------------------------------------------- bounds


def bounds_file(root: Path = ROOT) -> Path:
    """Where the bounds are."""
    return root / "tests" / "house.json"


def read_bounds(root: Path = ROOT) -> dict:
    """{figure: bound, …, "any_of": {room: bound}}."""
    return json.loads(bounds_file(root).read_text(encoding="ascii"))


def complaints(found: Mapping[str, Figure], bounds: Mapping[str, float]) -> list[str]:
    """What is worse than its bound, or so much better that the bound has to follow."""
    said = []
    for name, figure in found.items():
        if not figure.bound:
            continue
        if name not in bounds:
            said.append(f"{name} ({figure.meaning}) has no bound: python tools/house.py --lower")
        elif figure.worse_than(bounds[name]):
            where = "".join(f"\n    {place}" for place in figure.where[:40])
            said.append(f"{name}: {figure.value:g}, was {bounds[name]:g}. {figure.meaning}{where}")
        elif figure.far_better_than(bounds[name]):
            said.append(
                f"{name}: {figure.value:g}, was {bounds[name]:g}. Better: hold it with python tools/house.py --lower"
            )
    return said


def complaints_of_rooms(found: Mapping[str, int], bounds: Mapping[str, int]) -> list[str]:
    """Rooms that say `Any` more often than they may."""
    return [
        f"{room}: {count} mentions of Any, may have {bounds.get(room, 0)}; if they came with code of another room: "
        "python tools/house.py --lower"
        for room, count in sorted(found.items())
        if count > bounds.get(room, 0)
    ]


def lower(root: Path = ROOT) -> None:
    """Write better figures down, and the path into docs/house.md; a figure that is worse stops it."""
    house = House(root)
    traced = path(root)
    found = {**figures(house), **path_figures(traced)}
    old = read_bounds(root) if bounds_file(root).exists() else {}
    page = root / "docs" / "house.md"
    page.write_text(with_path(page.read_text(encoding="utf-8"), path_text(traced)), encoding="utf-8")
    worse = [
        f"{name}: {figure.value:g}, was {old[name]:g}"
        for name, figure in found.items()
        if figure.bound and name in old and figure.worse_than(old[name])
    ]
    if worse:
        sys.exit("worse than its bound, so no bound is written:\n" + "\n".join(worse))
    new = {
        **{
            name: figure.value if name not in old or figure.far_better_than(old[name]) else old[name]
            for name, figure in found.items()
            if figure.bound
        },
        "any_of": mentions_of_any(house),
    }
    bounds_file(root).write_text(json.dumps(new, indent=1, sort_keys=True) + "\n", encoding="ascii")


def with_path(page: str, text: str) -> str:
    """The page with this text between its two marks; a page without marks as it is."""
    begin, _, rest = page.partition(PATH_BEGINS)
    _, _, end = rest.partition(PATH_ENDS)
    return f"{begin}{PATH_BEGINS}\n{text}\n{PATH_ENDS}{end}" if rest else page


def main(words: Sequence[str] | None = None) -> None:
    """Print all figures as a table, or lower the bounds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT)
    parser.add_argument("--lower", action="store_true")
    parser.add_argument("--where", metavar="FIGURE", help="all places that make up one figure")
    asked = parser.parse_args(words)
    root = asked.folder.resolve()
    if asked.lower:
        lower(root)
    house = House(root)
    found = {**figures(house), **path_figures(path(root))}
    if asked.where:
        print("\n".join(found[asked.where].where))
        return
    bounds = read_bounds(root) if bounds_file(root).exists() else {}
    print(f"{'figure':18} {'today':>8} {'bound':>8}  what it is")
    for name, figure in found.items():
        bound = f"{bounds[name]:g}" if name in bounds else ""
        print(f"{name:18} {figure.value:8g} {bound:>8}  {figure.meaning}")
    print(f"\n{'room':18} {'lines':>8} {'Any':>8}")
    said = mentions_of_any(house)
    for room, lines in sorted(house.rooms.items(), key=lambda pair: -pair[1]):
        print(f"{room:18} {lines:8} {said.get(room, 0):8}")


if __name__ == "__main__":
    main()
