"""What a file seems to be: for `bigbatch init`. Reads no model and imports neither torch nor transformers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bigbatch.data.columns import ID, guess_column
from bigbatch.data.happenings import happened
from bigbatch.data.label_values import (
    MOST_CLASSES,
    counted,
    distinct,
    is_empty,
    kind_of_labels,
    label_or_none,
)
from bigbatch.data.labels import Kind, sorted_labels
from bigbatch.data.language import count_words, estimate_tokens, guess_language
from bigbatch.data.pairs import (
    ASKED,
    FOLDED,
    MATCHED,
    PREFERRED,
    WRITTEN,
    asked,
    boxed,
    folded,
    holds_texts,
    preference,
    said_columns,
    texts_of_two,
)
from bigbatch.data.running import STRETCH_ROWS, STRETCHES, running_share
from bigbatch.data.sampled import Sampled, percentiles
from bigbatch.data.talks import as_texts
from bigbatch.errors import DataError
from bigbatch.files.class_names import NOT_COUNTED
from bigbatch.files.contents import content_of
from bigbatch.files.images import holds_images
from bigbatch.files.kinds import CONLL, DELIMITED, ENCODINGS, JSON, TEXT, find_files, read_file
from bigbatch.files.problems import listed, one_error
from bigbatch.files.raw import Raw
from bigbatch.files.squad import answers_of
from bigbatch.stored import Damaged
from bigbatch.turns import holds_conversations, parts_of, told_texts


@dataclass(frozen=True, kw_only=True)
class DataProfile:
    """What is known about a data set before anybody said anything."""

    files: tuple[str, ...]
    rows: int
    columns: Mapping[str, str]
    """Role -> column: `text`, `label`, and `pair` and `id` when there are such columns; of sentences with a tag
    for each word, `words` and `tags`; of two texts, `query` and `document` or `source` and `target`; `image`."""
    candidates: Mapping[str, tuple[str, ...]]
    """Role -> all columns that could be it, best first."""
    all_columns: tuple[str, ...]
    kind: Kind
    """What `task.kind` seems to be; `tags`: the task is tag."""
    encoding: str
    """The one given, or `latin-1` when a file is not UTF-8."""
    language: str
    """`en`, `de`, `fr`, `es`, `zh`, or `unknown`."""
    class_counts: Mapping[str, int]
    """Rows (words) of each class, in the order of the labels; empty for regression."""
    words: Mapping[str, float] = field(default_factory=dict)
    """`p10`, `p50`, `p90`, `p99` of words a row (characters / 1.5 for Chinese, Japanese, Korean)."""
    characters: Mapping[str, float] = field(default_factory=dict)
    tokens: Mapping[str, float] = field(default_factory=dict)
    """The same of tokens a row, estimated without a tokenizer."""
    total_tokens: int
    """Estimated, of all rows."""
    empty_texts: int
    missing_labels: int
    """Rows without one; of questions, those without an answer."""
    warnings: tuple[str, ...]
    quoting: str = "minimal"
    """`none` when quotes of a CSV or TSV file are characters like any other."""
    running: float | None = None
    """Share of lines that the next one carries on, where the rows are lines of a running text."""


def profile(
    paths: Sequence[str | Path] | str | Path,
    encoding: str = "utf-8",
    *,
    base: Path | None = None,
    columns: Mapping[str, str] | None = None,
    say: Callable[[str], object] | None = None,
) -> DataProfile:
    """Look at data files: which column is what, which kind of task, how long, how balanced, which language.

    Args:
        paths: one or several files, folders or patterns that belong together.
        encoding: tried first; text that is not UTF-8 is read as latin-1, with a warning.
        base: the folder that relative paths start from; by default the current one.
        columns: role -> column, where that is known; the rest is guessed.
        say: told what is fetched, where a path is an address.

    Raises:
        DataError: a file that is missing or malformed, files without rows, or a column that is not there.
    """
    entries = [paths] if isinstance(paths, (str, Path)) else list(paths)
    found = [pair for entry in entries for pair in find_files(str(entry), base or Path(), say)]
    encoding, warnings = _encoding([path for _, path in found], encoding)
    raws, quoting = _read(found, encoding, warnings)
    raws = [as_texts(raw, columns or {}) for raw in raws]
    names = [name for name in raws[0].columns if all(name in raw.columns for raw in raws)]
    rows = sum(raw.rows for raw in raws)
    if not rows or not names:
        raise one_error(", ".join(name for name, _ in found), "", "no rows, or no column that all files have")
    if len({raw.columns for raw in raws}) > 1:
        warnings.append(f"the files have different columns; all have: {listed(names)}")
    table = Sampled(raws, rows)
    some = {name: table.some(name) for name in names}
    said = said_columns(columns or {}, names, ", ".join(name for name, _ in found))
    own_id = {ID: said[ID]} if ID in said else {}
    files = tuple(name for name, _ in found)
    firsts = {name: values[0] for name, values in some.items()}
    if "messages" in said or (not said and holds_conversations(firsts)):
        return replace(_describe_chat(files, names, table, encoding, warnings, said), quoting=quoting)
    folds = folded(some, said)
    if folds is not None:
        picked, own, columns = (folds["sequence"], None), ([folds["sequence"]], []), {**folds, **own_id}
        found_profile = _describe(files, names, table, encoding, warnings, picked, own, columns)
        return replace(found_profile, language="unknown", words={}, running=None)
    events = happened(some, said, table.all)
    if events is not None:
        seen = _describe(files, names, table, encoding, [*warnings], (None, None), ([], []), own_id)
        events = {**seen.columns, **events}
        return replace(seen, columns=events, words={}, warnings=tuple(warnings), quoting=quoting)
    boxes = boxed(some, said) or {}
    tagged = None if boxes else _tagged(names, table, said)
    if tagged is not None:
        return replace(_describe_tagged(files, names, table, encoding, warnings, tagged), quoting=quoting)
    image = said.get("image", _image(names, table))
    if image is not None and not {"text", "query", "source"} & said.keys():
        return _describe_images(files, names, table, warnings, {**said, **boxes, "image": image})
    preferred = preference(some, said)
    if preferred is not None:
        texts = list(preferred.values())
        columns = {**preferred, **own_id}
        return replace(
            _describe(files, names, table, encoding, warnings, (texts[0], None), (texts, []), columns),
            quoting=quoting,
        )
    questions = asked(some, said)
    if questions is not None:
        columns = {**questions, **own_id}
        picked = ([questions["context"], questions["question"]], [])
        found_profile = _describe(
            files, names, table, encoding, warnings, (questions["context"], None), picked, columns
        )
        without = sum(answers_of(value) == "[]" for value in table.all(questions["answers"]))
        return replace(found_profile, quoting=quoting, missing_labels=without)
    text, texts_found = _texts(names, table)
    text = said.get("text", said.get("query", said.get("source", text)))
    label, labels_found = _labels(names, table, text)
    label = None if {"query", "source"} & said.keys() else said.get("label", label)
    pair = {} if said else texts_of_two(some, texts_found, label)
    label = None if label in pair.values() else label
    text = pair.get("query", pair.get("source", text))
    found_profile = _describe(
        files, names, table, encoding, warnings, (text, label), (texts_found, labels_found), {**said, **pair}
    )
    return replace(found_profile, quoting=quoting)


def _read(found: Sequence[tuple[str, Path]], encoding: str, warnings: list[str]) -> tuple[list[Raw], str]:
    """All files, and how quotes are meant in them: as characters where that alone makes sense of them."""
    try:
        return [read_file(name, path, encoding) for name, path in found], "minimal"
    except DataError as error:
        if not any("quot" in problem.what for problem in error.problems):
            raise
        try:
            raws = [read_file(name, path, encoding, "none") for name, path in found]
        except DataError:
            raise error from None
        first = error.problems[0]
        warnings.append(f"quotes are read as characters (data.quoting: none): {first.where}: {first.what}")
        return raws, "none"


def _encoding(paths: Sequence[Path], encoding: str) -> tuple[str, list[str]]:
    if encoding == "latin-1" or encoding not in ENCODINGS:
        return encoding, []
    for path in paths:
        if path.is_file() and path.suffix.lower() in (*DELIMITED, *JSON, *CONLL, *TEXT):
            try:
                content_of(path).decode("utf-8")
            except UnicodeDecodeError as error:
                byte = f"byte 0x{error.object[error.start]:02X} at offset {error.start:,}"
                return "latin-1", [f"{path.name} is not UTF-8 ({byte}); it is read as latin-1"]
            except Damaged as error:
                raise one_error(path.name, "", str(error)) from None
    return encoding, []


# ---------------------------------------------------------------- columns


def _image(names: Sequence[str], table: Sampled) -> str | None:
    """The column of images: by name, else the first one that holds such."""
    order = [*guess_column("image", "image", names), *names]
    return next((name for name in order if holds_images(table.some(name))), None)


def _texts(names: Sequence[str], table: Sampled) -> tuple[str | None, list[str]]:
    """The text column and all that could be it: by name, then by how much text there is."""
    measured = {}
    for name in names:
        texts = [value for value in table.some(name) if isinstance(value, str)]
        if len(texts) > 0.5 * len(table.sample):
            measured[name] = sum(map(count_words, texts)) / len(texts)
    by_name = [name for name in guess_column("text", "text", names) if name in measured]
    by_length = sorted((name for name in measured if measured[name] >= 2), key=lambda name: -measured[name])
    found = list(dict.fromkeys([*by_name, *by_length]))
    return (found[0] if found else None), found


def _labels(names: Sequence[str], table: Sampled, text: str | None) -> tuple[str | None, list[str]]:
    """The label column and all that could be it: by name, then those with few distinct values."""
    others = [name for name in names if name != text]
    taken = [name for name in (text,) if name is not None]
    by_name = [
        name
        for name in guess_column("label", "number", others, taken)
        if len(table.sample) < 20 or not holds_texts(table.some(name), fewest_words=3)
    ]
    few = []
    for name in others:
        most = min(MOST_CLASSES, max(2, table.rows // 5))
        if 2 <= distinct(table.all(name), most) <= most:
            few.append((distinct(table.all(name), most), name))
    found = list(dict.fromkeys([*by_name, *(name for _, name in sorted(few))]))
    return (found[0] if found else None), found


# ---------------------------------------------------------------- sentences of tagged words


def _tagged(names: Sequence[str], table: Sampled, said: Mapping[str, str]) -> tuple[str, list[str]] | None:
    """The column of words and those that could be their tags: lists of equal lengths, with few distinct entries."""
    if "words" in said:
        for role in ("words", "tags"):
            if not all(isinstance(row, list) for row in table.some(said[role])):
                what = f"column {said[role]!r} holds no lists; a sentence is a list of words, its tags one as long"
                raise one_error("", f"--column {role}", what)
        return said["words"], [said["tags"]]
    if said:
        return None
    columns = {name: table.some(name) for name in names}
    lists = {name: rows for name, rows in columns.items() if all(isinstance(row, list) for row in rows)}
    texts = [
        name for name, rows in lists.items() if all(isinstance(word, str) for row in rows for word in row)
    ]
    distinct = {name: len({repr(entry) for row in rows for entry in row}) for name, rows in lists.items()}
    named = guess_column("words", "words", texts)
    others = sorted(set(texts) - set(named), key=lambda name: -distinct[name])
    for word in [*named, *others]:
        lengths = list(map(len, lists[word]))
        equal = [
            name for name in lists if name not in (word, *named) and list(map(len, lists[name])) == lengths
        ]
        few = [name for name in equal if 2 <= distinct[name] <= MOST_CLASSES]
        by_name = guess_column("tags", "tags", few)
        tags = [*by_name, *sorted(set(few) - set(by_name), key=lambda name: distinct[name])]
        # Words whose column is not called so are told from tags by being more different ones.
        if tags and (word in named or distinct[tags[0]] < distinct[word]):
            return word, tags
    return None


def _describe_tagged(
    files: tuple[str, ...],
    names: Sequence[str],
    table: Sampled,
    encoding: str,
    warnings: list[str],
    tagged: tuple[str, list[str]],
) -> DataProfile:
    words, tags = tagged
    ids = guess_column(ID, "text", names, [words, tags[0]])
    sentences = [row or [] for row in table.some(words)]
    texts = [" ".join(row) for row in sentences]
    tokens = [estimate_tokens(text) for text in texts]
    counts = Counter(label_or_none(tag) for row in table.all(tags[0]) for tag in row or ())
    known = {name: count for name, count in counts.items() if name not in (None, NOT_COUNTED)}
    return DataProfile(
        files=files,
        rows=table.rows,
        columns={"words": words, "tags": tags[0], **({ID: ids[0]} if ids else {})},
        candidates={"words": (words,), "tags": tuple(tags), ID: tuple(ids)},
        all_columns=tuple(names),
        kind="tags",
        encoding=encoding,
        language=guess_language(texts),
        class_counts={name: known[name] for name in sorted_labels(list(known))},
        words=percentiles([len(row) for row in sentences]),
        characters=percentiles([len(text) for text in texts]),
        tokens=percentiles(tokens),
        total_tokens=round(float(np.mean(tokens)) * table.rows),
        empty_texts=sum(not row for row in table.all(words)),
        missing_labels=sum(row is None for row in table.all(tags[0])),
        warnings=tuple(warnings),
    )


# ---------------------------------------------------------------- the profile


def _describe(
    files: tuple[str, ...],
    names: Sequence[str],
    table: Sampled,
    encoding: str,
    warnings: list[str],
    picked: tuple[str | None, str | None],
    found: tuple[list[str], list[str]],
    said: Mapping[str, str],
) -> DataProfile:
    text, label = picked
    taken = [name for name in (*picked, *said.values()) if name]
    pairs = [said["pair"]] if "pair" in said else guess_column("pair", "text", names, taken)
    ids = [said[ID]] if ID in said else guess_column(ID, "text", names, taken)
    columns = {"text": text, "label": label, "pair": pairs[0] if pairs else None}
    for second, roles in (
        ("document", MATCHED),
        ("target", WRITTEN),
        ("chosen", PREFERRED),
        ("question", ASKED),
        ("structure", FOLDED),
    ):
        if second in said:
            pairs, columns = [said[second]], {role: said.get(role) for role in roles}
    columns[ID] = ids[0] if ids else None
    if text is None:
        warnings.append(f"no column looks like the text; there are: {listed(names)}")
    columns_read = [table.some(name) for name in (text, *pairs[:1]) if name is not None]
    texts = [] if text is None else [_joined(*row) for row in zip(*columns_read, strict=True)]
    tokens = np.array([estimate_tokens(value) for value in texts] or [0.0])
    labels = [] if label is None else table.all(label)
    kind = kind_of_labels(labels) if labels else "single"
    counts, missing = counted(labels, kind)
    return DataProfile(
        files=files,
        rows=table.rows,
        columns={role: name for role, name in columns.items() if name is not None},
        candidates={"text": tuple(found[0]), "label": tuple(found[1]), "pair": tuple(pairs), ID: tuple(ids)},
        all_columns=tuple(names),
        kind=kind,
        encoding=encoding,
        language=guess_language(texts),
        class_counts=counts,
        words=percentiles([count_words(value) for value in texts]),
        characters=percentiles([len(value) for value in texts]),
        tokens=percentiles(tokens.tolist()),
        total_tokens=round(float(tokens.mean()) * table.rows),
        empty_texts=0 if text is None else sum(is_empty(value) for value in table.all(text)),
        missing_labels=missing,
        warnings=tuple(warnings),
        running=None if text is None or label is not None or pairs else _running(table, text),
    )


def _describe_images(
    files: tuple[str, ...], names: Sequence[str], table: Sampled, warnings: list[str], said: Mapping[str, str]
) -> DataProfile:
    """Images, and the class of each, or of each of its boxes."""
    image, many = said["image"], said.get("classes")
    found, labels = _labels(names, table, image) if many is None else (None, [])
    label = said.get("label", found)
    ids = [said[ID]] if ID in said else guess_column(ID, "text", names, [image, *([label] if label else [])])
    values = table.flat(many) if many is not None else [] if label is None else table.all(label)
    counts, missing = counted(values, "single")
    columns = {"image": image, "label": label, "boxes": said.get("boxes"), "classes": many}
    return DataProfile(
        files=files,
        rows=table.rows,
        columns={
            role: name
            for role, name in (*columns.items(), *zip((ID,), ids, strict=False))
            if name is not None
        },
        candidates={"image": (image,), "label": tuple(labels), ID: tuple(ids)},
        all_columns=tuple(names),
        kind="single",
        encoding="utf-8",
        language="unknown",
        class_counts=counts,
        total_tokens=0,
        empty_texts=sum(value is None or value == "" for value in table.all(image)),
        missing_labels=missing,
        warnings=tuple(warnings),
    )


def _describe_chat(
    files: tuple[str, ...],
    names: Sequence[str],
    table: Sampled,
    encoding: str,
    warnings: list[str],
    said: Mapping[str, str],
) -> DataProfile:
    """Conversations, and how long they are."""
    parts = parts_of(names, said)
    texts, wrong = told_texts({part: table.some(name) for part, name in parts.items()})
    ids = guess_column(ID, "text", names, list(parts.values()))
    tokens = [estimate_tokens(text) for text in texts] or [0.0]
    return DataProfile(
        files=files,
        rows=table.rows,
        columns={**parts, **({ID: ids[0]} if ids else {})},
        candidates={part: (name,) for part, name in parts.items()},
        all_columns=tuple(names),
        kind="single",
        encoding=encoding,
        language=guess_language(texts),
        class_counts={},
        words=percentiles([count_words(text) for text in texts]),
        characters=percentiles([len(text) for text in texts]),
        tokens=percentiles(tokens),
        total_tokens=round(float(np.mean(tokens)) * table.rows),
        empty_texts=0,
        missing_labels=0,
        warnings=(*warnings, *wrong),
    )


def _running(table: Sampled, text: str) -> float | None:
    """Of rows in the order of the files, from a few places."""
    values = table.all(text)
    firsts = sorted({len(values) * place // STRETCHES for place in range(STRETCHES)})
    return running_share([list(map(_joined, values[first : first + STRETCH_ROWS])) for first in firsts])


def _joined(*texts: Any) -> str:
    return " ".join(str(text) for text in texts if text is not None)
