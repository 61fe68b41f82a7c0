"""Chains of proteins as rows: what readers of structures (`pdb`, `mmcif`) have in common.

::

    id          name of the file or entry, and of the chain: 1A8O_A
    sequence    one letter an amino acid, those that were not observed included
    structure   of each where it is, [x, y, z] in Å, null where it was not observed
    words       the letters as a list
    tags        of each H (helix), E (strand) or C (neither); null where the file does not say

An amino acid is where its Cβ is; glycine, and one of which no Cβ was observed, where its Cα is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import PurePath

import numpy as np

from bigbatch.files.problems import one_error
from bigbatch.files.raw import Raw, from_dicts
from bigbatch.protocols import Row

Point = tuple[float, float, float]

LETTERS: Mapping[str, str] = {
    "ALA": "A", "ARG": "R", "ASN": "N", "ASP": "D", "CYS": "C", "GLN": "Q", "GLU": "E", "GLY": "G", "HIS": "H",
    "ILE": "I", "LEU": "L", "LYS": "K", "MET": "M", "PHE": "F", "PRO": "P", "SER": "S", "THR": "T", "TRP": "W",
    "TYR": "Y", "VAL": "V", "SEC": "U", "PYL": "O", "ASX": "B", "GLX": "Z", "UNK": "X",
}  # fmt: skip
"""Amino acids."""
CHANGED: Mapping[str, str] = {
    "MSE": "M", "SEP": "S", "TPO": "T", "PTR": "Y", "CSO": "C", "CSD": "C", "OCS": "C", "CME": "C", "HYP": "P",
    "MLY": "K", "M3L": "K", "KCX": "K", "LLP": "K", "PCA": "Q", "CGU": "E", "HIC": "H",
}  # fmt: skip
"""Frequent modified ones, by what they were."""
UNKNOWN = "X"
HELIX, STRAND, COIL = "H", "E", "C"
_LONGEST_GAP = 1000
"""Numbers that may be missing between two amino acids of a chain."""


@dataclass(kw_only=True, eq=False)
class Residue:
    """One amino acid that was observed."""

    letter: str
    number: int
    insertion: str = ""
    """Letter behind the number, where several share one."""
    alpha: Point | None = None
    beta: Point | None = None

    @property
    def point(self) -> Point | None:
        """Where it is."""
        return self.alpha if self.beta is None else self.beta

    def take(self, atom: str, point: Point) -> None:
        """An atom of it; of several in the same place the first."""
        if atom == "CA" and self.alpha is None:
            self.alpha = point
        elif atom == "CB" and self.beta is None:
            self.beta = point


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A chain with every amino acid that it has."""

    name: str
    letters: str
    points: Sequence[Point | None]
    states: str = ""
    """Helix, strand or neither of each; empty: nobody says."""


@dataclass(kw_only=True, eq=False)
class Observed:
    """A chain while its file is read."""

    residues: list[Residue] = field(default_factory=list)
    ended: bool = False
    """Whether the chain's end was read: what follows under its name is water, or bound to it."""


def rows_of(name: str, entry: str, chains: Sequence[Chain]) -> Raw:
    """The rows of a file.

    Args:
        name: of the file, for messages.
        entry: what the file calls itself; empty: the file's name is taken.
        chains: in their order.

    Raises:
        DataError: there is none.
    """
    if not chains:
        raise one_error(
            name, "", "no chain of amino acids with a Cα each; expected the structure of a protein"
        )
    stem = entry or re.sub(r"\..*$", "", PurePath(name).name)
    rows: list[Row] = [
        {
            "id": f"{stem}_{chain.name}",
            "sequence": chain.letters,
            "structure": [None if point is None else list(point) for point in chain.points],
            "words": list(chain.letters),
            "tags": list(chain.states) or None,
        }
        for chain in chains
    ]
    return from_dicts(name, rows, numbers=np.arange(1, len(rows) + 1), nameless=True)


def number_of(text: str, name: str, line: int, what: str) -> float:
    """A finite number of a file.

    Args:
        text: as it stands there.
        name: of the file.
        line: of the file, from 1.
        what: the number is.

    Raises:
        DataError: it is none.
    """
    try:
        found = float(text)
    except ValueError:
        found = float("nan")
    if not abs(found) < 1e6:
        raise one_error(f"{name}:{line}", what, f"found {text.strip()[:20]!r}; expected a number (Å)")
    return found


def whole_chain(name: str, observed: Sequence[Residue], full: str) -> tuple[Chain, list[int]]:
    """A chain of its observed amino acids, and where in it each of them is.

    Args:
        name: of the chain.
        observed: in their order.
        full: the letters of all, also of those that were not observed; empty where the file does not say.

    Returns:
        Without `full`, or where the observed ones do not stand in it, numbers that are left out are unknown ones.
    """
    places = _places_in(full, observed) if full else None
    if places is None:
        places = _places_by_number(observed)
        letters = [UNKNOWN] * (places[-1] + 1)
    else:
        letters = list(full)
    points: list[Point | None] = [None] * len(letters)
    for place, residue in zip(places, observed, strict=True):
        letters[place], points[place] = residue.letter, residue.point
    return Chain(name=name, letters="".join(letters), points=points), places


def _places_in(full: str, observed: Sequence[Residue]) -> list[int] | None:
    """By the numbers where one shift fits all, else stretch behind stretch."""
    first = observed[0]
    fits = [
        start
        for start, letter in enumerate(full)
        if letter == first.letter and _shifted(full, observed, start - first.number)
    ]
    if fits:
        return [residue.number + fits[0] - first.number for residue in observed]
    places: list[int] = []
    for stretch in _stretches(observed):
        text = "".join(residue.letter for residue in stretch)
        start = full.find(text, places[-1] + 1 if places else 0)
        if start < 0:
            return None
        places += range(start, start + len(text))
    return places


def _shifted(full: str, observed: Sequence[Residue], shift: int) -> bool:
    before = -1
    for residue in observed:
        place = residue.number + shift
        if not before < place < len(full) or full[place] != residue.letter:
            return False
        before = place
    return True


def _stretches(observed: Sequence[Residue]) -> list[list[Residue]]:
    """Parts without a gap in their numbers."""
    found: list[list[Residue]] = []
    for residue in observed:
        if found and 0 <= residue.number - found[-1][-1].number <= 1:
            found[-1].append(residue)
        else:
            found.append([residue])
    return found


def _places_by_number(observed: Sequence[Residue]) -> list[int]:
    places = [0]
    for before, residue in pairwise(observed):
        step = residue.number - before.number
        places.append(places[-1] + (step if 1 <= step <= _LONGEST_GAP else 1))
    return places
