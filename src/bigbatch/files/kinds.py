"""Files and folders -> Raw, by what their name ends in."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from bigbatch.errors import DataError, Problem
from bigbatch.files.coco import images_folder
from bigbatch.files.conll import read_conll
from bigbatch.files.contents import PACKED, content_of
from bigbatch.files.delimited import check_mark, not_utf8, read_delimited
from bigbatch.files.images import SUFFIXES as IMAGES
from bigbatch.files.images import image_folder, images_in, is_idx, one_image, read_idx
from bigbatch.files.ipc import read_arrow
from bigbatch.files.jsonlines import read_json_lines
from bigbatch.files.line_numbers import Lines
from bigbatch.files.mmcif import read_mmcif
from bigbatch.files.parquets import check_parquet, read_parquet
from bigbatch.files.pdb import read_pdb
from bigbatch.files.plain import lines_of
from bigbatch.files.problems import data_error, nearest, one_error
from bigbatch.files.raw import Raw, from_table, order_of, written_class_names
from bigbatch.files.sequences import read_fasta, read_fastq
from bigbatch.files.tfrecords import read_tfrecord
from bigbatch.remote.addresses import is_address
from bigbatch.remote.fetch import fetched
from bigbatch.stored import Damaged

DELIMITED = {".csv": False, ".tsv": True, ".tab": True}
"""Suffix -> whether tabs separate the fields."""
JSON = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet", ".pq")
ARROW = (".arrow", ".feather", ".ipc")
CONLL = (".conll", ".conllu", ".iob", ".bio")
TFRECORD = (".tfrecord", ".tfrecords")
FASTA = (".fasta", ".fa", ".fna", ".faa", ".ffn", ".frn")
FASTQ = (".fastq", ".fq")
PDB = (".pdb", ".ent")
MMCIF = (".cif", ".mmcif")
TEXT = (".txt",)
"""Plain text: one document a line."""
SUFFIXES = (*DELIMITED, *JSON, *PARQUET, *ARROW, *CONLL, *TFRECORD, *FASTA, *FASTQ, *PDB, *MMCIF, *TEXT)
_SHARD = re.compile(r"-\d+-of-\d+$")
"""Behind the kind of file, as TensorFlow names the parts of a data set: `train.tfrecord-00000-of-00010`."""
QUOTINGS = ("minimal", "none")
ENCODINGS = ("utf-8", "utf-8-sig", "latin-1")
_CODECS = {codecs.lookup(name).name: name for name in ENCODINGS}


Say = Callable[[str], object]


def find_files(path: str, base: Path, say: Say | None = None) -> list[tuple[str, Path]]:
    """(name for messages, file or folder) for a path as typed: relative to `base`, `*` allowed, sorted; or an address.

    Args:
        path: as typed.
        base: that relative ones start from.
        say: told what is fetched, if it is an address; None: nobody is.

    Raises:
        DataError: there is no such file; names the nearest one in that folder.
        MachineError: an address that cannot be reached, and never was.
    """
    if is_address(path):
        return fetched(path, is_data, say or _silent)
    full = base / Path(path).expanduser()
    if any(sign in path for sign in "*?[") and not full.exists():
        anchor = Path(full.anchor)
        matches = (
            sorted(anchor.glob(str(full.relative_to(anchor))))
            if full.is_absolute()
            else sorted(base.glob(path))
        )
        if not matches:
            raise one_error(path, "", f"no file matches (looked in {base.resolve()})")
        return [(_name(match, base), match) for match in matches]
    if full.is_dir() and (tables := _tables_in(full)):
        return [(_name(table, base), table) for table in tables]
    if full.exists():
        return [(path, full)]
    folder = full.parent
    there = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    missing = (
        f"no such file (looked in {folder.resolve()})" if there else f"no such folder: {folder.resolve()}"
    )
    raise one_error(path, "", missing + nearest(full.name, there))


def _tables_in(folder: Path) -> list[Path]:
    """Tables below a folder that holds nothing else to read, by name; none where there are images or texts."""
    found = [
        path for path in folder.rglob("*") if not path.relative_to(folder).as_posix().startswith((".", "_"))
    ]
    kinds = {path: _suffix(path) for path in found if path.is_file()}
    if any(kind in IMAGES or kind in TEXT for kind in kinds.values()):
        return []
    return sorted(path for path, kind in kinds.items() if kind in SUFFIXES)


def _silent(text: str) -> None:
    del text


def is_data(name: str) -> bool:
    """Whether a file of this name holds rows of a kind that is read."""
    return _suffix(Path(name)) in SUFFIXES


def _suffix(path: Path) -> str:
    """`.csv` of `a.csv.gz`, in lower case."""
    suffixes = [suffix.lower() for suffix in Path(_SHARD.sub("", path.name)).suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def read_file(name: str, path: Path, encoding: str, quoting: str = "minimal", *, learnt: bool = True) -> Raw:
    """The rows of one file, or of a folder of text files: one folder of them per class, or the files alone.

    Args:
        name: for messages.
        path: the file or folder.
        encoding: of text.
        quoting: of CSV and TSV, `minimal` or `none`.
        learnt: rows to learn from; those to predict need no tags, and an empty line of text is one.

    Raises:
        DataError: unknown kind, unreadable, or malformed rows.
    """
    if path.is_dir():
        return _folder(name, path, _known(encoding))
    if is_idx(path):
        return read_idx(name, path)
    suffix = _suffix(path)
    if suffix in IMAGES and not learnt:
        return one_image(name, path)
    if suffix not in SUFFIXES:
        kinds = ".csv, .tsv, .jsonl, .parquet, .arrow, .conll, .tfrecord, .fasta, .fastq, .pdb, .cif, .txt"
        known = f"expected {kinds}, or a folder of texts or images"
        raise one_error(name, "", f"unknown kind of file {suffix!r}; {known}")
    try:
        if suffix in PARQUET:
            return _parquet(name, path)
        if suffix in ARROW:
            return from_table(name, read_arrow(path), folder=path.parent)
        content = content_of(path)
    except Damaged as error:
        raise one_error(name, "", str(error)) from None
    except (OSError, pa.ArrowException) as error:
        raise one_error(name, "", f"cannot be read: {error}") from error
    found = read_content(name, content, suffix, encoding, quoting, learnt=learnt)
    boxed = suffix in JSON and found.nameless
    return replace(found, folder=images_folder(found, path) if boxed else path.parent)


def read_content(
    name: str, content: bytes, suffix: str, encoding: str, quoting: str = "minimal", *, learnt: bool = True
) -> Raw:
    """The rows of a text file's content; arguments as `read_file` has them, and what the file's name ends in.

    Args:
        name: of the file, for messages.
        content: the file, unpacked.
        suffix: what its name ends in, `.csv`, without that of the packing.
        encoding: of text.
        quoting: of CSV and TSV, `minimal` or `none`.
        learnt: rows to learn from; as `read_file` has it.
    """
    encoding = _known(encoding)
    if quoting not in QUOTINGS:
        raise one_error("", "data.quoting", f"found {quoting!r}; expected minimal or none")
    if suffix in JSON:
        return read_json_lines(name, content, encoding)
    if suffix in CONLL:
        return read_conll(name, content, encoding, learnt)
    if suffix in TFRECORD:
        return read_tfrecord(name, content)
    if suffix in FASTA:
        return read_fasta(name, content, encoding)
    if suffix in FASTQ:
        return read_fastq(name, content, encoding)
    if suffix in PDB:
        return read_pdb(name, content)
    if suffix in MMCIF:
        return read_mmcif(name, content)
    if suffix in TEXT:
        return _text_lines(name, content, encoding, learnt)
    return read_delimited(name, content, encoding, DELIMITED[suffix], quoting)


def _known(encoding: str) -> str:
    """The encoding by the name that the readers know it by."""
    try:
        found = _CODECS.get(codecs.lookup(encoding).name)
    except LookupError:
        found = None
    if found is None:
        expected = f"expected one of {', '.join(ENCODINGS)}"
        raise one_error("", "data.encoding", f"found {encoding!r}; {expected}{nearest(encoding, ENCODINGS)}")
    return found


def _name(path: Path, base: Path) -> str:
    """The path as a person would type it."""
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)


def _parquet(name: str, path: Path) -> Raw:
    schema, rows = check_parquet(path)
    columns = tuple(schema.names)

    def load(names):
        try:
            table = read_parquet(path, list(names))
        except Damaged as error:
            raise one_error(name, "", str(error)) from None
        except (OSError, pa.ArrowException) as error:
            raise one_error(name, "", f"cannot be read: {error}") from error
        return {column: table.column(column) for column in names}

    ordered = [field.name for field in schema if pa.types.is_dictionary(field.type) and field.type.ordered]
    found = {column: order_of(values) for column, values in load(ordered).items()}
    orders = {column: order for column, order in found.items() if order is not None}
    return Raw(
        name=name,
        columns=columns,
        rows=rows,
        load=load,
        class_names=written_class_names(schema),
        class_orders=orders,
        folder=path.parent,
    )


def _text_lines(name: str, content: bytes, encoding: str, learnt: bool) -> Raw:
    """One document a line; lines without text are left out of what is learnt, and lines keep their numbers."""
    lines = lines_of(_decoded(name, content, encoding))
    if not lines[-1]:  # behind the last line's end
        lines.pop()
    kept = [number for number, line in enumerate(lines) if line.strip() or not learnt]
    table = pa.table({"text": pa.array([lines[number] for number in kept], pa.large_string())})
    return from_table(name, table, numbers=np.array(kept, np.int64) + 1, nameless=True)


def _decoded(place: str, content: bytes, encoding: str) -> str:
    """Text of a file, without its byte-order mark.

    Raises:
        DataError: the first byte that is no UTF-8, with its line.
    """
    mark = check_mark(place, content, encoding)
    content = content[mark:]
    try:
        return content.decode("latin-1" if encoding == "latin-1" else "utf-8")
    except UnicodeDecodeError as error:
        line = Lines(content).number(error.start)
        what = f"{not_utf8(content[error.start])} (line {line:,}, byte offset {error.start + mark:,})"
        raise data_error([Problem(where=place, what=what)]) from None


def _folder(name: str, folder: Path, encoding: str) -> Raw:
    """Of images, where there are more of these than of texts."""
    images = images_in(folder)
    if len(images) > sum(1 for _ in folder.rglob("*.txt")):
        return image_folder(name, folder, images)
    return _text_folder(name, folder, encoding)


def _text_folder(name: str, folder: Path, encoding: str) -> Raw:
    """`folder/<class>/<anything>.txt`, or `folder/<anything>.txt` without classes: one text a file, in the order of
    their names.
    """
    files: list[tuple[str | None, Path]] = [
        (kind.name, file)
        for kind in sorted(folder.iterdir())
        if kind.is_dir() and not kind.name.startswith(".")
        for file in sorted(kind.rglob("*.txt"))
    ]
    labelled = bool(files)
    files = files or [(None, file) for file in sorted(folder.glob("*.txt"))]
    if not files:
        raise one_error(
            name, "", "expected .txt files or images in it, or one folder of them a class; found none"
        )
    texts: list[str] = []
    problems: list[Problem] = []
    for _, file in files:
        try:
            texts.append(
                _decoded(f"{name}/{file.relative_to(folder).as_posix()}", content_of(file), encoding)
            )
        except DataError as error:
            problems += error.problems
        except (OSError, Damaged) as error:
            problems.append(Problem(where=f"{name}/{file.relative_to(folder).as_posix()}", what=str(error)))
    if problems:
        raise data_error(problems)
    columns = {"text": pa.array(texts, pa.large_string())}
    if labelled:
        columns["label"] = pa.array([kind for kind, _ in files], pa.large_string())
    columns["id"] = pa.array([file.relative_to(folder).as_posix() for _, file in files], pa.large_string())
    return from_table(name, pa.table(columns), nameless=True)
