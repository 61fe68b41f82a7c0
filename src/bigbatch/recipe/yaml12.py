"""YAML 1.2 with the core schema: `5e-5` is a number, `no` is a string, and every value knows its line.

PyYAML splits the text into events; what the events mean is decided here. Anchors, aliases and tags are refused
before anything is built, so there is nothing to expand and nothing to run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import yaml

Path = tuple[str | int, ...]

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 32
MAX_VALUES = 100_000
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"[-+]?\.(inf|Inf|INF)")
_WORDS: Mapping[str, bool | None] = {
    **{word: None for word in ("", "~", "null", "Null", "NULL")},
    **{word: True for word in ("true", "True", "TRUE")},
    **{word: False for word in ("false", "False", "FALSE")},
}


@dataclass
class Document:
    """What one YAML text says."""

    value: object = None
    lines: dict[Path, int] = field(default_factory=dict)
    """Path of a value -> its 1-based line (of the key, where there is one)."""
    problems: list[tuple[int, Path, str]] = field(default_factory=list)
    """Line, path and what is wrong."""


def resolve_scalar(text: str) -> object:
    """The value of a plain scalar by the YAML 1.2 core schema (section 10.3.2 of the specification)."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        # Python refuses to parse integers of thousands of digits; as a float they are infinite, and refused as such.
        return int(text) if len(text) < 400 else float(text)
    if _OCTAL.fullmatch(text):
        return int(text[2:], 8) if len(text) < 400 else math.inf
    if _HEXADECIMAL.fullmatch(text):
        return int(text[2:], 16) if len(text) < 400 else math.inf
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITY.fullmatch(text):
        return float(text.replace(".", "", 1))
    return float("nan") if text in (".nan", ".NaN", ".NAN") else text


def read_yaml(text: str) -> Document:
    """Parse one document; problems are collected, and what could be read is kept."""
    document = Document()
    if len(text) > MAX_CHARACTERS:
        document.problems.append(
            (1, (), f"{len(text):,} characters; a recipe has at most {MAX_CHARACTERS:,}")
        )
        return document
    try:
        _Builder(document, yaml.parse(text, Loader=yaml.SafeLoader)).read()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        what = " ".join(part for part in (error.context, error.problem) if part)
        document.problems.append((line, (), f"not valid YAML: {what}"))
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1 if isinstance(error.position, int) else 1
        document.problems.append((line, (), f"not valid YAML: character U+{_code(error):04X} is not allowed"))
    except _TooDeep as error:
        document.problems.append((error.args[0], (), f"nested deeper than {MAX_DEPTH} levels"))
    except _TooMany as error:
        document.problems.append((error.args[0], (), f"more than {MAX_VALUES:,} values"))
    return document


def read_value(text: str) -> object:
    """A value typed on the command line or in the environment.

    Lists, mappings and quoted text are YAML; everything else is one plain scalar, so that `*.csv` needs no quotes.

    Raises:
        ValueError: with what is wrong.
    """
    stripped = text.strip()
    if not stripped.startswith(("[", "{", '"', "'")):
        return resolve_scalar(stripped)
    document = read_yaml(stripped)
    if document.problems:
        raise ValueError(document.problems[0][2])
    return document.value


def dump_yaml(value: object) -> str:
    """YAML text that `read_yaml` reads back to an equal value."""
    return yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=False
    )


def inline_yaml(value: object) -> str:
    """A value on one line, as it may stand behind a key or inside a flow mapping."""
    text = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**9, default_flow_style=True
    )
    return text.removesuffix("\n").removesuffix("\n...")


class _TooDeep(Exception):
    pass


class _TooMany(Exception):
    pass


def _code(error: yaml.reader.ReaderError) -> int:
    return error.character if isinstance(error.character, int) else ord(str(error.character)[:1] or "\0")


def _line(event: yaml.Event) -> int:
    assert event.start_mark is not None, event
    return event.start_mark.line + 1


class _Builder:
    """Turns events into values; recursion is bounded by MAX_DEPTH."""

    def __init__(self, document: Document, events: Iterator[yaml.Event]) -> None:
        self.document = document
        self.events = events
        self.values = 0

    def read(self) -> None:
        documents = 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._problem(event, (), "a second document; a recipe is one")
                    return
                self.document.value = self._node(next(self.events), ())

    def _problem(self, event: yaml.Event, path: Path, what: str) -> None:
        self.document.problems.append((_line(event), path, what))

    def _node(self, event: yaml.Event, path: Path) -> object:
        if len(path) > MAX_DEPTH:
            raise _TooDeep(_line(event))
        self.values += 1
        if self.values > MAX_VALUES:
            raise _TooMany(_line(event))
        self.document.lines.setdefault(path, _line(event))
        if isinstance(event, yaml.AliasEvent):
            self._problem(
                event, path, f"alias *{event.anchor}: aliases are refused; write the value out, or quote it"
            )
            return None
        assert isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)), event
        if event.anchor is not None:
            self._problem(
                event, path, f"anchor &{event.anchor}: anchors are refused; write the value out, or quote it"
            )
        if event.tag is not None:
            self._problem(event, path, f"tag {event.tag}: tags are refused; quote the value if it is text")
        if isinstance(event, yaml.ScalarEvent):
            return event.value if event.style else resolve_scalar(event.value)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path)
        return self._mapping(path)

    def _sequence(self, path: Path) -> list[object]:
        items: list[object] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items))))
        return items

    def _mapping(self, path: Path) -> dict[str, object]:
        items: dict[str, object] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self._key(event, path)
            # An unusable or repeated key still has its value read, under a path of its own, for the problems in it.
            inner = (*path, key if key is not None else f"<line {_line(event)}>")
            if key is not None and key in items:
                first = self.document.lines[inner]
                self._problem(event, inner, f"given twice, first in line {first}")
                self._node(next(self.events), (*inner, "<again>"))
                continue
            if key is not None:
                self.document.lines[inner] = _line(event)
            value = self._node(next(self.events), inner)
            if key is not None:
                items[key] = value
        return items

    def _key(self, event: yaml.Event, path: Path) -> str | None:
        """A key is its text, whatever it would be as a value: `1`, `no` and `null` are names."""
        if isinstance(event, yaml.ScalarEvent) and event.anchor is None and event.tag is None and event.value:
            return event.value
        self._problem(event, path, "a key must be plain text")
        if not isinstance(event, (yaml.ScalarEvent, yaml.AliasEvent)):
            self._node(event, (*path, "<key>"))
        return None


class _Dumper(yaml.SafeDumper):
    """Quotes every text that the core schema would read as something else."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        return super().increase_indent(flow, False)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if isinstance(resolve_scalar(text), str) else "'"
    if not text.isprintable():
        style = '"'  # escapes keep it on one line, and keep terminals safe from it
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _represent_float(dumper: yaml.SafeDumper, number: float) -> yaml.ScalarNode:
    text = repr(number)
    if text in ("inf", "-inf", "nan"):
        text = text.replace("inf", ".inf").replace("nan", ".nan")
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


# Knowing which plain text is a number, the emitter writes `5e-05` bare and quotes texts that look like it.
_NUMBER = re.compile(f"(?:{_FLOAT.pattern})$")
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))
_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(float, _represent_float)
