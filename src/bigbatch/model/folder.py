"""A model folder as transformers may see it: looked at first, then shown without anything that could run.

The view is a private folder that holds links to the weights (safetensors) and vocabularies, and cleaned copies of the
configurations. What is not on its list (pickles, Python files, adapters, checkpoints of other formats) is not in it.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from bigbatch.errors import ModelError
from bigbatch.model.clean import cleaned, names_code, read_json, read_object
from bigbatch.model.files import check_file
from bigbatch.model.nearby import hub_answers

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CLEANED = (CONFIG, "generation_config.json", "tokenizer_config.json")
_TOKENIZER = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".codes", ".vocab", ".tokenizer", ".merges")
"""Endings of vocabularies and templates; transformers reads them as data."""
_NOT_TOKENIZER = ("adapter_config.json", "preprocessor_config.json", "processor_config.json", "modules.json")
_TEMPLATES = "additional_chat_templates"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".npz", ".h5", ".msgpack")
"""Weights in formats that can run code when opened, or that are not read here."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What a model folder gives."""

    path: Path
    """Of the view; gone when the work with it is done."""
    name: str
    """As the model was asked for: the folder, or a hub name."""
    source: Path
    """The folder itself."""
    config: dict[str, Any]
    """Of config.json, cleaned; empty where there is none."""
    weights: tuple[Path, ...]
    """The safetensors files that hold the model."""
    notes: tuple[str, ...]


@contextmanager
def viewed(name: str, revision: str | None = None, *, weights: bool, config: bool = True) -> Iterator[View]:
    """Look at a model folder, or at a model of the hub, and show what of it may be opened.

    Args:
        name: a folder, or a hub name, of which the files that are needed are fetched.
        revision: of a hub name.
        weights: whether they are needed.
        config: whether config.json is needed; a tokenizer does without.

    Raises:
        ModelError: with the file and the remedy.
        OSError: the hub has no such model, or cannot be asked.
    """
    local = Path(name).is_dir()
    folder = Path(name) if local else _fetched(name, revision, weights)
    look = _Look(folder, folder.resolve())
    notes, found = [], dict[str, Any]()
    if config or look.has(CONFIG):
        found, notes = look.config(weights)
    files = look.weights() if weights else ()
    if weights and not files and not local:
        raise OSError("it has no model.safetensors")
    if weights and not files:
        raise ModelError(look.why_no_weights())
    with tempfile.TemporaryDirectory(prefix="bigbatch-model-") as place:
        view = Path(place)
        _write(view / CONFIG, found)
        look.show(view, files)
        yield View(
            path=view,
            name=name,
            source=folder,
            config=found,
            weights=tuple(look.inside(file) for file in files),
            notes=tuple(notes),
        )


def read_in(folder: Path, name: str = CONFIG) -> dict[str, Any]:
    """A JSON object in a model folder.

    Raises:
        ModelError: it cannot be read, or lies elsewhere.
    """
    return _Look(folder, folder.resolve()).object(name)


def read_list_in(folder: Path, name: str) -> list[Any]:
    """A JSON list in a model folder.

    Raises:
        ModelError: it cannot be read, or lies elsewhere.
    """
    return read_json(_Look(folder, folder.resolve()).inside(name), list)


def _fetched(name: str, revision: str | None, weights: bool) -> Path:
    """The files of a hub model in Hugging Face's cache; nothing but what is read. A hub that does not answer is not
    asked again and again: then what is in the cache has to do.
    """
    alone = not hub_answers()

    def fetch(*patterns: str) -> Path:
        return Path(
            snapshot_download(
                name,
                revision=revision or "main",
                allow_patterns=list(patterns),
                ignore_patterns=["*/*"],
                local_files_only=alone,
            )
        )

    folder = fetch(*(f"*{ending}" for ending in _TOKENIZER))
    if weights:
        look = _Look(folder, folder.resolve())
        fetch(*(look.parts() if look.has(INDEX) else [WEIGHTS]))
    return folder


@dataclass(frozen=True)
class _Look:
    """The files of one folder."""

    folder: Path
    root: Path
    """The folder without links."""

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def inside(self, name: str) -> Path:
        """Where a file really lies.

        Links may lead through the folder, and from a snapshot of Hugging Face's cache to that model's blobs.

        Raises:
            ModelError: a link that leaves it, or no regular file.
        """
        file = self.folder / name
        place = file.resolve()
        homes = [self.root]
        if self.root.parent.name == "snapshots":
            homes.append(self.root.parent.parent / "blobs")
        if not any(home in place.parents for home in homes):
            raise ModelError(
                f"{file}: is a link to {place}, outside the model folder; put a copy of the file in its place"
            )
        if not place.is_file():
            raise ModelError(f"{file}: found no regular file; expected one")
        return place

    def fit(self, name: str) -> Path:
        """Where a file really lies that others may open: of a size and depth that can be.

        Raises:
            ModelError: as `inside`, or the file's fault.
        """
        place = self.inside(name)
        check_file(self.folder / name)
        return place

    def object(self, name: str) -> dict[str, Any]:
        return read_object(self.inside(name))

    def config(self, weights: bool) -> tuple[dict[str, Any], list[str]]:
        """config.json, cleaned, and notes about it."""
        if not self.has(CONFIG):
            adapter = self.has("adapter_config.json")
            why = (
                "; it holds a PEFT adapter only; merge it into its base model and save that"
                if adapter
                else ""
            )
            raise ModelError(
                f"{self.folder}: found no config.json; expected a Hugging Face model folder{why}"
            )
        found = self.object(CONFIG)
        if weights and self.has("adapter_config.json"):
            raise ModelError(
                f"{self.folder}: found adapter_config.json beside config.json, which stands for another model; "
                "merge the adapter into its base model, or remove that file"
            )
        if weights and found.get("quantization_config") is not None:
            raise ModelError(
                f"{self.folder / CONFIG}: quantization_config: the weights are quantised, and training and prediction "
                "here read plain numbers; expected the model before quantisation, or one saved after "
                "model.dequantize()"
            )
        found.pop("quantization_config", None)
        notes = self._type(found)
        return cleaned(found), notes

    def _type(self, config: dict[str, Any]) -> list[str]:
        from bigbatch.model.dit import known_to_transformers

        known_to_transformers()
        kind, code = config.get("model_type"), names_code(config)
        if isinstance(kind, str) and kind in CONFIG_MAPPING:
            if not code:
                return []
            return [
                f"{self.folder.name} brings code of its own (auto_map); it is ignored, "
                f"transformers' own {kind} is used"
            ]
        if code:
            raise ModelError(
                f"{self.folder}: model type {kind!r} needs code from the folder (auto_map), which is never run; "
                "expected a type that transformers knows"
            )
        near = difflib.get_close_matches(str(kind), list(CONFIG_MAPPING), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ModelError(
            f"{self.folder / CONFIG}: model_type: found {kind!r}, which transformers does not know{hint}"
        )

    def weights(self) -> tuple[str, ...]:
        """Names of the safetensors files; empty where there are none."""
        if self.has(WEIGHTS):
            return (WEIGHTS,)
        return self.parts() if self.has(INDEX) else ()

    def parts(self) -> tuple[str, ...]:
        """The files that the index names.

        Raises:
            ModelError: other than safetensors files beside it.
        """
        found = self.object(INDEX).get("weight_map")
        place = f"{self.folder / INDEX}: weight_map"
        if not isinstance(found, dict) or not all(isinstance(file, str) for file in found.values()):
            raise ModelError(f"{place}: expected names of tensors, each with the name of its file")
        names = tuple(dict.fromkeys(found.values()))
        for file in names:
            if Path(file).name != file or "\\" in file or not file.endswith(".safetensors"):
                raise ModelError(
                    f"{place}: found {file!r}; expected the name of a *.safetensors file in the same folder (other "
                    "formats can run code when opened; save_pretrained() writes safetensors)"
                )
        return names

    def why_no_weights(self) -> str:
        pickles = sorted(
            path.name for path in self.folder.iterdir() if path.suffix in PICKLES or ".bin." in path.name
        )
        if pickles:
            return (
                f"{self.folder}: found only pickled weights ({', '.join(pickles[:3])}), which can run code "
                "when opened; expected *.safetensors. Remedy: where you trust that file, open the folder "
                "with transformers' from_pretrained(…, use_safetensors=False) and save_pretrained() it again"
            )
        return f"{self.folder}: found no weights; expected {WEIGHTS} or {INDEX} with its files (or model.init: random)"

    def show(self, view: Path, weights: tuple[str, ...]) -> None:
        """Fill the view."""
        for file in weights:
            _link(self.fit(file), view / file)
        if weights and weights != (WEIGHTS,):
            index = self.object(INDEX)
            _write(view / INDEX, {"metadata": index.get("metadata") or {}, "weight_map": index["weight_map"]})
        for name in CLEANED[1:]:
            if self.has(name):
                _write(view / name, cleaned(self.object(name)))
        for path in sorted(self.folder.iterdir()):
            known = path.suffix in _TOKENIZER and path.name not in (*CLEANED, *_NOT_TOKENIZER)
            if (
                known
                and ".index." not in path.name
                and not path.name.startswith("config.")
                and not path.is_dir()
            ):
                _link(self.fit(path.name), view / path.name)
        for path in sorted((self.folder / _TEMPLATES).glob("*.jinja")):
            (view / _TEMPLATES).mkdir(exist_ok=True)
            _link(self.fit(f"{_TEMPLATES}/{path.name}"), view / _TEMPLATES / path.name)


def _write(file: Path, content: dict[str, Any]) -> None:
    if content:
        file.write_text(json.dumps(content), encoding="utf-8")


def _link(place: Path, name: Path) -> None:
    try:
        os.symlink(place, name)
    except OSError:  # Windows without the right to link
        shutil.copy(place, name)
