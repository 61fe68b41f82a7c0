"""A trained model as a plain Hugging Face folder, adapters merged into their base, or as other programs run it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple, cast

from bigbatch.errors import DiskError, UsageError
from bigbatch.infer import alike
from bigbatch.infer.load import Loaded, open_model
from bigbatch.infer.savedmodel import FILE as SAVED_MODEL
from bigbatch.infer.savedmodel import check_tensorflow, write_savedmodel
from bigbatch.infer.unlabelled import PlacedRow, rows_of_file, rows_of_object
from bigbatch.model.adapters import has_adapters
from bigbatch.model.anatomy import headed_model
from bigbatch.model.encoder import bare
from bigbatch.model.export import save_model
from bigbatch.model.heads import HEADS, usage_of
from bigbatch.written import as_named, copy_files, new_folder, rename, replace_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FORMATS = ("transformers", "torch", "onnx", "onnx-int8", "savedmodel", "gguf")
_NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "gguf": ("gguf",)}
"""Modules of an extra."""
_CARD = "README.md"
_USE = "## Use\n"
"""The section of the model card that says how the folder is opened."""


def export_folder(
    place: Path | str,
    out: Path | str,
    *,
    to: str = "transformers",
    code: bool = False,
    texts: Sequence[str] = (),
    rows: Path | str | None = None,
    python: str | None = None,
    say: Callable[[str], object] | None = None,
) -> Path:
    """Write the model of a run, or of a folder, as another program opens it; nothing is overwritten.

    Args:
        place: a run directory, or a model folder.
        out: a folder that does not exist yet.
        to: the format, of `FORMATS`; all but `transformers` are compared with the model, and refused if they differ.
        code: whether code that the run names may run, wherever it came from.
        texts: rows on which both are compared, besides made ones.
        rows: a file of such rows, as `predict` reads it.
        python: an interpreter that has TensorFlow, for `savedmodel`; None: this one.
        say: told size, speed and difference.

    Returns:
        The folder.

    Raises:
        UsageError: another format, the folder exists, the model cannot be found, or what writes it is not installed.
        DataError: rows that cannot be read.
        ModelError: the model cannot be used, or what was written gives other outputs.
        DiskError: the folder cannot be written.
    """
    if to not in FORMATS:
        raise UsageError(f"--to {to}: no format that is known here; there are {', '.join(FORMATS)}")
    target = as_named(Path(out).absolute())
    if os.path.lexists(target):
        raise UsageError(f"{target} exists, and nothing is overwritten: name another folder, or move it away")
    _check_installed(to.partition("-")[0])
    tensorflow = check_tensorflow(python) if to == "savedmodel" else ""
    opened = open_model(place, device="cpu", code=code, metrics=False)
    folder = Path(place) / "model" if (Path(place) / "recipe.yaml").is_file() else Path(place)
    try:
        with _fresh(target) as fresh:
            if to in ("transformers", "torch"):
                _as_folder(opened, folder, fresh)
            if to != "transformers":
                real = _rows_of(opened, texts, rows, say)
                wanted = _Wanted(to, real, tensorflow, say or (lambda text: None))
                with _plain(opened, folder) as (module, source):
                    _as_program(opened, module, source, fresh, wanted)
    except OSError as error:
        raise DiskError(f"{target}: cannot be written: {error.strerror or error}") from error
    return target


def _check_installed(kind: str) -> None:
    """Whether what writes and runs a format is there.

    Raises:
        UsageError: with the line that installs it.
    """
    missing = [name for name in _NEEDED.get(kind, ()) if find_spec(name) is None]
    if missing:
        raise UsageError(f"--to {kind} needs {', '.join(missing)}: pip install 'bigbatch[{kind}]'")


@contextmanager
def _fresh(target: Path) -> Iterator[Path]:
    """A folder that has the target's name once all of it is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = new_folder(target.parent, f".{target.name}.new-")
    try:
        yield fresh
        rename(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _as_folder(opened: Loaded, folder: Path, fresh: Path) -> None:
    """As transformers opens it: copied, or with adapters merged."""
    if not has_adapters(opened.module):
        copy_files(folder, fresh)
        return
    card, files = _card(folder, opened.task.head.kind), opened.task.files(opened.module)
    save_model(opened.module, opened.tokenizer, fresh, card, files=files)


def _rows_of(
    opened: Loaded, texts: Sequence[str], file: Path | str | None, say: Callable[[str], object] | None
) -> list[PlacedRow]:
    """Real rows, those of a file first."""
    roles, columns = opened.task.roles, opened.columns
    found: list[PlacedRow] = []
    if file is not None:
        read = rows_of_file(
            file, roles=roles, columns=columns, encoding=opened.encoding, quoting=opened.quoting, say=say
        )
        found += alike.first_rows(read)
    if texts:
        found += rows_of_object(list(texts), roles=roles, columns=columns, classes=opened.task.label_names)
    return found


class _Wanted(NamedTuple):
    """What is written, and how it is tried."""

    to: str
    rows: Sequence[PlacedRow]
    tensorflow: str
    """The interpreter that has it."""
    say: Callable[[str], object]


@contextmanager
def _plain(opened: Loaded, folder: Path) -> Iterator[tuple[PreTrainedModel, Path]]:
    """The model as transformers loads it, adapters merged; and the folder that describes it."""
    if not has_adapters(opened.module):
        yield cast("PreTrainedModel", bare(headed_model(opened.module))).eval(), folder
        return
    with TemporaryDirectory(prefix="bigbatch-") as place:
        whole = Path(place) / "model"
        _as_folder(opened, folder, whole)
        merged = open_model(whole, device="cpu", metrics=False).module
        yield cast("PreTrainedModel", bare(headed_model(merged))).eval(), whole


def _as_program(opened: Loaded, module: PreTrainedModel, folder: Path, fresh: Path, wanted: _Wanted) -> None:
    """What another program runs, beside configuration and tokenizer, compared with the model.

    Raises:
        ModelError: it cannot be written, or gives other outputs.
    """
    batches = alike.batches_of(opened, wanted.rows)
    ours = alike.outputs_of(alike.by_module(module), batches)
    name, theirs = _written(opened, module, fresh, batches, wanted)
    found = alike.compared(ours, theirs, batches, min(len(wanted.rows), alike.MOST_ROWS))
    wanted.say(alike.told(found, ours, theirs, name=name, size=_size_of(fresh, wanted.to)))
    if wanted.to != "onnx-int8":
        alike.refuse_others(found)
    for path in sorted(folder.glob("*.json")) + sorted(folder.glob("*.txt")):
        known = path.is_file() and not path.is_symlink() and not path.name.startswith("model.safetensors")
        if known and not (fresh / path.name).exists():
            replace_bytes(fresh / path.name, path.read_bytes())


def _written(
    opened: Loaded, module: PreTrainedModel, fresh: Path, batches: Sequence[alike.Batch], wanted: _Wanted
) -> tuple[str, alike.Outputs]:
    """Write the file; its name, and what it gives."""
    to, followed = wanted.to, batches[-2]  # a made one, of several rows
    if to == "torch":
        from bigbatch.infer.program import FILE, by_torch, write_program

        write_program(module, fresh, followed)
        return FILE, alike.outputs_of(by_torch(fresh / FILE), batches)
    if to == "gguf":
        from bigbatch.infer.gguf import FILE, by_transformers, write_gguf

        write_gguf(module, opened.tokenizer, fresh)
        return FILE, alike.outputs_of(by_transformers(fresh), batches)
    if to == "savedmodel":
        return SAVED_MODEL, write_savedmodel(module, fresh, batches, python=wanted.tensorflow)
    from bigbatch.infer.onnx import FILE, by_onnxruntime, write_onnx

    write_onnx(module, fresh, followed, int8=to == "onnx-int8")
    return FILE, alike.outputs_of(by_onnxruntime(fresh / FILE), batches)


def _size_of(folder: Path, to: str) -> int:
    """Bytes of what is run: a folder of TensorFlow's is all of it."""
    names = "*" if to == "savedmodel" else "model.pt2" if to == "torch" else "model.*"
    return sum(path.stat().st_size for path in folder.rglob(names) if path.is_file())


def _card(folder: Path, kind: str) -> str:
    """The card of the adapters, saying how a model that transformers opens is used."""
    try:
        about = (folder / _CARD).read_text(encoding="utf-8").partition(_USE)[0]
    except (OSError, UnicodeDecodeError):
        about = ""
    plain = about.replace("library_name: peft\n", "library_name: transformers\n", 1)
    return plain + "\n".join(usage_of(HEADS[kind])) + "\n"  # type: ignore[index]
