"""Short forms of the recipe and their long forms: `batch: 1024` is `batch: {samples: 1024}`.

Every layer is brought to its long form before layers are merged, so that `batch: 1024` in a file and
`batch.samples=4096` on the command line are the same key.
"""

from __future__ import annotations

from bigbatch.recipe.values import AUTO

NAMED_SECTIONS = ("model", "task", "optimizer", "schedule", "loss", "gradient")
"""Sections whose short form is a name."""
ROLE_SUGAR = ("text", "pair", "label")
"""Roles that may stand directly under `data`."""
LENGTH_KEYS = ("epochs", "updates", "samples", "tokens")
BATCH_KEYS = ("samples", "tokens")
ALTERNATIVES: dict[tuple[str, ...], tuple[str, ...]] = {(): LENGTH_KEYS, ("batch",): BATCH_KEYS}
"""Groups of keys of which one at a time may be given: path of the mapping -> keys."""

Path = tuple[str | int, ...]


def desugar(values: dict[str, object]) -> tuple[dict[str, object], dict[Path, Path]]:
    """The long form of one layer; the input stays as it is.

    Returns:
        The layer, and the keys that moved: new path -> path as written.
    """
    out = dict(values)
    moved: dict[Path, Path] = {}
    for key in NAMED_SECTIONS:
        if isinstance(out.get(key), str):
            out[key] = {"name": out[key]}
    model = out.get("model")
    if isinstance(model, dict) and isinstance(model.get("adapter"), str):
        out["model"] = {**model, "adapter": {"name": model["adapter"]}}
        moved["model", "adapter", "name"] = ("model", "adapter")
    if isinstance(model, dict) and isinstance(model.get("attention"), str):
        out["model"] = {**model, "attention": {"pattern": model["attention"]}}
        moved["model", "attention", "pattern"] = ("model", "attention")
    if isinstance(out.get("best"), str):
        out["best"] = {"metric": out["best"]}
        moved["best", "metric"] = ("best",)
    if _is_number(out.get("batch")) or out.get("batch") == AUTO:
        out["batch"] = {"samples": out["batch"]}
    if _is_number(out.get("seed")):
        out["seed"] = dict.fromkeys(("model", "data", "dropout"), out["seed"])
    for key in ("metrics", "observers"):
        if isinstance(out.get(key), str):
            out[key] = [out[key]]
    plan = out.get("plan")
    if isinstance(plan, dict) and isinstance(plan.get("precision"), str):
        out["plan"] = {**plan, "precision": {"name": plan["precision"]}}
        moved["plan", "precision", "name"] = ("plan", "precision")
    data = out.get("data")
    if isinstance(data, dict):
        out["data"] = _data(data, moved)
    return out, moved


def _data(data: dict[str, object], moved: dict[Path, Path]) -> dict[str, object]:
    out = dict(data)
    for role in ROLE_SUGAR:
        columns = out.get("columns", {})
        if role in out and isinstance(columns, dict) and role not in columns:
            out["columns"] = {**columns, role: out.pop(role)}
            moved["data", "columns", role] = ("data", role)
    for split in ("train", "test"):
        if out.get(split) is not None:
            out[split] = _files(out[split], ("data", split), ("data", split), moved)
    validation = out.get("validation")
    here = ("data", "validation")
    if isinstance(validation, (str, list)) or (isinstance(validation, dict) and "path" in validation):
        out["validation"] = {"main": _files(validation, (*here, "main"), here, moved)}
    elif isinstance(validation, dict):
        out["validation"] = {
            name: _files(files, (*here, name), (*here, name), moved) for name, files in validation.items()
        }
    return out


def _files(value: object, path: Path, written: Path, moved: dict[Path, Path]) -> object:
    """One path, one mapping or a list of both, as a list of mappings at `path`; it was written at `written`."""
    items = value if isinstance(value, list) else [value]
    for index, item in enumerate(items):
        place = (*written, index) if isinstance(value, list) else written
        inner = {key: (*place, key) for key in item} if isinstance(item, dict) else {"path": place}
        moved.update({(*path, index, key): origin for key, origin in inner.items()})
    return [{"path": item} if isinstance(item, str) else item for item in items]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
