"""PDB and mmCIF files: chains as rows, what was not observed, helices and strands; damaged files are named."""

from __future__ import annotations

import json

import pytest

from bigbatch.errors import DataError
from bigbatch.files.folds import fold_arrays, fold_of, holds_folds
from bigbatch.files.kinds import read_file
from bigbatch.files.mmcif import read_mmcif
from bigbatch.files.pdb import read_pdb


def atom(
    number: int, name: str, residue: str, chain: str, seq: str, place: tuple[float, float, float], kind="ATOM"
):
    x, y, z = place
    return f"{kind:<6}{number:>5} {name:^4} {residue:>3} {chain}{seq:>5}   {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           C"


PDB = "\n".join([
    "HEADER    SOMETHING                               01-JAN-00   1ABC              ",
    "SEQRES   1 A    7  MET ALA GLY MSE TRP SER LYS                                  ",
    "MODRES 1ABC MSE A    4  MET  SELENOMETHIONINE                                   ",
    "HELIX    1   1 ALA A    2  GLY A    3  1                                   2    ",
    "SHEET    1   A 1 SER A   6  SER A   6  0                                        ",
    atom(1, "N", "ALA", "A", "2 ", (0, 0, 0)),
    atom(2, "CA", "ALA", "A", "2 ", (1, 0, 0)),
    atom(3, "CB", "ALA", "A", "2 ", (1.5, 1, 0)),
    atom(4, "CB", "ALA", "A", "2 ", (9, 9, 9)),
    atom(5, "CA", "GLY", "A", "3 ", (2, 0, 0)),
    atom(6, "CA", "MSE", "A", "4 ", (3, 0, 0), "HETATM"),
    atom(7, "CB", "MSE", "A", "4 ", (3, 1, -1.25), "HETATM"),
    atom(8, "CA", "SER", "A", "6 ", (5, 0, 0)),
    "TER       9      SER A   6 ",
    atom(10, "CA", " CA", "A", "99 ", (7, 7, 7), "HETATM"),
    atom(11, "CA", "ALA", "A", "98 ", (7, 7, 7), "HETATM"),
    atom(12, "P", " DA", "B", "1 ", (7, 7, 7)),
    atom(13, "CA", "LEU", "C", "10 ", (0, 5, 0)),
    atom(14, "CA", "VAL", "C", "10A", (1, 5, 0)),
    atom(15, "CA", "XYZ", "C", "13 ", (2, 5, 0)),
    "ENDMDL",
    atom(16, "CA", "LEU", "D", "10 ", (0, 5, 0)),
]) + "\n"  # fmt: skip
CIF = """data_1ABC
_entry.id 1ABC
#
loop_
_entity_poly_seq.entity_id
_entity_poly_seq.num
_entity_poly_seq.mon_id
1 1 MET
1 2 ALA
1 2 GLY
1 3 "GLY"
1 4 MSE
_struct_conf.conf_type_id HELX_P
_struct_conf.beg_label_asym_id A
_struct_conf.beg_label_seq_id 2
_struct_conf.end_label_seq_id 3
_struct.title
;A text over
several lines with 'quotes' and # signs
;
loop_
_atom_site.group_PDB
_atom_site.label_atom_id
_atom_site.label_comp_id
_atom_site.label_asym_id
_atom_site.auth_asym_id
_atom_site.label_entity_id
_atom_site.label_seq_id
_atom_site.Cartn_x
_atom_site.Cartn_y
_atom_site.Cartn_z
_atom_site.pdbx_PDB_model_num
ATOM CA ALA A H 1 2 1.0 0 0 1
ATOM CB ALA A H 1 2 1.5 1 0 1
ATOM "CA" GLY A H 1 3 2.0 0 0 1
HETATM CA MSE A H 1 4 3.0 0 0 1
HETATM CA 'CA' B H 2 . 3.0 0 0 1
ATOM CA ALA A H 1 2 8.0 0 0 2
"""


def rows(raw):
    columns = raw.load(raw.columns)
    return [{name: values[row] for name, values in columns.items()} for row in range(raw.rows)]


def test_a_chain_is_a_row_with_what_was_not_observed():
    first, second = rows(read_pdb("x.pdb", PDB.encode()))
    assert first == {
        "id": "1ABC_A",
        "sequence": "MAGMWSK",
        "structure": [None, [1.5, 1, 0], [2, 0, 0], [3, 1, -1.25], None, [5, 0, 0], None],
        "words": list("MAGMWSK"),
        "tags": list("CHHCCEC"),
    }
    # Without SEQRES numbers that are left out are letters that nobody knows; an unknown name is one, too.
    assert (second["id"], second["sequence"]) == ("1ABC_C", "LVXXX")
    assert second["structure"] == [[0, 5, 0], [1, 5, 0], None, None, [2, 5, 0]]


def test_mmcif_says_the_same():
    (only,) = rows(read_mmcif("x.cif", CIF.encode()))
    assert only == {
        "id": "1ABC_H",
        "sequence": "MAGM",
        "structure": [None, [1.5, 1, 0], [2, 0, 0], [3, 0, 0]],
        "words": list("MAGM"),
        "tags": list("CHHC"),
    }


def test_files_by_their_names_also_packed(tmp_path):
    import gzip

    (tmp_path / "a.ent").write_text(PDB)
    (tmp_path / "b.cif.gz").write_bytes(gzip.compress(CIF.encode()))
    assert [read_file(name, tmp_path / name, "utf-8").rows for name in ("a.ent", "b.cif.gz")] == [2, 1]


@pytest.mark.parametrize(
    ("reader", "content", "what"),
    [
        (read_pdb, PDB.replace("   1.500   1.000", "   1.5x0   1.000"), r"x:8: x: found '1.5x0'; expected a number"),
        (read_pdb, PDB.replace("   1.500", "     nan"), r"x:8: x: found 'nan'"),
        (read_pdb, PDB.replace("GLY A   3 ", "GLY A   ? "), r"x:10: number: found '   \?'"),
        (read_pdb, "HEADER\nATOM\n", "no chain of amino acids"),
        (read_mmcif, CIF.replace("1.5 1 0 1", "1.5 1 0"), r"x:\d+: _atom_site: 10 values in the last row; expected 11"),
        (read_mmcif, CIF.replace("2.0 0 0", "2.0 ? 0"), r"x:35: Cartn_y: found ''"),
        (read_mmcif, CIF.replace("1 3 2.0", "1 3.5 2.0"), r"x:35: label_seq_id: found '3.5'"),
        (read_mmcif, "_a.b\n", r"x:1: _a.b: a name without a value"),
        (read_mmcif, "no such file\n", "expected data_"),
        (read_mmcif, "data_x\n;never ends\n", "has no end"),
        (read_mmcif, "data_x\n_a.b 'open\n", "a quote that has no end"),
        (read_mmcif, "data_x\nloop_\n", "a table without columns"),
        (read_mmcif, "", "no chain of amino acids"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(reader, content, what):
    with pytest.raises(DataError, match=what):
        reader("x", content.encode())


def test_folds_in_every_form():
    points = [[1, 2, 3.00049], None]
    assert fold_of(points) == fold_of(json.dumps(points)) == "[[1.0,2.0,3.0],null]"
    assert fold_of(" ((.[)].) ") == "((.[)].)"
    assert fold_of(None) is fold_of("") is None
    places, partners = fold_arrays("((.[)].)")
    assert partners.tolist() == [7, 4, -1, 5, 1, 3, -1, 0] and len(places) == 8
    places, partners = fold_arrays("[[1.0,2.0,3.0],null]")
    assert places[0].tolist() == [1, 2, 3] and partners.tolist() == [-1, -1]
    assert holds_folds(["[[..]]", None]) and holds_folds([points]) and not holds_folds(["a text", "another"])


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("(()", "letter 1: a [(] that nothing closes"),
        ("())", "letter 3: a [)] that closes nothing"),
        ([[1, 2]], "letter 1: expected"),
        ([[1, 2, float("nan")]], "letter 1: expected"),
        ([[1, 2, 3], "x"], "letter 2: expected"),
        ("helix", "expected a list of"),
        (7, "found int"),
        ("[" * 100_000, "letter 1"),
        ("[[1,2,3]," + "[" * 100_000, "expected a list of"),
    ],
)
def test_what_is_no_fold(value, what):
    with pytest.raises(ValueError, match=what):
        fold_of(value)
