from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from bigbatch.data.fingerprint import fingerprint
from bigbatch.data.tables import DataTable
from tests.data.tables import MULTI, read

ROWS = [{"text": "one", "label": "a"}, {"text": "two", "label": "b"}, {"text": "", "label": None}]


def test_formats_files_and_chunks_do_not_matter(tmp_path: Path):
    (tmp_path / "a.csv").write_text("label,text,more\na,one,1\nb,two,2\n,,3\n")
    (tmp_path / "b.jsonl").write_text(
        '{"text":"one","label":"a"}\n{"text":"two","label":"b"}\n{"text":"","label":null}'
    )
    expected = fingerprint(read(ROWS))
    assert fingerprint(read("a.csv", base=tmp_path)) == expected
    assert fingerprint(read("b.jsonl", base=tmp_path)) == expected
    pieces = pa.concat_tables([read(ROWS[:1]).rows, read(ROWS[1:]).rows])
    assert fingerprint(DataTable(rows=pieces)) == expected
    assert fingerprint(read(ROWS + ROWS).take(pa.array([0, 1, 2]).to_numpy())) == expected


def test_content_order_and_place_matter():
    variants = [
        ROWS,
        ROWS[::-1],
        ROWS[:2],
        [{**ROWS[0], "text": "One"}, *ROWS[1:]],
        [ROWS[0], {"text": "tw", "label": "ob"}, ROWS[2]],
        [{**row, "id": str(number)} for number, row in enumerate(ROWS)],
        [ROWS[0], ROWS[1], {"text": None, "label": ""}],
    ]
    assert len({fingerprint(read(rows)) for rows in variants}) == len(variants)
    several = [[{"text": "a", "label": labels}] for labels in (["x", "y"], ["x y"], ["y", "x"], [])]
    assert len({fingerprint(read(rows, roles=MULTI)) for rows in several}) == 4
