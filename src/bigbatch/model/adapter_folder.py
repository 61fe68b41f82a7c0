"""Folders of adapters as PEFT writes and opens them: `adapter_config.json` and `adapter_model.safetensors`.

Read without trust: which layers have adapters is told by the names of the tensors, never by patterns of the folder, and
of the settings only those are taken that are numbers and switches. Nothing is unpickled, nothing is imported.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bigbatch.errors import ModelError
from bigbatch.model.adapters import ADAPTER, Layers, config_of, is_wrapped, linear_names, peft, put_in
from bigbatch.model.anatomy import Anatomy, anatomy, headed_model
from bigbatch.model.clean import read_object
from bigbatch.model.encoder import bare
from bigbatch.model.files import check_weights
from bigbatch.model.names import clean_name, named_parameters, unwrap
from bigbatch.model.streams import Weights
from bigbatch.written import replace_text

if TYPE_CHECKING:
    from peft import PeftModel

SETTINGS = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PICKLED = "adapter_model.bin"
_PREFIX = "base_model.model."
"""Of every name in a file of PEFT."""
_MAGNITUDE = "lora_magnitude_vector"
_TAKEN: Mapping[str, tuple[type, ...]] = {
    "r": (int,),
    "lora_alpha": (int, float),
    "lora_dropout": (int, float),
    "use_rslora": (bool,),
    "use_dora": (bool,),
}
_DEFAULTS: Mapping[str, object] = {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0}
"""PEFT's own."""
_MOST = {"lora_dropout": 0.99, "r": 65536}
_NO_MATTER = (
    "auto_mapping", "base_model_name_or_path", "fan_in_fan_out", "inference_mode", "megatron_core", "modules_to_save",
    "peft_type", "peft_version", "qalora_group_size", "revision", "runtime_config", "target_modules", "task_type",
)  # fmt: skip
"""Keys that do not decide what the tensors compute, or that the tensors say better."""
_INITS = (True, False, None, "gaussian", "orthogonal")
_TASKS = {
    "sequence": "SEQ_CLS",
    "tokens": "TOKEN_CLS",
    "span": "QUESTION_ANS",
    "causal": "CAUSAL_LM",
    "seq2seq": "SEQ_2_SEQ_LM",
    "hidden": "FEATURE_EXTRACTION",
}
"""Head -> what PEFT calls it."""


@dataclass(frozen=True, kw_only=True)
class AdapterFolder:
    """What a folder of adapters says."""

    folder: Path
    base: str
    """Folder or hub name of the model that the adapters belong to."""
    revision: str | None
    settings: Mapping[str, object]
    """Of `Layers`."""
    names: tuple[str, ...]
    """Of its tensors, as PEFT names them."""


def is_adapter_folder(name: str | None) -> bool:
    """Whether a model's name is a folder of adapters alone."""
    folder = Path(name) if name else None
    return (
        folder is not None
        and (folder / SETTINGS).is_file()
        and not any(
            (folder / file).exists() for file in ("model.safetensors", "model.safetensors.index.json")
        )
    )


def read_adapter(name: str) -> AdapterFolder:
    """Look at a folder of adapters.

    Raises:
        ModelError: with the file, what was found in it and the remedy.
    """
    folder = Path(name)
    found, where = read_object(folder / SETTINGS), folder / SETTINGS
    kind = found.get("peft_type")
    if kind != "LORA":
        raise ModelError(
            f"{where}: peft_type: found {kind!r}; adapters of kind LORA are trained here. Remedy: merge it into its "
            "base with PEFT's merge_and_unload() and save that"
        )
    if not (folder / WEIGHTS).is_file():
        pickled = (
            f"; {_PICKLED} can run code when opened. Remedy: where you trust that file, open it with PEFT and "
            "save_pretrained() it again"
            if (folder / _PICKLED).exists()
            else ""
        )
        raise ModelError(f"{folder}: found no {WEIGHTS}{pickled}")
    base = found.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelError(
            f"{where}: base_model_name_or_path: found {base!r}; expected the folder or hub name of the base model"
        )
    revision = found.get("revision")
    return AdapterFolder(
        folder=folder,
        base=_place_of(base, folder),
        revision=revision if isinstance(revision, str) else None,
        settings=_settings(found, where),
        names=tuple(check_weights(folder / WEIGHTS)),
    )


def _place_of(base: str, folder: Path) -> str:
    """Where the base is: as the file says, or relative to the adapters' folder; else a hub name."""
    given = Path(base).expanduser()
    for place in (given, *(above / given for above in (folder, *folder.resolve().parents))):
        if place.is_dir():
            return str(place.resolve())
    if given.is_absolute() or base.startswith((".", "~")):
        raise ModelError(
            f"{folder / SETTINGS}: base_model_name_or_path: found {base}, and there is no such folder here; put the "
            "base model there, or write where it is"
        )
    return base


def _settings(found: Mapping[str, object], where: Path) -> dict[str, object]:
    """Numbers and switches of PEFT's configuration; all others must be as if they were not there."""
    for key, kinds in _TAKEN.items():
        value = found.get(key, _DEFAULTS.get(key, False))
        if type(value) not in kinds or (
            isinstance(value, (int, float)) and not 0 <= value <= _MOST.get(key, 1e9)
        ):
            raise ModelError(
                f"{where}: {key}: found {value!r}; expected a number or switch as PEFT writes it"
            )
    for key, value in found.items():
        known = key in _TAKEN or key in _NO_MATTER or (key == "init_lora_weights" and value in _INITS)
        if known or (key == "bias" and value == "none") or not value:
            continue
        raise ModelError(
            f"{where}: {key}: found {str(value)[:60]!r}, which is not read here; expected an adapter without it. "
            "Remedy: merge it into its base with PEFT's merge_and_unload() and save that"
        )
    return {key: found[key] for key in _TAKEN if key in found} | {
        "init_lora_weights": found.get("init_lora_weights") or True
    }


def put_back(module: nn.Module, found: AdapterFolder, *, seed: int, leave: Collection[str] = ()) -> str:
    """Put the adapters of a folder into their base model, and its trained head.

    Args:
        module: the base with its head, on the CPU.
        found: of `read_adapter`.
        seed: of what is overwritten.
        leave: names of layers of the head that stay as they are: those of other labels.

    Returns:
        What is trained, for people.

    Raises:
        ModelError: the tensors do not fit this model.
    """
    parts = anatomy(module)
    said = put_in(module, Layers(targets=_targets(found, parts), settings=found.settings), seed=seed)
    own = {file_name(name): item for name, item in named_parameters(module).items()}
    adapters = {name for name in own if "lora_" in name}
    file = found.folder / WEIGHTS
    missing, strange = adapters - {*found.names}, {*found.names} - {*own}
    if missing or strange:
        raise ModelError(
            f"{file}: does not fit {found.base}: {len(missing)} tensors are missing and {len(strange)} belong to "
            f"nothing ({', '.join(sorted(missing or strange)[:3])})"
        )
    with safe_open(file, "pt") as stored, torch.no_grad():
        for name in found.names:
            if name not in adapters and name.removeprefix(_PREFIX).rpartition(".")[0] in leave:
                continue
            tensor = stored.get_tensor(name)
            if tensor.shape != own[name].shape or not tensor.is_floating_point():
                raise ModelError(
                    f"{file}: {name} has shape {tuple(tensor.shape)}; expected {tuple(own[name].shape)} of {found.base}"
                )
            own[name].copy_(tensor)
            own[name].requires_grad_(True)
    return said


def _targets(found: AdapterFolder, parts: Anatomy) -> list[str]:
    """The layers that the tensors belong to.

    Raises:
        ModelError: one that is no linear layer of the model.
    """
    end = ".lora_A.weight"
    names = [name[len(_PREFIX) : -len(end)] for name in found.names if name.endswith(end)]
    known = linear_names(parts)
    strange = sorted({*names} - {*known.blocks, *known.others, *known.head})
    if strange or not names:
        raise ModelError(
            f"{found.folder / WEIGHTS}: {', '.join(strange[:3]) or 'no layer'} is no linear layer of {found.base}; the "
            "adapter belongs to another model"
        )
    return names


# ---------------------------------------------------------------- writing


def file_name(name: str) -> str:
    """What PEFT calls a parameter in its file.

    >>> file_name("bert.encoder.layer.0.output.dense.lora_A.default.weight")
    'base_model.model.bert.encoder.layer.0.output.dense.lora_A.weight'
    """
    name = name.replace(f".{_MAGNITUDE}.{ADAPTER}.weight", f".{_MAGNITUDE}")
    return _PREFIX + name.replace(f".{ADAPTER}.", ".")


@dataclass(frozen=True, kw_only=True)
class Base:
    """What adapters are written for."""

    name: str
    """Folder or hub name of the base model."""
    revision: str | None
    kind: str
    """Of the head (`HEADS`)."""


def write_adapters(module: nn.Module, base: Base, folder: Path, weights: Weights | None = None) -> None:
    """Write the adapters, the trained head and the model's configuration, which names the labels.

    Args:
        module: with adapters.
        base: what they belong to.
        folder: exists.
        weights: whole tensors by clean name, where the module holds only parts of its own.
    """
    tensors = trained_tensors(module) if weights is None else _stored(weights)
    contents = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    save_file(contents, folder / WEIGHTS, metadata={"format": "pt"})
    replace_text(folder / SETTINGS, _settings_text(module, base), durable=False)
    headed_model(module).config.save_pretrained(folder)  # type: ignore[operator,union-attr]


def trained_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Name in PEFT's file -> tensor, of all that is trained."""
    outer = unwrap(module)
    if is_wrapped(outer):
        [name] = cast("PeftModel", outer).peft_config
        return dict(peft().get_peft_model_state_dict(outer, adapter_name=name))
    return {file_name(name): item for name, item in named_parameters(module).items() if item.requires_grad}


def _stored(weights: Weights) -> dict[str, Tensor]:
    """Of a checkpoint, which holds buffers too."""
    whole = {file_name(name): weights.read(name) for name in weights.like}
    return whole


def _settings_text(module: nn.Module, base: Base) -> str:
    """Contents of adapter_config.json."""
    inner, values = bare(unwrap(module)), config_of(module).to_dict()
    heads = {
        clean_name(name).rpartition(".")[0]
        for name, item in module.named_parameters()
        if item.requires_grad and "lora_" not in name
    }
    if is_wrapped(inner):
        heads, inner = {*(values["modules_to_save"] or ())}, cast("PeftModel", inner).get_base_model()
    values |= {
        "base_model_name_or_path": base.name,
        "revision": base.revision,
        "task_type": _TASKS.get(base.kind),
        "inference_mode": True,
        "modules_to_save": sorted(heads) or None,
        "target_modules": sorted(values["target_modules"]),
    }
    if base.kind not in _TASKS:
        own = type(inner)
        values["auto_mapping"] = {"base_model_class": own.__name__, "parent_library": own.__module__}
    return json.dumps(values, indent=2, sort_keys=True, default=_plain) + "\n"


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, (set, frozenset)) else str(getattr(value, "value", value))
