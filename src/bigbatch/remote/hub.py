"""Data sets of the Hugging Face hub: files of rows at one commit, through `huggingface_hub`. Scripts are never read.

    hf://datasets/org/name                     the split `train`
    hf://datasets/org/name@v1.0/validation     another one, at a tag, branch or commit
    hf://datasets/org/name@4f1a9c/a.csv        a file; a folder and a pattern, too

A branch or tag is turned into its commit first, and that is what is named from there on. Splits are those of the page's
`configs:`, else files that have the split's name in theirs.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

import yaml

from bigbatch.errors import DataError, MachineError
from bigbatch.remote.addresses import refused
from bigbatch.remote.keep import cache_root
from bigbatch.stored import read_text
from bigbatch.written import replace_text

_T = TypeVar("_T")
_REPO = re.compile(r"^hf://datasets/(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<rev>[^/]+))?(?:/(?P<rest>.*))?$")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
_CARD = "README.md"


@dataclass(frozen=True)
class Place:
    """A data set, a revision, and which of its files."""

    repo: str
    revision: str
    rest: str


def place_of(text: str) -> Place:
    """An hf:// address, taken apart.

    Raises:
        DataError: it is none of a data set.
    """
    found = _REPO.match(text)
    if found is None or ".." in found["repo"]:
        raise refused(text, "expected hf://datasets/org/name, with @revision and /split or /file behind it")
    return Place(found["repo"], unquote(found["rev"] or "main"), unquote(found["rest"] or "").strip("/"))


def hub_files(
    text: str, is_data: Callable[[str], bool], say: Callable[[str], object]
) -> list[tuple[str, Path]]:
    """(name with the commit, file in the hub's own cache) of the files that an address stands for.

    Args:
        text: the address.
        is_data: whether a file of that name holds rows.
        say: told what is fetched, and which commit that is.

    Raises:
        DataError: no such data set, revision or file, or none of rows.
        MachineError: the hub does not answer, and the cache does not have it.
    """
    place = place_of(text)
    commit, names = _listed(text, place)
    chosen = _chosen(text, place, names, is_data, lambda: _card(place, commit, names))
    if not _COMMIT.fullmatch(place.revision):
        say(f"hf://datasets/{place.repo}@{place.revision} is commit {commit}")
    found = []
    for name in chosen:
        said = f"hf://datasets/{place.repo}@{commit}/{name}"
        found.append((said, _fetched(text, place, commit, name)))
    return found


def _listed(text: str, place: Place) -> tuple[str, list[str]]:
    """The commit, and the names of its files; without the hub, those that its cache has."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub import errors as wrong

    if not constants.HF_HUB_OFFLINE:
        try:
            info = _once_more(
                lambda: HfApi().dataset_info(
                    place.repo, revision=place.revision, files_metadata=False, timeout=30
                )
            )
            assert info.sha is not None
            replace_text(_noted(place), info.sha)
            return info.sha, [each.rfilename for each in info.siblings or ()]
        except wrong.RevisionNotFoundError:
            raise refused(text, f"the data set has no revision {place.revision!r}") from None
        except (wrong.GatedRepoError, wrong.RepositoryNotFoundError):
            raise refused(
                text,
                "no such data set, or it is not public: `hf auth login`, and accept its terms on its page",
            ) from None
        except Exception as error:  # whatever its HTTP library calls it: the line, the hub, a proxy
            why = f"the hub does not answer ({type(error).__name__})"
    else:
        why = "HF_HUB_OFFLINE is set"
    folder = Path(constants.HF_HUB_CACHE) / f"datasets--{place.repo.replace('/', '--')}"
    commit = place.revision
    if not _COMMIT.fullmatch(commit):
        try:
            commit = read_text(_noted(place)).strip()
        except (OSError, ValueError):
            commit = ""
    there = folder / "snapshots" / commit
    if not commit or not there.is_dir():
        raise MachineError(f"{text}: {why}, and its cache has not fetched this revision before")
    return commit, sorted(path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file())


def _once_more(ask: Callable[[], _T]) -> _T:
    """What the hub answers; a connection that broke is tried a second time."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return ask()
    except (HfHubHTTPError, ValueError):
        raise
    except Exception:  # whatever its HTTP library calls it
        return ask()


def _noted(place: Place) -> Path:
    """Where it stands which commit a branch or tag was when the hub was last asked."""
    name = hashlib.sha256(f"{place.repo}@{place.revision}".encode()).hexdigest()[:40]
    return cache_root() / f"{name}.commit"


def _fetched(text: str, place: Place, commit: str, name: str) -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub import errors as wrong

    cache = constants.HF_HUB_CACHE
    try:
        return Path(hf_hub_download(place.repo, name, repo_type="dataset", revision=commit, cache_dir=cache))
    except wrong.LocalEntryNotFoundError:
        raise MachineError(f"{text}: the hub does not answer, and its cache does not have {name}") from None
    except (wrong.EntryNotFoundError, wrong.RepositoryNotFoundError, wrong.RevisionNotFoundError):
        raise refused(text, f"no file {name!r} in it") from None
    except Exception as error:
        raise MachineError(f"{text}: {name} could not be fetched ({type(error).__name__})") from None


def one_file(text: str, folder: Path, most_bytes: int) -> Path:
    """A file of a data set, in a folder of the caller's own.

    Args:
        text: `hf://datasets/org/name@revision/file`.
        folder: where it is kept.
        most_bytes: larger ones are refused unread.

    Raises:
        DataError: no such file, or a larger one.
        MachineError: the hub does not answer.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub import errors as wrong

    place = place_of(text)
    try:
        found = _once_more(
            lambda: HfApi().get_paths_info(
                place.repo, [place.rest], repo_type="dataset", revision=place.revision
            )
        )
        size = next((getattr(each, "size", None) for each in found), None)
        if size is None:
            raise refused(text, "no such file in the data set")
        if size > most_bytes:
            raise refused(text, f"the hub announces {size:,} bytes, and it may have at most {most_bytes:,}")
        return Path(
            hf_hub_download(
                place.repo, place.rest, repo_type="dataset", revision=place.revision, local_dir=folder
            )
        )
    except (wrong.EntryNotFoundError, wrong.RepositoryNotFoundError, wrong.RevisionNotFoundError):
        raise refused(text, "no such file in the data set, or it is not public: `hf auth login`") from None
    except DataError:
        raise
    except Exception as error:  # whatever its HTTP library calls it
        raise MachineError(f"{text}: could not be fetched ({type(error).__name__})") from None


def _chosen(
    text: str,
    place: Place,
    names: Sequence[str],
    is_data: Callable[[str], bool],
    card: Callable[[], Mapping[str, list[str]]],
) -> list[str]:
    """A file, a folder, a pattern, or a split."""
    rest, rows = place.rest, [name for name in names if is_data(name)]
    if rest in names and not is_data(rest):
        raise refused(text, f"{rest} holds no rows; expected .csv, .tsv, .jsonl, .parquet, .arrow or .txt")
    if rest in rows:
        return [rest]
    found = [name for name in rows if rest and (fnmatch.fnmatch(name, rest) or name.startswith(f"{rest}/"))]
    if found:
        return sorted(found)
    split = rest or "train"
    declared = card()
    if split in declared:
        found = sorted(
            {name for name in rows for pattern in declared[split] if fnmatch.fnmatch(name, pattern)}
        )
    if not found and not declared and "/" not in split and "." not in split:
        words = "|".join(_SPLITS.get(split, (re.escape(split),)))
        named = re.compile(rf"(?:^|[/_.-])(?:{words})(?:[/_.-]|$)", re.I)
        found = sorted(name for name in rows if named.search(name))
        folders = {name.rpartition("/")[0] for name in found}
        if len({name.rpartition(".")[2] for name in found}) > 1 or len(folders) > 1:
            raise refused(
                text,
                f"the split {split} may be one of several: {', '.join(found[:6])}; name the file or folder",
            )
    if not found and len(rows) == 1 and split == "train":
        return rows
    if found:
        return found
    if any(name.endswith(".py") for name in names) and not rows:
        raise refused(
            text,
            "the data set is a script, which is never run here; save its rows as Parquet, and name these",
        )
    known = sorted(declared) or rows[:8]
    raise refused(text, f"no split or file {split!r}; there are: {', '.join(known) or 'no files of rows'}")


def _card(place: Place, commit: str, names: Sequence[str]) -> Mapping[str, list[str]]:
    """Split -> patterns, of the first configuration that the page declares, or the one called default."""
    if _CARD not in names:
        return {}
    try:
        page = read_text(_fetched("", place, commit, _CARD))
        front = re.match(r"---\s*\n(.*?)\n---\s*(?:\n|$)", page, re.S)
        known = yaml.safe_load(front[1]) if front else {}
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    configs = [each for each in _list(_get(known, "configs")) if isinstance(each, Mapping)]
    default = next(
        (each for each in configs if each.get("config_name") == "default" or each.get("default") is True),
        None,
    )
    files = _get(default if default is not None else configs[0] if configs else {}, "data_files")
    if isinstance(files, str):
        return {"train": [files]}
    found: dict[str, list[str]] = {}
    for each in _list(files):
        if isinstance(each, Mapping) and isinstance(each.get("split"), str):
            found[str(each["split"])] = [str(path) for path in _list(each.get("path"))]
    return found


def _get(found: object, key: str) -> object:
    return found.get(key) if isinstance(found, Mapping) else None


def _list(found: object) -> list[object]:
    return list(found) if isinstance(found, list) else [] if found is None else [found]
