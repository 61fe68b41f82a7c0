"""PDB files (the format of 1971 to 2014, version 3.3): columns of fixed width, a line an atom; a row a chain.

The first model is read, of alternative places of an atom the first. What was not observed comes from SEQRES, helices
and strands from HELIX and SHEET.

Reference:
    wwPDB, Atomic Coordinate Entry Format Description, version 3.30.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from bigbatch.files.chains import (
    CHANGED,
    COIL,
    HELIX,
    LETTERS,
    STRAND,
    UNKNOWN,
    Chain,
    Observed,
    Residue,
    number_of,
    rows_of,
    whole_chain,
)
from bigbatch.files.plain import lines_of
from bigbatch.files.problems import one_error
from bigbatch.files.raw import Raw

Key = tuple[int, str]
"""Number and insertion letter."""


@dataclass(kw_only=True, eq=False)
class _File:
    """What was read so far."""

    name: str
    entry: str = ""
    chains: dict[str, Observed] = field(default_factory=dict)
    full: dict[str, list[str]] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)
    """Modified amino acid -> the letter of what it was (MODRES)."""
    parts: list[tuple[str, Key, Key, str]] = field(default_factory=list)
    """(chain, first, last, helix or strand)."""

    def letter(self, residue: str) -> str:
        return LETTERS.get(residue) or self.changed.get(residue) or CHANGED.get(residue) or UNKNOWN


def read_pdb(name: str, content: bytes) -> Raw:
    """The chains of a PDB file, as `files.chains` has them.

    Args:
        name: of the file, for messages.
        content: the file, unpacked.

    Raises:
        DataError: an atom without a place, or no protein.
    """
    lines = lines_of(content.decode("utf-8", "replace"))
    found = _File(name=name)
    for line in lines:
        if line.startswith("MODRES"):  # stands in front of the atoms that it is about
            found.changed[line[12:15].strip()] = LETTERS.get(line[24:27].strip(), UNKNOWN)
    for number, line in enumerate(lines, start=1):
        kind = line[:6].rstrip()
        if kind in ("ATOM", "HETATM"):
            _atom(found, line, number)
        elif kind == "TER":
            for chain in [found.chains.get(line[21:22].strip())] if line[21:22] else found.chains.values():
                if chain is not None:
                    chain.ended = True
        elif kind == "ENDMDL":
            break
        elif kind == "HEADER":
            found.entry = line[62:66].strip()
        elif kind == "SEQRES":
            found.full.setdefault(line[11:12].strip(), []).extend(line[19:70].split())
        elif kind in ("HELIX", "SHEET"):
            _part(found, line, number, kind == "HELIX")
    return rows_of(name, found.entry, _chains(found))


def _key(number: str, insertion: str, found: _File, line: int) -> Key:
    try:
        return int(number), insertion.strip()
    except ValueError:
        what = f"found {number!r}; expected the number of an amino acid"
        raise one_error(f"{found.name}:{line}", "number", what) from None


def _atom(found: _File, line: str, number: int) -> None:
    """CA and CB of amino acids; everything else is passed over."""
    atom, residue, chain_name = line[12:16].strip(), line[17:20].strip(), line[21:22].strip()
    if atom not in ("CA", "CB") or residue == "CA":  # calcium
        return
    chain = found.chains.setdefault(chain_name, Observed())
    if line.startswith("HETATM") and (
        chain.ended or not {residue} & {*found.changed, *CHANGED, *found.full.get(chain_name, ())}
    ):
        return
    number_, insertion = _key(line[22:26], line[26:27], found, number)
    last = chain.residues[-1] if chain.residues else None
    if last is None or (last.number, last.insertion) != (number_, insertion):
        last = Residue(letter=found.letter(residue), number=number_, insertion=insertion)
        chain.residues.append(last)
    x, y, z = (
        number_of(line[at : at + 8], found.name, number, axis)
        for at, axis in zip((30, 38, 46), "xyz", strict=False)
    )
    last.take(atom, (x, y, z))


def _part(found: _File, line: str, number: int, helix: bool) -> None:
    chain, first, last = (19, 21, 33) if helix else (21, 22, 33)
    begin = _key(line[first : first + 4], line[first + 4 : first + 5], found, number)
    end = _key(line[last : last + 4], line[last + 4 : last + 5], found, number)
    found.parts.append((line[chain : chain + 1].strip(), begin, end, HELIX if helix else STRAND))


def _chains(found: _File) -> list[Chain]:
    chains = []
    for name, observed in found.chains.items():
        residues = [residue for residue in observed.residues if residue.alpha is not None]
        if not residues:
            continue
        full = "".join(map(found.letter, found.full.get(name, ())))
        chain, places = whole_chain(name or "A", residues, full)
        chains.append(replace(chain, states=_states(found, name, residues, places, len(chain.letters))))
    return chains


def _states(found: _File, chain: str, residues: Sequence[Residue], places: Sequence[int], length: int) -> str:
    """Helix, strand or neither; empty where the file has no word about any chain."""
    if not found.parts:
        return ""
    at = {(residue.number, residue.insertion): place for residue, place in zip(residues, places, strict=True)}
    states = [COIL] * length
    for name, first, last, state in found.parts:
        if name == chain and first in at and last in at:
            for place in range(at[first], at[last] + 1):
                states[place] = state
    return "".join(states)
