"""A trained model as a plain Hugging Face folder, adapters merged into their base, all else copied; or as ONNX."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from bigbatch.errors import DiskError, UsageError
from bigbatch.infer.load import Loaded, open_model
from bigbatch.infer.onnx import check_installed, write_onnx
from bigbatch.model.adapters import has_adapters
from bigbatch.model.export import save_model
from bigbatch.model.heads import HEADS, usage_of
from bigbatch.written import as_named, copy_files, new_folder, rename, replace_bytes

FORMATS = ("torch", "onnx", "onnx-int8")
PLANNED = ("savedmodel",)
_CARD = "README.md"
_USE = "## Use\n"
"""The section of the model card that says how the folder is opened."""


def export_folder(
    place: Path | str,
    out: Path | str,
    *,
    to: str = "torch",
    code: bool = False,
    texts: Sequence[str] = (),
    say: Callable[[str], object] | None = None,
) -> Path:
    """Write the model of a run, or of a folder, as transformers or onnxruntime opens it; nothing is overwritten.

    Args:
        place: a run directory, or a model folder.
        out: a folder that does not exist yet.
        to: the format: `torch` (safetensors), `onnx` or `onnx-int8`.
        code: whether code that the run names may run, wherever it came from.
        texts: rows on which a file of ONNX is compared with the model, besides made ones.
        say: told size, speed and difference of a file of ONNX.

    Returns:
        The folder.

    Raises:
        UsageError: another format, the folder exists, or the model cannot be found.
        ModelError: the model cannot be used.
        DiskError: the folder cannot be written.
    """
    if to not in FORMATS:
        later = "is planned, not built yet" if to in PLANNED else "is no format that is known here"
        raise UsageError(f"--to {to}: {later}; today: {', '.join(FORMATS)}")
    target = as_named(Path(out).absolute())
    if os.path.lexists(target):
        raise UsageError(f"{target} exists, and nothing is overwritten: name another folder, or move it away")
    if to != "torch":
        check_installed()
    opened = open_model(place, device="cpu", code=code, metrics=False)
    folder = Path(place) / "model" if (Path(place) / "recipe.yaml").is_file() else Path(place)
    try:
        if to != "torch":
            _as_onnx(opened, folder, target, texts, int8=to == "onnx-int8", say=say or (lambda text: None))
        elif has_adapters(opened.module):
            card = _card(folder, opened.task.head.kind)
            files = opened.task.files(opened.module)
            save_model(opened.module, opened.tokenizer, target, card, files=files)
        else:
            _copied(folder, target)
    except OSError as error:
        raise DiskError(f"{target}: cannot be written: {error.strerror or error}") from error
    return target


def _as_onnx(
    opened: Loaded,
    folder: Path,
    target: Path,
    texts: Sequence[str],
    *,
    int8: bool,
    say: Callable[[str], object],
) -> None:
    """The folder without its weights, and the graph; there whole or not at all."""
    if has_adapters(opened.module):
        raise UsageError(
            "--to onnx: merge the adapters first (bigbatch export RUN --to torch), then export that folder"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = new_folder(target.parent, f".{target.name}.new-")
    try:
        write_onnx(opened, fresh, texts, int8=int8, say=say)
        for path in sorted(folder.glob("*.json")) + sorted(folder.glob("*.txt")):
            if path.is_file() and not path.is_symlink() and not path.name.startswith("model.safetensors"):
                replace_bytes(fresh / path.name, path.read_bytes())
        rename(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _card(folder: Path, kind: str) -> str:
    """The card of the adapters, saying how a model that transformers opens is used."""
    try:
        about = (folder / _CARD).read_text(encoding="utf-8").partition(_USE)[0]
    except (OSError, UnicodeDecodeError):
        about = ""
    plain = about.replace("library_name: peft\n", "library_name: transformers\n", 1)
    return plain + "\n".join(usage_of(HEADS[kind])) + "\n"  # type: ignore[index]


def _copied(folder: Path, target: Path) -> None:
    """The folder under another name; there whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = new_folder(target.parent, f".{target.name}.new-")
    try:
        copy_files(folder, fresh)
        rename(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
