"""What Python brings, in a folder that fresh processes open: weights as safetensors, rows as Arrow, the rest as JSON.

::

    parcel.json      arguments of `train`
    model/           Hugging Face folder of a live model     tokenizer/     of a live tokenizer
    train.arrow  validation.arrow  validation-hard.arrow     rows that were objects

Code is never packed: classes and functions go by their names, and must be in a file that the processes can import.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import torch
from pyarrow import ipc
from typing_extensions import TypedDict

from bigbatch.build.inputs import is_dataset
from bigbatch.data.objects import read_object
from bigbatch.documents import checked
from bigbatch.errors import MachineError, UsageError
from bigbatch.files.raw import to_table
from bigbatch.model.attention import IMPLEMENTATION
from bigbatch.model.source import opened, quiet
from bigbatch.model.tensors import named_tensors
from bigbatch.model.tokenizer import load_tokenizer
from bigbatch.protocols import Tokenizer
from bigbatch.recipe.load import load_recipe, recipe_values
from bigbatch.recipe.schema import ModelSpec, Recipe
from bigbatch.stored import Damaged, read_json
from bigbatch.written import replace_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel


NAME = "parcel.json"
_POSITIONS = ("text", "label")
"""Roles of rows that are tuples."""


class _ParcelFile(TypedDict):
    """parcel.json."""

    import_from: list[str]
    model: dict[str, object]
    train: object
    validation: object
    tokenizer: bool
    code: dict[str, object]
    rest: dict[str, object]


def pack(folder: Path, arguments: Mapping[str, Any]) -> None:
    """Write the arguments of `train` into an empty folder.

    Args:
        folder: exists; on a disk that every process sees.
        arguments: by their names in `bigbatch.train`.

    Raises:
        UsageError: something that a fresh process could not rebuild; says what to do instead.
        DataError: rows that are no rows.
    """
    named = dict(arguments)
    content: dict[str, Any] = {
        # The script's own folder is where a fresh process would not look.
        "import_from": [entry or str(Path.cwd()) for entry in sys.path],
        "model": _model(folder, named.pop("model_or_recipe")),
        "train": _rows(folder, "train", named.pop("train_dataset")),
        "validation": _validation(folder, named.pop("val_dataset")),
        "tokenizer": _tokenizer(folder, named.pop("tokenizer", None)),
        "code": {
            name: [_code(each, name) for each in named.pop(name, None) or ()]
            for name in ("metrics", "observers")
        },
    }
    content["code"] |= {
        name: _code(named.pop(name, None), name) for name in ("task", "loss", "compute_metrics")
    }
    content["rest"] = {
        name: str(value) if isinstance(value, Path) else value for name, value in named.items()
    }
    try:
        text = json.dumps(content, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"distributed_train: an argument cannot be sent to other processes: {error}"
        ) from error
    replace_text(folder / NAME, text, durable=False)


def unpack(folder: Path) -> dict[str, object]:
    """The arguments of `train` again.

    Raises:
        UsageError: a class or function cannot be imported here, or the model came out different.
        MachineError: the parcel is damaged.
    """
    try:
        content = checked(read_json(folder / NAME), _ParcelFile)
    except (OSError, Damaged) as error:
        raise MachineError(f"{folder / NAME}, which the launcher wrote, cannot be used: {error}") from None
    sys.path += [entry for entry in content["import_from"] if entry not in sys.path]
    code = {name: _resolved(found) for name, found in content["code"].items()}
    return {
        "model_or_recipe": _opened_model(folder, content["model"]),
        "train_dataset": _opened_rows(folder, content["train"]),
        "val_dataset": _opened_rows(folder, content["validation"]),
        "tokenizer": _opened_tokenizer(folder, content["tokenizer"]),
        **code,
        **content["rest"],
    }


# ---------------------------------------------------------------- models


def _model(
    folder: Path, found: torch.nn.Module | Recipe | Mapping[str, object] | str | Path
) -> dict[str, object]:
    if isinstance(found, torch.nn.Module):
        return _live_model(folder, found)
    if isinstance(found, Recipe):
        return {"recipe": recipe_values(found), "source": str(found.source) if found.source else None}
    if isinstance(found, Mapping):
        return {"values": dict(found)}
    return {"name": str(Path(found).absolute()) if Path(found).exists() else str(found)}


def _live_model(folder: Path, module: torch.nn.Module) -> dict[str, object]:
    reference = _reference(type(module), "model")
    if not (hasattr(module, "config") and hasattr(type(module), "from_pretrained")) or hasattr(
        module, "peft_config"
    ):
        raise UsageError(
            f"distributed_train: {type(module).__name__} is no plain Hugging Face model, so a fresh process cannot "
            "rebuild it. Start your script with torchrun instead: every process builds the model, and bigbatch.train "
            "shares the work"
        )
    model = cast("PreTrainedModel", module)
    with quiet():
        model.save_pretrained(folder / "model", safe_serialization=True)
    own = getattr(model.config, "_attn_implementation", None)
    dtypes = sorted({str(parameter.dtype).partition(".")[2] for parameter in module.parameters()})
    return {
        "class": reference,
        "dtype": dtypes[0] if len(dtypes) == 1 else "float32",
        "attention": None if own == IMPLEMENTATION else own,
        "called": getattr(model.config, "_name_or_path", ""),
        "frozen": sorted(name for name, each in module.named_parameters() if not each.requires_grad),
        "dropout": {
            name: part.p for name, part in module.named_modules() if isinstance(part, torch.nn.Dropout)
        },
        "digest": _digest(module),
    }


def _opened_model(folder: Path, said: Mapping[str, Any]) -> object:
    if "name" in said or "values" in said:
        return said.get("name") or said["values"]
    if "recipe" in said:
        return load_recipe(said["recipe"]).from_source(Path(said["source"]) if said["source"] else None)
    kind = _imported(said["class"])
    chosen = {} if said["attention"] is None else {"attn_implementation": said["attention"]}
    with opened(str(folder / "model"), None, weights=True, config=False) as view, quiet():
        module = kind.from_pretrained(
            view.path, dtype=getattr(torch, said["dtype"]), use_safetensors=True, **chosen
        )
    # Where it was opened is another place on every rank.
    module.config._name_or_path = module.name_or_path = said["called"]
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in said["frozen"])
    for name, probability in said["dropout"].items():
        module.get_submodule(name).p = probability
    if _digest(module) != said["digest"]:
        raise UsageError(
            f"distributed_train: {said['class']} saved and opened again is another model; start your script with "
            "torchrun instead"
        )
    return module


def _digest(module: torch.nn.Module) -> str:
    """Of every bit of every tensor."""
    whole = hashlib.sha256()
    for name, tensor in sorted(named_tensors(module)[0].items()):
        whole.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
        whole.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def _tokenizer(folder: Path, tokenizer: Any) -> bool:
    if tokenizer is not None:
        tokenizer.save_pretrained(folder / "tokenizer")
    return tokenizer is not None


def _opened_tokenizer(folder: Path, packed: bool) -> Tokenizer | None:
    if not packed:
        return None
    return load_tokenizer(ModelSpec(name=str(folder / "tokenizer")))


# ---------------------------------------------------------------- rows


def _validation(folder: Path, found: object) -> object:
    if isinstance(found, Mapping) and all(map(is_dataset, found.values())):
        return {"sets": {str(n): _rows(folder, f"validation-{n}", each) for n, each in found.items()}}
    return found if isinstance(found, float) else _rows(folder, "validation", found)


def _rows(folder: Path, name: str, found: object) -> object:
    if found is None:
        return None
    entries = found if isinstance(found, (list, tuple)) else [found]
    paths = [Path(entry) for entry in entries if isinstance(entry, (str, Path))]
    if paths and len(paths) == len(entries):
        return {"files": [str(path.expanduser().absolute()) for path in paths]}
    raw = read_object(found, _POSITIONS)
    try:
        table = to_table(raw)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UsageError(f"distributed_train: {name}: rows of different types: {error}") from error
    file = f"{name}.arrow"
    with ipc.new_file(folder / file, table.schema) as writer:
        writer.write_table(table)
    return {"arrow": file}


def _opened_rows(folder: Path, said: Any) -> object:
    if said is None or isinstance(said, float):
        return said
    if "sets" in said:
        return {name: _opened_rows(folder, each) for name, each in said["sets"].items()}
    if "files" in said:
        return said["files"]
    with pa.memory_map(str(folder / said["arrow"])) as source, ipc.open_file(source) as reader:
        return reader.read_all()


# ---------------------------------------------------------------- code, by its name


def _code(found: object, what: str) -> dict[str, object]:
    """Words and numbers as they are; a function or class by where it is."""
    if found is None or isinstance(found, (str, Mapping)):
        return {"plain": found if not isinstance(found, Mapping) else dict(found)}
    if not hasattr(found, "__qualname__"):
        raise UsageError(
            f"distributed_train: {what}: an object of {type(found).__name__} cannot be sent; name it, such as "
            f"{what}='file.py:name'"
        )
    return {"import": _reference(found, what)}


def _reference(found: Any, what: str) -> str:
    module, name = found.__module__, found.__qualname__
    if module == "__main__" or "<" in name or getattr(sys.modules.get(module), "__file__", None) is None:
        raise UsageError(
            f"distributed_train: {what}: other processes cannot import {name} from {module}: put it in a file "
            "and import it from there"
        )
    return f"{module}:{name}"


def _resolved(said: Any) -> object:
    if isinstance(said, list):
        return [_resolved(each) for each in said]
    return _imported(said["import"]) if "import" in said else said["plain"]


def _imported(reference: str) -> Any:
    module, _, name = reference.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"distributed_train: {reference} cannot be imported here ({error}): put it in a file that every machine "
            "has at the same path"
        ) from error
    return found
