"""mmCIF files (PDBx): tables of named columns; a row a chain.

Of the file's tables these are read: `_atom_site` (where atoms are), `_entity_poly_seq` (every amino acid of a chain,
observed or not), `_pdbx_struct_mod_residue` (what modified ones were), `_struct_conf` and `_struct_sheet_range`
(helices and strands). The first model; of alternative places of an atom the first.

Reference:
    Hall, Allen and Brown 1991, The Crystallographic Information File; wwPDB, PDBx/mmCIF Dictionary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bigbatch.files.chains import (
    CHANGED,
    COIL,
    HELIX,
    LETTERS,
    STRAND,
    UNKNOWN,
    Chain,
    Residue,
    number_of,
    rows_of,
    whole_chain,
)
from bigbatch.files.plain import lines_of
from bigbatch.files.problems import one_error
from bigbatch.files.raw import Raw

Token = tuple[str, bool, int]
"""Text, whether it stands in quotes, number of its line."""
Entry = Mapping[str, str | None]
Tables = dict[str, list[Entry]]

_READ = (
    "_entry",
    "_atom_site",
    "_entity_poly_seq",
    "_pdbx_struct_mod_residue",
    "_struct_conf",
    "_struct_sheet_range",
)
_LINE = "line"
"""Column that is no column of the file: where an entry begins."""


def read_mmcif(name: str, content: bytes) -> Raw:
    """The chains of an mmCIF file, as `files.chains` has them.

    Args:
        name: of the file, for messages.
        content: the file, unpacked.

    Raises:
        DataError: no mmCIF, an atom without a place, or no protein.
    """
    tables = _tables(name, content.decode("utf-8", "replace"))
    entry = next((one.get("id") for one in tables.get("_entry", ())), None)
    return rows_of(name, entry or "", _chains(name, tables))


# ---------------------------------------------------------------- the format


def _tokens(name: str, text: str) -> Iterator[Token]:
    lines = enumerate(lines_of(text), start=1)
    for number, line in lines:
        if line.startswith(";"):
            parts = [line[1:]]
            for _, more in lines:
                if more.startswith(";"):
                    break
                parts.append(more)
            else:
                raise one_error(f"{name}:{number}", "", "a text that begins with ; and has no end")
            yield "\n".join(parts), True, number
        elif "'" not in line and '"' not in line and "#" not in line:
            for word in line.split():
                yield word, False, number
        else:
            yield from _quoted(name, line, number)


def _quoted(name: str, line: str, number: int) -> Iterator[Token]:
    """The words of a line in which some stand in quotes; a quote ends where a blank follows it."""
    at = 0
    while at < len(line):
        if line[at].isspace():
            at += 1
        elif line[at] == "#":
            return
        elif line[at] in "'\"":
            end = at + 1
            while end < len(line) and not (line[end] == line[at] and line[end + 1 : end + 2].strip() == ""):
                end += 1
            if end >= len(line):
                raise one_error(f"{name}:{number}", "", f"a quote that has no end: {line[at : at + 40]!r}")
            yield line[at + 1 : end], True, number
            at = end + 1
        else:
            word = line[at:].split(None, 1)[0]
            yield word, False, number
            at += len(word)


def _tables(name: str, text: str) -> Tables:
    """The tables that are read, of the first block."""
    tables: Tables = {}
    single: dict[str, dict[str, str | None]] = {}
    tokens, blocks = _Tokens(_tokens(name, text)), 0
    while (token := tokens.take()) is not None:
        word, quoted, number = token
        if word.lower().startswith("data_") and not quoted:
            blocks += 1
            if blocks > 1:
                break
        elif word.lower() == "loop_" and not quoted:
            category, rows = _loop(name, tokens, number)
            if category in _READ:
                tables[category] = rows
        elif word.startswith("_") and not quoted:
            category, _, column = word.lower().partition(".")
            value = tokens.take()
            if value is None or tokens.is_word(value):
                raise one_error(f"{name}:{number}", word, "a name without a value")
            single.setdefault(category, {_LINE: str(number)})[column] = _value(value)
        elif not blocks:
            raise one_error(f"{name}:{number}", "", f"expected data_…, found {word[:40]!r}: no mmCIF file")
    return {**{category: [row] for category, row in single.items() if category in _READ}, **tables}


class _Tokens:
    """Tokens, of which the next one may be looked at."""

    def __init__(self, source: Iterator[Token]) -> None:
        self._source = source
        self._next = next(source, None)

    def peek(self) -> Token | None:
        return self._next

    def take(self) -> Token | None:
        taken, self._next = self._next, next(self._source, None)
        return taken

    @staticmethod
    def is_word(token: Token) -> bool:
        """Whether it is one of the format's own."""
        word, quoted, _ = token
        return not quoted and (
            word.startswith("_") or word.lower() == "loop_" or word.lower().startswith("data_")
        )


def _loop(name: str, tokens: _Tokens, number: int) -> tuple[str, list[Entry]]:
    columns = []
    while (token := tokens.peek()) is not None and not token[1] and token[0].startswith("_"):
        columns.append(token[0].lower())
        tokens.take()
    if not columns:
        raise one_error(f"{name}:{number}", "loop_", "a table without columns")
    category = columns[0].partition(".")[0]
    names = [column.partition(".")[2] for column in columns]
    rows: list[Entry] = []
    kept = category in _READ
    row: list[Token] = []
    while (token := tokens.peek()) is not None and not tokens.is_word(token):
        tokens.take()
        row.append(token)
        if len(row) == len(names):
            if kept:
                pairs = zip(names, row, strict=True)
                rows.append({_LINE: str(row[0][2]), **{column: _value(one) for column, one in pairs}})
            row = []
    if row:
        what = f"{len(row)} values in the last row; expected {len(names)}, one a column"
        raise one_error(f"{name}:{row[0][2]}", category, what)
    return category, rows


def _value(token: Token) -> str | None:
    """None for what is not known or does not apply."""
    word, quoted, _ = token
    return None if not quoted and word in (".", "?") else word


# ---------------------------------------------------------------- the chains


def _chains(name: str, tables: Tables) -> list[Chain]:
    changed = {
        one.get("label_comp_id"): LETTERS.get(one.get("parent_comp_id") or "", UNKNOWN)
        for one in tables.get("_pdbx_struct_mod_residue", ())
    }

    def letter(residue: str | None) -> str:
        return LETTERS.get(residue or "") or changed.get(residue) or CHANGED.get(residue or "") or UNKNOWN

    full: dict[str | None, dict[int, str]] = {}
    for one in tables.get("_entity_poly_seq", ()):
        place = _whole(one, "num", name)
        full.setdefault(one.get("entity_id"), {}).setdefault(place, letter(one.get("mon_id")))
    parts = _parts(name, tables)
    chains = []
    for label, (shown, entity, residues) in _observed(name, tables, letter).items():
        known = [residue for residue in residues.values() if residue.alpha is not None]
        if not known:
            continue
        letters = full.get(entity, {})
        whole = "".join(letters.get(place, UNKNOWN) for place in range(1, max(letters, default=0) + 1))
        chain, places = whole_chain(shown, known, whole)
        if parts:
            at = {residue.number: place for residue, place in zip(known, places, strict=True)}
            states = _states(parts, label, at, len(chain.letters))
            chain = Chain(name=shown, letters=chain.letters, points=chain.points, states=states)
        chains.append(chain)
    return chains


def _observed(name: str, tables: Tables, letter) -> dict[str, tuple[str, str | None, dict[int, Residue]]]:
    """Label of a chain -> (name that people know it by, its entity, amino acid by number)."""
    found: dict[str, tuple[str, str | None, dict[int, Residue]]] = {}
    model: str | None = None
    for one in tables.get("_atom_site", ()):
        atom = one.get("label_atom_id") or one.get("auth_atom_id")
        if atom not in ("CA", "CB") or one.get("type_symbol") == "CA":
            continue
        model = model or one.get("pdbx_pdb_model_num", "1")
        counted = "label_seq_id" if "label_seq_id" in one else "auth_seq_id"
        if one.get("pdbx_pdb_model_num", "1") != model or one.get(counted) is None:
            continue  # another model; water, or bound to the chain
        label = one.get("label_asym_id") or one.get("auth_asym_id") or "A"
        shown = one.get("auth_asym_id") or label
        _, _, residues = found.setdefault(label, (shown, one.get("label_entity_id"), {}))
        number = _whole(one, counted, name)
        residue = one.get("label_comp_id") or one.get("auth_comp_id")
        line = int(one[_LINE] or 0)
        x, y, z = (number_of(one.get(f"cartn_{axis}") or "", name, line, f"Cartn_{axis}") for axis in "xyz")
        residues.setdefault(number, Residue(letter=letter(residue), number=number)).take(atom, (x, y, z))
    return found


def _whole(one: Entry, column: str, name: str) -> int:
    text = one.get(column)
    try:
        return int(text or "")
    except ValueError:
        what = f"found {text!r}; expected a whole number"
        raise one_error(f"{name}:{one[_LINE]}", column, what) from None


def _parts(name: str, tables: Tables) -> list[tuple[str | None, int, int, str]]:
    """(label of the chain, first, last, helix or strand)."""
    found = [
        (one, HELIX)
        for one in tables.get("_struct_conf", ())
        if (one.get("conf_type_id") or "").upper().startswith("HELX")
    ]
    found += [(one, STRAND) for one in tables.get("_struct_sheet_range", ())]
    return [
        (
            one.get("beg_label_asym_id"),
            _whole(one, "beg_label_seq_id", name),
            _whole(one, "end_label_seq_id", name),
            state,
        )
        for one, state in found
        if one.get("beg_label_seq_id") is not None and one.get("end_label_seq_id") is not None
    ]


def _states(
    parts: Sequence[tuple[str | None, int, int, str]], label: str, at: Mapping[int, int], length: int
) -> str:
    states = [COIL] * length
    for chain, first, last, state in parts:
        if chain == label:
            for number in range(first, last + 1):
                if number in at:
                    states[at[number]] = state
    return "".join(states)
