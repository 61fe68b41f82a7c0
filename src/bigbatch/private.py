"""Folders and files that nobody but their user can change: the key, the site file, caches of which code is run.

Under a umask of 000 or 002, or in a folder that others share, a file of ours need not be what we wrote.
"""

from __future__ import annotations

import atexit
import errno
import os
import platform
import re
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any

COMPILED = "TORCHINDUCTOR_CACHE_DIR"
"""Where torch keeps compiled code. It unpickles what it finds there; its own default is a foreseeable name in /tmp."""
KERNELS = "TRITON_CACHE_DIR"
"""Triton's, which loads libraries from there."""
_HEADERS = "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS"


def why_shared(path: Path, *, or_root: bool = False) -> str:
    """Why a file or folder may not be what its user put there; empty if nobody else can change it.

    Args:
        path: it is not followed if it is a link; folders above are not looked at.
        or_root: whether it may belong to the administrator, too.

    Raises:
        OSError: not there, or not for us.
    """
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        return f"{path} is a link"
    if hasattr(os, "geteuid") and found.st_uid not in {os.geteuid(), *((0,) if or_root else ())}:
        return f"{path} belongs to another user"
    return f"others may write {path}" if _others_may_write(found) else ""


def why_not_private(path: Path) -> str:
    """As `why_shared`, and whether somebody could exchange a folder on the way to it; empty if nobody can.

    Raises:
        OSError: not there, or not for us.
    """
    why = why_shared(path)
    for above in () if why else Path(os.path.realpath(path)).parents:
        found = above.lstat()
        # In a sticky folder, as /tmp is, only owners rename.
        if not found.st_mode & stat.S_ISVTX and _others_may_write(found):
            return f"others may write {above}"
    return why


def make_private(path: Path) -> None:
    """A folder that nobody else may enter, whatever the umask; so are those above it that were missing.

    One of ours that is there is closed to others. What is in it already is for the caller to look at.

    Raises:
        OSError: something else is there, or the disk.
    """
    for part in (*reversed(path.parents), path):
        if not part.exists():
            part.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(path))
    if os.name == "posix" and found.st_uid == os.geteuid() and found.st_mode & 0o077:
        path.chmod(0o700)


def keep_compiled_code_private() -> str:
    """See to it that torch and Triton keep, and look for, compiled code where nobody else can put any.

    To be called before anything compiles. What the user set stays, if it is theirs alone. Otherwise a folder of ours in
    the user's cache is set, one a machine, since a home may be shared by machines with different processors; if that
    is not theirs alone either, a new one that ends with the process. Child processes inherit it.

    Returns:
        What to tell the user; empty if there is nothing to tell.
    """
    # Headers are compiled in torch's own place in /tmp wherever the rest is.
    loaded: Any = sys.modules.get("torch._inductor.config")  # it reads the variable once
    if os.environ.setdefault(_HEADERS, "0") == "0" and loaded is not None:
        loaded.cpp_cache_precompile_headers = False
    refused: dict[str, str] = {}
    for variable, name in ((COMPILED, "inductor"), (KERNELS, "triton")):
        chosen = os.environ.get(variable, "")
        # torch sets its own place when something asked for it before us.
        chosen = "" if chosen.startswith(os.path.join(tempfile.gettempdir(), "torchinductor_")) else chosen
        why = ""
        try:
            place = Path(os.path.realpath(chosen)) if chosen else _cache() / name
            why = _why_not_usable(place)
        except (OSError, RuntimeError, ValueError) as error:  # no home, a disk that cannot be written
            place, why = Path(), str(error)
        if why:
            place = _passing() / name
            place.mkdir(mode=0o700, exist_ok=True)
            refused[variable] = why
        os.environ[variable] = str(place)
    if not refused:
        return ""
    return (
        f"compiled code is not kept, but compiled anew in each run ({next(iter(refused.values()))}); to keep it, point "
        f"{' and '.join(refused)} to a folder of yours that nobody else may write"
    )


def _why_not_usable(place: Path) -> str:
    if os.path.lexists(place):
        # What lies in a folder that was open to others is not trusted because the folder is closed now.
        return why_not_private(place) or ("" if place.is_dir() else f"{place} is no folder")
    make_private(place)
    return why_not_private(place)


def user_cache() -> Path:
    """`~/.cache/bigbatch`, or below `$XDG_CACHE_HOME`; it need not be there.

    Raises:
        RuntimeError: the user has no home.
    """
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(os.path.abspath(home)) if home else Path.home() / ".cache") / "bigbatch"


def _cache() -> Path:
    machine = re.sub(r"[^A-Za-z0-9_.-]", "_", platform.node()).strip(".") or "machine"
    return user_cache() / "compiled" / machine


_of_process: dict[int, Path] = {}
"""Process -> its folder for compiled code that is not kept."""


def _passing() -> Path:
    process = os.getpid()
    if process not in _of_process:
        folder = Path(tempfile.mkdtemp(prefix="bigbatch-compiled-"))
        _of_process[process] = folder
        atexit.register(_remove_passing, process)
    return _of_process[process]


def _remove_passing(process: int) -> None:
    """A forked child leaves its parent's alone."""
    if process == os.getpid():
        shutil.rmtree(_of_process[process], ignore_errors=True)


def _others_may_write(found: os.stat_result) -> bool:
    if stat.S_ISLNK(found.st_mode) or os.name != "posix":
        return False
    return bool(
        found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and not _own_group(found.st_gid))
    )


def _own_group(group: int) -> bool:
    """Whether the group is the one that bears the user's name and has no other members."""
    try:
        import grp
        import pwd

        name = pwd.getpwuid(os.geteuid()).pw_name
        found = grp.getgrgid(group)
    except (ImportError, KeyError):
        return False
    return found.gr_name == name and set(found.gr_mem) <= {name}
