"""FASTA and FASTQ: records over several lines, what their heads say, and every line that is wrong."""

from __future__ import annotations

import gzip

import pytest

from bigbatch.data.sources import read_table
from bigbatch.errors import DataError
from bigbatch.files.kinds import read_content, read_file
from bigbatch.protocols import Role

FASTA = b""">P1 globin of a whale label=heme source=PDB
MVLSEGEW\r
QLVLHV*

; a remark of old files
>P2 label=none
acgtNN-AC
>P3
GATTACA
"""


def loaded(raw):
    return {
        name: column if isinstance(column, list) else column.to_pylist()
        for name, column in raw.load(raw.columns).items()
    }


@pytest.mark.parametrize("name", ["a.fasta", "a.fa.gz", "B.FNA"])
def test_fasta(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(FASTA) if name.endswith(".gz") else FASTA)
    raw = read_file(name, path, "utf-8")
    assert loaded(raw) == {
        "id": ["P1", "P2", "P3"],
        "description": ["globin of a whale label=heme source=PDB", "label=none", None],
        "label": ["heme", "none", None],
        "source": ["PDB", None, None],
        "text": ["MVLSEGEWQLVLHV*", "acgtNN-AC", "GATTACA"],
    }
    assert [raw.where(row) for row in range(3)] == [f"{name}:1", f"{name}:6", f"{name}:8"]


def test_fasta_is_a_table_with_the_classes_of_its_heads(tmp_path):
    (tmp_path / "x.fasta").write_bytes(FASTA.replace(b">P3\n", b">P3 label=heme\n"))
    roles = {"text": Role(meaning="the sequence"), "label": Role(meaning="its class", kind="label")}
    table = read_table("x.fasta", base=tmp_path, columns={}, roles=roles)
    assert table.rows.column("label").to_pylist() == ["heme", "none", "heme"]
    assert table.rows.column("id").to_pylist() == ["P1", "P2", "P3"]


def test_fastq():
    raw = read_content("r", b"@r1 lane=2\nACGT\n+\nII@>\n@r2\nNN\n+r2\n#!\n\n", ".fastq", "utf-8")
    assert loaded(raw) == {
        "id": ["r1", "r2"],
        "description": ["lane=2", None],
        "lane": ["2", None],
        "text": ["ACGT", "NN"],
        "quality": ["II@>", "#!"],
    }
    assert raw.where(1) == "r:5"


@pytest.mark.parametrize(
    ("content", "suffix", "said"),
    [
        (b"ACGT\n>x\nAC\n", ".fasta", "^x:1: expected a line that begins with >"),
        (b">a\n>b\nAC\n>c\n", ".fasta", "x:1: no sequence behind this line\nx:4: no sequence"),
        (b">a\nAC GT\nAC7T\n", ".fasta", r"x:3: '7' \(place 3 of the line\) stands in no sequence"),
        (b">a\nAC\xff\n", ".fasta", "x:2: "),
        (b"@a\nACGT\n+\nIII\n", ".fastq", "x:1: 4 letters, and the quality of 3"),
        (b"@a\nAC\nGT\n+\nIIII\n", ".fastq", "x:1: expected four lines"),
        (b"@a\nACGT\n+\n", ".fastq", "x:1: expected four lines"),
    ],
    ids=range(7),
)
def test_every_line_that_is_wrong(content, suffix, said):
    with pytest.raises(DataError, match=said):
        read_content("x", content, suffix, "utf-8")
