"""An address -> files on this machine, with the names that people see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bigbatch.remote import hub
from bigbatch.remote.addresses import address_of, shown
from bigbatch.remote.keep import USUAL, About, Patience, Remote, Say, cache_root, kept, known


def fetched(
    text: str, is_data: Callable[[str], bool], say: Say, patience: Patience = USUAL
) -> list[tuple[str, Path]]:
    """(name without secrets, file) of what an address stands for; current, whole, checked.

    Args:
        text: `https://`, `http://`, `s3://`, `gs://` or `hf://datasets/`.
        is_data: whether a file of that name holds rows, where an address stands for a folder.
        say: told what is fetched and how far it is.
        patience: with servers.

    Raises:
        DataError: there is no such file, not for us, or the server sends something else.
        MachineError: it cannot be reached, and was never fetched before.
    """
    address = address_of(text)
    if address.scheme == "hf":
        return hub.hub_files(text, is_data, say)
    root = cache_root()
    if address.scheme in ("http", "https"):
        from bigbatch.remote.web import Web

        return [(address.shown, kept(address, Web(address, patience), root, say, patience))]
    from bigbatch.remote.stores import Store

    found = []
    for one in Store(address, patience).files(is_data):
        each = address_of(one)
        remote: Remote = Store(each, patience)
        found.append((each.shown, kept(each, remote, root, say, patience)))
    return found


def provenance(text: str) -> dict[str, object]:
    """What is known of an address that was fetched: the version, its size and checksum; for a run's records."""
    address = address_of(text)
    about: About | None = None if address.scheme == "hf" else known(address, cache_root())
    return {"address": shown(text)} if about is None else dict(about)
