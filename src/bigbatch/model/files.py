"""How large and how deep the files of a model folder may be, before anything opens, hashes or loads them.

Weights are as large as their own header says, to the byte: a hole of 1 TiB, half a download and a pointer of Git LFS
are told apart from a model without reading more than the header. Everything else that transformers reads is limited.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from bigbatch.errors import ModelError
from bigbatch.model.nesting import check_nesting
from bigbatch.stored import Damaged, check_plain, json_value, open_plain
from bigbatch.units import show_bytes

MOST_VOCABULARY_BYTES = 2**29
"""The largest in use have 40 MB."""
MOST_TEMPLATE_BYTES = 2**24
_HEADER_BYTES = 100_000_000
"""The limit of safetensors itself."""


def folder_digest(folder: Path, tokenizer: Path) -> str:
    """sha256 (hex) of weights, configuration and tokenizer of a local folder, or of two.

    Raises:
        ModelError: a file that no model has.
    """
    files = sorted({*_model_files(folder), *_model_files(tokenizer)})
    for path in files:  # none is hashed before all can be a model's
        check_file(path)
    parts = [f"{path.name}:{file_digest(path)}" for path in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _model_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    endings = (".safetensors", ".json", ".txt", ".model")
    return [path for path in folder.iterdir() if path.suffix in endings and path.is_file()]


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_file(file: Path) -> None:
    """Whether one file of a model folder may be opened: weights, configuration, vocabulary or template.

    Raises:
        ModelError: the file, and what is wrong with it.
    """
    if file.suffix == ".safetensors":
        check_weights(file)
        return
    try:
        size_bytes = check_plain(file)
        most = MOST_TEMPLATE_BYTES if file.suffix == ".jinja" else MOST_VOCABULARY_BYTES
        if size_bytes > most:
            raise Damaged(
                f"has {show_bytes(size_bytes)}; at most {show_bytes(most)} are read of such a file. Remedy: put a "
                "complete copy of the model's own in its place, or move what is not the model's out of the folder"
            )
        if file.suffix == ".json":
            check_nesting(file)
    except (Damaged, OSError) as error:
        raise ModelError(f"{file}: {error}") from error


def check_weights(file: Path) -> dict[str, Any]:
    """The header of a safetensors file whose tensors end where the file does.

    Returns: Tensor name -> dtype, shape and data_offsets.

    Raises:
        ModelError: no header, or a file of another size than it says.
    """
    try:
        size_bytes = check_plain(file)
        with open_plain(file) as stream:
            header_bytes = int.from_bytes(stream.read(8), "little")
            header = stream.read(header_bytes) if header_bytes <= min(_HEADER_BYTES, size_bytes) else b""
    except (Damaged, OSError) as error:
        raise ModelError(f"{file}: {error}") from error
    try:
        found = json_value(header)
        if not isinstance(found, dict):
            raise TypeError("no object")
        tensors = {name: tensor for name, tensor in found.items() if name != "__metadata__"}
        ends = [tensor["data_offsets"][1] for tensor in tensors.values()]
        counts = [ends, *(tensor["shape"] for tensor in tensors.values())]
        if not all(isinstance(count, int) and count >= 0 for each in counts for count in each):
            raise TypeError("a shape is no list of counts")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:  # also Damaged
        raise ModelError(
            f"{file}: cannot be opened: found no header of safetensors; expected a complete copy"
        ) from error
    said_bytes = 8 + header_bytes + max(ends, default=0)
    if said_bytes != size_bytes:
        raise ModelError(
            f"{file}: cannot be opened: its tensors end at byte {said_bytes:,}, and the file at byte {size_bytes:,}; "
            "expected a complete copy"
        )
    return tensors
